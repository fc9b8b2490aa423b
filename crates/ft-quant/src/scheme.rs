//! Which codes a matrix is stored in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{fp4, nested, nf4};

/// Number format of the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// 4-bit NormalFloat: quantiles of the normal distribution (QLoRA, <https://arxiv.org/abs/2305.14314>).
    Nf4,
    /// 4-bit floating point: sign, two bits of exponent, one of mantissa.
    Fp4,
    /// 8-bit integers with one scale per row (LLM.int8(), <https://arxiv.org/abs/2208.07339>), weights only.
    Int8,
}

impl Kind {
    /// The name in configurations and in `quant_state` keys.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nf4 => "nf4",
            Kind::Fp4 => "fp4",
            Kind::Int8 => "int8",
        }
    }

    /// What the sixteen codes stand for, as a share of the block's largest value; `None` for int8.
    pub fn table(self) -> Option<&'static [f32; 16]> {
        match self {
            Kind::Nf4 => Some(&nf4::TABLE),
            Kind::Fp4 => Some(&fp4::TABLE),
            Kind::Int8 => None,
        }
    }
}

/// How matrices are quantized: section `[model.quant]`. Embeddings, norms and the output head stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Number format: `nf4`, `fp4` or `int8`.
    pub kind: Kind,
    /// Store the scales of nf4 and fp4 in 8 bits too (QLoRA's double quantization): 4.127 bits per weight instead of 4.5.
    #[serde(default)]
    pub double: bool,
    /// Consecutive weights that share a scale: a power of two from 32 to 4096. int8 has one scale per row instead.
    #[serde(rename = "block_size", default = "default_block")]
    pub block: usize,
}

fn default_block() -> usize {
    64
}

impl Scheme {
    /// `kind` with blocks of 64 and plain scales.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            double: false,
            block: default_block(),
        }
    }

    /// The same with scales in 8 bits.
    pub fn doubled(self) -> Self {
        Self { double: true, ..self }
    }

    /// Whether both say the same: int8 has no blocks.
    pub fn same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind == Kind::Int8 || (self.double, self.block) == (other.double, other.block))
    }

    /// Whether the format has such blocks and scales.
    pub fn check(&self) -> Result<()> {
        if !self.block.is_power_of_two() || !(32..=4096).contains(&self.block) {
            return Err(Error::Block(self.block));
        }
        if self.double && self.kind == Kind::Int8 {
            return Err(Error::DoubleInt8);
        }
        Ok(())
    }

    /// Bytes of a stored matrix `[rows, cols]`, scales included.
    pub fn bytes(&self, [rows, cols]: [usize; 2]) -> usize {
        let numbers = rows * cols;
        let blocks = numbers.div_ceil(self.block);
        match (self.kind, self.double) {
            (Kind::Int8, _) => numbers + 4 * rows,
            (_, false) => numbers.div_ceil(2) + 4 * blocks,
            (_, true) => numbers.div_ceil(2) + blocks + 4 * blocks.div_ceil(nested::BLOCK) + 4,
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        if self.double {
            f.write_str(" with double quantization")?;
        }
        match self.kind {
            Kind::Int8 => Ok(()),
            Kind::Nf4 | Kind::Fp4 => write!(f, ", blocks of {}", self.block),
        }
    }
}
