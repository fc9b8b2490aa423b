//! Number types of tensors, and rounding to them as ggml does.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{blocks, k_quants};

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of an f32.
    Bf16,
    /// 8 bits, with an f16 scale for each 32 along a row: 8.5 bits per number.
    Q8_0,
    /// 5 bits, with an f16 scale for each 32: 5.5 bits per number.
    Q5_0,
    /// 5 bits, with an f16 scale and minimum for each 32: 6 bits per number.
    Q5_1,
    /// 4 bits, with 6-bit scales and minima: 4.5 bits per number.
    Q4K,
    /// 5 bits, with 6-bit scales and minima: 5.5 bits per number.
    Q5K,
    /// 6 bits, with 8-bit scales: 6.5625 bits per number.
    Q6K,
}

impl Dtype {
    /// Number of the type in the file.
    pub(crate) fn number(self) -> u32 {
        match self {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Q5_0 => 6,
            Dtype::Q5_1 => 7,
            Dtype::Q8_0 => 8,
            Dtype::Q4K => 12,
            Dtype::Q5K => 13,
            Dtype::Q6K => 14,
            Dtype::Bf16 => 30,
        }
    }

    /// Numbers that share a scale, and their bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Dtype::F32 => (1, 4),
            Dtype::F16 | Dtype::Bf16 => (1, 2),
            Dtype::Q5_0 => (blocks::BLOCK, 22),
            Dtype::Q5_1 => (blocks::BLOCK, 24),
            Dtype::Q8_0 => (blocks::BLOCK, 34),
            Dtype::Q4K => (k_quants::BLOCK, 144),
            Dtype::Q5K => (k_quants::BLOCK, 176),
            Dtype::Q6K => (k_quants::BLOCK, 210),
        }
    }

    /// Whether rows of `columns` numbers can have this type.
    pub fn holds(self, columns: usize) -> bool {
        columns.is_multiple_of(self.block().0)
    }

    /// This type, or the next larger one that rows of `columns` numbers can have.
    pub(crate) fn that_holds(self, columns: usize) -> Dtype {
        let larger = match self {
            _ if self.holds(columns) => return self,
            Dtype::Q4K => Dtype::Q5_0,
            Dtype::Q5K => Dtype::Q5_1,
            Dtype::Q6K => Dtype::Q8_0,
            _ => Dtype::F16,
        };
        larger.that_holds(columns)
    }

    /// Bytes of so many numbers.
    pub fn bytes(self, numbers: usize) -> usize {
        let (block, bytes) = self.block();
        numbers / block * bytes
    }

    /// The bytes of these numbers: whole blocks of them.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Q5_0 => in_blocks(values, blocks::BLOCK, blocks::q5_0),
            Dtype::Q5_1 => in_blocks(values, blocks::BLOCK, blocks::q5_1),
            Dtype::Q8_0 => in_blocks(values, blocks::BLOCK, blocks::q8_0),
            Dtype::Q4K => in_blocks(values, k_quants::BLOCK, k_quants::q4_k),
            Dtype::Q5K => in_blocks(values, k_quants::BLOCK, k_quants::q5_k),
            Dtype::Q6K => in_blocks(values, k_quants::BLOCK, k_quants::q6_k),
        }
    }
}

fn in_blocks<const N: usize>(
    values: &[f32],
    block: usize,
    encode: impl Fn(&[f32]) -> [u8; N] + Sync + Send,
) -> Vec<u8> {
    let bytes: Vec<[u8; N]> = values.par_chunks_exact(block).map(encode).collect();
    bytes.into_flattened()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_round_to_even() {
        assert_eq!(
            Dtype::Bf16.encode(&[1.0 + 1.0 / 256.0]),
            bf16::from_f32(1.0).to_le_bytes()
        );
        assert_eq!(
            Dtype::F16.encode(&[1.0 + 1.0 / 2048.0]),
            f16::from_f32(1.0).to_le_bytes()
        );
    }
}
