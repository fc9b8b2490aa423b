//! `cargo xtask bench [ARGS..]`: the step benchmark in release mode, its table on stdout.
//!
//! Arguments go to the program as they are (`cargo xtask bench --help` lists them); `--features F` before them
//! picks another backend.

use crate::{Outcome, shell};

pub fn run(args: &[String]) -> Outcome {
    let (features, rest) = match args {
        [flag, features, rest @ ..] if flag == "--features" => (Some(features), rest),
        rest => (None, rest),
    };
    let mut cargo = shell::cargo();
    cargo.args(["run", "--release", "--package", "ft-bench", "--bin", "step"]);
    if let Some(features) = features {
        cargo.args(["--features", features]);
    }
    shell::status(cargo.arg("--").args(rest))
}
