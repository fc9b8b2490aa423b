//! The seeds and sizes that make the committed files: change a number here and `cargo xtask base` makes another base.

use crate::grammar::{Dice, Lesson, Split, Task, document, lesson};

/// Ends every document and every answer; the tokenizer's only special token.
pub const END: &str = "<|endoftext|>";

/// Entries of the tokenizer: [`END`], the 256 bytes, and merges learned from the corpus.
pub const VOCAB_SIZE: usize = 1024;

/// The tokenizer is trained on so many documents of the corpus; more change nothing.
pub const TOKENIZER_DOCUMENTS: usize = 10_000;

/// Documents the base model is pretrained on.
pub fn corpus() -> impl Iterator<Item = String> {
    draw(1, 40_000, document)
}

/// Documents that measure the pretraining.
pub fn corpus_valid() -> impl Iterator<Item = String> {
    draw(2, 200, document)
}

/// `train.jsonl`: names, towns and things of the training split only.
pub fn train() -> impl Iterator<Item = Lesson> {
    draw(3, 4_000, |dice| lesson(Split::Train, dice))
}

/// `valid.jsonl`: names, towns and things that `train.jsonl` never mentions.
pub fn valid() -> impl Iterator<Item = Lesson> {
    draw(4, 200, |dice| lesson(Split::HeldOut, dice))
}

/// The two halves of a task: samples to train on, and held-out ones about other names and things.
pub fn task(task: Task) -> [impl Iterator<Item = Lesson>; 2] {
    let seed = 10 + 2 * task as u64;
    let halves = [(Split::Train, seed, 2_000), (Split::HeldOut, seed + 1, 200)];
    halves.map(|(split, seed, count)| draw(seed, count, move |dice| task.lesson(split, dice)))
}

fn draw<T>(seed: u64, count: usize, make: impl Fn(&mut Dice) -> T) -> impl Iterator<Item = T> {
    let mut dice = Dice::new(seed);
    (0..count).map(move |_| make(&mut dice))
}
