//! Whole runs with every objective: they learn, resume to the byte, and do not depend on how a step is cut.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::fixture;
use crate::train_support::Workshop;
use crate::train_uld;

/// Options over the workshop's configuration, and what the loss is measured on.
pub const KINDS: &[&[&str]] = &[
    &["objective.kind=dpo"],
    &[
        "objective.kind=dpo",
        "objective.loss=robust",
        "objective.label_smoothing=0.1",
        "objective.sft_weight=0.5",
    ],
    &["objective.kind=dpo", "objective.precompute_ref_log_probs=true"],
    &["objective.kind=ipo"],
    &["objective.kind=orpo"],
    &["objective.kind=simpo"],
    &["objective.kind=kto"],
    &["objective.kind=distill", "objective.teacher=teacher"],
    &[
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.beta=0.5",
        "objective.temperature=2",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=base",
        "objective.alpha=0.3",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.lambda=0.5",
        "objective.max_new_tokens=5",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.teacher_quant=nf4",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.hidden_layers=[[1, 2], [2, 1]]",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.hidden_layers=[[1, 1]]",
        "objective.hidden_loss=mse",
        "objective.hidden_weight=0.5",
        "objective.lambda=0.5",
        "objective.max_new_tokens=5",
    ],
    &[
        "objective.kind=distill",
        "objective.teacher=narrow",
        "objective.hidden_layers=[[1, 1], [2, 1]]",
        "objective.hidden_loss=mse",
    ],
    &["objective.kind=distill", "objective.teacher=stranger"],
    &[
        "objective.kind=distill",
        "objective.teacher=stranger",
        "objective.temperature=1.5",
        "objective.teacher_quant=nf4",
    ],
];

/// The workshop with preferences, and with teachers that were fine-tuned on the task: one with its tokenizer, one with another. A third
/// is random and narrower.
pub fn workshop() -> Workshop {
    let workshop = Workshop::new();
    for file in ["train", "valid"] {
        let text = fs::read_to_string(workshop.path(&format!("{file}.jsonl"))).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let pair = |record: &Value| {
            let wrong = format!("{} h", record["completion"].as_str().unwrap());
            json!({"prompt": record["prompt"], "chosen": record["completion"], "rejected": wrong}).to_string() + "\n"
        };
        let pairs: String = records.iter().map(pair).collect();
        fs::write(workshop.path(&format!("{file}_pairs.jsonl")), pairs).unwrap();
    }
    let sets = ["peft.method=full", "train.steps=24", "optim.lr=5e-3", "eval.samples=0"];
    workshop.fit("sft", &sets).unwrap();
    copy(&workshop.path("sft/final"), &workshop.path("teacher"));
    for from in [workshop.path("base"), fixture("objectives/teacher")] {
        copy(&from, &workshop.path("narrow"));
    }
    train_uld::add_stranger(&workshop, &sets);
    workshop
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The options with paths into the workshop and the data that they need.
pub fn sets(workshop: &Workshop, kind: &[&str], more: &[&str]) -> Vec<String> {
    let place = |set: &str| match set.strip_prefix("objective.teacher=") {
        Some(name @ ("teacher" | "narrow" | "stranger")) => {
            format!("objective.teacher={}", workshop.path(name).display())
        }
        _ => set.to_owned(),
    };
    let mut sets: Vec<String> = kind.iter().copied().chain(more.iter().copied()).map(place).collect();
    if !kind[0].ends_with("distill") {
        for name in ["train", "valid"] {
            sets.push(format!(
                "data.{name}={}",
                workshop.path(&format!("{name}_pairs.jsonl")).display()
            ));
        }
        sets.push("data.format=preference".into());
    }
    sets.push("optim.lr=2e-2".into());
    sets
}

pub fn strs(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

#[test]
fn every_objective_learns_and_resumes_to_the_byte() {
    let workshop = workshop();
    for (i, kind) in KINDS.iter().enumerate() {
        let [alone, cut] = [format!("alone{i}"), format!("cut{i}")];
        let sets = sets(&workshop, kind, &[]);
        let outcome = workshop
            .fit(&alone, &strs(&sets))
            .unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
        assert!(after.loss < before.loss, "{kind:?}: {} -> {}", before.loss, after.loss);
        workshop.fit_until(&cut, &strs(&sets), 6);
        workshop.resume(&cut, &strs(&sets)).unwrap();
        assert_eq!(workshop.curve(&cut), workshop.curve(&alone), "{kind:?}");
        assert_eq!(workshop.result(&cut, 12), workshop.result(&alone, 12), "{kind:?}");
        let figures = |out: &str| {
            workshop
                .metrics(out)
                .iter()
                .map(|line| line["rewards/margins"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(figures(&cut), figures(&alone), "{kind:?}");
    }
}

#[test]
fn a_reference_that_is_asked_once_says_the_same() {
    let workshop = workshop();
    for kind in ["dpo", "ipo"] {
        let [live, once] = ["false", "true"].map(|once| {
            let kind = format!("objective.kind={kind}");
            let once = format!("objective.precompute_ref_log_probs={once}");
            let sets = sets(&workshop, &[&kind, &once], &["eval.samples=0"]);
            let out = format!("{kind}-{once}");
            workshop.fit(&out, &strs(&sets)).unwrap();
            workshop.curve(&out)
        });
        assert_eq!(live.len(), once.len());
        for (a, b) in live.iter().zip(&once) {
            for (a, b) in [(a.1, b.1), (a.2, b.2)] {
                let apart = (a.unwrap_or(0.0) - b.unwrap_or(0.0)).abs();
                assert!(apart <= 1e-4 * a.unwrap_or(1.0).abs().max(1e-2), "{kind}: {a:?} {b:?}");
            }
        }
    }
}

/// Dropout is off: its masks are named by forward pass.
#[test]
fn no_objective_depends_on_how_a_step_is_cut_or_on_what_is_kept() {
    let workshop = workshop();
    for (i, kind) in KINDS.iter().enumerate() {
        let run = |name: &str, more: &[&str]| {
            let more = [&["peft.dropout=0", "train.steps=4", "eval.samples=0"], more].concat();
            let (sets, out) = (sets(&workshop, kind, &more), format!("{name}{i}"));
            workshop
                .fit(&out, &strs(&sets))
                .unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            let curve = workshop.curve(&out);
            curve
                .iter()
                .map(|(_, loss, held_out)| loss.or(*held_out).unwrap())
                .collect::<Vec<f64>>()
        };
        let plain = run("plain", &[]);
        let near = |plain: &[f64], other: Vec<f64>, what: &str| {
            let pairs = plain.iter().zip(&other);
            let far = pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f64::max);
            assert!(
                plain.len() == other.len() && far < 2e-5,
                "{kind:?}, {what}: {far:e}, {plain:?} {other:?}"
            );
        };
        // KTO judges a held-out batch by itself, so those must be the same.
        let eval = "eval.batch_size=2";
        near(
            &plain,
            run("whole", &["train.batch_size=4", "train.accumulation=1", eval]),
            "one micro-batch",
        );
        near(
            &plain,
            run("single", &["train.batch_size=1", "train.accumulation=4", eval]),
            "four micro-batches",
        );
        near(&plain, run("again", &["train.checkpointing=1"]), "checkpointed");
        let unclipped = [
            "train.checkpointing=1",
            "optim.clip=0",
            "train.batch_size=4",
            "train.accumulation=1",
            eval,
        ];
        let inside = [&unclipped[..], &["train.optimizer_in_backward=true"]].concat();
        let after = run("after", &unclipped);
        near(&after, run("inside", &inside), "steps inside the backward pass");
    }
}

#[test]
fn a_teachers_scores_in_a_file_are_the_teacher() {
    let workshop = workshop();
    let kind = [
        "objective.kind=distill",
        "objective.teacher=teacher",
        "objective.temperature=2",
    ];
    let live = sets(&workshop, &kind, &["eval.samples=0", "peft.dropout=0"]);
    let file = workshop.path("scores");
    let plan = workshop.plan("cache", &strs(&live)).unwrap();
    let vocabulary = plan.model.vocab_size;
    let written = ft_train::write_teacher_cache(&plan, vocabulary, &file).unwrap();
    assert_eq!(written.top_k, vocabulary);
    assert_eq!(
        written.tokens,
        plan.data.train.learned + plan.data.valid.as_ref().unwrap().learned
    );
    workshop.fit("live", &strs(&live)).unwrap();
    // Without the teacher's folder.
    let mut cached = sets(&workshop, &[kind[0], kind[2]], &["eval.samples=0", "peft.dropout=0"]);
    cached.push(format!("objective.cache={}", file.display()));
    workshop.fit("cached", &strs(&cached)).unwrap();
    let (live, other) = (workshop.curve("live"), workshop.curve("cached"));
    for ((step, a, b), (_, c, d)) in live.iter().zip(&other) {
        let (a, c) = (a.or(*b).unwrap(), c.or(*d).unwrap());
        assert!((a - c).abs() < 1e-4 * a.max(1.0), "step {step}: {a} and {c}");
    }
    let refused = |more: &str, expected: &str| {
        let sets = [strs(&cached), vec![more]].concat();
        let out = format!("refused{}", more.len());
        let text = workshop.fit(&out, &sets).unwrap_err().to_string();
        assert!(text.contains(expected), "{more}: {text}");
    };
    refused(
        "objective.temperature=1",
        "are at temperature 2, objective.temperature is 1",
    );
    let other = format!("data.train={}", workshop.path("valid.jsonl").display());
    refused(&other, "from other training samples");
    let teacher = format!("objective.teacher={}", workshop.path("base").display());
    refused(&teacher, "by another teacher");
    refused("objective.lambda=0.5", "objective.lambda: a cache has no scores");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    refused("train.steps=9", "is damaged");
    fs::write(&file, &bytes[..last]).unwrap();
    refused("train.steps=10", "no file of `ft distill cache`");
    // The few most probable tokens and the mass of the rest teach too.
    let few = workshop.path("few");
    ft_train::write_teacher_cache(&plan, 4, &few).unwrap();
    let last = cached.len() - 1;
    cached[last] = format!("objective.cache={}", few.display());
    let outcome = workshop.fit("few_run", &strs(&cached)).unwrap();
    assert!(outcome.after.unwrap().loss < outcome.before.unwrap().loss);
}

#[test]
fn a_teachers_answers_are_data() {
    let workshop = workshop();
    let kind = ["objective.kind=distill", "objective.teacher=teacher"];
    let plan = workshop.plan("answers", &strs(&sets(&workshop, &kind, &[]))).unwrap();
    let file = workshop.path("answers.jsonl");
    let written = ft_train::write_teacher_answers(&plan, &file).unwrap();
    assert_eq!(written.answers, plan.train().len());
    let stops = plan.train()[0].ids.last();
    let mut cut = 0;
    let lines = fs::read_to_string(&file).unwrap();
    for (line, sample) in lines.lines().zip(plan.train()) {
        let record: Value = serde_json::from_str(line).unwrap();
        let prompt = sample.prompt().len();
        let ids: Vec<u32> = serde_json::from_value(record["input_ids"].clone()).unwrap();
        assert_eq!(ids[..prompt], *sample.prompt());
        cut += usize::from(ids.last() != stops);
        assert_eq!(record["labels"][prompt - 1], -100);
        assert_eq!(record["labels"][prompt], ids[prompt]);
    }
    assert!(written.cut == cut && cut < written.answers, "{cut}: the teacher stops");
    let train = format!("data.train={}", file.display());
    let none = ["data.valid_split=0.2", "data.format=pre-tokenized", &train];
    let text = fs::read_to_string(workshop.path("run.toml")).unwrap();
    fs::write(workshop.path("run.toml"), text.replace("valid = \"valid.jsonl\"\n", "")).unwrap();
    let outcome = workshop.fit("taught", &none).unwrap();
    assert!(outcome.after.unwrap().loss < outcome.before.unwrap().loss);
    let error = ft_train::write_teacher_answers(&workshop.plan("x", &none).unwrap(), &file).unwrap_err();
    assert!(error.to_string().contains("needs kind = \"distill\""), "{error}");
}

#[test]
fn what_an_objective_cannot_take_is_named() {
    let workshop = workshop();
    let error = |sets: &[&str]| {
        workshop
            .plan("out", sets)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    let pairs = format!("data.train={}", workshop.path("train_pairs.jsonl").display());
    for (sets, expected) in [
        (
            vec!["objective.kind=dpo"],
            "learns from pairs of a chosen and a rejected answer",
        ),
        (
            vec![pairs.as_str(), "data.format=preference"],
            "set objective.kind to \"dpo\", \"ipo\", \"orpo\", \"simpo\"",
        ),
        (vec!["objective.kind=distill"], "objective.teacher: missing"),
        (
            vec!["objective.kind=distill", "objective.teacher=nowhere"],
            "objective.teacher: ",
        ),
        (
            vec!["objective.kind=distill", "objective.teacher=base", "objective.alpha=2"],
            "objective.alpha: must be a number from 0 to 1",
        ),
        (
            vec![
                "objective.kind=distill",
                "objective.teacher=base",
                "objective.teacher_quant=nf4",
            ],
            "\"base\" is the student's own base",
        ),
        (
            vec!["objective.kind=dpo", "objective.beta=0"],
            "objective.beta: must be a number above 0",
        ),
        (
            vec![
                "objective.kind=dpo",
                "objective.loss=hinge",
                "objective.label_smoothing=0.1",
            ],
            "objective.label_smoothing: goes with",
        ),
    ] {
        let text = error(&sets);
        assert!(text.contains(expected), "{sets:?}: {text}");
    }
    for (layers, expected) in [
        ("[[0, 1]]", "[0, 1]: layers count from 1"),
        ("[[1, 1], [1, 2]]", "the student's layer 1 is there twice"),
        ("[[1, 9]]", "layer 9 is none of them"),
    ] {
        let layers = format!("objective.hidden_layers={layers}");
        let text = error(&["objective.kind=distill", "objective.teacher=base", &layers]);
        assert!(text.contains(expected), "{layers}: {text}");
    }
    let other = workshop.path("other");
    copy(&workshop.path("teacher"), &other);
    let text = fs::read_to_string(other.join("tokenizer.json")).unwrap();
    fs::write(other.join("tokenizer.json"), text.replace("\"turn\"", "\"spin\"")).unwrap();
    let teacher = format!("objective.teacher={}", other.display());
    let text = error(&["objective.kind=distill", "objective.divergence=kl", &teacher]);
    assert!(
        text.contains("has \"spin\" where this model has \"turn\"") && text.contains("share one tokenizer"),
        "{text}"
    );
    assert!(text.contains("objective.divergence = \"uld\" compares"), "{text}");
}

#[test]
fn preferences_learn_at_a_twentieth_of_the_methods_rate() {
    let workshop = Workshop::new();
    let text = fs::read_to_string(workshop.path("run.toml"))
        .unwrap()
        .replace("lr = 2e-2", "");
    fs::write(workshop.path("run.toml"), text).unwrap();
    let rate = |sets: &[&str]| workshop.config("out", sets).optim.lr();
    assert!((rate(&["objective.kind=dpo"]) / rate(&[]) - 0.05).abs() < 1e-12);
    assert_eq!(rate(&["objective.kind=distill", "objective.teacher=base"]), rate(&[]));
}
