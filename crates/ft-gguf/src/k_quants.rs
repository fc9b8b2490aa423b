//! The K-quants of llama.cpp (<https://github.com/ggml-org/llama.cpp/pull/1684>): 256 numbers share f16 scales, parts of them have
//! scales of 6 or 8 bits, which are searched so that squares of errors, weighted, are small.
//!
//! ```text
//! q6_K   16 parts of 16:  x = d·s·(q - 32)      q in 6 bits, s in 8
//! q5_K    8 parts of 32:  x = d·s·q - dmin·m    q in 5 bits, s and m in 6
//! q4_K    8 parts of 32:  the same              q in 4 bits
//! ```
//!
//! The searches are those of ggml's reference (`quantize_row_q4_K_ref` and its siblings), operation by operation in f32, so that files
//! are equal byte by byte to what `llama-quantize` writes without an importance matrix; but where a scale rounds to zero codes mean nothing, and are 0 here.

use half::f16;

/// Numbers in a block.
pub const BLOCK: usize = 256;
/// Smallest magnitude that is not taken for zero.
const ZERO: f32 = 1e-15;

/// Low halves of codes, high bits, scales, d.
pub fn q6_k(block: &[f32]) -> [u8; 210] {
    const PART: usize = 16;
    let mut out = [0; 210];
    let mut scales = [0.0f32; BLOCK / PART];
    let mut codes = [0i32; BLOCK];
    for (scale, part) in scales.iter_mut().zip(block.chunks_exact(PART)) {
        *scale = signed_scale(part, 32);
    }
    let furthest = scales
        .iter()
        .fold(0.0f32, |m, s| if s.abs() > m.abs() { *s } else { m });
    if furthest.abs() < ZERO {
        return out;
    }
    let inverse = -128.0 / furthest;
    let d = f16::from_f32(1.0 / inverse);
    for (j, scale) in scales.iter().enumerate() {
        let step = round(inverse * scale).min(127);
        out[192 + j] = step as i8 as u8;
        let step = d.to_f32() * step as f32;
        let places = j * PART..(j + 1) * PART;
        for (code, x) in codes[places.clone()].iter_mut().zip(&block[places]) {
            *code = if step == 0.0 {
                0
            } else {
                round(x / step).clamp(-32, 31) + 32
            };
        }
    }
    for half in 0..2 {
        for l in 0..32 {
            let code = |quarter: usize| codes[128 * half + 32 * quarter + l] as u8;
            out[64 * half + l] = code(0) & 15 | (code(2) & 15) << 4;
            out[64 * half + 32 + l] = code(1) & 15 | (code(3) & 15) << 4;
            out[128 + 32 * half + l] = code(0) >> 4 | code(1) >> 4 << 2 | code(2) >> 4 << 4 | code(3) >> 4 << 6;
        }
    }
    out[208..].copy_from_slice(&d.to_le_bytes());
    out
}

/// d, dmin, scales, codes.
pub fn q4_k(block: &[f32]) -> [u8; 144] {
    let mut out = [0; 144];
    let codes = parts(
        block,
        &mut out[..16],
        &Search {
            largest: 15,
            from: -1.0,
            tries: 20,
        },
    );
    for (bytes, pair) in out[16..].chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = pair[l] | pair[l + 32] << 4;
        }
    }
    out
}

/// d, dmin, scales, fifth bits, low halves of codes.
pub fn q5_k(block: &[f32]) -> [u8; 176] {
    let mut out = [0; 176];
    let codes = parts(
        block,
        &mut out[..16],
        &Search {
            largest: 31,
            from: -0.5,
            tries: 15,
        },
    );
    for (group, pair) in codes.chunks_exact(64).enumerate() {
        for l in 0..32 {
            let (low, far) = (pair[l], pair[l + 32]);
            out[16 + l] |= (low >> 4) << (2 * group) | (far >> 4) << (2 * group + 1);
            out[48 + 32 * group + l] = low & 15 | (far & 15) << 4;
        }
    }
    out
}

/// Where scales of parts with a minimum are looked for: `(from + 0.1·i + largest) / (max - min)` for i up to `tries`.
struct Search {
    /// Of the codes.
    largest: i32,
    from: f32,
    tries: usize,
}

/// The codes of eight parts of 32; d, dmin and the parts' scales and minima are written to `head`.
fn parts(block: &[f32], head: &mut [u8], search: &Search) -> [u8; BLOCK] {
    const PART: usize = 32;
    let (mut scales, mut minima) = ([0.0f32; 8], [0.0f32; 8]);
    for (j, part) in block.chunks_exact(PART).enumerate() {
        (scales[j], minima[j]) = search.scale_and_minimum(part);
    }
    let (d, steps) = six_bits(&scales);
    let (dmin, offsets) = six_bits(&minima);
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..4].copy_from_slice(&dmin.to_le_bytes());
    // The first four of each in bytes of their own, whose upper two bits hold those of the other four.
    for j in 0..4 {
        head[4 + j] = steps[j] | steps[j + 4] >> 4 << 6;
        head[8 + j] = offsets[j] | offsets[j + 4] >> 4 << 6;
        head[12 + j] = steps[j + 4] & 15 | (offsets[j + 4] & 15) << 4;
    }
    let mut codes = [0; BLOCK];
    for (j, part) in block.chunks_exact(PART).enumerate() {
        let step = d.to_f32() * f32::from(steps[j]);
        let offset = dmin.to_f32() * f32::from(offsets[j]);
        if step != 0.0 {
            for (code, x) in codes[j * PART..].iter_mut().zip(part) {
                *code = round((x + offset) / step).clamp(0, search.largest) as u8;
            }
        }
    }
    codes
}

/// Amounts of zero or more as 6-bit multiples of a sixty-third of the largest.
fn six_bits(amounts: &[f32; 8]) -> (f16, [u8; 8]) {
    let largest = amounts.iter().copied().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    (
        f16::from_f32(largest / 63.0),
        amounts.map(|amount| round(inverse * amount).min(63) as u8),
    )
}

impl Search {
    /// `s` and `m` of `x ≈ s·q - m`, the errors weighted by `|x|` and the root of the mean square.
    fn scale_and_minimum(&self, part: &[f32]) -> (f32, f32) {
        let squares = part.iter().fold(0.0f32, |sum, x| sum + x * x);
        let typical = (squares / part.len() as f32).sqrt();
        let weight = |x: f32| typical + x.abs();
        let mut least = part.iter().copied().fold(f32::INFINITY, f32::min);
        let most = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut weights, mut sum) = (0.0f32, 0.0f32);
        for &x in part {
            weights += weight(x);
            sum += weight(x) * x;
        }
        least = least.min(0.0);
        if most == least {
            return (0.0, -least);
        }
        let code = |inverse: f32, least: f32, x: f32| round(inverse * (x - least)).clamp(0, self.largest) as f32;
        let error = |inverse: f32, least: f32, scale: f32, minimum: f32| {
            part.iter().fold(0.0f32, |sum, &x| {
                let off = scale * code(inverse, least, x) + minimum - x;
                sum + weight(x) * (off * off)
            })
        };
        let inverse = self.largest as f32 / (most - least);
        let mut scale = 1.0 / inverse;
        let mut least_error = error(inverse, least, scale, least);
        for i in 0..=self.tries {
            let inverse = (self.from + 0.1 * i as f32 + self.largest as f32) / (most - least);
            let (mut codes, mut squares, mut products) = (0.0f32, 0.0f32, 0.0f32);
            for &x in part {
                let (q, w) = (code(inverse, least, x), weight(x));
                codes += w * q;
                squares += w * q * q;
                products += w * q * x;
            }
            let determinant = weights * squares - codes * codes;
            if determinant <= 0.0 {
                continue;
            }
            let mut better = (weights * products - sum * codes) / determinant;
            let mut minimum = (squares * sum - codes * products) / determinant;
            if minimum > 0.0 {
                (better, minimum) = (products / squares, 0.0);
            }
            let error = error(inverse, least, better, minimum);
            if error < least_error {
                (least_error, scale, least) = (error, better, minimum);
            }
        }
        (scale, -least)
    }
}

/// `s` of `x ≈ s·q` with q from -limit to limit - 1, the errors weighted by `x²`.
fn signed_scale(part: &[f32], limit: i32) -> f32 {
    let furthest = part.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    if furthest.abs() < ZERO {
        return 0.0;
    }
    // Of the best scale for the codes that `inverse` gives: Σ w·x·q and Σ w·q².
    let sums = |inverse: f32| {
        part.iter().fold((0.0f32, 0.0f32), |(products, squares), &x| {
            let q = round(inverse * x).clamp(-limit, limit - 1) as f32;
            (products + x * x * x * q, squares + x * x * q * q)
        })
    };
    let (products, squares) = sums(-(limit as f32) / furthest);
    let mut scale = if squares != 0.0 { products / squares } else { 0.0 };
    let mut best = scale * products;
    for i in (-9..=9).filter(|i| *i != 0) {
        let (products, squares) = sums(-(limit as f32 + 0.1 * i as f32) / furthest);
        if squares > 0.0 && products * products > best * squares {
            scale = products / squares;
            best = scale * products;
        }
    }
    scale
}

/// Halves to even.
fn round(x: f32) -> i32 {
    x.round_ties_even() as i32
}
