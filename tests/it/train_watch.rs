//! What can be watched of a run: TensorBoard's events, the answers at every evaluation, and the report's curves.

use std::fs;

use crate::train_support::Workshop;

#[test]
fn events_and_answers_follow_the_run_through_a_resume() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("cut", &[], 6);
    workshop.resume("cut", &[]).unwrap();

    let read = |name: &str| fs::read_to_string(workshop.path(name)).unwrap();
    assert_eq!(read("cut/samples.jsonl"), read("alone/samples.jsonl"));
    let lines = ft_train::read_metrics(&workshop.path("alone/samples.jsonl"));
    let steps: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [4, 8, 12]);
    assert!(
        lines.iter().all(|line| line["samples"].as_array().unwrap().len() == 2),
        "{lines:?}"
    );

    for out in ["alone", "cut"] {
        let files: Vec<_> = fs::read_dir(workshop.path(out).join("tb")).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "{out}");
        let bytes = fs::read(files[0].path()).unwrap();
        let count = |tag: &str| bytes.windows(tag.len()).filter(|w| *w == tag.as_bytes()).count();
        let tags = [
            "train/loss",
            "train/lr",
            "train/grad_norm",
            "train/tokens_per_s",
            "train/memory_bytes",
        ];
        assert!(tags.iter().all(|tag| count(tag) == 12), "{out}: twelve logged steps");
        assert_eq!(count("eval/loss"), 4, "{out}: before the first step and every four");
    }
    let html = read("cut/report.html");
    for heading in [
        "Loss",
        "Gradient norm before clipping",
        "Tokens per second",
        "Memory in MB",
        "Answers at every evaluation",
    ] {
        assert!(html.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
}

#[test]
fn what_is_not_wanted_is_not_written() {
    let workshop = Workshop::new();
    workshop
        .fit(
            "out",
            &["train.tensorboard=\"\"", "eval.samples_each=false", "train.steps=4"],
        )
        .unwrap();
    assert!(!workshop.path("out/tb").exists() && !workshop.path("out/samples.jsonl").exists());
    workshop
        .fit("named", &["train.tensorboard=\"events/here\"", "train.steps=4"])
        .unwrap();
    assert_eq!(fs::read_dir(workshop.path("named/events/here")).unwrap().count(), 1);
}
