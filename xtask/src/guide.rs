//! `cargo xtask guide`: writes `docs/guide/`, one page per method, from the sources and the committed figures, and one of previews. The tests
//! that check the pages (`tests/it/guide.rs`, `crates/ft-cli/tests/cli/preview.rs`) are what writes them.

use crate::{Outcome, shell};

pub fn run(_: &[String]) -> Outcome {
    for (package, filter) in [("ft-tests", "guide::"), ("ft-cli", "the_guide")] {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--quiet", "--package", package, "--", filter]);
        shell::status(cargo.env("FT_BLESS", "1"))?;
    }
    Ok(())
}
