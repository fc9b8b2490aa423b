//! A teacher's most probable tokens, as bytes: what a file of scores and a buffer of them are made of.
//!
//! ```text
//! record   k token ids (u32), then k natural log-probabilities (f32), the most probable first; little-endian, one for every target token
//! ```

use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::Batch;
use ft_kernels::Teacher;

/// Bytes of a record of `k` tokens.
pub(crate) fn record_bytes(k: usize) -> usize {
    8 * k
}

/// The records of some target tokens, one after the other; ids and log-probabilities `[n, k]`.
pub(crate) fn to_records(ids: Tensor<2, Int>, log_probs: Tensor<2>) -> Vec<u8> {
    let [_, k] = ids.dims();
    let ids: Vec<u32> = ids.into_data().iter::<i64>().map(|id| id as u32).collect();
    let log_probs: Vec<f32> = log_probs.into_data().iter::<f32>().collect();
    let mut records = Vec::with_capacity(8 * ids.len());
    for (ids, log_probs) in ids.chunks(k).zip(log_probs.chunks(k)) {
        records.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        records.extend(log_probs.iter().flat_map(|p| p.to_le_bytes()));
    }
    records
}

/// The teacher of a batch: `of(sample, n)` are the records of the `n` target tokens of a sample, by its number; `common` are the rows of
/// the vocabulary that the probabilities are over.
pub(crate) fn from_records<'r>(
    batch: &Batch,
    k: usize,
    common: usize,
    device: &Device,
    of: impl Fn(usize, usize) -> &'r [u8],
) -> Teacher {
    let n = batch.target_tokens();
    let (mut ids, mut log_probs) = (Vec::with_capacity(n * k), Vec::with_capacity(n * k));
    for (sequence, number) in batch.numbers.iter().enumerate() {
        for record in of(*number, targets_of(batch, sequence)).chunks(record_bytes(k)) {
            let (own, rest) = record.split_at(4 * k);
            ids.extend(
                own.chunks(4)
                    .map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")) as i32),
            );
            log_probs.extend(
                rest.chunks(4)
                    .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))),
            );
        }
    }
    Teacher::TopK {
        ids: Tensor::from_data(TensorData::new(ids, [n, k]), device),
        log_probs: Tensor::from_data(TensorData::new(log_probs, [n, k]), device),
        common,
    }
}

/// Target tokens of a sequence of a batch.
pub(crate) fn targets_of(batch: &Batch, sequence: usize) -> usize {
    batch.sequence_of.iter().filter(|of| **of as usize == sequence).count()
}
