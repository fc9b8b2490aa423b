//! Matrices in MXFP4 (Open Compute Project 2023, Microscaling Formats 1.0): 32 numbers of 4 bits (E2M1) along a row share a power of two.
//!
//! ```text
//! path.blocks [rows, columns / 32, 16]   two numbers to a byte, the first in the low bits
//! path.scales [rows, columns / 32]       exponent + 127
//! ```

use rayon::prelude::*;

/// Numbers that share a scale.
const BLOCK: usize = 32;

/// What four bits stand for.
const NUMBERS: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Names of the tensors of a matrix: blocks and scales.
pub(crate) fn names(path: &str) -> [String; 2] {
    ["blocks", "scales"].map(|leaf| format!("{path}.{leaf}"))
}

/// Their shapes, of a matrix `[rows, columns]`; `None` where its rows are not made of whole blocks.
pub(crate) fn shapes([rows, columns]: [usize; 2]) -> Option<[Vec<usize>; 2]> {
    let blocks = columns.is_multiple_of(BLOCK).then_some(columns / BLOCK)?;
    Some([vec![rows, blocks, BLOCK / 2], vec![rows, blocks]])
}

/// The numbers, row by row, on all cores: exact in bf16 within its range.
///
/// # Errors
/// A scale of 255, which stands for no number.
pub(crate) fn unpack(blocks: &[u8], scales: &[u8]) -> Result<Vec<f32>, String> {
    if let Some(at) = scales.iter().position(|scale| *scale == u8::MAX) {
        return Err(format!("scale {at} is 255, which stands for no number"));
    }
    let block = |(bytes, scale): (&[u8], &u8)| {
        let factor = 2.0f32.powi(i32::from(*scale) - 127);
        let numbers = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
        numbers
            .map(|code| NUMBERS[usize::from(code)] * factor)
            .collect::<Vec<_>>()
    };
    let blocks = blocks.par_chunks_exact(BLOCK / 2).zip(scales.par_iter());
    Ok(blocks.flat_map_iter(block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_bits_come_first_and_scales_are_powers_of_two() {
        let mut bytes = [0u8; 32];
        (bytes[0], bytes[1], bytes[31]) = (0x71, 0xf0, 0x2a);
        let numbers = unpack(&bytes, &[127, 125]).unwrap();
        assert_eq!(numbers[..4], [0.5, 6.0, 0.0, -6.0]);
        assert_eq!(numbers[62..], [-0.25, 0.25]);
        assert_eq!(numbers.len(), 64);
        assert!(unpack(&bytes, &[127, 255]).unwrap_err().contains("scale 1 is 255"));
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(shapes([6, 64]).unwrap(), [vec![6, 2, 16], vec![6, 2]]);
        assert!(shapes([6, 60]).is_none());
    }
}
