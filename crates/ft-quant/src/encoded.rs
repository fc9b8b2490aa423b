//! A quantized matrix in host memory.

use crate::error::Result;
use crate::nested::Nested;
use crate::scheme::{Kind, Scheme};
use crate::{blocks, fp4, int8, nested, nf4};

/// Codes and scales of a matrix, in the byte order of bitsandbytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// How it was quantized.
    pub scheme: Scheme,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// 4-bit: two codes per byte, the first in the upper half. int8: one `i8` per byte. Row by row.
    pub codes: Vec<u8>,
    /// One per block, or per row for int8.
    pub scales: Scales,
}

/// Scales of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// In f32.
    Plain(Vec<f32>),
    /// In 8 bits.
    Nested(Nested),
}

impl Encoded {
    /// Quantizes a matrix `[out, in]`, on all cores.
    ///
    /// # Errors
    /// An impossible scheme, a value that is not finite.
    pub fn encode(values: &[f32], shape: [usize; 2], scheme: Scheme) -> Result<Self> {
        scheme.check()?;
        assert_eq!(values.len(), shape[0] * shape[1], "values of a matrix {shape:?}");
        blocks::check_finite(values, shape[1])?;
        let (codes, scales) = match scheme.kind {
            Kind::Nf4 => blocks::encode(values, scheme.block, nf4::code),
            Kind::Fp4 => blocks::encode(values, scheme.block, fp4::code),
            Kind::Int8 => int8::encode(values, shape[1].max(1)),
        };
        let scales = if scheme.double {
            Scales::Nested(nested::encode(&scales))
        } else {
            Scales::Plain(scales)
        };
        Ok(Self {
            scheme,
            shape,
            codes,
            scales,
        })
    }

    /// The values that the codes stand for, row by row.
    pub fn decode(&self) -> Vec<f32> {
        let scales = self.scales.values();
        let [rows, cols] = self.shape;
        match self.scheme.kind.table() {
            Some(table) => blocks::decode(&self.codes, &scales, self.scheme.block, table, rows * cols),
            None => int8::decode(&self.codes, &scales, cols.max(1)),
        }
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => 4 * scales.len(),
            // The offset is one more f32 per matrix.
            Scales::Nested(nested) => nested.codes.len() + 4 * nested.absmax.len() + 4,
        };
        self.codes.len() + scales
    }
}

impl Scales {
    /// In f32.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Scales::Plain(scales) => scales.clone(),
            Scales::Nested(nested) => nested::decode(nested),
        }
    }
}
