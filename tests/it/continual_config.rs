//! Section `[continual]` as it is typed: what is refused, and what displaces what.

use std::fs;

use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks, write_tasks};

#[test]
fn a_run_over_tasks_that_cannot_be_is_named_with_the_way_out() {
    let workshop = with_tasks(THREE);
    let refused = |sets: &[&str], expected: &str| {
        let error = workshop.plan("out", sets).unwrap_err().to_string();
        assert!(error.contains(expected), "{sets:?}: {error}");
    };
    refused(
        &["continual.strategy=ewc", "continual.lambda=nan"],
        "continual.lambda: must be a number of at least 0",
    );
    refused(
        &["continual.strategy=ewc", "continual.fisher_samples=0"],
        "continual.fisher_samples: must be at least 1",
    );
    refused(
        &["continual.strategy=online_ewc", "continual.gamma=1.5"],
        "continual.gamma: must be a number from 0 to 1",
    );
    refused(
        &["continual.strategy=replay", "continual.ratio=-1"],
        "continual.ratio: must be",
    );
    refused(
        &["continual.strategy=replay", "continual.buffer=0"],
        "continual.buffer: must be at least 1",
    );
    refused(
        &["continual.strategy=der", "continual.top_k=0"],
        "continual.top_k: must be at least 1",
    );
    refused(
        &["continual.strategy=lwf", "continual.temperature=0"],
        "continual.temperature: must be a number above 0",
    );
    refused(
        &["continual.strategy=gem", "continual.margin=inf"],
        "continual.margin: must be",
    );
    refused(
        &["continual.strategy=gem", "continual.steps_per_task=7", "train.steps=12"],
        "12 steps are not 3 tasks of continual.steps_per_task = 7",
    );
    refused(
        &["continual.strategy=gem", "train.load_best=true"],
        "ends with the weights after its last task",
    );
    refused(
        &["continual.strategy=gem", "train.steps=2"],
        "do not give each of 3 tasks one",
    );
    refused(&["continual.strategy=gem", "mixture.by=size"], "\"gem\" mixes nothing");
    let inside = [
        "train.optimizer_in_backward=true",
        "train.checkpointing=1",
        "optim.clip=0",
        "train.accumulation=1",
    ];
    refused(
        &[&inside[..], &["continual.strategy=ewc"]].concat(),
        "\"ewc\" works on all gradients of a step at once",
    );
    let one = with_tasks("[[task]]\nname = \"a\"\ntrain = \"copy.jsonl\"\nvalid = \"copy_valid.jsonl\"\n");
    let error = one.plan("out", &["continual.strategy=replay"]).unwrap_err().to_string();
    assert!(error.contains("continual: needs two tasks or more"), "{error}");
    let typed = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        ft_train::RunConfig::load(&workshop.path("run.toml"), &sets)
            .unwrap_err()
            .to_string()
    };
    let error = typed(&["continual.strategy=ewk"]);
    assert!(error.contains("did you mean \"ewc\"?"), "{error}");
    let error = typed(&["continual.strategy=ewc", "continual.memories=3"]);
    assert!(
        error.contains("`continual.memories` belongs to another choice"),
        "{error}"
    );
}

/// Tasks and their length displace what a file that is extended says about data and steps.
#[test]
fn tasks_displace_the_data_of_an_extended_file() {
    let workshop = Workshop::new();
    write_tasks(&workshop);
    let text = format!("extends = \"run.toml\"\n{THREE}\n[continual]\nsteps_per_task = 5\n");
    fs::write(workshop.path("tasks.toml"), text).unwrap();
    let config = ft_train::RunConfig::load(&workshop.path("tasks.toml"), &[]).unwrap();
    assert_eq!(
        (config.task.len(), config.data.valid.clone(), config.train.steps),
        (3, None, None)
    );
    assert_eq!(config.continual.as_ref().unwrap().strategy.name(), "sequential");
    // The resolved configuration, which a run folder holds, means the same.
    let resolve = |config| ft_train::Plan::resolve(config, &burn::tensor::Device::flex(), "cpu").unwrap();
    let plan = resolve(config);
    let again = ft_train::RunConfig::parse(&workshop.path("again.toml"), plan.config.to_toml(None), &[]).unwrap();
    let again = resolve(again);
    assert_eq!((again.steps.task_ends, &again.config), (vec![5, 10, 15], &plan.config));
}

/// Another strategy by `--set` leaves the length of the tasks and drops the options of the one before.
#[test]
fn another_strategy_displaces_the_options_of_the_one_before() {
    let workshop = with_tasks(&format!(
        "{THREE}\n[continual]\nstrategy = \"replay\"\nbuffer = 5\nsteps_per_task = 4\n"
    ));
    let config = workshop.config("out", &["continual.strategy=ewc"]);
    let section = config.continual.unwrap();
    assert_eq!((section.strategy.name(), section.steps_per_task), ("ewc", Some(4)));
    let kept = workshop.config("out", &["continual.ratio=0.5"]).continual.unwrap();
    assert_eq!(serde_json::to_value(&kept).unwrap()["buffer"], 5);
}
