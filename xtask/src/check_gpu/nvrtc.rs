//! `cargo xtask check-gpu nvrtc`: every kernel that training and generation launch on CUDA, collected on the null driver and compiled by
//! NVRTC for several architectures, and what ptxas says of those of this repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::null_card::{NullCard, option};
use super::ptxas::{self, Usage};
use super::trace::{Trace, base};
use crate::{Outcome, shell};

const ARCHITECTURES: &str = "80,90,100";

/// How to get what a machine without CUDA lacks.
const PIP: &str = "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt \
                   nvidia-cuda-nvcc` (version 13) and give the folder `nvidia/cu13` of site-packages";

/// What is run: a program and its flags. Together they launch every kernel, in 32 and in 16 bits.
const RUNS: &[(&str, &str)] = &[
    ("step", "--method lora --dtype bf16 --drawn"),
    ("step", "--method lora --dtype bf16 --drawn --set dropout=0.1"),
    ("step", "--method lora --dtype bf16 --drawn --quant nf4+double"),
    ("step", "--method lora --dtype bf16 --drawn --quant nf4"),
    ("step", "--method lora --dtype bf16 --drawn --quant int8"),
    (
        "step",
        "--method lora --dtype bf16 --drawn --packed 4 --checkpointing 1",
    ),
    ("step", "--method full --dtype bf16 --drawn --optim adamw_8bit --clip 1"),
    ("step", "--method full --dtype bf16 --drawn --optim adamw --clip 1"),
    ("decode", "--dtype bf16 --prompt 16 --tokens 8 --streams 1,4"),
    // Keys of more than a part.
    ("decode", "--dtype bf16 --prompt 300 --tokens 4 --streams 1"),
    (
        "decode",
        "--dtype bf16 --prompt 16 --tokens 8 --streams 1,4 --quant nf4+double",
    ),
    ("agree", ""),
];

pub fn run(args: &[String]) -> Outcome {
    let mut args = args.to_vec();
    let cuda = toolkit(&mut args)?;
    let card = NullCard::new(&mut args)?;
    let architectures = option(&mut args, "--sm")?.unwrap_or_else(|| ARCHITECTURES.into());
    let out = option(&mut args, "--out")?.map(PathBuf::from);
    if let Some(unknown) = args.first() {
        return Err(format!("`{unknown}` is no flag of check-gpu nvrtc"));
    }
    let ours = own_kernels(&shell::root().join("crates"))?;
    let mut tables = BTreeMap::new();
    let mut all = 0;
    for sm in architectures.split(',') {
        let sm: u32 = sm.parse().map_err(|_| format!("--sm {sm}: 80, 90 or 100"))?;
        let (kernels, own) = compile(&card, &cuda, sm, &ours)?;
        eprintln!(
            "sm_{sm}: {kernels} kernels compiled, {} of them ours",
            own.values().map(|k| k.instances).sum::<usize>()
        );
        all += kernels;
        tables.insert(sm, own);
    }
    let text = table(&tables, all);
    print!("{text}");
    if let Some(out) = out {
        std::fs::write(&out, &text).map_err(|e| format!("{}: {e}", out.display()))?;
    }
    let compiled: BTreeSet<&str> = tables
        .values()
        .flat_map(|own| own.keys())
        .map(|name| function(name, &ours))
        .collect();
    let missed: Vec<&str> = ours
        .iter()
        .map(String::as_str)
        .filter(|name| !compiled.contains(name))
        .collect();
    match missed.is_empty() {
        true => Ok(()),
        false => Err(format!("no run launches {}; add one to RUNS", missed.join(", "))),
    }
}

/// Instances of a kernel: the same function for other numbers and widths.
#[derive(Debug, Default)]
struct Kernel {
    instances: usize,
    /// The most that an instance takes; nothing where ptxas is not there.
    usage: Option<Usage>,
    /// Shared memory that a launch adds, at most.
    launched_with: u64,
}

/// The folder of `--cuda`, `CUDA_PATH` or the usual place.
fn toolkit(args: &mut Vec<String>) -> Result<PathBuf, String> {
    let typed = option(args, "--cuda")?.or_else(|| std::env::var("CUDA_PATH").ok());
    let cuda = PathBuf::from(typed.unwrap_or_else(|| "/usr/local/cuda".into()));
    match cuda.join("include/cuda_fp16.h").exists() {
        true => cuda
            .canonicalize()
            .map_err(|e| format!("--cuda {}: {e}", cuda.display())),
        false => Err(format!(
            "--cuda {}: no include/cuda_fp16.h there; {PIP}",
            cuda.display()
        )),
    }
}

/// Collects the kernels of one architecture and compiles them. How many there were, and those of ours.
fn compile(
    card: &NullCard,
    cuda: &Path,
    sm: u32,
    ours: &BTreeSet<String>,
) -> Result<(usize, BTreeMap<String, Kernel>), String> {
    let folder = card.work.join(format!("sm_{sm}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let trace = folder.join("trace.jsonl");
    for (program, flags) in RUNS {
        let mut command = card.command(program, sm, &trace)?;
        command.args(["--device", "cuda"]).args(flags.split_whitespace());
        match *program {
            "agree" => command
                .arg("--families")
                .arg(shell::root().join("tests/fixtures/families")),
            "step" => command.args(["--shape", "tiny", "--seq", "64", "--warmup", "0", "--steps", "2"]),
            _ => command.args(["--shape", "tiny"]),
        };
        let done = command.env("NULL_CUDA_SOURCE", &folder).stderr(Stdio::piped()).output();
        let done = done.map_err(|e| format!("{program}: {e}"))?;
        // Numbers are wrong where no kernel runs, which `agree` is there to find; what it could not compute at all counts.
        let said = String::from_utf8_lossy(&done.stdout);
        let failed = said.lines().find(|line| line.contains("\"failed\"")).map(str::to_owned);
        if failed.is_some() || (*program != "agree" && !done.status.success()) {
            let said = String::from_utf8_lossy(&done.stderr);
            let why = failed.unwrap_or_else(|| said.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
            return Err(format!("sm_{sm}: {program} {flags}: {why}"));
        }
        eprintln!("sm_{sm}: {program} {flags}");
    }
    card.compile(sm, cuda, &folder)?;
    measure(&cuda.join("bin/ptxas"), &folder, &Trace::read(&trace)?, ours)
}

fn measure(
    ptxas: &Path,
    folder: &Path,
    trace: &Trace,
    ours: &BTreeSet<String>,
) -> Result<(usize, BTreeMap<String, Kernel>), String> {
    let ptxas = Some(ptxas).filter(|path| path.exists());
    let mut own: BTreeMap<String, Kernel> = BTreeMap::new();
    let mut all = 0;
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
    {
        all += 1;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !ours.contains(function(base(&name), ours)) {
            continue;
        }
        let usage = ptxas.map(|ptxas| ptxas::usage(ptxas, &path)).transpose()?;
        let kernel = own.entry(base(&name).into()).or_default();
        kernel.instances += 1;
        kernel.launched_with = kernel.launched_with.max(trace.shared.get(&name).copied().unwrap_or(0));
        if let Some(usage) = usage {
            let most = kernel.usage.unwrap_or_default();
            kernel.usage = Some(Usage {
                registers: most.registers.max(usage.registers),
                spilled: most.spilled.max(usage.spilled),
                shared: most.shared.max(usage.shared),
            });
        }
    }
    Ok((all, own))
}

/// The function that a kernel's name comes from: CubeCL puts the types and widths behind it.
fn function<'a>(name: &'a str, ours: &BTreeSet<String>) -> &'a str {
    let ends = name.match_indices('_').map(|(at, _)| at).chain([name.len()]);
    let mut known = ends.map(|end| &name[..end]).filter(|start| ours.contains(*start));
    known.next_back().unwrap_or(name)
}

/// Functions below `#[cube(launch..)]` in the crates. Their names are what traces and profilers show.
fn own_kernels(folder: &Path) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                for name in launched(&text) {
                    if !names.insert(name.to_owned()) {
                        return Err(format!(
                            "{}: there is another kernel `{name}`; traces and profilers tell kernels apart by their function's name",
                            path.display()
                        ));
                    }
                }
            }
        }
    }
    Ok(names)
}

fn launched(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[cube(launch").skip(1).filter_map(|after| {
        let (_, after) = after.split_once("fn ")?;
        after.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

/// A row for every kernel of ours, three columns for every architecture.
fn table(tables: &BTreeMap<u32, BTreeMap<String, Kernel>>, all: usize) -> String {
    let mut text = String::from("| kernel | instances |");
    for sm in tables.keys() {
        text += &format!(" sm_{sm} registers | spilled | shared |");
    }
    text += &format!("\n|---|---|{}\n", "---|---|---|".repeat(tables.len()));
    let names: BTreeSet<&String> = tables.values().flat_map(BTreeMap::keys).collect();
    for name in names {
        let instances = tables
            .values()
            .filter_map(|own| own.get(name))
            .map(|k| k.instances)
            .max()
            .unwrap_or(0);
        text += &format!("| `{name}` | {instances} |");
        for own in tables.values() {
            match own.get(name).map(|kernel| (kernel.usage, kernel.launched_with)) {
                Some((Some(usage), launched_with)) => {
                    let shared = u64::from(usage.shared) + launched_with;
                    text += &format!(" {} | {} | {shared} |", usage.registers, usage.spilled);
                }
                Some((None, launched_with)) => text += &format!(" ? | ? | {launched_with} |"),
                None => text += " - | - | - |",
            }
        }
        text.push('\n');
    }
    text + &format!(
        "\n{all} kernels compiled in all, those of Burn among them; spilled and shared in bytes, the most of any instance.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_their_attribute() {
        let text = "#[cube]\nfn helper() {}\n#[cube(launch_unchecked, address_type = \"dynamic\")]\n#[allow(x)]\nfn swiglu<F: Float>(\n";
        assert_eq!(launched(text).collect::<Vec<_>>(), ["swiglu"]);
        let found = own_kernels(&shell::root().join("crates"));
        assert!(found.as_ref().is_ok_and(|found| !found.is_empty()), "{found:?}");
    }

    #[test]
    fn types_behind_a_name_are_no_part_of_it() {
        let ours = BTreeSet::from(["swiglu".to_owned(), "swiglu_gradients".to_owned()]);
        assert_eq!(function("swiglu_bf16_n8", &ours), "swiglu");
        assert_eq!(function("swiglu_gradients_f32", &ours), "swiglu_gradients");
        assert_eq!(function("matmul_f32", &ours), "matmul_f32");
    }

    #[test]
    fn a_row_for_every_kernel() {
        let usage = Some(Usage {
            registers: 40,
            spilled: 0,
            shared: 16,
        });
        let kernel = Kernel {
            instances: 2,
            usage,
            launched_with: 1024,
        };
        let text = table(&BTreeMap::from([(90, BTreeMap::from([("k_f32".into(), kernel)]))]), 7);
        assert!(text.contains("| `k_f32` | 2 | 40 | 0 | 1040 |\n"), "{text}");
        assert!(text.contains("7 kernels"));
    }
}
