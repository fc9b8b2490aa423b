//! Which tasks of a mixture come when, and how often.

use std::fs;

use serde_json::Value;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks};

/// 25 samples of the first task twice, 5 of the second, 14 of the third.
fn curriculum() -> String {
    let with = |tables: String, name: &str, line: &str| {
        let name = format!("name = \"{name}\"\n");
        tables.replace(&name, &format!("{name}{line}\n"))
    };
    with(with(THREE.to_owned(), "reverse", "repeat = 2.0"), "copy", "cap = 5")
}

/// The task of every sample that the steps were fed, by how its prompt begins.
fn fed(workshop: &Workshop, out: &str) -> Vec<Vec<char>> {
    let text = fs::read_to_string(workshop.path(out).join("dump.jsonl")).unwrap();
    let tokenizer = ft_data::Tokenizer::from_dir(&workshop.path("base")).unwrap();
    let task = |row: &Value| {
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        let text = tokenizer.decode(&ids, true);
        match text.trim_start().split(' ').next() {
            Some("into") => 'c',
            Some(";") => 's',
            _ => 'r',
        }
    };
    let step = |line: &str| {
        let step: Value = serde_json::from_str(line).unwrap();
        let batches = step["batches"].as_array().unwrap().iter();
        batches.flat_map(|batch| batch.as_array().unwrap()).map(task).collect()
    };
    text.lines().map(step).collect()
}

#[test]
fn a_curriculum_resumes_to_the_byte() {
    for order in ["mixture.order=sequential", "mixture.order=cumulative"] {
        stopped_equals_left_alone(&with_tasks(&curriculum()), &[order]);
    }
}

#[test]
fn tasks_come_repeated_capped_and_in_their_order() {
    let workshop = with_tasks(&curriculum());
    let sets = |order: &str| {
        let order = format!("mixture.order={order}");
        [
            "data.pack=false".to_owned(),
            "eval.samples=0".into(),
            "train.batch_size=4".into(),
            "train.accumulation=1".into(),
            "train.dump_batches=dump.jsonl".into(),
            order,
        ]
    };
    let run = |order: &str, steps: usize| {
        let sets = [&sets(order)[..], &[format!("train.steps={steps}")]].concat();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let summary = workshop.plan(order, &sets).unwrap().summary();
        let per_epoch: Vec<usize> = summary.data.tasks.iter().map(|task| task.per_epoch).collect();
        workshop.fit(order, &sets).unwrap();
        (per_epoch, fed(&workshop, order), summary.steps.per_epoch)
    };
    let reverse = workshop.plan("plan", &[]).unwrap().summary().data.tasks[0].samples;
    let epoch = [2 * reverse, 5, 14];
    let count = |fed: &[Vec<char>], task: char| fed.iter().flatten().filter(|c| **c == task).count();

    let steps = epoch.iter().sum::<usize>().div_ceil(4);
    let (planned, mixed, _) = run("mixed", steps);
    assert_eq!(planned, epoch);
    assert_eq!([count(&mixed, 'r'), count(&mixed, 'c'), count(&mixed, 's')], epoch);

    let (planned, sequential, _) = run("sequential", steps);
    assert_eq!(planned, epoch);
    let expected: String = "rcs".chars().zip(epoch).map(|(c, n)| c.to_string().repeat(n)).collect();
    assert_eq!(sequential.concat().into_iter().collect::<String>(), expected);

    let (planned, cumulative, per_epoch) = run("cumulative", 51);
    assert_eq!(
        planned,
        [3 * epoch[0], 2 * epoch[1], epoch[2]],
        "a pass over all stages"
    );
    let stages = [epoch[0], epoch[0] + epoch[1], epoch.iter().sum()];
    assert_eq!(per_epoch, stages.iter().map(|n: &usize| n.div_ceil(4)).sum::<usize>());
    let stage = |number: usize| &cumulative[number * 17..(number + 1) * 17];
    let of_stage = |number: usize| ['r', 'c', 's'].map(|task| count(stage(number), task) > 0);
    assert_eq!(
        [0, 1, 2].map(of_stage),
        [[true, false, false], [true, true, false], [true; 3]]
    );
}
