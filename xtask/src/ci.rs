//! `cargo xtask ci`: what must pass before a merge, cheapest first.
//!
//! Every step runs even when an earlier one failed, so that one call shows all there is to mend.

use std::time::Instant;

use crate::{Outcome, shell, tidy};

/// A step's name and what it does.
type Step = (&'static str, fn() -> Outcome);

const STEPS: &[Step] = &[
    ("fmt", fmt),
    ("tidy", || tidy::run(&[])),
    ("clippy", clippy),
    ("test", test),
    ("parquet", parquet),
    ("mpi", mpi),
    ("examples", examples),
];

pub fn run(args: &[String]) -> Outcome {
    let mut failed = Vec::new();
    for (name, step) in chosen(args)? {
        eprintln!("== {name}");
        let start = Instant::now();
        let outcome = step();
        eprintln!(
            "== {name}: {} in {:.0} s",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            start.elapsed().as_secs_f64()
        );
        if let Err(why) = outcome {
            eprintln!("{why}");
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

fn chosen(args: &[String]) -> Result<Vec<&'static Step>, String> {
    if args.is_empty() {
        return Ok(STEPS.iter().collect());
    }
    args.iter()
        .map(|name| {
            STEPS
                .iter()
                .find(|s| s.0 == name)
                .ok_or_else(|| format!("no step `{name}`"))
        })
        .collect()
}

fn fmt() -> Outcome {
    shell::status(shell::cargo().args(["fmt", "--check"]))
}

fn clippy() -> Outcome {
    shell::status(shell::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ]))
}

// Unit tests, the integration binaries and the doc tests of every package.
fn test() -> Outcome {
    shell::status(shell::cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

// Parquet and Arrow files, which the default build leaves out: ft-data alone, since no crate below it uses Burn. What trains from them is built by
// `cargo test -p ft-tests --features parquet`, for which Burn is compiled once more.
fn parquet() -> Outcome {
    let package = ["--package", "ft-data", "--features", "parquet", "--lib"];
    shell::status(shell::cargo().arg("test").args(package))
}

// Runs of several processes, where an MPI library is: with the whole workspace, so that Burn keeps its features and is not compiled again.
fn mpi() -> Outcome {
    let found = std::process::Command::new("mpirun").arg("--version").output();
    if !found.is_ok_and(|done| done.status.success()) {
        eprintln!(
            "no mpirun on this machine: runs of several processes are not tested (Debian: openmpi-bin libopenmpi-dev libclang-dev)"
        );
        return Ok(());
    }
    let features = ["--workspace", "--features", "ft-cli/mpi"];
    shell::status(
        shell::cargo()
            .arg("test")
            .args(features)
            .args(["--test", "cli", "--", "mpi::"]),
    )
}

// What the README shows to people who use the crates, on the embedded model. They are built with the whole workspace: a package
// alone would resolve other features, and compile the dependencies once more.
fn examples() -> Outcome {
    shell::status(shell::cargo().args(["build", "--quiet", "--workspace", "--examples"]))?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = own.parent().ok_or("xtask lies in a folder")?.join("examples");
    for example in ["finetune", "generate", "engine"] {
        shell::status(&mut std::process::Command::new(folder.join(example)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_means_every_step_and_a_name_means_that_one() {
        assert_eq!(chosen(&[]).unwrap().len(), STEPS.len());
        let picked = chosen(&["tidy".into()]).unwrap();
        assert_eq!(picked.iter().map(|s| s.0).collect::<Vec<_>>(), ["tidy"]);
        assert!(chosen(&["typo".into()]).unwrap_err().contains("typo"));
    }
}
