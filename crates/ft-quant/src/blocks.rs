//! 4-bit codes of blocks of consecutive values, counted over the flattened matrix: a block may span rows.
//!
//! ```text
//! byte k = code(2k) << 4 | code(2k + 1)        scale of value i = scales[i / block] = largest |value| of its block
//! ```

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Blocks per task.
const TASK: usize = 256;

/// The largest absolute value.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}

/// Packed codes and scales. `code` finds the code of a value in -1..=1; `block` is even.
pub fn encode(values: &[f32], block: usize, code: impl Fn(f32) -> u8 + Sync) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; values.len().div_ceil(2)];
    let mut scales = vec![0.0; values.len().div_ceil(block)];
    values
        .par_chunks(block * TASK)
        .zip(codes.par_chunks_mut(block / 2 * TASK))
        .zip(scales.par_chunks_mut(TASK))
        .for_each(|((values, codes), scales)| {
            let parts = values.chunks(block).zip(codes.chunks_mut(block / 2)).zip(scales);
            parts.for_each(|((values, codes), scale)| *scale = encode_block(values, codes, &code));
        });
    (codes, scales)
}

fn encode_block(values: &[f32], codes: &mut [u8], code: impl Fn(f32) -> u8) -> f32 {
    let scale = largest(values);
    // Multiplied, not divided, as bitsandbytes does. A block of zeros has no scale; of subnormals, no finite inverse.
    let inverse = if scale > 0.0 { (1.0 / scale).min(f32::MAX) } else { 0.0 };
    let code = |value: &f32| code(value * inverse);
    for (byte, pair) in codes.iter_mut().zip(values.chunks(2)) {
        // The code of an absent last value is that of zero.
        *byte = code(&pair[0]) << 4 | code(pair.get(1).unwrap_or(&0.0));
    }
    scale
}

/// The values that codes and scales stand for.
pub fn decode(codes: &[u8], scales: &[f32], block: usize, table: &[f32; 16], len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    values
        .par_chunks_mut(block)
        .zip(codes.par_chunks(block / 2))
        .zip(scales)
        .for_each(|((values, codes), scale)| {
            for (pair, byte) in values.chunks_mut(2).zip(codes) {
                pair[0] = table[usize::from(byte >> 4)] * scale;
                if let Some(second) = pair.get_mut(1) {
                    *second = table[usize::from(byte & 15)] * scale;
                }
            }
        });
    values
}

/// The first value that is not finite is an error.
pub fn check_finite(values: &[f32], cols: usize) -> Result<()> {
    match values.par_iter().position_first(|value| !value.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::NotFinite {
            row: i / cols,
            column: i % cols,
            value: values[i].to_string(),
        }),
    }
}
