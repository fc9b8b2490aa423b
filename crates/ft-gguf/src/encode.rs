//! Number types of tensors, and rounding to them as ggml does.

use half::{bf16, f16};

/// Numbers in a block of `q8_0`.
const BLOCK: usize = 32;

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
}

impl Dtype {
    /// Number of the type in the file.
    pub(crate) fn number(self) -> u32 {
        match self {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Q8_0 => 8,
            Dtype::Bf16 => 30,
        }
    }

    /// Value of `general.file_type` for a file whose matrices have this type.
    pub fn file_type(self) -> u32 {
        match self {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Q8_0 => 7,
            Dtype::Bf16 => 32,
        }
    }

    /// Whether rows of `columns` numbers can have this type.
    pub fn holds(self, columns: usize) -> bool {
        self != Dtype::Q8_0 || columns.is_multiple_of(BLOCK)
    }

    /// Bytes of so many numbers.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Dtype::F32 => 4 * numbers,
            Dtype::F16 | Dtype::Bf16 => 2 * numbers,
            Dtype::Q8_0 => numbers / BLOCK * (BLOCK + 2),
        }
    }

    /// The bytes of these numbers: whole blocks of them.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Q8_0 => values.chunks_exact(BLOCK).flat_map(q8_0).collect(),
        }
    }
}

/// One block: `d = max|x| / 127` in f16, then `round(x / d)`, halves away from zero, with the unrounded `d`
/// (ggml's `quantize_row_q8_0_ref`).
fn q8_0(block: &[f32]) -> [u8; BLOCK + 2] {
    let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut out = [0; BLOCK + 2];
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (code, value) in out[2..].iter_mut().zip(block) {
        *code = (value * inverse).round() as i8 as u8;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_q8_0_by_hand() {
        let mut block = [0.0f32; BLOCK];
        block[..4].copy_from_slice(&[127.0, -127.0, 0.5, -1.5]);
        let bytes = Dtype::Q8_0.encode(&block);
        assert_eq!(bytes.len(), Dtype::Q8_0.bytes(BLOCK));
        assert_eq!(bytes[..2], f16::from_f32(1.0).to_le_bytes());
        let codes: Vec<i8> = bytes[2..6].iter().map(|b| *b as i8).collect();
        assert_eq!(codes, [127, -127, 1, -2]);
        assert!(Dtype::Q8_0.encode(&[0.0; BLOCK]).iter().all(|b| *b == 0));
    }

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
