use std::collections::BTreeSet;

use super::world::{Fact, scene};
use super::*;

/// FNV-1a of 50 documents from seed 7.
const GOLDEN: u64 = 150931984595411380;

fn documents(seed: u64, count: usize) -> String {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| document(&mut dice) + "\n\n").collect()
}

fn lessons(split: Split, seed: u64) -> Vec<Lesson> {
    let mut dice = Dice::new(seed);
    (0..500).map(|_| lesson(split, &mut dice)).collect()
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The subject of every fact and the names among the values.
fn names(split: Split, seed: u64) -> BTreeSet<String> {
    let mut dice = Dice::new(seed);
    let facts = (0..2000).flat_map(|_| scene(split, &mut dice));
    facts
        .flat_map(
            |Fact {
                 subject,
                 relation,
                 value,
             }| {
                let named = matches!(relation.label, "town" | "owner");
                std::iter::once(subject).chain(named.then_some(value))
            },
        )
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    assert_eq!(documents(7, 50), documents(7, 50));
    assert_ne!(documents(7, 50), documents(8, 50));
    assert_eq!(
        fnv(&documents(7, 50)),
        GOLDEN,
        "the grammar changed: the base has to be made again"
    );
}

#[test]
fn the_halves_share_no_name_and_no_thing() {
    let train = names(Split::Train, 1);
    let held_out = names(Split::HeldOut, 2);
    assert!(
        train.len() > 1000 && held_out.len() > 1000,
        "{} and {}",
        train.len(),
        held_out.len()
    );
    assert_eq!(train.intersection(&held_out).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_answer_is_in_the_passage_and_never_in_the_question() {
    for lesson in lessons(Split::Train, 5).into_iter().chain(lessons(Split::HeldOut, 6)) {
        let (passage, question) = lesson.prompt.split_once("\nQuestion: ").expect("a question");
        let answer = lesson.completion.trim();
        assert!(passage.to_lowercase().contains(&answer.to_lowercase()), "{lesson:?}");
        assert!(!question.contains(answer), "{lesson:?}");
    }
}

#[test]
fn within_a_scene_a_value_belongs_to_one_subject() {
    let mut dice = Dice::new(9);
    for _ in 0..500 {
        let facts = scene(Split::All, &mut dice);
        let distinct: BTreeSet<_> = facts.iter().map(|f| (f.relation.label, &f.value)).collect();
        assert_eq!(distinct.len(), facts.len());
    }
}

#[test]
fn dice_are_fair_enough() {
    let mut dice = Dice::new(11);
    let mut counts = [0; 6];
    (0..6000).for_each(|_| counts[dice.below(6)] += 1);
    assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
}
