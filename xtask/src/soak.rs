//! `cargo xtask soak [ROUNDS|mpi]`: a run that is killed at random moments and resumed, again and again, must end with the weights
//! of the run that is left alone. The test behind it is ignored by default, because it takes minutes. `mpi`: messages of more
//! than 1 GiB; then, of several processes that `mpirun` starts, a random one is killed, thirty times.

use crate::{Outcome, shell};

pub fn run(args: &[String]) -> Outcome {
    if args == ["mpi"] {
        return mpi();
    }
    let rounds = match args {
        [] => 50,
        [rounds] => rounds
            .parse()
            .map_err(|_| format!("`{rounds}` is no number of rounds"))?,
        _ => return Err("usage: cargo xtask soak [ROUNDS|mpi]".into()),
    };
    let rounds: u32 = rounds;
    let mut cargo = shell::cargo();
    cargo
        .args([
            "test",
            "--package",
            "ft-tests",
            "--test",
            "it",
            "train_kill::soak",
            "--",
        ])
        .args(["--ignored", "--exact", "--nocapture"])
        .env("FT_SOAK_ROUNDS", rounds.to_string());
    shell::status(&mut cargo)
}

fn mpi() -> Outcome {
    let large = ["--package", "ft-ranks", "--features", "mpi", "--test", "mpi_large"];
    shell::status(shell::cargo().arg("test").args(large).args(["--", "--ignored"]))?;
    let features = ["test", "--workspace", "--features", "ft-cli/mpi", "--test", "cli"];
    shell::status(
        shell::cargo()
            .args(features)
            .args(["mpi::soak", "--", "--ignored", "--exact", "--nocapture"]),
    )
}
