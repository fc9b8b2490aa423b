//! Programs on a card that is not there: the null driver (`xtask/null-cuda`), which stands for NVRTC too.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, shell};

/// What a program finds in place of CUDA.
pub struct NullCard {
    /// Folder of the null driver.
    driver: PathBuf,
    /// All programs of the benchmarks in one, built with `cuda`.
    binary: PathBuf,
    /// Links, traces and sources.
    pub work: PathBuf,
}

impl NullCard {
    /// Takes `--binary FILE` out of the arguments, and builds what is missing.
    pub fn new(args: &mut Vec<String>) -> Result<Self, String> {
        let target = shell::root().join("target");
        let binary = match option(args, "--binary")? {
            Some(binary) => Path::new(&binary)
                .canonicalize()
                .map_err(|e| format!("--binary {binary}: {e}"))?,
            None => {
                let (target, mut cargo) = (target.join("check-gpu"), shell::cargo());
                cargo.args([
                    "build",
                    "--package",
                    "ft-bench",
                    "--bin",
                    "ft-all",
                    "--no-default-features",
                ]);
                shell::status(cargo.args(["--features", "flex,cuda", "--target-dir"]).arg(&target))?;
                target.join("debug/ft-all")
            }
        };
        let mut cargo = shell::cargo();
        cargo.args([
            "build",
            "--quiet",
            "--manifest-path",
            "xtask/null-cuda/Cargo.toml",
            "--target-dir",
        ]);
        shell::status(cargo.arg(target.join("null-cuda")))?;
        let card = Self {
            driver: target.join("null-cuda/debug"),
            binary,
            work: target.join("null-card"),
        };
        card.furnish().map_err(|e| format!("{}: {e}", card.work.display()))?;
        Ok(card)
    }

    /// Headers that nobody reads, the compiler that compiles nothing, and a configuration so that no other one is found.
    fn furnish(&self) -> std::io::Result<()> {
        let include = self.work.join("cuda/include");
        std::fs::create_dir_all(&include)?;
        std::fs::create_dir_all(self.work.join("nvrtc"))?;
        std::fs::write(include.join("cuda_fp16.h"), "")?;
        link(&self.driver.join("libcuda.so"), &self.work.join("nvrtc/libnvrtc.so"))?;
        std::fs::write(self.work.join("cubecl.toml"), "")
    }

    /// A program of the benchmarks on a card of compute capability `sm`.
    pub fn command(&self, program: &str, sm: u32, trace: &Path) -> Result<Command, String> {
        let name = self.work.join(program);
        link(&self.binary, &name).map_err(|e| format!("{}: {e}", name.display()))?;
        let libraries = format!("{}:{}", self.driver.display(), self.work.join("nvrtc").display());
        let mut command = Command::new(name);
        command
            .current_dir(&self.work)
            .env("LD_LIBRARY_PATH", libraries)
            .env("CUDA_PATH", self.work.join("cuda"))
            .env("NULL_CUDA_SM", sm.to_string())
            .env("NULL_CUDA_TRACE", trace)
            .env("CUBECL_AUTOTUNE_LEVEL", "minimal")
            // What a card that is not there finds fastest is worth nothing, and every run compiles all that it launches.
            .env("CUBECL_AUTOTUNE_CACHE", "0");
        Ok(command)
    }

    /// Compiles the sources of a folder by NVRTC, on as many threads as there are.
    pub fn compile(&self, sm: u32, cuda: &Path, sources: &Path) -> Outcome {
        // As CubeCL asks: the features of that very chip since Hopper.
        let architecture = if sm >= 90 {
            format!("sm_{sm}a")
        } else {
            format!("sm_{sm}")
        };
        let mut command = Command::new(self.driver.join("compile"));
        shell::status(command.arg(architecture).args([cuda, sources]))
    }
}

fn link(to: &Path, name: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_file(name);
    std::os::unix::fs::symlink(to, name)
}

/// Takes `name VALUE` out of the arguments.
pub fn option(args: &mut Vec<String>, name: &str) -> Result<Option<String>, String> {
    let Some(at) = args.iter().position(|arg| arg == name) else {
        return Ok(None);
    };
    args.remove(at);
    match at < args.len() {
        true => Ok(Some(args.remove(at))),
        false => Err(format!("{name} wants a value")),
    }
}
