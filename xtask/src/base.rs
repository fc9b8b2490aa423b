//! `cargo xtask base`: rebuilds the embedded base model from its grammar.

use crate::Outcome;

pub fn run(_args: &[String]) -> Outcome {
    Err("the embedded base model has no generator yet".into())
}
