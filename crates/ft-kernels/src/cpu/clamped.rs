//! The gated activation of gpt-oss, forward and backward: see [`crate::clamped_swiglu`].
use super::flex::{contiguous, fresh, last, tensor, values};
use super::isa::multiversion;
use super::math::sigmoid;
use super::par::{Shared, row_blocks};
use crate::clamped_swiglu::Clamp;
use crate::portable::with_last;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// x `[.., 2n]` to `[.., n]`.
pub(crate) fn forward(x: FlexTensor, clamp: Clamp) -> FlexTensor {
    let (x, constants) = (contiguous(x), constants(clamp));
    let pairs = values(&x);
    let mut out = fresh(pairs.len() / 2);
    let shared = Shared::new(&mut out);
    row_blocks(pairs.len() / 2, 1, |start, len| {
        // SAFETY: every block is one task's.
        activate(
            &pairs[2 * start..2 * (start + len)],
            unsafe { shared.slice(start, len) },
            constants,
        );
    });
    let shape = with_last(&x.shape(), last(&x) / 2);
    tensor(out, shape)
}

/// The gradient to x from that of the output.
pub(crate) fn backward(x: FlexTensor, dy: FlexTensor, clamp: Clamp) -> FlexTensor {
    let (x, dy, constants) = (contiguous(x), contiguous(dy), constants(clamp));
    let (pairs, slopes) = (values(&x), values(&dy));
    let mut out = fresh(pairs.len());
    let shared = Shared::new(&mut out);
    row_blocks(slopes.len(), 1, |start, len| {
        let range = 2 * start..2 * (start + len);
        // SAFETY: every block is one task's.
        let out = unsafe { shared.slice(2 * start, 2 * len) };
        gradient(&pairs[range], &slopes[start..start + len], out, constants);
    });
    tensor(out, x.shape())
}

fn constants(clamp: Clamp) -> [f32; 2] {
    [clamp.alpha as f32, clamp.limit as f32]
}

multiversion! {
    fn activate(x: &[f32], out: &mut [f32], constants: [f32; 2]) {
        let [alpha, limit] = constants;
        for (out, pair) in out.iter_mut().zip(x.chunks_exact(2)) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            *out = (up + 1.0) * gate * sigmoid(alpha * gate);
        }
    }
    fn gradient(x: &[f32], dy: &[f32], out: &mut [f32], constants: [f32; 2]) {
        let [alpha, limit] = constants;
        for ((out, dy), pair) in out.chunks_exact_mut(2).zip(dy).zip(x.chunks_exact(2)) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            let s = sigmoid(alpha * gate);
            let slope = s + alpha * gate * s * (1.0 - s);
            out[0] = if pair[0] <= limit { dy * (up + 1.0) * slope } else { 0.0 };
            out[1] = if up == pair[1] { dy * gate * s } else { 0.0 };
        }
    }
}
