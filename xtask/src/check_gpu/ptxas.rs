//! What NVIDIA's assembler says of a kernel: registers, spills, shared memory.

use std::path::Path;
use std::process::Command;

/// Of one kernel for one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub registers: u32,
    /// Bytes of registers that do not fit, stored and loaded.
    pub spilled: u32,
    /// Bytes that the kernel declares itself; what a launch adds is not in it.
    pub shared: u32,
}

/// Assembles a file of PTX for the architecture that it names.
pub fn usage(ptxas: &Path, ptx: &Path) -> Result<Usage, String> {
    let text = std::fs::read_to_string(ptx).map_err(|e| format!("{}: {e}", ptx.display()))?;
    let target = text
        .lines()
        .find_map(|line| line.strip_prefix(".target "))
        .unwrap_or("sm_90");
    let target = target.split(',').next().unwrap_or(target).trim();
    let mut command = Command::new(ptxas);
    command.args(["-v", "-arch", target, "-o", "/dev/null"]).arg(ptx);
    let done = command.output().map_err(|e| format!("{}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    match done.status.success() {
        true => Ok(read(&said)),
        false => Err(format!("ptxas refuses {}:\n{said}", ptx.display())),
    }
}

fn read(said: &str) -> Usage {
    let before = |word: &str| -> u32 {
        let numbers = said.match_indices(word).filter_map(|(at, _)| {
            let number = said[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?;
            number.parse::<u32>().ok()
        });
        numbers.sum()
    };
    Usage {
        registers: before(" registers"),
        spilled: before(" bytes spill stores") + before(" bytes spill loads"),
        shared: before(" bytes smem"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_numbers_are_found() {
        let said = "ptxas info    : 0 bytes gmem\n\
                    ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
                    ptxas info    : Function properties for k\n    \
                    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                    ptxas info    : Used 42 registers, used 1 barriers, 1024 bytes smem\n";
        let expected = Usage {
            registers: 42,
            spilled: 16,
            shared: 1024,
        };
        assert_eq!(read(said), expected);
        assert_eq!(
            read("ptxas info    : Used 8 registers"),
            Usage {
                registers: 8,
                ..Usage::default()
            }
        );
    }
}
