//! `cargo xtask guide`: writes `docs/guide/`, one page per method, from the sources and the committed figures. The test that
//! checks the pages (`tests/it/guide.rs`) is what writes them.

use crate::{Outcome, shell};

pub fn run(_: &[String]) -> Outcome {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--quiet", "--package", "ft-tests", "--", "guide::"]);
    shell::status(cargo.env("FT_BLESS", "1"))
}
