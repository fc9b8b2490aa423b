//! Double quantization: the scales of the blocks, less their mean, as 8-bit codes with scales of their own (QLoRA, section 3).

use std::sync::LazyLock;

/// Scales that share a second-level scale.
pub const BLOCK: usize = 256;

/// What the 256 codes stand for: the signed dynamic map of bitsandbytes (<https://arxiv.org/abs/2110.02861>), ascending.
///
/// Each power of ten from 10⁻⁶ to 1 is split into twice as many equal parts as the one below it, and the middles of the
/// parts are taken, of either sign; zero and one complete the map.
pub static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = vec![0.0f32, 1.0];
    for exponent in 0..7 {
        let parts = 1usize << exponent;
        let power = 10f64.powi(exponent - 6) as f32;
        let edges = linspace(parts + 1);
        for pair in edges.windows(2) {
            let middle = power * ((pair[0] + pair[1]) / 2.0);
            values.extend([middle, -middle]);
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("127 middles of either sign, zero and one")
});

/// `n` values from 0.1 to 1 at equal distances, symmetric in their rounding like torch's.
fn linspace(n: usize) -> Vec<f32> {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / (n - 1) as f32;
    let value = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((n - 1 - i) as f32, end)
        }
    };
    (0..n).map(value).collect()
}

/// The middles between neighbours of the map.
static MIDDLES: LazyLock<[f32; 255]> = LazyLock::new(|| std::array::from_fn(|i| (MAP[i] + MAP[i + 1]) / 2.0));

/// Scales in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// One per scale.
    pub codes: Vec<u8>,
    /// Largest absolute value of each [`BLOCK`] scales, less the offset.
    pub absmax: Vec<f32>,
    /// Mean of the scales.
    pub offset: f32,
}

/// The nearest codes of `scales`.
pub fn encode(scales: &[f32]) -> Nested {
    let sum: f64 = scales.iter().map(|&s| f64::from(s)).sum();
    let offset = (sum / scales.len().max(1) as f64) as f32;
    let mut nested = Nested {
        codes: Vec::with_capacity(scales.len()),
        absmax: Vec::new(),
        offset,
    };
    for block in scales.chunks(BLOCK) {
        let block: Vec<f32> = block.iter().map(|scale| scale - offset).collect();
        let largest = crate::blocks::largest(&block);
        nested.absmax.push(largest);
        nested.codes.extend(block.iter().map(|&value| {
            let share = if largest > 0.0 { value / largest } else { 0.0 };
            MIDDLES.partition_point(|&middle| middle < share) as u8
        }));
    }
    nested
}

/// The scales that the codes stand for.
pub fn decode(nested: &Nested) -> Vec<f32> {
    let scale = |(i, &code): (usize, &u8)| MAP[usize::from(code)] * nested.absmax[i / BLOCK] + nested.offset;
    nested.codes.iter().enumerate().map(scale).collect()
}
