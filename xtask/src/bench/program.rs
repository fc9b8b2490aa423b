//! The program that benchmarks run.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::shell;

/// The built `ft`.
pub struct Program {
    path: PathBuf,
    /// Of each run; all cores without it.
    threads: Option<usize>,
}

impl Program {
    pub fn build(profile: &str) -> Result<Self, String> {
        let package = ["--package", "ft-cli", "--bin", "ft"];
        shell::status(
            shell::cargo()
                .args(["build", "--quiet", "--profile", profile])
                .args(package),
        )?;
        let folder = if profile == "dev" { "debug" } else { profile };
        let path = target_folder()?.join(folder).join("ft");
        Ok(Self { path, threads: None })
    }

    pub fn with_threads(self, threads: usize) -> Self {
        let threads = Some(threads);
        Self { threads, ..self }
    }

    /// Of each run.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(all)
    }

    /// The object that a verb prints.
    pub fn json(&self, args: &[String]) -> Result<Value, String> {
        let mut ft = Command::new(&self.path);
        if let Some(threads) = self.threads {
            ft.env("RAYON_NUM_THREADS", threads.to_string());
        }
        parse(&shell::output(ft.args(args))?)
    }
}

/// `--set KEY=VALUE`.
pub fn set(setting: &str) -> [String; 2] {
    ["--set".to_owned(), setting.to_owned()]
}

fn target_folder() -> Result<PathBuf, String> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let folder = parse(&metadata)?["target_directory"].as_str().map(Into::into);
    folder.ok_or_else(|| "cargo metadata names no target folder".into())
}

pub fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))
}
