//! Several devices of one process: the CPU stands for as many cards as it is named.

use std::fs;
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use ft_train::{Ending, Event, FitOptions, Named, Outcome, Result, Resume, fit_on};

use crate::ranks_support::{Start, alike, fit_over};
use crate::train_support::Workshop;

const SHORT: &str = "train.steps=6 train.eval_every=2 train.save_every=2 train.accumulation=3 peft.dropout=0 optim.eps=1e-3 train.tensorboard=''";

fn short(more: &str) -> Vec<&str> {
    SHORT.split(' ').chain(more.split_whitespace()).collect()
}

fn cpus(count: usize) -> Vec<Named> {
    (0..count)
        .map(|number| (format!("cpu:{number}"), Device::flex()))
        .collect()
}

/// Options of a run that is asked to stop once it has saved `until`.
fn options(resume: bool, until: Option<usize>) -> FitOptions {
    let mut options = FitOptions {
        resume: resume.then_some(Resume::Latest),
        ..FitOptions::default()
    };
    let stop = options.stop.clone();
    options.on_event = Box::new(move |event| {
        if matches!(event, Event::Saved { step, .. } if until.is_some_and(|until| *step >= until)) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    options
}

fn fit(workshop: &Workshop, out: &str, sets: &[&str], count: usize, options: FitOptions) -> Result<Outcome> {
    fit_on(workshop.plan(out, sets)?, &cpus(count), false, options)
}

#[test]
fn they_take_the_steps_of_one() {
    let workshop = Workshop::new();
    for (i, more) in [
        "",
        "peft.method=full optim.kind=sgd optim.lr=0.05 train.shard_optimizer=true",
        "data.pack=true data.max_length=32",
    ]
    .into_iter()
    .enumerate()
    {
        let mut sets = short(more);
        if more.contains("full") {
            sets.retain(|set| !set.starts_with("peft.dropout") && !set.starts_with("optim.eps"));
        }
        let alone = format!("alone{i}");
        workshop.fit(&alone, &sets).unwrap();
        for count in [2, 3] {
            let out = format!("devices{i}-{count}");
            let outcome = fit(&workshop, &out, &sets, count, options(false, None)).unwrap();
            assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 6));
            assert!(outcome.final_dir.is_some() && outcome.after.is_some());
            alike(&workshop, &alone, &out, 6, &sets);
            // Processes of the same number take the very same.
            let ranks = format!("ranks{i}-{count}");
            let outcomes = fit_over(&workshop, &ranks, &sets, count, Start::default());
            outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
            assert_eq!(workshop.curve(&ranks), workshop.curve(&out));
            assert_eq!(workshop.result(&ranks, 6), workshop.result(&out, 6));
        }
    }
}

#[test]
fn a_stop_saves_once_and_another_number_goes_on() {
    let workshop = Workshop::new();
    let sets = short("");
    workshop.fit("alone", &sets).unwrap();
    for (count, resume, until) in [(3, false, 2), (2, true, 4)] {
        let outcome = fit(&workshop, "cut", &sets, count, options(resume, Some(until))).unwrap();
        // It is known where all meet, up to a step later.
        assert_eq!(outcome.ending, Ending::Interrupted);
        assert!((until..=until + 1).contains(&outcome.steps), "{}", outcome.steps);
    }
    workshop.resume("cut", &sets).unwrap();
    alike(&workshop, "alone", "cut", 6, &sets);
}

#[test]
fn they_lose_their_patience_together() {
    let workshop = Workshop::new();
    // At this rate nothing improves by more than the threshold.
    let sets = short("optim.lr=1e-7 train.steps=40 train.early_stopping.patience=2 train.early_stopping.threshold=0.5");
    let alone = workshop.fit("alone", &sets).unwrap();
    let outcome = fit(&workshop, "two", &sets, 2, options(false, None)).unwrap();
    assert_eq!(outcome.ending, Ending::EarlyStopped);
    assert_eq!((alone.ending, alone.steps), (outcome.ending, outcome.steps));
}

#[test]
fn one_that_fails_ends_the_run_with_its_error() {
    let workshop = Workshop::new();
    let checkpoints = workshop.path("run/checkpoints");
    let mut options = options(false, None);
    options.on_event = Box::new(move |event| {
        if matches!(event, Event::Saved { step: 2, .. }) {
            fs::rename(&checkpoints, checkpoints.with_extension("gone")).unwrap();
            fs::write(&checkpoints, "no folder").unwrap();
        }
    });
    let error = fit(&workshop, "run", &short("train.steps=20"), 2, options).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("run/checkpoints") && !text.contains("has ended"),
        "{text}"
    );
}

#[test]
fn what_one_alone_can_do_is_refused() {
    let workshop = Workshop::new();
    let sets = [
        "train.optimizer_in_backward=true",
        "train.checkpointing=1",
        "optim.clip=0",
        "train.accumulation=1",
    ];
    let error = fit(&workshop, "run", &sets, 2, options(false, None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("train.optimizer_in_backward") && error.contains("2 ranks"),
        "{error}"
    );
    let error = fit(&workshop, "run", &[], 0, options(false, None))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no device"), "{error}");
}

/// No card adds up on the CPU: that is found before the first step, told, and done without.
#[test]
fn sums_go_through_the_host_where_cards_cannot() {
    let workshop = Workshop::new();
    let sets = short("");
    let told: std::sync::Arc<std::sync::Mutex<Vec<String>>> = Default::default();
    let mut options = options(false, None);
    let warnings = told.clone();
    options.on_event = Box::new(move |event| {
        if let Event::Warning(text) = event {
            warnings.lock().unwrap().push(text.clone());
        }
    });
    fit_on(workshop.plan("two", &sets).unwrap(), &cpus(2), true, options).unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.iter().filter(|text| text.contains("NCCL")).count(), 1, "{told:?}");
    workshop.fit("alone", &sets).unwrap();
    alike(&workshop, "alone", "two", 6, &sets);
}
