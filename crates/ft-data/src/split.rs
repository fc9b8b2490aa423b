//! Holding out part of a data set.

use std::collections::BTreeMap;

use crate::cache::passing;
use crate::load::Dataset;
use crate::sample::Sample;
use crate::statistics::{Counts, Statistics};
use crate::tokenizer::Tokenizer;
use ft_seed::{fnv1a, mix, sub_seed};

impl Dataset {
    /// Moves about `share` of the samples into a second data set. Samples with the same prompt stay together, so that the held-out part
    /// measures new prompts. The choice depends on the seed and the prompts alone, not on the order of the file.
    ///
    /// The reading counts stay with the first part. With `share` above 0 and at least two prompts, neither part is empty.
    pub fn split(mut self, share: f64, seed: u64, tokenizer: &Tokenizer) -> (Dataset, Dataset) {
        let held_out = held_out(&self.samples, share, sub_seed(seed, "split"));
        let mut parts = [(vec![], vec![]), (vec![], vec![])];
        for ((sample, place), out) in self.samples.drain(..).zip(self.places.drain(..)).zip(held_out) {
            let (samples, places) = &mut parts[usize::from(out)];
            samples.push(sample);
            places.push(place);
        }
        let [train, valid] = parts;
        let part = |(samples, places): (Vec<Sample>, _), counts| {
            let statistics = Statistics::measure(&samples, counts, tokenizer);
            Dataset {
                samples,
                files: self.files.clone(),
                places,
                cut: vec![],
                format: self.format,
                statistics,
                cached: self.cached.clone(),
            }
        };
        let rest = Counts {
            records: valid.0.len(),
            ..Counts::default()
        };
        let mut train = part(train, self.statistics.counts);
        train.cut = std::mem::take(&mut self.cut);
        (train, part(valid, rest))
    }
}

/// For each sample whether it is held out: prompts in an order of their own, as many as make up the share.
fn held_out(samples: &[Sample], share: f64, seed: u64) -> Vec<bool> {
    let keys: Vec<u64> = passing(samples).map(|sample| prompt_key(sample, seed)).collect();
    let wanted = (share * samples.len() as f64).round() as usize;
    choose(&keys, if share > 0.0 { wanted.max(1) } else { 0 })
}

/// What a sample's prompt is ordered by.
pub(crate) fn prompt_key(sample: &Sample, seed: u64) -> u64 {
    mix(seed ^ prompt_hash(sample))
}

/// For each key whether it is among the lowest that occur `wanted` times or, because equal ones stay together, a little more often. The
/// highest never is.
pub(crate) fn choose(keys: &[u64], wanted: usize) -> Vec<bool> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for key in keys {
        *counts.entry(*key).or_insert(0) += 1;
    }
    let mut left = wanted;
    let mut last_chosen = None;
    for (&key, &count) in counts.iter().take(counts.len().saturating_sub(1)) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(count);
        last_chosen = Some(key);
    }
    keys.iter()
        .map(|key| last_chosen.is_some_and(|last| *key <= last))
        .collect()
}

/// Of the tokens before the first learned one, or of all tokens where nothing but a BOS comes before it.
fn prompt_hash(sample: &Sample) -> u64 {
    let ids = if sample.prompt().len() > 1 {
        sample.prompt()
    } else {
        &sample.ids
    };
    fnv1a(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(prompts: usize, per_prompt: usize) -> Vec<Sample> {
        let sample = |i: usize| {
            let prompt = (i / per_prompt) as u32;
            Sample::new(vec![1, prompt, i as u32, 2], vec![false, false, true, true])
        };
        (0..prompts * per_prompt).map(sample).collect()
    }

    #[test]
    fn prompts_stay_together_and_the_share_is_met() {
        let samples = samples(100, 5);
        let out = held_out(&samples, 0.1, 7);
        assert_eq!(out.iter().filter(|&&o| o).count(), 50);
        assert!(out.chunks(5).all(|same| same.iter().all(|o| *o == same[0])));
        assert_ne!(out, held_out(&samples, 0.1, 8));
    }

    #[test]
    fn file_order_does_not_matter() {
        let mut samples = samples(50, 2);
        let out = held_out(&samples, 0.3, 7);
        samples.reverse();
        let mut reversed = held_out(&samples, 0.3, 7);
        reversed.reverse();
        assert_eq!(out, reversed);
    }

    #[test]
    fn neither_part_is_empty() {
        assert_eq!(held_out(&samples(2, 1), 0.01, 1).iter().filter(|&&o| o).count(), 1);
        assert_eq!(held_out(&samples(2, 1), 0.99, 1).iter().filter(|&&o| o).count(), 1);
        assert_eq!(held_out(&samples(1, 5), 0.5, 1), [false; 5]);
        assert_eq!(held_out(&samples(9, 1), 0.0, 1), [false; 9]);
    }
}
