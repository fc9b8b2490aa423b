//! Running other programs from the repository root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The repository root: the parent of this package's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that started us, so that a toolchain override carries over.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with our own stdout and stderr.
pub fn status(command: &mut Command) -> Outcome {
    let shown = show(command);
    eprintln!("$ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` ended with {status}")),
        Err(e) => Err(format!("`{shown}` did not start: {e}")),
    }
}

/// Runs a command and returns what it wrote to stdout.
pub fn output(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let done = command.output().map_err(|e| format!("`{shown}` did not start: {e}"))?;
    if !done.status.success() {
        return Err(format!(
            "`{shown}` ended with {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        ));
    }
    String::from_utf8(done.stdout).map_err(|_| format!("`{shown}` wrote bytes that are not UTF-8"))
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}
