//! Runs whose samples lie in the token cache are the runs that they are without it.

use std::fs;

use ft_data::How;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;

/// Samples in memory, made and put into the cache, read from it: every loss, weight and moment is the same.
#[test]
fn a_run_from_the_cache_is_the_run_from_memory() {
    let workshop = Workshop::new();
    let cache = format!("data.cache={}", workshop.path("tokens").display());
    let steps = ["train.steps=12"];
    workshop
        .fit("memory", &[&steps[..], &["data.cache=false"]].concat())
        .unwrap();
    for out in ["written", "read"] {
        let sets = [&steps[..], &[&cache]].concat();
        let how = if out == "read" { How::Read } else { How::Written };
        let plan = workshop.plan("plan", &sets);
        // The plan of the first run writes the entries, of both files.
        let cached = plan.unwrap().data.cached;
        assert_eq!(cached.iter().map(|c| c.how).collect::<Vec<_>>(), [how; 2]);
        workshop.fit(out, &sets).unwrap();
        assert_eq!(workshop.curve(out), workshop.curve("memory"), "{out}");
        assert_eq!(workshop.result(out, 12), workshop.result("memory", 12), "{out}");
    }
    assert_eq!(fs::read_dir(workshop.path("tokens")).unwrap().count(), 2);
}

#[test]
fn a_run_from_the_cache_resumes_to_the_byte() {
    let workshop = Workshop::new();
    let cache = format!("data.cache={}", workshop.path("tokens").display());
    stopped_equals_left_alone(&workshop, &[&cache]);
}

/// Resuming compares the samples, wherever they are held.
#[test]
fn a_run_goes_on_with_and_without_the_cache() {
    let workshop = Workshop::new();
    let cache = format!("data.cache={}", workshop.path("tokens").display());
    let steps = ["train.steps=12", "train.save_every=3"];
    workshop.fit("alone", &steps).unwrap();
    workshop.fit_until("cut", &[&steps[..], &[&cache]].concat(), 3);
    workshop
        .resume("cut", &[&steps[..], &["data.cache=false"]].concat())
        .unwrap();
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
}

/// What is held out, shared out or taken apart after reading is the same.
#[test]
fn a_plan_over_cached_samples_is_the_plan_over_samples() {
    let workshop = Workshop::new();
    let pairs = |n: std::ops::Range<usize>| {
        let pair = |i| {
            format!(
                "{{\"prompt\": \"turn a {} =\", \"chosen\": \"b c\", \"rejected\": \"d e {}\"}}\n",
                "b ".repeat(i),
                "h ".repeat(i % 3)
            )
        };
        n.map(pair).collect::<String>()
    };
    fs::write(workshop.path("pairs.jsonl"), pairs(1..30)).unwrap();
    let of_pairs = format!("data.train={}", workshop.path("pairs.jsonl").display());
    let cases: [&[&str]; 4] = [
        &["data.pack=true", "data.max_length=64"],
        &["data.overlong=drop", "data.max_length=9"],
        &[
            "objective.kind=dpo",
            "data.format=preference",
            &of_pairs,
            "data.valid_split=0.2",
        ],
        &[
            "objective.kind=kto",
            "data.format=preference",
            &of_pairs,
            "data.valid_split=0.2",
            "eval.max_samples=3",
        ],
    ];
    let cache = format!("data.cache={}", workshop.path("tokens").display());
    let text = fs::read_to_string(workshop.path("run.toml")).unwrap();
    for sets in cases {
        if sets.iter().any(|set| set.starts_with("data.valid_split")) {
            fs::write(workshop.path("run.toml"), text.replace("valid = \"valid.jsonl\"\n", "")).unwrap();
        }
        let plan = |cache: &str| {
            workshop
                .plan("out", &[sets, &[cache]].concat())
                .unwrap_or_else(|e| panic!("{sets:?}: {e}"))
        };
        let (plain, _, cached) = (plan("data.cache=false"), plan(&cache), plan(&cache));
        assert!(cached.data.cached.iter().all(|c| c.how == How::Read), "{sets:?}");
        assert_eq!(plain.train(), cached.train(), "{sets:?}");
        assert_eq!(plain.valid(), cached.valid(), "{sets:?}");
        assert_eq!(plain.data.crc32, cached.data.crc32);
        assert_eq!(plain.data.train, cached.data.train);
        assert_eq!(
            (plain.warnings, plain.steps.total),
            (cached.warnings, cached.steps.total)
        );
    }
}
