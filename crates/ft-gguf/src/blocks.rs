//! Types with one scale for each 32 numbers of a row, rounded as ggml does.

use half::f16;

/// Numbers in a block.
pub const BLOCK: usize = 32;

/// `d = max|x| / 127` in f16, then `round(x / d)`, halves away from zero, with the unrounded `d` (ggml's `quantize_row_q8_0_ref`).
pub fn q8_0(block: &[f32]) -> [u8; BLOCK + 2] {
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

/// `d = x / -16` for the x furthest from zero, then `x / d + 16` in 5 bits (`quantize_row_q5_0_ref`).
pub fn q5_0(block: &[f32]) -> [u8; 22] {
    let furthest = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = furthest / -16.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut out = [0; 22];
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    five_bits(&mut out[2..], |i| ((block[i] * inverse + 16.5) as u8).min(31));
    out
}

/// `d = (max - min) / 31`, then `(x - min) / d` in 5 bits (`quantize_row_q5_1_ref`).
pub fn q5_1(block: &[f32]) -> [u8; 24] {
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (most - least) / 31.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut out = [0; 24];
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    out[2..4].copy_from_slice(&f16::from_f32(least).to_le_bytes());
    five_bits(&mut out[4..], |i| (((block[i] - least) * inverse + 0.5) as u8).min(31));
    out
}

/// The fifth bits of all codes in four bytes, then the lower four: code i beside code i + 16.
fn five_bits(out: &mut [u8], code: impl Fn(usize) -> u8) {
    let mut high = 0u32;
    for i in 0..BLOCK / 2 {
        let (low, far) = (code(i), code(i + BLOCK / 2));
        out[4 + i] = (low & 15) | (far & 15) << 4;
        high |= u32::from(low >> 4) << i | u32::from(far >> 4) << (i + BLOCK / 2);
    }
    out[..4].copy_from_slice(&high.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_q8_0_by_hand() {
        let mut block = [0.0f32; BLOCK];
        block[..4].copy_from_slice(&[127.0, -127.0, 0.5, -1.5]);
        let bytes = q8_0(&block);
        assert_eq!(bytes[..2], f16::from_f32(1.0).to_le_bytes());
        let codes: Vec<i8> = bytes[2..6].iter().map(|b| *b as i8).collect();
        assert_eq!(codes, [127, -127, 1, -2]);
        assert!(q8_0(&[0.0; BLOCK]).iter().all(|b| *b == 0));
    }
}
