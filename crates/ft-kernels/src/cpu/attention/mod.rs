//! Attention on the CPU: keys and values packed once, blocks of queries as tasks, only visible keys touched.
//!
//! ```text
//!  pack Kᵀ and V of every (batch, key head)            shared by all query blocks and the grouped query heads
//!  task (batch, query head, block of 48 queries):      S = scale·Q·Kᵀ on the visible columns, softmax, O = P·V
//! ```
mod backward;
mod decode;
mod forward;
mod visible;

pub(crate) use backward::backward;
pub(crate) use decode::{Past, apart};
pub(crate) use forward::{FEW, forward, output};

use super::flex::contiguous;
use super::gemm::Mat;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// Queries per task: a multiple of the tile heights, small enough that causal skipping is fine-grained.
const BLOCK: usize = 48;

/// The sizes of a call.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    b: usize,
    s: usize,
    t: usize,
    hq: usize,
    hkv: usize,
    d: usize,
}

impl Sizes {
    fn new(q: &FlexTensor, k: &FlexTensor) -> Self {
        let ([b, s, hq, d], [_, t, hkv, _]) = (q.shape().dims(), k.shape().dims());
        Self { b, s, t, hq, hkv, d }
    }

    /// Query heads per key head.
    fn groups(&self) -> usize {
        self.hq / self.hkv
    }

    /// (batch, key head) pairs.
    fn pairs(&self) -> usize {
        self.b * self.hkv
    }

    fn blocks(&self) -> usize {
        self.s.div_ceil(BLOCK)
    }
}

/// A tensor `[b, steps, heads, d]` whose last dimension is contiguous: a view of a cache is read where it lies.
struct Heads {
    tensor: FlexTensor,
    strides: [usize; 3],
}

impl Heads {
    fn new(tensor: FlexTensor) -> Self {
        let usable = |t: &FlexTensor| {
            let s = t.layout().strides();
            s[..3].iter().all(|&s| s >= 0) && (s[3] == 1 || t.shape()[3] == 1)
        };
        let tensor = if usable(&tensor) { tensor } else { contiguous(tensor) };
        let strides = std::array::from_fn(|i| tensor.layout().strides()[i] as usize);
        Self { tensor, strides }
    }

    /// `[heads, d]` of one batch row and step.
    fn heads(&self, batch: usize, step: usize, heads: std::ops::Range<usize>) -> Mat<'_> {
        let d = self.tensor.shape()[3];
        let at = batch * self.strides[0] + step * self.strides[1] + heads.start * self.strides[2];
        let values = self.tensor.storage::<f32>();
        let start = (self.tensor.layout().start_offset() + at).min(values.len());
        Mat::strided(&values[start..], heads.len(), d, self.strides[2], 1)
    }

    /// `[steps, d]` of one batch row and head.
    fn head(&self, batch: usize, head: usize) -> Mat<'_> {
        let [_, steps, _, d] = self.tensor.shape().dims();
        let start = self.tensor.layout().start_offset() + batch * self.strides[0] + head * self.strides[2];
        let values = self.tensor.storage::<f32>();
        Mat::strided(&values[start.min(values.len())..], steps, d, self.strides[1], 1)
    }
}
