//! Double quantization: the scales of the blocks, less their mean, as 8-bit codes with scales of their own (QLoRA, section 3).

use crate::dynamic_map::SIGNED;

/// Scales that share a second-level scale.
pub const BLOCK: usize = 256;

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
            SIGNED.encode(share)
        }));
    }
    nested
}

/// The scales that the codes stand for.
pub fn decode(nested: &Nested) -> Vec<f32> {
    let scale = |(i, &code): (usize, &u8)| SIGNED.values[usize::from(code)] * nested.absmax[i / BLOCK] + nested.offset;
    nested.codes.iter().enumerate().map(scale).collect()
}
