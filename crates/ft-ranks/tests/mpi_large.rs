//! Messages that MPI, which counts in 32 bits, takes in pieces: `cargo xtask soak mpi`.
#![cfg(feature = "mpi")]

use std::process::Command;
use std::time::Duration;

use ft_ranks::mpi::Mpi;

/// Four numbers more than a piece holds.
const NUMBERS: usize = (1 << 28) + 4;

/// Says to the test that `mpirun` has started it.
const STARTED: &str = "FT_RANKS_STARTED";

fn number(i: usize) -> f32 {
    (i % 8191) as f32 - (i / 8191 % 97) as f32
}

/// 1 GiB and 16 bytes from each of two ranks to the other, and bytes from the first.
fn part() {
    let mpi = Mpi::start(Duration::from_secs(300)).expect("MPI starts once");
    let ranks = mpi.ranks();
    assert_eq!(ranks.size(), 2);
    let parts = [0..NUMBERS, NUMBERS..2 * NUMBERS];
    let mut numbers = vec![0.0; 2 * NUMBERS];
    for i in parts[ranks.rank()].clone() {
        numbers[i] = number(i);
    }
    ranks.share(&mut numbers, &parts).unwrap();
    let wrong = numbers.iter().enumerate().find(|(i, found)| **found != number(*i));
    assert_eq!(wrong, None);
    drop(numbers);
    let bytes = || (0..4 * NUMBERS + 3).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
    let own = if ranks.is_first() { bytes() } else { Vec::new() };
    let found = ranks.broadcast(own).unwrap();
    assert!(found == bytes());
    mpi.finish();
}

#[test]
#[ignore = "8 GB: cargo xtask soak mpi"]
fn more_than_a_piece() {
    if std::env::var_os(STARTED).is_some() {
        return part();
    }
    let this = std::env::current_exe().unwrap();
    let open_mpi = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];
    let done = Command::new("mpirun")
        .args(["-n", "2", "--oversubscribe", "--bind-to", "none"])
        .arg(this)
        .args(["more_than_a_piece", "--exact", "--ignored", "--nocapture"])
        .envs(open_mpi.map(|name| (name, "1")))
        .env(STARTED, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(told.matches("test result: ok. 1 passed").count(), 2, "{told}");
}
