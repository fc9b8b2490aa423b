//! A matrix as codes and scales.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::IntTensor;
use burn::backend::{Autodiff, Backend, ExtensionType};
use burn::tensor::{Int, Tensor};

/// A matrix `[rows, cols]` as codes and scales. Value `i` of the flattened matrix is `table[code i] · scale[i / block]`.
#[derive(Debug, Clone)]
pub struct Packed {
    /// `[words]` u32: the bytes of the codes, four to a word, the first in the lowest bits.
    pub words: Tensor<1, Int>,
    /// `[scales]` f32; where the scales are codes themselves, those codes' scales.
    pub scales: Tensor<1>,
    /// `[words]` u32: one byte per scale, packed as `words`; `None` for plain scales.
    pub scale_codes: Option<Tensor<1, Int>>,
    /// What the codes mean.
    pub form: Form,
}

/// What codes mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// Height of the matrix.
    pub rows: usize,
    /// Width of the matrix.
    pub cols: usize,
    /// The codes of the values.
    pub codes: Codes,
    /// The codes of the scales, where they have any.
    pub nested: Option<Nested>,
}

/// The codes of the values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Codes {
    /// Two per byte, the first in the upper half; `block` consecutive values of the flattened matrix share a scale.
    Four {
        /// What the codes stand for.
        table: &'static [f32; 16],
        /// Even.
        block: usize,
    },
    /// One signed byte each; the values of a row share a scale: `code · scale / 127`.
    Eight,
}

/// Scales as 8-bit codes: scale `i` is `map[code i] · scales[i / block] + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nested {
    /// What the codes stand for.
    pub map: &'static [f32; 256],
    /// Codes that share a scale of their own.
    pub block: usize,
    /// Added to every scale.
    pub offset: f32,
}

/// The codes of the scales.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "gpu"))]
pub enum ScaleCodes<B: Backend> {
    /// The scales are plain.
    Absent,
    /// `[words]` u32.
    Words(IntTensor<B>),
}

/// 1 / 127, rounded as bitsandbytes does.
pub(crate) const INVERSE_127: f32 = 0.007_874_016;

impl Form {
    /// Consecutive values that share a scale.
    pub(crate) fn block(&self) -> usize {
        match self.codes {
            Codes::Four { block, .. } => block,
            Codes::Eight => self.cols,
        }
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Number of scales.
    pub(crate) fn scales(&self) -> usize {
        self.len().div_ceil(self.block().max(1))
    }
}

impl Packed {
    pub(super) fn check(&self) {
        let (form, [words], [scales]) = (&self.form, self.words.dims(), self.scales.dims());
        let bytes = match form.codes {
            Codes::Four { .. } => form.len().div_ceil(2),
            Codes::Eight => form.len(),
        };
        let codes = self.scale_codes.as_ref().map(|codes| codes.dims()[0]);
        let (wanted, wanted_codes) = match form.nested {
            None => (form.scales(), None),
            Some(nested) => (form.scales().div_ceil(nested.block), Some(form.scales().div_ceil(4))),
        };
        assert!(
            words == bytes.div_ceil(4) && scales == wanted && codes == wanted_codes,
            "packed matrix {}x{}: {words} words, {scales} scales, {codes:?} words of scale codes",
            form.rows,
            form.cols
        );
    }
}

impl<B: Backend, C: CheckpointStrategy> ScaleCodes<Autodiff<B, C>> {
    pub(crate) fn inner(self) -> ScaleCodes<B> {
        match self {
            ScaleCodes::Absent => ScaleCodes::Absent,
            ScaleCodes::Words(words) => ScaleCodes::Words(words),
        }
    }
}
