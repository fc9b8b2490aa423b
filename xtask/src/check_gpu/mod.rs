//! `cargo xtask check-gpu`: what can be said of the GPU backends without a card.
//!
//! Not part of `ci`: the first check of each backend compiles some hundred more crates. The target folder is its
//! own, so that the default build is not thrown away by the other feature set.

mod null_card;
mod nvrtc;
mod ptxas;
mod steps;
mod trace;

use crate::{Outcome, shell};

const BACKENDS: &[&str] = &["cuda", "vulkan"];

pub fn run(args: &[String]) -> Outcome {
    match args.split_first() {
        Some((first, rest)) if first == "nvrtc" => nvrtc::run(rest),
        Some((first, rest)) if first == "steps" => steps::run(rest),
        _ => types(args),
    }
}

/// Type-checks the backends, which the default build leaves out.
fn types(args: &[String]) -> Outcome {
    let named: Vec<&str> = args.iter().map(String::as_str).collect();
    for backend in if named.is_empty() { BACKENDS } else { &named } {
        let features = format!("flex,{backend}");
        let target = shell::root().join("target").join("check-gpu");
        let mut cargo = shell::cargo();
        cargo.args([
            "check",
            "--package",
            "ft-cli",
            "--package",
            "ft-bench",
            "--all-targets",
            "--no-default-features",
        ]);
        shell::status(cargo.args(["--features", &features, "--target-dir"]).arg(target))?;
    }
    Ok(())
}
