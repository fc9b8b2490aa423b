//! 8-bit integers with one scale per row (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339): `w ≈ code · scale / 127`, the
//! scale being the row's largest absolute value.

use half::f16;
use rayon::prelude::*;

/// Codes (as bytes) and scales of the rows of a matrix, `cols` wide: those of bitsandbytes on a CPU to the bit, which rounds
/// values to f16 first. Rows with values beyond f16's range, which it cannot store, are not rounded.
pub fn encode(values: &[f32], cols: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; values.len()];
    let scales = values
        .par_chunks(cols)
        .zip(codes.par_chunks_mut(cols))
        .map(|(row, codes)| {
            let fits = crate::blocks::largest(row) <= f16::MAX.to_f32();
            let rounded = |value: f32| if fits { f16::from_f32(value).to_f32() } else { value };
            let largest = rounded(crate::blocks::largest(row));
            // torch divides a number by a tensor as `reciprocal() * number`.
            let factor = if largest > 0.0 { largest.recip() * 127.0 } else { 0.0 };
            for (code, value) in codes.iter_mut().zip(row) {
                *code = (rounded(*value) * factor).round_ties_even() as i8 as u8;
            }
            largest
        })
        .collect();
    (codes, scales)
}

/// The values that codes and scales stand for.
pub fn decode(codes: &[u8], scales: &[f32], cols: usize) -> Vec<f32> {
    let value = |(i, &code): (usize, &u8)| f32::from(code as i8) * scales[i / cols] * INVERSE;
    codes.par_iter().enumerate().map(value).collect()
}

/// 1 / 127 as bitsandbytes rounds it.
const INVERSE: f32 = 0.007_874_016;
