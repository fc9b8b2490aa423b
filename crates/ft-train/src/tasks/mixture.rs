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
    /// The tasks come one after the other.
    sequential: bool,
}

/// A task in a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Its samples.
    pub rows: Range<usize>,
    /// As how many it counts: it has run out when so many have been fed.
    pub size: usize,
    /// Its share of the mixture, from 0 to 1.
    pub share: f64,
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
            sequential: false,
        }
    }

    /// Tasks in these shares, which sum to 1. A task with a share has at least one sample in every epoch.
    pub fn new(shares: &[Share], end: EpochEnd) -> Self {
        let samples = Self::length(shares, end) as usize;
        let taking: Vec<&Share> = taking(shares).collect();
        let counts = apportion(samples, &taking.iter().map(|task| task.share).collect::<Vec<_>>());
        let parts = taking.into_iter().zip(counts);
        Self {
            parts: parts
                .map(|(task, count)| Part {
                    rows: task.rows.clone(),
                    count: count.max(1),
                })
                .collect(),
            sequential: false,
        }
    }

    /// The same with the tasks one after the other in every epoch.
    pub fn sequential(self) -> Self {
        Self {
            sequential: true,
            ..self
        }
    }

    /// How many samples an epoch comes to; more than anybody can list where a share is next to nothing.
    pub fn length(shares: &[Share], end: EpochEnd) -> f64 {
        let lasts = taking(shares).map(|task| task.size as f64 / task.share);
        let samples = match end {
            EpochEnd::Samples => taking(shares).map(|task| task.size as f64).sum(),
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

    /// The numbers of the samples of an epoch, in lists that come one after the other: all in one, or one for each task. With `shuffled` a
    /// list is ascending, for its order is to be made from it; else it has each task's samples in the order of its file, evenly spread.
    pub fn lists(&self, epoch: usize, seed: u64, shuffled: bool) -> Vec<Vec<usize>> {
        let parts = self.parts.iter().enumerate();
        let mut of_parts: Vec<Vec<usize>> = parts.map(|(i, part)| part.rows(i, epoch, seed, shuffled)).collect();
        if shuffled && !self.sequential {
            of_parts = vec![of_parts.concat()];
        }
        if shuffled {
            of_parts.iter_mut().for_each(|rows| rows.sort_unstable());
            return of_parts;
        }
        match self.sequential {
            true => of_parts,
            false => vec![spread(&of_parts)],
        }
    }

    /// All of them.
    pub fn rows(&self, epoch: usize, seed: u64, shuffled: bool) -> Vec<usize> {
        self.lists(epoch, seed, shuffled).concat()
    }

    /// Whether its tasks come one after the other, so that steps must not change places.
    pub fn is_sequential(&self) -> bool {
        self.sequential
    }
}

/// Lists in one, each evenly spread over it.
fn spread(lists: &[Vec<usize>]) -> Vec<usize> {
    let place = |list: &'_ Vec<usize>| {
        let count = list.len() as f64;
        let rows = list.clone().into_iter().enumerate();
        rows.map(move |(at, row)| ((at as f64 + 0.5) / count, row))
            .collect::<Vec<_>>()
    };
    let mut placed: Vec<(f64, usize)> = lists.iter().flat_map(place).collect();
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    placed.into_iter().map(|(_, row)| row).collect()
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

/// The tasks that have a share.
fn taking(shares: &[Share]) -> impl Iterator<Item = &Share> {
    shares.iter().filter(|task| task.share > 0.0)
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

    /// Tasks that count as what they have.
    fn mixture(ranges: &[Range<usize>], shares: &[f64], end: EpochEnd) -> Mixture {
        let sizes: Vec<usize> = ranges.iter().map(Range::len).collect();
        Mixture::new(&sized(ranges, &sizes, shares), end)
    }

    fn sized(ranges: &[Range<usize>], sizes: &[usize], shares: &[f64]) -> Vec<Share> {
        let tasks = ranges.iter().zip(sizes).zip(shares);
        let share = |((rows, size), share): ((&Range<usize>, &usize), &f64)| Share {
            rows: rows.clone(),
            size: *size,
            share: *share,
        };
        tasks.map(share).collect()
    }

    /// The first task three times, half of the second, 20 of the third: what an epoch leaves comes in the next one.
    #[test]
    fn repeated_and_capped_tasks_come_that_often() {
        let shares = sized(&TASKS, &[30, 15, 20], &[30.0 / 65.0, 15.0 / 65.0, 20.0 / 65.0]);
        let mixture = Mixture::new(&shares, EpochEnd::Samples);
        let mut seen = [0usize; 100];
        for epoch in 0..6 {
            let rows = mixture.rows(epoch, 7, true);
            assert_eq!(counts(&rows), [30, 15, 20]);
            rows.iter().for_each(|row| seen[*row] += 1);
        }
        assert_eq!(seen[..10], [18; 10]);
        assert_eq!(seen[10..40], [3; 30]);
        assert_eq!(seen[40..], [2; 60]);
        let first = Mixture::new(&sized(&TASKS, &[30, 15, 20], &[1.0 / 3.0; 3]), EpochEnd::FirstExhausted);
        assert_eq!(counts(&first.rows(0, 7, true)), [15; 3], "the second has run out first");
    }

    #[test]
    fn sequential_tasks_come_one_after_the_other_and_are_the_same_samples() {
        let shares = [0.1, 0.3, 0.6];
        for shuffled in [true, false] {
            let mixed = mixture(&TASKS, &shares, EpochEnd::Samples);
            let lists = mixed.clone().sequential().lists(2, 7, shuffled);
            let sizes: Vec<[usize; 3]> = lists.iter().map(|list| counts(list)).collect();
            assert_eq!(sizes, [[10, 0, 0], [0, 30, 0], [0, 0, 60]]);
            let sorted = |mut rows: Vec<usize>| {
                rows.sort_unstable();
                rows
            };
            assert_eq!(sorted(lists.concat()), sorted(mixed.rows(2, 7, shuffled)));
        }
    }

    #[test]
    fn by_size_every_sample_comes_once() {
        let mixture = mixture(&TASKS, &[0.1, 0.3, 0.6], EpochEnd::Samples);
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
            let mixture = mixture(&TASKS, &third, end);
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
        let one = mixture(&TASKS[1..2], &[1.0], EpochEnd::AllExhausted);
        assert_eq!(one, Mixture::whole(10..40));
        assert_eq!(one.rows(5, 1, true), (10..40).collect::<Vec<_>>());
        let two = mixture(&TASKS, &[0.5, 0.0, 0.5], EpochEnd::FirstExhausted);
        assert_eq!(counts(&two.rows(0, 1, true)), [10, 0, 10]);
        assert_eq!(two.samples_of(&TASKS[1]), 0);
        // A share of almost nothing is still a sample.
        let tiny = mixture(&TASKS, &[1e-9, 0.5, 0.5 - 1e-9], EpochEnd::Samples);
        assert_eq!(tiny.samples_of(&TASKS[0]), 1);
    }

    #[test]
    fn unshuffled_tasks_take_turns_in_file_order() {
        let mixture = mixture(&[0..2, 2..6], &[1.0 / 3.0, 2.0 / 3.0], EpochEnd::Samples);
        assert_eq!(mixture.rows(0, 1, false), [2, 0, 3, 4, 1, 5]);
    }

    #[test]
    fn remainders_go_to_the_largest() {
        assert_eq!(apportion(10, &[0.26, 0.37, 0.37]), [2, 4, 4]);
        assert_eq!(apportion(0, &[0.5, 0.5]), [0, 0]);
    }
}
