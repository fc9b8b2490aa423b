//! 8-bit integers with one scale per row: `w ≈ code · scale / 127`, the scale being the row's largest absolute value.

use rayon::prelude::*;

/// Codes (as bytes) and scales of the rows of a matrix, `cols` wide.
pub fn encode(values: &[f32], cols: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; values.len()];
    let scales = values
        .par_chunks(cols)
        .zip(codes.par_chunks_mut(cols))
        .map(|(row, codes)| {
            let largest = crate::blocks::largest(row);
            let factor = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (code, value) in codes.iter_mut().zip(row) {
                *code = (value * factor).round_ties_even() as i8 as u8;
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
