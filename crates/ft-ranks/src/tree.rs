//! Few bytes over a binomial tree: as many messages one after the other as the number of ranks has binary digits behind the first.
//!
//! Rank r gathers what the ranks r + 1, r + 2, r + 4, .. have gathered, up to its own lowest binary digit, and hands it on; what rank 0
//! has goes back the same way.

use crate::Lost;
use crate::ranks::Peers;

/// Bytes up to which a list of numbers is summed here.
pub const SMALL: usize = 4096;

/// Messages one after the other that an [`all_gather`](crate::Ranks::all_gather) takes; a length is under way with what it is of.
pub fn tree_steps(size: usize) -> usize {
    2 * size.max(1).ilog2() as usize
}

pub(crate) fn all_gather(peers: &mut Peers<'_>, own: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
    let frames = up(peers, own)?;
    let all = broadcast(peers, frames)?;
    unframed(&all, peers.size)
}

pub(crate) fn gather(peers: &mut Peers<'_>, own: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Lost> {
    let frames = up(peers, own)?;
    let first = peers.rank == 0;
    first.then(|| unframed(&frames, peers.size)).transpose()
}

/// What this rank and those behind it have, in their order, where it was not handed on.
fn up(peers: &mut Peers<'_>, own: &[u8]) -> Result<Vec<u8>, Lost> {
    let (rank, size) = (peers.rank, peers.size);
    let mut frames = framed(own);
    let mut mask = 1;
    while mask < size {
        if rank & mask != 0 {
            peers.send_sized(rank - mask, std::mem::take(&mut frames))?;
            break;
        }
        if rank + mask < size {
            frames.extend(peers.receive_sized(rank + mask)?);
        }
        mask <<= 1;
    }
    Ok(frames)
}

pub(crate) fn broadcast(peers: &mut Peers<'_>, own: Vec<u8>) -> Result<Vec<u8>, Lost> {
    let (rank, size) = (peers.rank, peers.size);
    let mut bytes = own;
    let mut mask = 1;
    while mask < size {
        if rank & mask != 0 {
            bytes = peers.receive_sized(rank - mask)?;
            break;
        }
        mask <<= 1;
    }
    mask >>= 1;
    while mask > 0 {
        if rank + mask < size {
            peers.send_sized(rank + mask, bytes.clone())?;
        }
        mask >>= 1;
    }
    Ok(bytes)
}

/// In the order of the ranks.
pub(crate) fn sum(peers: &mut Peers<'_>, numbers: &mut [f32]) -> Result<(), Lost> {
    let all = all_gather(peers, bytemuck::cast_slice(numbers))?;
    let expected = size_of_val(numbers);
    for (rank, of) in all.iter().enumerate() {
        if of.len() != expected {
            return Err(Lost::OutOfStep {
                rank,
                found: of.len(),
                expected,
            });
        }
        let values = of
            .chunks_exact(size_of::<f32>())
            .map(bytemuck::pod_read_unaligned::<f32>);
        for (sum, value) in numbers.iter_mut().zip(values) {
            *sum = if rank == 0 { value } else { *sum + value };
        }
    }
    Ok(())
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn unframed(mut all: &[u8], size: usize) -> Result<Vec<Vec<u8>>, Lost> {
    let mut frames = Vec::with_capacity(size);
    for rank in 0..size {
        let frame = all.split_first_chunk().and_then(|(length, rest)| {
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let Some((frame, rest)) = frame else {
            return Err(Lost::OutOfStep {
                rank,
                found: all.len(),
                expected: size_of::<u64>(),
            });
        };
        frames.push(frame.to_vec());
        all = rest;
    }
    Ok(frames)
}
