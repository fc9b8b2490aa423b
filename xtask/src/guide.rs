//! `cargo xtask guide`: writes `docs/guide/`, one page per method and one of previews, and the README's table and heat map of runs over tasks, the table of augmentation, from
//! the sources and the committed figures. The tests that check them (`tests/it/guide.rs`, `tests/it/continual_results.rs`,
//! `crates/ft-cli/tests/cli/preview.rs`) are what writes them.

use crate::{Outcome, shell};

pub fn run(_: &[String]) -> Outcome {
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--quiet", "--workspace", "--test", "it", "--test", "cli", "--"])
        .args(["guide::", "continual_results::", "augment_results::", "the_guide"]);
    shell::status(cargo.env("FT_BLESS", "1"))
}
