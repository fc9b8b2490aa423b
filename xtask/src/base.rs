//! `cargo xtask base`: rebuilds the embedded base model from its grammar, byte for byte on the same kind of machine.
//!
//! ```text
//! ft-embedded's example `base write`      grammar -> corpus, tokenizer, fine-tuning data
//! ft train configs/base.toml              corpus  -> a Llama from random weights (minutes)
//! ft-embedded's example `base install`    bf16    -> crates/ft-embedded/assets
//! ```
//!
//! `cargo xtask base --data` does without the pretraining: the data and the tokenizer only, under `target/base`.

use std::fs;
use std::process::Command;

use crate::{Outcome, shell};

/// Where everything is made; `configs/base.toml` reads it from there.
const WORK: &str = "target/base";

pub fn run(args: &[String]) -> Outcome {
    let data_only = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--data"] => true,
        _ => return Err("usage: cargo xtask base [--data]".into()),
    };
    let work = shell::root().join(WORK);
    if work.exists() {
        fs::remove_dir_all(&work).map_err(|e| format!("{WORK}: {e}"))?;
    }
    shell::status(&mut example(&["write", WORK]))?;
    if data_only {
        return Ok(());
    }
    let out = format!("{WORK}/run");
    shell::status(&mut train(&out))?;
    shell::status(&mut example(&["install", WORK, &format!("{out}/final")]))
}

fn example(args: &[&str]) -> Command {
    let mut cargo = shell::cargo();
    cargo
        .args(["run", "--quiet", "--package", "ft-embedded", "--example", "base", "--"])
        .args(args);
    cargo
}

fn train(out: &str) -> Command {
    let mut cargo = shell::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "ft-cli",
        "--",
        "train",
        "configs/base.toml",
    ]);
    cargo.args(["--device", "cpu", "--set", &format!("train.out={out}")]);
    cargo
}
