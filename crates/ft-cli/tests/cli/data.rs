//! `ft data stats`, `check`, `dedup`, `split` and `convert`.

use crate::support::{Bench, ft, json};

#[test]
fn stats_count_both_parts() {
    let bench = Bench::new();
    let stats = json(&["data", "stats", &bench.config, "--json"]);
    for (part, samples) in [("train", 60), ("valid", 20)] {
        let part = &stats[part];
        assert_eq!(
            (part["samples"].as_u64(), part["repeated_prompts"].as_u64()),
            (Some(samples), Some(0))
        );
        let binned: u64 = part["histogram"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["samples"].as_u64().unwrap())
            .sum();
        assert_eq!(binned, samples);
        let mean = part["tokens"].as_f64().unwrap() / samples as f64;
        assert!((part["lengths"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
        assert_eq!(part["lengths"]["longest"], part["longest"]);
        assert!(
            part["stops"]
                .as_object()
                .unwrap()
                .values()
                .any(|n| n.as_u64() == Some(samples))
        );
    }
    let padding = &stats["train"]["padding"];
    assert!(
        padding["packed"]
            .as_f64()
            .is_some_and(|share| share > 0.3 && share <= 1.0),
        "{padding}"
    );
    assert!(
        padding["padded"]
            .as_f64()
            .is_some_and(|share| (0.0..0.5).contains(&share)),
        "{padding}"
    );
    assert!(stats["valid"].get("padding").is_none());

    let line = "{\"prompt\": \"Twice? \", \"completion\": \"Yes.\"}\n";
    bench.write("train.jsonl", &(line.repeat(2) + &line.replace("Twice", "Once")));
    let stats = json(&["data", "stats", &bench.config, "--json"]);
    assert_eq!(stats["train"]["repeated_prompts"], 1);
    let page = ft(&["data", "stats", &bench.config]).ok();
    assert!(
        page.contains("training: ") && page.contains("held out: ") && page.contains("p95"),
        "{page}"
    );
}
