//! Tells the program which commit it is built from (`FT_COMMIT`), where the sources are a git checkout and nothing else was said.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=FT_COMMIT");
    let given = std::env::var("FT_COMMIT").ok();
    if let Some(commit) = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])) {
        println!("cargo:rustc-env=FT_COMMIT={commit}");
    }
    // A line is added to this log by everything that moves HEAD.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
