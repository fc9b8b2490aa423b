//! The token cache where the disk is full.

use crate::support::{Bench, json};

/// A disk on which no file becomes larger than 32 KiB stands for one that is full.
#[test]
fn a_full_disk_is_told_and_nothing_is_left_of_it() {
    let bench = Bench::new();
    let line = |i: usize| {
        format!(
            "{{\"prompt\": \"Who has key {i}? \", \"completion\": \"Door {} has it.\"}}\n",
            i % 7
        )
    };
    bench.write("train.jsonl", &(0..2000).map(line).collect::<String>());
    let tokens = bench.path("tokens");
    let cache = format!("data.cache={}", tokens.display());
    let args = [
        "data",
        "stats",
        bench.config.as_str(),
        "--set",
        cache.as_str(),
        "--json",
    ];
    let plain = json(&args[..3].iter().copied().chain(["--json"]).collect::<Vec<_>>());
    let mut shell = std::process::Command::new("sh");
    let own = crate::support::command(&args);
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(own.get_program())
        .args(own.get_args())
        .envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = shell.output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(1) && told.contains("data.cache: ") && told.contains("cannot be written"),
        "{told}"
    );
    let files = || {
        let entries = std::fs::read_dir(&tokens).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.flat_map(|entry| std::fs::read_dir(entry).unwrap());
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(files(), Vec::<String>::new(), "no half of a file");
    assert_eq!(json(&args)["train"]["tokens"], plain["train"]["tokens"]);
    assert!(files().contains(&"set.json".to_owned()));
}
