//! Sums of which every rank keeps a part of its own alone (reduce-scatter), some at a time.
//!
//! ```text
//! round c    the c-th slice of each of n equal parts, once around the ring as in `ring`: rank k - 1 has the sums of part k
//!            whose they are, where that is somebody else, gets them from it
//! ```
//!
//! The equal parts and the order of the additions are those of [`sum`](crate::Ranks::sum): the sums are the same to the bit. Where
//! rank k - 1 keeps about what is part k, every rank sends (n - 1) / n of the numbers and hardly more.

use std::ops::Range;

use crate::ranks::Peers;
use crate::{Lost, ring, tree};

/// Numbers that all ranks together have in hand in a round.
pub const ROUND: usize = 1 << 24;

/// The numbers of a sum: read where they lie, and kept where they belong, a range at a time.
pub trait Scattered {
    /// This rank's numbers in `range`.
    fn read(&mut self, range: Range<usize>, into: &mut [f32]);

    /// The sums over all ranks in `range`, which this rank keeps.
    fn keep(&mut self, range: Range<usize>, sums: &[f32]);
}

/// Rounds that so many numbers take.
pub fn scatter_rounds(count: usize, size: usize, round: usize) -> usize {
    let longest = count.div_ceil(size.max(1));
    longest.div_ceil(slice(size, round)).max(1)
}

fn slice(size: usize, round: usize) -> usize {
    (round / size.max(1)).max(1)
}

pub(crate) fn sum(
    peers: &mut Peers<'_>,
    count: usize,
    kept: &[Range<usize>],
    round: usize,
    numbers: &mut dyn Scattered,
) -> Result<(), Lost> {
    let (rank, size) = (peers.rank, peers.size);
    if count * size_of::<f32>() <= tree::SMALL {
        let mut all = vec![0.0; count];
        numbers.read(0..count, &mut all);
        tree::sum(peers, &mut all)?;
        let own = kept[rank].clone();
        numbers.keep(own.clone(), &all[own]);
        return Ok(());
    }
    let (parts, slice) = (ring::even_parts(count, size), slice(size, round));
    for turn in 0..scatter_rounds(count, size, round) {
        let at = |part: &Range<usize>, turn: usize| (part.start + turn * slice).min(part.end);
        let slices: Vec<Range<usize>> = parts.iter().map(|part| at(part, turn)..at(part, turn + 1)).collect();
        exchange(peers, &slices, kept, numbers)?;
    }
    Ok(())
}

/// One round: the sums of `slices`, where they belong.
fn exchange(
    peers: &mut Peers<'_>,
    slices: &[Range<usize>],
    kept: &[Range<usize>],
    numbers: &mut dyn Scattered,
) -> Result<(), Lost> {
    let (rank, size) = (peers.rank, peers.size);
    let mut here = Vec::with_capacity(size);
    let mut end = 0;
    for slice in slices {
        here.push(end..end + slice.len());
        end += slice.len();
    }
    let mut sums = vec![0.0; end];
    for (slice, here) in slices.iter().zip(&here) {
        numbers.read(slice.clone(), &mut sums[here.clone()]);
    }
    ring::reduce(peers, &mut sums, &here)?;
    let of = |holder: usize| &slices[(holder + 1) % size];
    let summed = &sums[here[(rank + 1) % size].clone()];
    for (to, kept) in kept.iter().enumerate() {
        let range = common(of(rank), kept);
        let part = &summed[range.start - of(rank).start..range.end - of(rank).start];
        match () {
            () if part.is_empty() => {}
            () if to == rank => numbers.keep(range, part),
            () => peers.send(to, bytemuck::cast_slice(part).to_vec())?,
        }
    }
    for from in (0..size).filter(|from| *from != rank) {
        let range = common(of(from), &kept[rank]);
        if !range.is_empty() {
            let bytes = peers.receive(from, range.len() * size_of::<f32>())?;
            let part: Vec<f32> = ring::values(&bytes).collect();
            numbers.keep(range, &part);
        }
    }
    Ok(())
}

/// What two ranges have in common; an empty range inside the first where that is nothing.
fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start).min(a.end);
    start..a.end.min(b.end).max(start)
}
