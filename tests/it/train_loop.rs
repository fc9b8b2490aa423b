//! What a run does at its steps.

use std::fs;

use ft_train::checkpoint::read_tensors;
use ft_train::{Ending, Error, FitOptions, Progress, Style, fit};
use serde_json::Value;

use crate::train_support::Workshop;

#[test]
fn it_learns_and_leaves_everything_a_run_should() {
    let workshop = Workshop::new();
    let sets = [
        "train.steps=40",
        "train.accumulation=1",
        "train.batch_size=4",
        "peft.dropout=0",
        "train.keep=2",
        "eval.metrics=[\"exact_match\"]",
    ];
    let outcome = workshop.fit("out", &sets).unwrap();
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.7 * before.loss, "from {} to {}", before.loss, after.loss);
    assert!((after.perplexity.unwrap() - after.loss.exp()).abs() < 1e-9);
    assert!(after.metrics.contains_key("exact_match"));
    assert_eq!(outcome.samples.len(), 2);
    assert_eq!(outcome.steps, 40);

    let out = workshop.path("out");
    for name in [
        "config.toml",
        "metrics.jsonl",
        "report.json",
        "report.html",
        "final/adapter_model.safetensors",
        "final/adapter_config.json",
        "final/tokenizer.json",
        "final/generation_config.json",
    ] {
        assert!(out.join(name).is_file(), "{name} is missing");
    }
    let mut kept: Vec<_> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["step-39", "step-40"], "the newest two");
    for name in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainable.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "manifest.json",
    ] {
        assert!(
            out.join("checkpoints/step-40").join(name).is_file(),
            "{name} is missing"
        );
    }
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        html.contains("<svg") && html.contains("Sample answers") && !html.contains("<script") && !html.contains("NaN")
    );
    assert!(!html.contains("src=") && !html.contains("href="), "nothing to load");
    let report: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["outcome"]["steps"], 40);
    assert_eq!(report["outcome"]["ending"], "finished");

    // The resolved configuration is one that reads back.
    let text = fs::read_to_string(out.join("config.toml")).unwrap();
    let config = ft_train::RunConfig::parse(&out.join("config.toml"), text, &[]).unwrap();
    assert_eq!((config.train.eval_every, config.train.save_every), (Some(4), Some(3)));
}

#[test]
fn a_logged_line_holds_the_documented_keys_and_the_mean_over_its_steps() {
    let workshop = Workshop::new();
    workshop.fit("each", &["train.log_every=1", "train.steps=6"]).unwrap();
    workshop.fit("third", &["train.log_every=3", "train.steps=6"]).unwrap();
    let lines = workshop.metrics("third");
    let train: Vec<&Value> = lines.iter().filter(|l| l.get("loss").is_some()).collect();
    assert_eq!(
        train.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [3, 6]
    );
    for key in [
        "step",
        "epoch",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "tokens_per_s",
        "memory_bytes",
    ] {
        assert!(train.iter().all(|l| l[key].is_number()), "{key}");
    }
    // Steps have different numbers of learned tokens: the mean over the interval is over tokens, not over steps.
    let dump = workshop.fit("dump", &["train.steps=3", "train.dump_batches=batches.jsonl"]);
    dump.unwrap();
    let learned: Vec<f64> = ft_train::read_metrics(&workshop.path("dump/batches.jsonl"))
        .iter()
        .map(learned)
        .collect();
    let each: Vec<f64> = workshop
        .metrics("each")
        .iter()
        .filter_map(|l| l["loss"].as_f64())
        .collect();
    let mean = (0..3).map(|i| each[i] * learned[i]).sum::<f64>() / learned[..3].iter().sum::<f64>();
    let logged = train[0]["loss"].as_f64().unwrap();
    assert!((logged - mean).abs() < 1e-6, "{logged} is not {mean}");
    let evals: Vec<u64> = lines
        .iter()
        .filter(|l| l.get("eval_loss").is_some())
        .map(|l| l["step"].as_u64().unwrap())
        .collect();
    assert_eq!(evals, [0, 4, 6]);
}

fn learned(line: &Value) -> f64 {
    let rows = line["batches"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|b| b.as_array().unwrap());
    rows.flat_map(|r| r["learn"].as_array().unwrap())
        .filter(|l| l.as_bool().unwrap())
        .count() as f64
}

#[test]
fn the_dump_lists_every_row_of_every_step() {
    let workshop = Workshop::new();
    workshop
        .fit("out", &["train.steps=6", "train.dump_batches=batches.jsonl"])
        .unwrap();
    let lines = ft_train::read_metrics(&workshop.path("out/batches.jsonl"));
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0]["batches"].as_array().unwrap().len(), 2, "micro-batches");
    // One pass over the 23 samples is six windows of up to four.
    let rows: Vec<Vec<u64>> = lines
        .iter()
        .flat_map(|l| {
            l["batches"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|b| b.as_array().unwrap().clone())
        })
        .map(|r| {
            r["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i.as_u64().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(rows.len(), 23);
    assert!(
        rows.iter().all(|r| r.last() == Some(&2) && !r.contains(&0)),
        "ends in </s>, no padding: {rows:?}"
    );
    assert!(workshop.path("out/initial/adapter_model.safetensors").is_file());
    assert_eq!(lines[0]["lr"], 0.0);
    assert!(lines[2]["lr"].as_f64().unwrap() > 0.0);
}

#[test]
fn accumulation_takes_the_same_steps_as_a_larger_batch() {
    let weights = |workshop: &Workshop, out: &str| {
        let tensors = read_tensors(&workshop.path(out).join("checkpoints/step-8/trainable.safetensors")).unwrap();
        tensors
            .into_iter()
            .map(|(name, data)| (name, data.try_to_vec::<f32>().unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let workshop = Workshop::new();
    let common = ["train.steps=8", "peft.dropout=0", "optim.lr=1e-3", "eval.samples=0"];
    let with = |shape: [&'static str; 2]| [&common[..], &shape].concat();
    workshop
        .fit("whole", &with(["train.batch_size=6", "train.accumulation=1"]))
        .unwrap();
    for (out, shape) in [
        ("thirds", ["train.batch_size=2", "train.accumulation=3"]),
        ("singles", ["train.batch_size=1", "train.accumulation=6"]),
    ] {
        workshop.fit(out, &with(shape)).unwrap();
        for (a, b) in workshop.curve("whole").iter().zip(workshop.curve(out)) {
            let close = |x: Option<f64>, y: Option<f64>| {
                x.is_some() == y.is_some() && (x.unwrap_or(0.0) - y.unwrap_or(0.0)).abs() < 1e-5
            };
            assert!(
                a.0 == b.0 && close(a.1, b.1) && close(a.2, b.2),
                "{out}: {a:?} and {b:?}"
            );
        }
        let (whole, parts) = (weights(&workshop, "whole"), weights(&workshop, out));
        for (name, values) in &whole {
            let worst = values
                .iter()
                .zip(&parts[name])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0f32, f32::max);
            assert!(worst < 1e-5, "{out}: {name} differs by {worst}");
        }
    }
}

#[test]
fn early_stopping_waits_for_its_patience() {
    let workshop = Workshop::new();
    // At this rate nothing improves by more than the threshold, so the third evaluation after the first is the last.
    let sets = [
        "optim.lr=1e-7",
        "train.steps=40",
        "train.eval_every=2",
        "train.early_stopping.patience=3",
        "train.early_stopping.threshold=0.5",
    ];
    let outcome = workshop.fit("out", &sets).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::EarlyStopped, 8));
    assert!(outcome.final_dir.is_some_and(|d| d.is_dir()));
    // Resuming a run that has given up changes nothing.
    let again = workshop.resume("out", &sets).unwrap();
    assert_eq!((again.ending, again.steps), (Ending::EarlyStopped, 8));
}

#[test]
fn early_stopping_remembers_across_a_resume() {
    let workshop = Workshop::new();
    let sets = [
        "optim.lr=1e-7",
        "train.steps=40",
        "train.eval_every=2",
        "train.save_every=5",
        "train.early_stopping.patience=3",
        "train.early_stopping.threshold=0.5",
    ];
    let cut = workshop.fit_until("out", &sets, 5);
    assert_eq!(cut.ending, Ending::Interrupted);
    let outcome = workshop.resume("out", &sets).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::EarlyStopped, 8));
}

#[test]
fn the_best_evaluation_is_kept_and_loaded() {
    let workshop = Workshop::new();
    // Held-out answers that the training samples argue against: the better those are learned, the worse it gets here.
    let line = "{\"prompt\": \"turn a b c into =\", \"completion\": \"; ; ;\"}\n";
    fs::write(workshop.path("valid.jsonl"), line.repeat(3)).unwrap();
    let sets = [
        "optim.lr=0.02",
        "schedule.kind=constant",
        "schedule.warmup=0",
        "train.steps=20",
        "train.eval_every=1",
        "train.save_every=20",
        "train.keep=1",
        "train.load_best=true",
        "optim.clip=0",
        "train.check_gradients=false",
    ];
    let outcome = workshop.fit("out", &sets).unwrap();
    let best = outcome.best.unwrap();
    assert!(best.step < 20, "the best step is {}", best.step);
    let evals: Vec<f64> = workshop
        .metrics("out")
        .iter()
        .filter_map(|l| l["eval_loss"].as_f64())
        .collect();
    let lowest = evals[1..].iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(best.loss, lowest);
    assert_eq!(outcome.after.unwrap().loss, lowest);
    let out = workshop.path("out");
    let path = out.join(format!("checkpoints/step-{}", best.step));
    assert!(path.is_dir(), "the best checkpoint is never pruned");
    let name = "adapter_model.safetensors";
    assert_eq!(
        fs::read(out.join("final").join(name)).unwrap(),
        fs::read(path.join(name)).unwrap()
    );
    assert_ne!(
        fs::read(out.join("final").join(name)).unwrap(),
        fs::read(out.join("checkpoints/step-20").join(name)).unwrap()
    );
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights() {
    let workshop = Workshop::new();
    // Overflows within a few steps.
    let sets = [
        "peft.method=lora",
        "optim.lr=1e30",
        "schedule.kind=constant",
        "schedule.warmup=0",
        "optim.clip=0",
        "train.save_every=1",
        "train.check_gradients=false",
    ];
    let error = workshop.fit("out", &sets).unwrap_err();
    let Error::NotFinite { step, count: 5, .. } = error else {
        panic!("{error}")
    };
    assert!(step > 5);
    let message = error.to_string();
    assert!(
        message.contains("optim.lr") && message.contains(&format!("step-{}", step - 1)),
        "{message}"
    );
    let last = workshop.path(&format!("out/checkpoints/step-{}", step - 1));
    assert!(ft_train::checkpoint::damage(&last).is_empty());
}

#[test]
fn tensors_that_cannot_learn_are_named() {
    let workshop = Workshop::new();
    // A scale that is zero in f32: the adapters are there, and nothing ever reaches them.
    let sets = [
        "peft.alpha=1e-300",
        "peft.targets=[\"q_proj\"]",
        "peft.dropout=0",
        "eval.samples=0",
    ];
    let error = workshop.fit("out", &sets).unwrap_err();
    let Error::Gradients { tensors, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        tensors.iter().all(|t| t.contains("q_proj") && t.ends_with(": zeros")),
        "{error}"
    );
    assert_eq!(tensors.len(), 4, "A and B of two layers");
    workshop
        .fit("off", &[&sets[..], &["train.check_gradients=false"]].concat())
        .unwrap();
}

#[test]
fn progress_is_written_as_lines_and_as_a_bar() {
    use std::sync::{Arc, Mutex};
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let workshop = Workshop::new();
    let shown = |out: &str, style| {
        let page = Page::default();
        let plan = workshop.plan(out, &["train.log_every=4"]).unwrap();
        let progress = Progress::Text(style, Box::new(page.clone()));
        fit(
            plan,
            FitOptions {
                progress,
                ..FitOptions::default()
            },
        )
        .unwrap();
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    };
    let lines = shown("lines", Style::Lines);
    let starts: Vec<&str> = lines.lines().map(|l| l.split("  ").next().unwrap()).collect();
    assert_eq!(
        starts,
        [
            "step 0/12",
            "step 4/12",
            "step 4/12",
            "step 8/12",
            "step 8/12",
            "step 12/12",
            "step 12/12"
        ],
        "{lines}"
    );
    assert!(
        lines.contains("loss ")
            && lines.contains("lr ")
            && lines.contains("tok/s")
            && lines.contains("eval loss ")
            && lines.contains("eta ")
    );
    assert!(!lines.contains('\x1b'));
    let bar = shown("bar", Style::Bar);
    assert!(bar.contains("[========================] step 12/12"), "{bar}");
}
