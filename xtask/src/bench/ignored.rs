//! Benches that are tests of `ft-tests`, ignored by default because they take long: what they need is in the environment.

use crate::{Outcome, guide, shell};

/// Runs the test `name`. With `keep`, a file of `benches/results`, its runs are kept there and what is made of them is written anew.
pub fn bench(name: &str, profile: &str, settings: Vec<(&'static str, String)>, keep: Option<&str>) -> Outcome {
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--workspace", "--test", "it", "--profile", profile])
        .args([name, "--", "--ignored", "--exact", "--nocapture"])
        .envs(settings);
    let Some(file) = keep else {
        return shell::status(&mut cargo);
    };
    shell::status(cargo.env("FT_BENCH_RECORD", shell::root().join("benches/results").join(file)))?;
    guide::run(&[])
}
