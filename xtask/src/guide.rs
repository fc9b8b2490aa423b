//! `cargo xtask guide`: writes `docs/guide/`, one page per method, and the README's table and heat map of runs over tasks, from the sources and
//! the committed figures. The tests that check them (`tests/it/guide.rs`, `tests/it/continual_results.rs`) are what writes them.

use crate::{Outcome, shell};

pub fn run(_: &[String]) -> Outcome {
    let mut cargo = shell::cargo();
    cargo.args([
        "test",
        "--quiet",
        "--package",
        "ft-tests",
        "--",
        "guide::",
        "continual_results::",
    ]);
    shell::status(cargo.env("FT_BLESS", "1"))
}
