//! The outer product of a bottleneck adapter, accumulated into the residual stream.
use super::flex::{Rewrite, last, matrix, rows, values};
use super::gemm::{Mat, Par, Term, gemm};
use super::par::row_blocks;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// `base [.., hidden] + scale · (active [.., width] · Wuᵀ + bu)`, in the memory of `base` if no one else holds it.
pub(crate) fn join(
    base: FlexTensor,
    active: &FlexTensor,
    up: &FlexTensor,
    bias: &FlexTensor,
    scale: f32,
) -> FlexTensor {
    let (hidden, bias) = (last(&base), values(bias));
    let count = base.shape().num_elements() / hidden.max(1);
    let sum = Rewrite::new(base).run(|blocks| {
        row_blocks(count, hidden, |first, rows| {
            // SAFETY: every block is one task's.
            let block = unsafe { blocks.take(first * hidden, rows * hidden) };
            for row in block.chunks_exact_mut(hidden) {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += scale * b);
            }
        });
    });
    accumulate(sum, active, factor(up).t(), scale)
}

/// `dy [.., hidden] + dz [.., width] · Wd`, in the memory of `dy` if no one else holds it.
pub(crate) fn input_gradient(dy: FlexTensor, dz: &FlexTensor, down: &FlexTensor) -> FlexTensor {
    accumulate(dy, dz, factor(down), 1.0)
}

/// `c + scale · a · b`.
fn accumulate(c: FlexTensor, a: &FlexTensor, b: Mat<'_>, scale: f32) -> FlexTensor {
    let (width, count) = (last(&c), c.shape().num_elements());
    Rewrite::new(c).run(|blocks| {
        // SAFETY: this is the only task.
        let c = unsafe { blocks.take(0, count) };
        gemm(&[Term::scaled(rows(a), b, scale)], c, width, true, Par::All);
    })
}

fn factor(w: &FlexTensor) -> Mat<'_> {
    matrix(w).expect("a weight of f32, bf16 or f16")
}
