//! Runs that several ranks take together, each a thread of the test.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ft_ranks::threads;
use ft_train::checkpoint::read_tensors;
use ft_train::{Event, FitOptions, Outcome, Result, Resume, fit};

use crate::train_support::Workshop;

/// How a run over ranks is started.
#[derive(Clone, Copy, Default)]
pub struct Start {
    /// It goes on from the newest checkpoint.
    pub resume: bool,
    /// This rank alone is asked to stop, when the first has saved this step.
    pub stop: Option<(usize, usize)>,
}

/// What every rank comes to.
pub fn fit_over(workshop: &Workshop, out: &str, sets: &[&str], size: usize, start: Start) -> Vec<Result<Outcome>> {
    fit_each(workshop, out, size, start, |_| {
        sets.iter().map(|set| set.to_string()).collect()
    })
    .0
}

/// The same with settings for every rank, and what the first was warned of.
pub fn fit_each(
    workshop: &Workshop,
    out: &str,
    size: usize,
    start: Start,
    sets: impl Fn(usize) -> Vec<String> + Sync,
) -> (Vec<Result<Outcome>>, Vec<String>) {
    let stop: std::sync::Arc<std::sync::atomic::AtomicBool> = Default::default();
    let warnings: std::sync::Arc<std::sync::Mutex<Vec<String>>> = Default::default();
    let outcomes = std::thread::scope(|scope| {
        let ranks = threads(size, Duration::from_secs(60));
        let started: Vec<_> = ranks
            .into_iter()
            .map(|ranks| {
                let (sets, stop, warnings) = (&sets, stop.clone(), warnings.clone());
                scope.spawn(move || {
                    let sets = sets(ranks.rank());
                    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
                    let mut options = FitOptions {
                        resume: start.resume.then_some(Resume::Latest),
                        ..FitOptions::default()
                    };
                    if start.stop.is_some_and(|(rank, _)| rank == ranks.rank()) {
                        options.stop = stop.clone();
                    }
                    options.on_event = Box::new(move |event| match event {
                        Event::Saved { step: at, .. } if start.stop.is_some_and(|(_, step)| *at >= step) => {
                            stop.store(true, Ordering::Relaxed);
                        }
                        Event::Warning(text) => warnings.lock().unwrap().push(text.clone()),
                        _ => {}
                    });
                    options.ranks = ranks;
                    fit(workshop.plan(out, &sets)?, options)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let warnings = warnings.lock().unwrap().clone();
    (outcomes, warnings)
}

/// A run of one process and the same over ranks: losses, norms of gradients, held-out losses and weights to 1e-5.
pub fn same_as_alone(workshop: &Workshop, name: &str, sets: &[&str], sizes: &[usize], last: usize) {
    let alone = format!("{name}-1");
    workshop.fit(&alone, sets).unwrap_or_else(|e| panic!("{sets:?}: {e}"));
    for size in sizes {
        let out = format!("{name}-{size}");
        for (rank, outcome) in fit_over(workshop, &out, sets, *size, Start::default())
            .into_iter()
            .enumerate()
        {
            outcome.unwrap_or_else(|e| panic!("rank {rank} of {size}, {sets:?}: {e}"));
        }
        alike(workshop, &alone, &out, last, sets);
    }
}

/// Whether two runs are the same to 1e-5.
pub fn alike(workshop: &Workshop, a: &str, b: &str, last: usize, sets: &[&str]) {
    let (one, other) = (workshop.metrics(a), workshop.metrics(b));
    assert_eq!(one.len(), other.len(), "{sets:?}");
    for (one, other) in one.iter().zip(&other) {
        let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
        assert_eq!(
            one.keys().collect::<Vec<_>>(),
            other.keys().collect::<Vec<_>>(),
            "{sets:?}"
        );
        for (key, value) in one {
            if ["tokens_per_s", "memory_bytes", "eval_seconds", "micro_batch"].contains(&key.as_str()) {
                continue;
            }
            // Of answers that are as likely as the other to the last digit, rounding says which is likelier.
            if key.ends_with("rewards/accuracies") {
                continue;
            }
            match (value.as_f64(), other[key].as_f64()) {
                (Some(x), Some(y)) => assert!(
                    (x - y).abs() <= 1e-5 * x.abs().max(1.0),
                    "{b}, step {}, {key}: {x} and {y}, {sets:?}",
                    one["step"]
                ),
                _ => assert_eq!(value, &other[key], "{key}, {sets:?}"),
            }
        }
    }
    let weights = |out: &str| {
        let file = format!("{out}/checkpoints/step-{last}/trainable.safetensors");
        read_tensors(&workshop.path(&file))
            .unwrap()
            .into_iter()
            .collect::<BTreeMap<_, _>>()
    };
    for ((name, x), (_, y)) in weights(a).into_iter().zip(weights(b)) {
        for (x, y) in x.iter::<f32>().zip(y.iter::<f32>()) {
            assert!(
                (x - y).abs() <= 1e-5 * x.abs().max(1.0),
                "{b}, {name}: {x} and {y}, {sets:?}"
            );
        }
    }
}
