//! How many samples of each task an epoch has, and which.
//!
//! ```text
//! task     a0 a1 a2 | a0' a1' a2' | ...       its samples, in a new order each time they are through
//! epoch e          [ n of them ]              from where epoch e - 1 left off
//! ```
//!
//! The samples of an epoch are a function of (seed, epoch): there is no place in the stream to save.

use std::ops::Range;

use ft_data::{shuffle, stream, sub_seed};

use crate::config::EpochEnd;

/// Samples of some tasks in fixed numbers per epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    /// Its samples.
    rows: Range<usize>,
    /// So many of them in an epoch.
    count: usize,
}

impl Mixture {
    /// Every sample of the range once in every epoch.
    pub fn whole(rows: Range<usize>) -> Self {
        let count = rows.len();
        Self {
            parts: vec![Part { rows, count }],
        }
    }

    /// Samples of the ranges in these shares, which sum to 1. A task with a share has at least one sample in every epoch.
    pub fn new(ranges: &[Range<usize>], shares: &[f64], end: EpochEnd) -> Self {
        let samples = Self::length(ranges, shares, end) as usize;
        let taking: Vec<(&Range<usize>, f64)> = taking(ranges, shares).collect();
        let counts = apportion(samples, &taking.iter().map(|(_, share)| *share).collect::<Vec<_>>());
        let parts = taking.into_iter().zip(counts);
        Self {
            parts: parts
                .map(|((rows, _), count)| Part {
                    rows: rows.clone(),
                    count: count.max(1),
                })
                .collect(),
        }
    }

    /// How many samples an epoch comes to; more than anybody can list where a share is next to nothing.
    pub fn length(ranges: &[Range<usize>], shares: &[f64], end: EpochEnd) -> f64 {
        let lasts = taking(ranges, shares).map(|(rows, share)| rows.len() as f64 / share);
        let samples = match end {
            EpochEnd::Samples => taking(ranges, shares).map(|(rows, _)| rows.len() as f64).sum(),
            EpochEnd::FirstExhausted => lasts.fold(f64::INFINITY, f64::min),
            EpochEnd::AllExhausted => lasts.fold(0.0, f64::max),
        };
        samples.round()
    }

    /// Samples of an epoch.
    pub fn samples(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// How many of an epoch's samples are in the range.
    pub fn samples_of(&self, rows: &Range<usize>) -> usize {
        let own = self.parts.iter().filter(|part| part.rows == *rows);
        own.map(|part| part.count).sum()
    }

    /// The numbers of the samples of an epoch: ascending with `shuffled`, whose order is to be made from them, and else each
    /// task's in the order of its file, evenly spread.
    pub fn rows(&self, epoch: usize, seed: u64, shuffled: bool) -> Vec<usize> {
        let parts = self.parts.iter().enumerate();
        if shuffled {
            let mut rows: Vec<usize> = parts.flat_map(|(i, part)| part.rows(i, epoch, seed, true)).collect();
            rows.sort_unstable();
            return rows;
        }
        let mut placed: Vec<(f64, usize)> = Vec::with_capacity(self.samples());
        for (i, part) in parts {
            let place = |(at, row)| ((at as f64 + 0.5) / part.count as f64, row);
            placed.extend(part.rows(i, epoch, seed, false).into_iter().enumerate().map(place));
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        placed.into_iter().map(|(_, row)| row).collect()
    }
}

impl Part {
    /// What epoch `epoch` takes out of the endless stream of the task's samples.
    fn rows(&self, part: usize, epoch: usize, seed: u64, shuffled: bool) -> Vec<usize> {
        let size = self.rows.len();
        if size == 0 {
            return Vec::new();
        }
        let from = epoch as u128 * self.count as u128;
        let (mut round, mut skip) = (from / size as u128, (from % size as u128) as usize);
        let mut rows = Vec::with_capacity(self.count);
        while rows.len() < self.count {
            let mut order: Vec<usize> = self.rows.clone().collect();
            // A round that is taken whole has no order: what is shuffled comes ascending.
            let whole = skip == 0 && self.count - rows.len() >= size;
            if shuffled && !whole {
                let name = format!("task {part}, round {round}");
                shuffle(&mut order, &mut stream(sub_seed(seed, "mixture"), &name));
            }
            rows.extend(order.into_iter().skip(skip).take(self.count - rows.len()));
            (round, skip) = (round + 1, 0);
        }
        rows
    }
}

/// The ranges that have a share.
fn taking<'r>(ranges: &'r [Range<usize>], shares: &'r [f64]) -> impl Iterator<Item = (&'r Range<usize>, f64)> {
    ranges
        .iter()
        .zip(shares.iter().copied())
        .filter(|(_, share)| *share > 0.0)
}

/// Whole numbers that sum to `total` and are nearest to the shares of it (largest remainders).
fn apportion(total: usize, shares: &[f64]) -> Vec<usize> {
    let exact: Vec<f64> = shares.iter().map(|share| share * total as f64).collect();
    let mut counts: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let left = total.saturating_sub(counts.iter().sum());
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| (exact[*b].fract()).total_cmp(&exact[*a].fract()));
    order.iter().cycle().take(left).for_each(|i| counts[*i] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [Range<usize>; 3] = [0..10, 10..40, 40..100];

    fn counts(rows: &[usize]) -> [usize; 3] {
        TASKS.map(|task| rows.iter().filter(|row| task.contains(row)).count())
    }

    #[test]
    fn by_size_every_sample_comes_once() {
        let mixture = Mixture::new(&TASKS, &[0.1, 0.3, 0.6], EpochEnd::Samples);
        for shuffled in [true, false] {
            let mut rows = mixture.rows(3, 7, shuffled);
            rows.sort_unstable();
            assert_eq!(rows, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_epoch_ends_by_the_rule_and_nothing_is_skipped() {
        let third = [1.0 / 3.0; 3];
        for (end, samples) in [
            (EpochEnd::Samples, 100),
            (EpochEnd::FirstExhausted, 30),
            (EpochEnd::AllExhausted, 180),
        ] {
            let mixture = Mixture::new(&TASKS, &third, end);
            assert_eq!(mixture.samples(), samples, "{end:?}");
            let mut seen = [0usize; 100];
            for epoch in 0..6 {
                let rows = mixture.rows(epoch, 7, true);
                let counts = counts(&rows);
                assert!(
                    counts.iter().all(|n| n.abs_diff(samples / 3) <= 1),
                    "{end:?}: {counts:?}"
                );
                rows.iter().for_each(|row| seen[*row] += 1);
            }
            for task in &TASKS {
                let times = &seen[task.clone()];
                let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
                assert!(most - least <= 1, "{end:?}: {least} to {most}");
            }
        }
    }

    #[test]
    fn one_task_is_its_samples_and_a_task_without_a_share_never_comes() {
        let one = Mixture::new(&TASKS[1..2], &[1.0], EpochEnd::AllExhausted);
        assert_eq!(one, Mixture::whole(10..40));
        assert_eq!(one.rows(5, 1, true), (10..40).collect::<Vec<_>>());
        let two = Mixture::new(&TASKS, &[0.5, 0.0, 0.5], EpochEnd::FirstExhausted);
        assert_eq!(counts(&two.rows(0, 1, true)), [10, 0, 10]);
        assert_eq!(two.samples_of(&TASKS[1]), 0);
        // A share of almost nothing is still a sample.
        let tiny = Mixture::new(&TASKS, &[1e-9, 0.5, 0.5 - 1e-9], EpochEnd::Samples);
        assert_eq!(tiny.samples_of(&TASKS[0]), 1);
    }

    #[test]
    fn unshuffled_tasks_take_turns_in_file_order() {
        let mixture = Mixture::new(&[0..2, 2..6], &[1.0 / 3.0, 2.0 / 3.0], EpochEnd::Samples);
        assert_eq!(mixture.rows(0, 1, false), [2, 0, 3, 4, 1, 5]);
    }

    #[test]
    fn remainders_go_to_the_largest() {
        assert_eq!(apportion(10, &[0.26, 0.37, 0.37]), [2, 4, 4]);
        assert_eq!(apportion(0, &[0.5, 0.5]), [0, 0]);
    }
}
