//! `cargo xtask fuzz [CASES] [TARGET]`: mutated files of every kind that ft reads. CI runs some two thousand of them.

use crate::{Outcome, shell};

pub fn run(args: &[String]) -> Outcome {
    let (cases, target) = match args {
        [] => ("100000", None),
        [cases] => (cases.as_str(), None),
        [cases, target] => (cases.as_str(), Some(target)),
        _ => return Err("usage: cargo xtask fuzz [CASES] [TARGET]".into()),
    };
    if cases.parse::<usize>().is_err() {
        return Err(format!("`{cases}` is no number of cases"));
    }
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--workspace", "--test", "it", "fuzz::no_input"])
        .args(["--", "--nocapture"])
        .env("FT_FUZZ_CASES", cases);
    if let Some(target) = target {
        cargo.env("FT_FUZZ_TARGET", target);
    }
    shell::status(&mut cargo)
}
