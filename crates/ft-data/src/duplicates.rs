//! Samples that are there twice, and held-out prompts that are trained on: found by hashes of their tokens (64 bits, so that two of
//! a billion different ones may be taken for the same).

use std::collections::HashMap;

use ft_seed::mix;

use crate::cache::passing;
use crate::minhash::Text;
use crate::sample::{Preference, Sample};
use crate::tokenizer::Tokenizer;

/// An item that repeats an earlier one, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// The item.
    pub index: usize,
    /// What it repeats: the first of its kind; of a held-out sample, the first training sample with its prompt.
    pub of: usize,
}

/// The samples with the same tokens, learned marks and preference as an earlier one.
pub fn exact_duplicates(samples: &[Sample]) -> Vec<Repeat> {
    repeats(passing(samples).map(whole))
}

/// How many prompts several samples have.
pub fn repeated_prompts(samples: &[Sample]) -> usize {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for sample in passing(samples) {
        *counts.entry(hash(given(sample))).or_default() += 1;
    }
    counts.values().filter(|&&count| count > 1).count()
}

/// The held-out samples whose prompt a training sample has: what comes before the last answer, or all tokens where nothing but a BOS
/// does. Where all training samples have one and the same prompt, it says nothing, and whole samples are compared.
pub fn leaks(train: &[Sample], held_out: &[Sample]) -> Vec<Repeat> {
    let trained = Trained::of(train);
    let found = held_out.iter().enumerate();
    found
        .filter_map(|(index, sample)| {
            Some(Repeat {
                index,
                of: trained.first(sample)?,
            })
        })
        .collect()
}

/// What there is to say where `leaked` of so many held-out `what` (prompts, or texts) are trained on.
pub fn leak_warning(leaked: usize, held_out: usize, what: &str) -> String {
    format!(
        "{leaked} of {held_out} held-out {what} are in the training data too, so held-out numbers say less about new {what}; \
         `ft data check CONFIG` lists them, `ft data dedup CONFIG --held-out --out FILE` writes the training data without them"
    )
}

/// The words of a record's samples, for the comparison with others. Answers that people called bad are compared with each other alone.
pub(crate) fn text_of(samples: &[Sample], tokenizer: &Tokenizer) -> Text {
    let sequences = samples.iter().flat_map(Sample::sequences);
    let texts: Vec<String> = sequences.map(|sample| tokenizer.decode(&sample.ids, true)).collect();
    let bad = samples
        .iter()
        .any(|sample| sample.preference == Preference::Rated(false));
    Text {
        text: texts.join("\n"),
        group: u64::from(bad),
    }
}

/// The prompts of samples, or the samples themselves.
pub(crate) struct Trained {
    key: fn(&Sample) -> u64,
    first: HashMap<u64, usize>,
}

impl Trained {
    /// Of the training samples.
    pub fn of(train: &[Sample]) -> Trained {
        Trained::beside(train, train)
    }

    /// Of `samples`, where it is `train` that is trained on.
    pub fn beside(samples: &[Sample], train: &[Sample]) -> Trained {
        let prompt: fn(&Sample) -> u64 = |sample| hash(given(sample));
        let one = train.len() > 1 && passing(train).all(|sample| given(sample) == given(&train[0]));
        let key = if one { whole } else { prompt };
        let mut first = HashMap::new();
        for (index, sample) in passing(samples).enumerate() {
            first.entry(key(sample)).or_insert(index);
        }
        Trained { key, first }
    }

    /// The first sample with the prompt of `sample`.
    pub fn first(&self, sample: &Sample) -> Option<usize> {
        self.first.get(&(self.key)(sample)).copied()
    }
}

/// The items whose key an earlier one has.
pub(crate) fn repeats(keys: impl Iterator<Item = u64>) -> Vec<Repeat> {
    let mut first: HashMap<u64, usize> = HashMap::new();
    let found = keys.enumerate().filter_map(|(index, key)| {
        let of = *first.entry(key).or_insert(index);
        (of != index).then_some(Repeat { index, of })
    });
    found.collect()
}

/// Of all that is learned from: tokens, marks, and what people thought.
pub(crate) fn whole(sample: &Sample) -> u64 {
    let marked = |sample: &Sample| {
        let marks = sample.learn().into_iter().map(u32::from);
        mix(hash(&sample.ids) ^ hash(&marks.collect::<Vec<u32>>()).rotate_left(1))
    };
    let thought = match &sample.preference {
        Preference::None => 0,
        Preference::Over(rejected) => marked(rejected),
        Preference::Rated(good) => 1 + u64::from(*good),
    };
    let label: Vec<u32> = sample.label().into_iter().map(f32::to_bits).collect();
    mix(marked(sample) ^ mix(thought.wrapping_add(1)) ^ if label.is_empty() { 0 } else { mix(hash(&label)) })
}

/// The tokens before the last answer.
fn given(sample: &Sample) -> &[u32] {
    let start = sample.runs().last().map_or(sample.len(), |run| run.start);
    match start > 1 {
        true => &sample.ids[..start],
        false => &sample.ids,
    }
}

fn hash(ids: &[u32]) -> u64 {
    ids.iter().fold(mix(ids.len() as u64), |hash, &id| {
        mix(hash.rotate_left(5) ^ u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(prompt: &[u32], answer: &[u32]) -> Sample {
        Sample::answered([prompt, answer].concat(), prompt.len())
    }

    fn pairs(repeats: &[Repeat]) -> Vec<(usize, usize)> {
        repeats.iter().map(|r| (r.index, r.of)).collect()
    }

    #[test]
    fn the_same_tokens_learned_otherwise_are_no_duplicate() {
        let a = sample(&[1, 2], &[3, 4]);
        let samples = [
            a.clone(),
            sample(&[1, 2, 3], &[4]),
            a.clone().rated(true),
            a.clone().rated(false),
            a.clone().over(sample(&[1, 2], &[5])),
            a.clone().over(sample(&[1, 2], &[6])),
            a.clone(),
            a.clone().rated(false),
            a.over(sample(&[1, 2], &[6])),
        ];
        assert_eq!(pairs(&exact_duplicates(&samples)), [(6, 0), (7, 3), (8, 5)]);
    }

    #[test]
    fn a_leak_is_a_prompt_not_an_answer() {
        let train = [sample(&[1, 2], &[9]), sample(&[1, 3], &[9]), sample(&[1, 3], &[8])];
        let held_out = [sample(&[1, 4], &[9]), sample(&[1, 3], &[7]), sample(&[1, 2], &[9])];
        assert_eq!(pairs(&leaks(&train, &held_out)), [(1, 1), (2, 0)]);
        assert_eq!(repeated_prompts(&train), 1);
    }

    #[test]
    fn one_prompt_for_all_says_nothing() {
        let train = [sample(&[1, 2], &[9]), sample(&[1, 2], &[8])];
        let held_out = [sample(&[1, 2], &[7]), sample(&[1, 2], &[8])];
        assert_eq!(pairs(&leaks(&train, &held_out)), [(1, 1)]);
    }

    #[test]
    fn conversations_that_begin_alike_and_texts_without_a_prompt() {
        let turns = |asked: u32| {
            let learn = vec![false, false, true, false, false, true];
            Sample::new(vec![1, 2, 3, 4, asked, 6], learn)
        };
        assert_eq!(leaks(&[turns(5), turns(7)], &[turns(8)]), []);
        assert_eq!(pairs(&leaks(&[turns(5), turns(7)], &[turns(7)])), [(0, 1)]);
        let text = |ids: &[u32]| Sample::answered(ids.to_vec(), 1);
        assert_eq!(
            pairs(&leaks(&[text(&[1, 2]), text(&[1, 3])], &[text(&[1, 4]), text(&[1, 3])])),
            [(1, 1)]
        );
    }
}
