//! Many numbers around a ring (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002): every rank sends 2 (n - 1) / n of them,
//! whatever the number of ranks n.
//!
//! ```text
//! reduce   part k starts at rank k and is added to at every rank that it comes to; rank k - 1 has the sum
//! share    the sums go once around
//! ```

use std::ops::Range;

use crate::Lost;
use crate::ranks::Peers;

/// Messages one after the other that a [`sum`](crate::Ranks::sum) of many numbers takes.
pub fn ring_steps(size: usize) -> usize {
    2 * size.saturating_sub(1)
}

/// `numbers` in as many equal parts as there are ranks.
pub fn even_parts(numbers: usize, size: usize) -> Vec<Range<usize>> {
    let at = |k: usize| (numbers as u128 * k as u128 / size.max(1) as u128) as usize;
    (0..size).map(|k| at(k)..at(k + 1)).collect()
}

pub(crate) fn sum(peers: &mut Peers<'_>, numbers: &mut [f32]) -> Result<(), Lost> {
    let mut parts = even_parts(numbers.len(), peers.size);
    reduce(peers, numbers, &parts)?;
    parts.rotate_left(1);
    share(peers, numbers, &parts)
}

/// The sums of part k at rank k - 1.
pub(crate) fn reduce(peers: &mut Peers<'_>, numbers: &mut [f32], parts: &[Range<usize>]) -> Result<(), Lost> {
    let (rank, size) = (peers.rank, peers.size);
    for step in 0..size - 1 {
        let (out, into) = (
            &parts[(rank + size - step) % size],
            &parts[(rank + 2 * size - step - 1) % size],
        );
        let received = pass_on(peers, &numbers[out.clone()], into.len())?;
        for (own, other) in numbers[into.clone()].iter_mut().zip(values(&received)) {
            *own += other;
        }
    }
    Ok(())
}

pub(crate) fn share(peers: &mut Peers<'_>, numbers: &mut [f32], parts: &[Range<usize>]) -> Result<(), Lost> {
    let (rank, size) = (peers.rank, peers.size);
    for step in 0..size - 1 {
        let (out, into) = (
            &parts[(rank + size - step) % size],
            &parts[(rank + 2 * size - step - 1) % size],
        );
        let received = pass_on(peers, &numbers[out.clone()], into.len())?;
        for (own, other) in numbers[into.clone()].iter_mut().zip(values(&received)) {
            *own = other;
        }
    }
    Ok(())
}

/// Sends numbers to the next rank, and gives the bytes of `expected` numbers of the one before.
fn pass_on(peers: &mut Peers<'_>, numbers: &[f32], expected: usize) -> Result<Vec<u8>, Lost> {
    let (rank, size) = (peers.rank, peers.size);
    peers.send((rank + 1) % size, bytemuck::cast_slice(numbers).to_vec())?;
    peers.receive((rank + size - 1) % size, expected * size_of::<f32>())
}

pub(crate) fn values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(size_of::<f32>()).map(bytemuck::pod_read_unaligned)
}
