//! `cargo xtask bench [TECHNIQUE..]`: the technique comparison table. `cargo xtask bench step`: one training step, timed, beside
//! torch + PEFT. `cargo xtask bench distill`: what a student learns from a teacher and without one. `cargo xtask bench continual`: what
//! every strategy forgets of four tasks, one after the other. `cargo xtask bench augment`: whether augmentation helps.

mod augment;
mod continual;
mod distill;
mod ignored;
mod program;
mod record;
mod step;
mod techniques;

use crate::Outcome;

pub fn run(args: &[String]) -> Outcome {
    match args.split_first() {
        Some((first, rest)) if first == "step" => step::run(rest),
        Some((first, rest)) if first == "distill" => distill::run(rest),
        Some((first, rest)) if first == "continual" => continual::run(rest),
        Some((first, rest)) if first == "augment" => augment::run(rest),
        _ => techniques::run(args),
    }
}
