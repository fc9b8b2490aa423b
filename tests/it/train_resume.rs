//! A run that is stopped and resumed ends exactly where one that is left alone does.

use std::fs;

use ft_train::{Ending, Error};

use crate::train_support::Workshop;

pub fn stopped_equals_left_alone(workshop: &Workshop, sets: &[&str]) {
    let alone = workshop.fit("alone", sets).unwrap();
    assert_eq!((alone.ending, alone.steps), (Ending::Finished, 12));
    // A checkpoint every 3 steps, an evaluation every 4: the run is cut after both, across two epochs.
    for (leg, stop) in [(0, 3), (1, 4), (2, 8), (3, 9)] {
        let outcome = match leg {
            0 => workshop.fit_until("cut", sets, stop),
            _ => workshop.resume_until("cut", sets, stop),
        };
        assert_eq!((outcome.ending, outcome.steps), (Ending::Interrupted, stop));
        assert!(outcome.final_dir.is_none());
    }
    let resumed = workshop.resume("cut", sets).unwrap();
    assert_eq!(resumed.steps, 12);
    assert_eq!(
        workshop.curve("cut"),
        workshop.curve("alone"),
        "every logged loss and evaluation"
    );
    assert_eq!(
        workshop.result("cut", 12),
        workshop.result("alone", 12),
        "weights and moments, to the bit"
    );
    assert_eq!(resumed.best, alone.best);
    assert_eq!(resumed.before, alone.before);
    assert_eq!(resumed.after, alone.after);
    assert_eq!(
        resumed.samples, alone.samples,
        "with the answers of the untrained model"
    );
}

#[test]
fn lora_with_dropout() {
    stopped_equals_left_alone(&Workshop::new(), &[]);
}

#[test]
fn lora_whose_blocks_are_computed_again() {
    stopped_equals_left_alone(&Workshop::new(), &["train.checkpointing=1"]);
}

#[test]
fn full_fine_tuning() {
    let workshop = Workshop::new();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("rank = 4\ndropout = 0.1\n", "method = \"full\"\n")).unwrap();
    stopped_equals_left_alone(&workshop, &["optim.lr=1e-3"]);
}

#[test]
fn pissa_whose_base_is_changed_at_the_start() {
    stopped_equals_left_alone(
        &Workshop::new(),
        &["peft.init=pissa", "optim.lr=2e-3", "train.log_every=5"],
    );
}

#[test]
fn one_seed_one_result_and_another_seed_another() {
    let workshop = Workshop::new();
    workshop.fit("one", &[]).unwrap();
    workshop.fit("two", &[]).unwrap();
    workshop.fit("three", &["train.seed=7"]).unwrap();
    assert_eq!(workshop.curve("one"), workshop.curve("two"));
    assert_eq!(workshop.result("one", 12), workshop.result("two", 12));
    assert_ne!(workshop.curve("one"), workshop.curve("three"));
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("cut", &[], 6);
    let newest = workshop.path("cut/checkpoints/step-6/optimizer.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&newest, bytes).unwrap();

    let (tell, told) = std::sync::mpsc::channel();
    let options = ft_train::FitOptions {
        resume: Some(ft_train::Resume::Latest),
        on_event: Box::new(move |event| tell.send(event.clone()).unwrap()),
        ..Default::default()
    };
    ft_train::fit(workshop.plan("cut", &[]).unwrap(), options).unwrap();
    let events: Vec<_> = told.into_iter().collect();
    let warned = events
        .iter()
        .any(|e| matches!(e, ft_train::Event::Warning(w) if w.contains("step-6") && w.contains("checksum")));
    let resumed = events
        .iter()
        .any(|e| matches!(e, ft_train::Event::Resumed { step: 3, .. }));
    assert!(warned && resumed, "{events:?}");
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    assert_eq!(
        workshop.curve("cut"),
        workshop.curve("alone"),
        "the lines after step 3 were written anew"
    );
}

#[test]
fn going_back_to_an_older_checkpoint_gives_up_what_came_after_it() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("cut", &[], 9);
    let from = workshop.path("cut/checkpoints/step-3");
    let options = ft_train::FitOptions {
        resume: Some(ft_train::Resume::From(from)),
        ..Default::default()
    };
    options.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    ft_train::fit(workshop.plan("cut", &[]).unwrap(), options).unwrap();
    assert_eq!(
        workshop.metrics("cut").last().unwrap()["step"],
        3,
        "the later lines are gone"
    );
    let later = ft_train::checkpoint::Checkpoints::of(&workshop.path("cut")).steps();
    assert_eq!(later, [3], "6 and 9 are set aside");
    workshop.resume("cut", &[]).unwrap();
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    assert_eq!(workshop.curve("cut"), workshop.curve("alone"));
}

#[test]
fn a_named_checkpoint_that_is_damaged_is_refused() {
    let workshop = Workshop::new();
    workshop.fit_until("cut", &[], 3);
    let path = workshop.path("cut/checkpoints/step-3");
    fs::write(path.join("trainer_state.json"), "{}").unwrap();
    let options = ft_train::FitOptions {
        resume: Some(ft_train::Resume::From(path)),
        ..Default::default()
    };
    let error = ft_train::fit(workshop.plan("cut", &[]).unwrap(), options).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    assert!(error.to_string().contains("trainer_state.json"), "{error}");
}

#[test]
fn a_run_folder_is_never_overwritten() {
    let workshop = Workshop::new();
    workshop.fit("out", &["train.steps=2", "eval.samples=0"]).unwrap();
    let error = workshop.fit("out", &["train.steps=2"]).unwrap_err();
    assert!(matches!(error, Error::Occupied(_)), "{error}");
    let error = workshop.resume("fresh", &[]).unwrap_err().to_string();
    assert!(error.contains("no checkpoint to resume from"), "{error}");
}

#[test]
fn a_changed_configuration_stops_or_warns_by_what_changed() {
    let workshop = Workshop::new();
    workshop.fit_until("cut", &[], 3);
    let error = workshop
        .resume("cut", &["peft.rank=2", "train.seed=1"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("peft.rank: 4 -> 2") && error.contains("train.seed: 42 -> 1"),
        "{error}"
    );

    let text = fs::read_to_string(workshop.path("train.jsonl")).unwrap();
    fs::write(workshop.path("train.jsonl"), text.replacen("turn a", "turn b", 1)).unwrap();
    let error = workshop.resume("cut", &[]).unwrap_err().to_string();
    assert!(
        error.contains("the training samples are not those of the checkpoint"),
        "{error}"
    );
    fs::write(workshop.path("train.jsonl"), text).unwrap();

    let weights = workshop.path("base/model.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&weights, other).unwrap();
    let error = workshop.resume("cut", &[]).unwrap_err().to_string();
    assert!(
        error.contains("the base model is not the one of the checkpoint"),
        "{error}"
    );
    fs::write(&weights, good).unwrap();

    let (tell, told) = std::sync::mpsc::channel();
    let options = ft_train::FitOptions {
        resume: Some(ft_train::Resume::Latest),
        on_event: Box::new(move |event| tell.send(event.clone()).unwrap()),
        ..Default::default()
    };
    let outcome = ft_train::fit(
        workshop.plan("cut", &["optim.lr=1e-3", "train.keep=1"]).unwrap(),
        options,
    )
    .unwrap();
    assert_eq!(outcome.steps, 12);
    let told: Vec<String> = told
        .into_iter()
        .filter_map(|e| match e {
            ft_train::Event::Warning(text) => Some(text),
            _ => None,
        })
        .collect();
    assert!(told.iter().any(|w| w.contains("optim.lr: 0.02 -> 0.001")), "{told:?}");
    assert!(!told.iter().any(|w| w.contains("keep")), "{told:?}");
}

#[test]
fn interrupting_before_the_first_step_leaves_a_folder_that_can_start_over() {
    let workshop = Workshop::new();
    let options = ft_train::FitOptions::default();
    options.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let outcome = ft_train::fit(workshop.plan("out", &[]).unwrap(), options).unwrap();
    assert_eq!(
        (outcome.ending, outcome.steps, outcome.checkpoint),
        (Ending::Interrupted, 0, None)
    );
    workshop.fit("out", &[]).unwrap();
    workshop.fit("alone", &[]).unwrap();
    assert_eq!(workshop.result("out", 12), workshop.result("alone", 12));
    assert_eq!(workshop.curve("out"), workshop.curve("alone"));
}

#[test]
fn an_adapter_can_be_the_start_of_another_run() {
    let workshop = Workshop::new();
    let first = workshop.fit("first", &["peft.dropout=0"]).unwrap();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace("rank = 4\ndropout = 0.1\n", "from = \"first/final\"\n"),
    )
    .unwrap();
    let second = workshop.fit("second", &[]).unwrap();
    let (end, start) = (first.after.unwrap().loss, second.before.unwrap().loss);
    assert!((end - start).abs() < 1e-6, "ended at {end}, went on from {start}");
}
