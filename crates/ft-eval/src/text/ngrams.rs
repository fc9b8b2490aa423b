//! Counts of n-grams.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each n-gram occurs.
pub(crate) type Counts<'a, T> = HashMap<&'a [T], usize>;

/// The n-grams of a sequence and how often each occurs.
pub(crate) fn counts<T: Eq + Hash>(tokens: &[T], n: usize) -> Counts<'_, T> {
    let mut counts = Counts::new();
    tokens.windows(n).for_each(|gram| *counts.entry(gram).or_insert(0) += 1);
    counts
}

/// Of every n-gram the largest count in any one of the sequences.
pub(crate) fn most<'a, T: Eq + Hash>(sequences: impl Iterator<Item = Counts<'a, T>>) -> Counts<'a, T> {
    let mut most = Counts::new();
    for (gram, count) in sequences.flatten() {
        let held = most.entry(gram).or_insert(0);
        *held = count.max(*held);
    }
    most
}

/// How many n-grams both have, each as often as the one that has fewer.
pub(crate) fn overlap<T: Eq + Hash>(a: &Counts<'_, T>, b: &Counts<'_, T>) -> usize {
    let shared = |(gram, count): (&&[T], &usize)| b.get(gram).map_or(0, |other| *count.min(other));
    a.iter().map(shared).sum()
}
