//! Rotary embedding in one pass, in place where the tensor is not shared.
use super::flex::{Rewrite, contiguous, values};
use super::isa::multiversion;
use super::par::row_blocks;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// Rotates x `[b, s, h, d]` by the angles of cos and sin `[b or 1, s, d/2]`; the other way round if `inverse`.
pub(crate) fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, inverse: bool) -> FlexTensor {
    let [batch, steps, heads, d] = x.shape().dims();
    let shared_table = cos.shape()[0] == 1;
    let (cos, sin) = (contiguous(cos), contiguous(sin));
    let (cos, sin) = (values(&cos), values(&sin));
    let (width, half) = (heads * d, d / 2);
    Rewrite::new(x).run(|blocks| {
        row_blocks(batch * steps, width, |start, len| {
            // SAFETY: every row is one task's.
            let rows = unsafe { blocks.take(start * width, len * width) };
            for (i, row) in rows.chunks_exact_mut(width.max(1)).enumerate() {
                let table = (if shared_table { (start + i) % steps } else { start + i }) * half;
                rotate_heads(row, &cos[table..table + half], &sin[table..table + half], inverse);
            }
        });
    })
}

multiversion! {
    fn rotate_heads(row: &mut [f32], cos: &[f32], sin: &[f32], inverse: bool) {
        let sign = if inverse { -1.0 } else { 1.0 };
        for head in row.chunks_exact_mut(2 * cos.len()) {
            let (left, right) = head.split_at_mut(cos.len());
            for (((l, r), c), s) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                let (x, y, s) = (*l, *r, sign * s);
                *l = x * c - y * s;
                *r = y * c + x * s;
            }
        }
    }
}
