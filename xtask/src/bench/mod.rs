//! `cargo xtask bench [METHOD..]`: the technique comparison table. `cargo xtask bench step`: one training step, timed, beside
//! torch + PEFT.

mod methods;
mod record;
mod step;

use crate::Outcome;

pub fn run(args: &[String]) -> Outcome {
    match args.split_first() {
        Some((first, rest)) if first == "step" => step::run(rest),
        _ => methods::run(args),
    }
}
