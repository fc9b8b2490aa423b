//! Several ranks take the steps of one process.

use std::fs;

use ft_train::Ending;

use crate::ranks_support::{Start, alike, fit_each, fit_over, same_as_alone};
use crate::train_objectives;
use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks};

/// Masks of dropout are named by forward pass, and ranks may need more of them. SGD, because AdamW's first steps have the size of the rate
/// however small a gradient is, and so does its rounding.
const SHORT: &str = "train.steps=4 train.eval_every=2 eval.samples=0 peft.dropout=0 optim.kind=sgd optim.momentum=0.9 optim.lr=0.05 train.tensorboard=''";

fn short(more: &str) -> Vec<&str> {
    SHORT.split(' ').chain(more.split_whitespace()).collect()
}

/// Samples of a step that ranks share evenly or not, and rows of several sequences.
#[test]
fn of_any_size() {
    let workshop = Workshop::new();
    let shapes = [
        "train.batch_size=2 train.accumulation=2",
        "train.batch_size=3 train.accumulation=1",
        "train.batch_size=1 train.accumulation=7",
        "train.batch_size=2 train.accumulation=1",
        "train.batch_size=4 train.accumulation=2 data.pack=true data.max_length=32",
        "train.batch_size=4 train.accumulation=3 data.shuffle=false train.checkpointing=1",
        "train.batch_size=4 optim.clip=0.01 eval.batch_size=1",
        "train.batch_size=4 model.dtype=bf16 model.quant.kind=nf4",
    ];
    for (i, shape) in shapes.iter().enumerate() {
        same_as_alone(&workshop, &format!("shape{i}"), &short(shape), &[2, 3, 4], 4);
    }
}

#[test]
fn with_every_method() {
    let workshop = Workshop::new();
    for method in ft_peft::PeftConfig::NAMES {
        // The base has no biases, and narrow matrices.
        let options = match *method {
            "bitfit" => continue,
            "oft" => "peft.method=oft peft.block_size=4".to_owned(),
            "shira" | "miss" => format!("peft.method={method} peft.rank=4"),
            "trainable_tokens" => "peft.method=trainable_tokens peft.token_indices=[5,7]".to_owned(),
            method => format!("peft.method={method}"),
        };
        let mut sets = short(&options);
        if !method.contains("lora") {
            sets.retain(|set| !set.starts_with("peft.dropout"));
        }
        same_as_alone(&workshop, method, &sets, &[2, 4], 4);
    }
}

#[test]
fn with_every_optimizer() {
    let workshop = Workshop::new();
    for (i, optimizer) in ["adamw optim.eps=1e-3", "adamw_8bit optim.eps=1e-3", "adafactor", "sgd"]
        .iter()
        .enumerate()
    {
        let options = format!("optim.kind={optimizer} optim.lr=1e-3");
        let mut sets = short(&options);
        sets.retain(|set| !["optim.kind=sgd", "optim.momentum=0.9", "optim.lr=0.05"].contains(set));
        if *optimizer == "sgd" {
            sets.push("optim.kind=sgd");
        }
        same_as_alone(&workshop, &format!("optimizer{i}"), &sets, &[2], 4);
    }
}

#[test]
fn with_every_objective() {
    let workshop = train_objectives::workshop();
    for (i, kind) in train_objectives::KINDS.iter().enumerate() {
        let more = short("train.accumulation=3");
        let mut sets = train_objectives::sets(&workshop, kind, &more);
        sets.push("optim.lr=0.02".into());
        same_as_alone(
            &workshop,
            &format!("kind{i}"),
            &train_objectives::strs(&sets),
            &[2, 4],
            4,
        );
    }
}

/// Fisher information, gradients of memories, samples that are fed again.
#[test]
fn with_every_strategy() {
    let strategies = [
        "continual.strategy=sequential",
        "continual.strategy=joint",
        "continual.strategy=replay continual.ratio=0.6 continual.buffer=10",
        "continual.strategy=ewc continual.lambda=20 continual.fisher_samples=5",
        "continual.strategy=online_ewc continual.lambda=20 continual.fisher_samples=5",
        "continual.strategy=gem continual.memories=6",
        "continual.strategy=agem continual.memories=6 continual.sample=5",
        "continual.strategy=der continual.buffer=10 continual.top_k=5",
        "continual.strategy=lwf",
        "continual.strategy=olora",
        "continual.strategy=adapters",
    ];
    for strategy in strategies {
        let workshop = with_tasks(THREE);
        let mut sets = short(strategy);
        sets.retain(|set| !set.starts_with("train.steps"));
        same_as_alone(&workshop, "strategy", &sets, &[2, 3], 12);
    }
}

#[test]
fn with_an_adapter_for_each_task() {
    let workshop = with_tasks(THREE);
    same_as_alone(
        &workshop,
        "own",
        &short("mixture.adapter=per_task train.accumulation=4"),
        &[2, 3],
        4,
    );
}

/// Dropout too: ranks that have the forward passes of one process draw its masks.
#[test]
fn the_same_to_the_bit_from_run_to_run() {
    let workshop = Workshop::new();
    let sets: Vec<&str> = "train.steps=6 train.accumulation=4 eval.samples=2".split(' ').collect();
    for out in ["one", "two"] {
        fit_over(&workshop, out, &sets, 4, Start::default())
            .into_iter()
            .for_each(|o| drop(o.unwrap()));
    }
    assert_eq!(workshop.curve("one"), workshop.curve("two"));
    assert_eq!(workshop.result("one", 6), workshop.result("two", 6));
    let sets: Vec<&str> = sets
        .iter()
        .copied()
        .chain(["optim.kind=sgd", "optim.lr=0.05"])
        .collect();
    workshop.fit("alone", &sets).unwrap();
    fit_over(&workshop, "four", &sets, 4, Start::default())
        .into_iter()
        .for_each(|o| drop(o.unwrap()));
    alike(&workshop, "alone", "four", 6, &sets);
}

#[test]
fn resumed_with_another_number_of_ranks() {
    let workshop = Workshop::new();
    let sets: Vec<&str> = SHORT
        .split(' ')
        .chain(["train.steps=12", "train.save_every=3"])
        .collect();
    workshop.fit("alone", &sets).unwrap();
    // The last rank is asked, and all stop.
    let stop = |size, resume, step| {
        let start = Start {
            resume,
            stop: Some((size - 1, step)),
        };
        for outcome in fit_over(&workshop, "cut", &sets, size, start) {
            let outcome = outcome.unwrap();
            assert_eq!(outcome.ending, Ending::Interrupted);
            assert!(outcome.steps >= step && outcome.steps < 12, "{}", outcome.steps);
        }
    };
    stop(4, false, 3);
    stop(2, true, 6);
    workshop.resume("cut", &sets).unwrap();
    alike(&workshop, "alone", "cut", 12, &sets);
}

#[test]
fn what_does_not_belong_together_is_found_at_the_start() {
    let workshop = Workshop::new();
    let text = fs::read_to_string(workshop.path("train.jsonl")).unwrap();
    fs::write(workshop.path("other.jsonl"), text.replacen(" a ", " b ", 1)).unwrap();
    let (outcomes, _) = fit_each(&workshop, "run", 3, Start::default(), |rank| match rank {
        1 => vec![
            format!("data.train={}", workshop.path("other.jsonl").display()),
            "optim.lr=1e-3".into(),
        ],
        _ => vec![format!("data.train={}", workshop.path("train.jsonl").display())],
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        for part in ["data.train (checksum", "optim.lr: rank 0 has 0.02, rank 1 has 0.001"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("rank 2"), "{error}");
    }
    assert!(!workshop.path("run/checkpoints").exists());
}

#[test]
fn warnings_of_every_rank_reach_the_first_once() {
    let workshop = Workshop::new();
    let sets = |_| {
        vec![
            "train.batch_size=1".into(),
            "optim.kind=paged_adamw_32bit".into(),
            "train.steps=4".into(),
        ]
    };
    let (outcomes, warnings) = fit_each(&workshop, "run", 3, Start::default(), sets);
    outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    let paging: Vec<_> = warnings.iter().filter(|text| text.contains("pages nothing")).collect();
    assert_eq!(paging.len(), 1, "{warnings:?}");
}

#[test]
fn a_rank_that_fails_ends_the_others_with_the_checkpoint() {
    let workshop = Workshop::new();
    let (outcomes, _) = fit_each(&workshop, "run", 2, Start::default(), |rank| match rank {
        1 => vec!["model.path=/nowhere".into()],
        _ => Vec::new(),
    });
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("rank 1 has ended; the newest checkpoint is none"),
        "{error}"
    );
}

#[test]
fn steps_inside_the_backward_pass_are_refused() {
    let workshop = Workshop::new();
    let sets = [
        "train.optimizer_in_backward=true",
        "train.checkpointing=1",
        "optim.clip=0",
        "train.accumulation=1",
    ];
    for outcome in fit_over(&workshop, "run", &sets, 2, Start::default()) {
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("train.optimizer_in_backward") && error.contains("2 ranks"),
            "{error}"
        );
    }
}

/// Each rank takes the step of its own parameters, of full fine-tuning from gradients of its own alone: to the bit what every rank takes of all of
/// them, and checkpoints are the same.
#[test]
fn optimizer_states_are_shared_to_the_bit() {
    let workshop = Workshop::new();
    for (i, options) in [
        "optim.kind=adamw",
        "optim.kind=adamw peft.method=full optim.clip=0.01 train.accumulation=5",
        "optim.kind=adamw peft.method=full train.checkpointing=1 optim.clip=0",
        "optim.kind=adamw_8bit peft.method=full",
        "optim.kind=adafactor peft.method=full",
        "optim.kind=muon peft.method=full optim.lr=1e-3",
        "optim.kind=lion peft.method=adalora optim.lr=1e-3",
    ]
    .iter()
    .enumerate()
    {
        let mut sets = short(options);
        sets.retain(|set| !["optim.kind=sgd", "optim.momentum=0.9", "optim.lr=0.05"].contains(set));
        if options.contains("full") {
            sets.retain(|set| !set.starts_with("peft.dropout"));
        }
        let shared = [&sets[..], &["train.shard_optimizer=true"]].concat();
        let [whole, parts] = ["whole", "parts"].map(|name| format!("{name}{i}"));
        for (out, sets) in [(&whole, &sets), (&parts, &shared)] {
            for outcome in fit_over(&workshop, out, sets, 3 + i % 2, Start::default()) {
                outcome.unwrap_or_else(|e| panic!("{sets:?}: {e}"));
            }
        }
        assert_eq!(workshop.curve(&whole), workshop.curve(&parts), "{options}");
        assert_eq!(workshop.result(&whole, 4), workshop.result(&parts, 4), "{options}");
    }
}

#[test]
fn shared_states_are_resumed_with_another_number_of_ranks() {
    let workshop = Workshop::new();
    let own =
        "train.steps=12 train.save_every=3 peft.dropout=0 eval.samples=0 optim.eps=1e-3 train.shard_optimizer=true";
    let sets: Vec<&str> = own.split(' ').collect();
    workshop.fit("alone", &sets).unwrap();
    for (size, resume, step) in [(4, false, 3), (2, true, 6)] {
        let start = Start {
            resume,
            stop: Some((size - 1, step)),
        };
        fit_over(&workshop, "cut", &sets, size, start)
            .into_iter()
            .for_each(|o| drop(o.unwrap()));
    }
    workshop.resume("cut", &sets).unwrap();
    alike(&workshop, "alone", "cut", 12, &sets);
}

/// Each rank answers some of the prompts, drawn too: the answers and metrics of one process.
#[test]
fn answers_are_those_of_one() {
    let workshop = Workshop::new();
    let sets = [
        "train.steps=4",
        "train.eval_every=2",
        "train.accumulation=6",
        "peft.dropout=0",
        "optim.kind=sgd",
        "eval.samples=5",
        "eval.samples_each=true",
        "eval.metrics=[\"exact_match\",\"bleu\"]",
        "generate.do_sample=true",
        "generate.temperature=0.8",
        "generate.seed=3",
    ];
    let alone = workshop.fit("alone", &sets).unwrap();
    assert!(alone.samples.len() == 5 && alone.after.as_ref().unwrap().metrics.contains_key("bleu"));
    for size in [2, 3, 6] {
        let out = format!("over{size}");
        let outcomes = fit_over(&workshop, &out, &sets, size, Start::default());
        let first = outcomes.into_iter().next().unwrap().unwrap();
        assert_eq!(first.samples, alone.samples);
        assert_eq!(first.after.unwrap().metrics, alone.after.as_ref().unwrap().metrics);
        for file in ["before.json", "samples.jsonl"] {
            let read = |out: &str| fs::read_to_string(workshop.path(out).join(file)).unwrap();
            assert_eq!(read("alone"), read(&out), "{file}, {size} ranks");
        }
    }
    let metrics = "[[task]]\nmetrics = [\"exact_match\", \"rougeL\"]\n";
    let workshop = with_tasks(&THREE.replace("[[task]]\n", metrics));
    let sets = short("train.accumulation=6 train.eval_every=2");
    same_as_alone(&workshop, "tasks", &sets, &[2, 3], 4);
    assert!(
        workshop
            .metrics("tasks-3")
            .iter()
            .any(|line| line["eval_rougeL_micro"].is_f64())
    );
}
