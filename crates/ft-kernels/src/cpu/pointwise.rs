//! Element-wise operations: SwiGLU, GELU and dropout, forward and backward.
use super::flex::{Rewrite, contiguous, fresh, tensor, values};
use super::isa::multiversion;
use super::math::sigmoid;
use super::par::{Shared, row_blocks};
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// `silu(gate) · up`.
pub(crate) fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (g, u) = (values(&gate), values(&up));
    let mut out = fresh(g.len());
    let shared = Shared::new(&mut out);
    row_blocks(g.len(), 1, |start, len| {
        let range = start..start + len;
        // SAFETY: every block is one task's.
        swiglu_block(&g[range.clone()], &u[range], unsafe { shared.slice(start, len) });
    });
    tensor(out, gate.shape())
}

/// Gradients to gate and up.
pub(crate) fn swiglu_backward(gate: FlexTensor, up: FlexTensor, dy: FlexTensor) -> (FlexTensor, FlexTensor) {
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (g, u) = (values(&gate), values(&up));
    let mut to_up = fresh(g.len());
    let shared = Shared::new(&mut to_up);
    let to_gate = Rewrite::new(dy).run(|blocks| {
        row_blocks(g.len(), 1, |start, len| {
            let range = start..start + len;
            // SAFETY: every block is one task's.
            let (dy, du) = unsafe { (blocks.take(start, len), shared.slice(start, len)) };
            swiglu_gradient(&g[range.clone()], &u[range], dy, du);
        });
    });
    (to_gate, tensor(to_up, up.shape()))
}

/// `gelu_new`, in place where possible.
pub(crate) fn gelu(x: FlexTensor) -> FlexTensor {
    let n = x.shape().num_elements();
    Rewrite::new(x).run(|blocks| {
        // SAFETY: every block is one task's.
        row_blocks(n, 1, |start, len| gelu_block(unsafe { blocks.take(start, len) }));
    })
}

/// Gradient of [`gelu`].
pub(crate) fn gelu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
    let x = contiguous(x);
    let x = values(&x);
    Rewrite::new(dy).run(|blocks| {
        row_blocks(x.len(), 1, |start, len| {
            // SAFETY: every block is one task's.
            gelu_gradient(&x[start..start + len], unsafe { blocks.take(start, len) });
        });
    })
}

/// Zeroes what the mask drops and scales the rest.
pub(crate) fn dropout(x: FlexTensor, mask: crate::dropout::Mask) -> FlexTensor {
    let n = x.shape().num_elements();
    Rewrite::new(x).run(|blocks| {
        row_blocks(n, 1, |start, len| {
            // SAFETY: every block is one task's.
            let block = unsafe { blocks.take(start, len) };
            // A block never crosses a multiple of 2³² elements.
            let keys = mask.keys(start as u64);
            drop_block(block, start as u32, keys, mask.threshold, mask.scale());
        });
    })
}

/// √(2/π) and the cubic coefficient of the tanh approximation, doubled for the sigmoid form.
const GELU: f32 = 2.0 * 0.797_884_6;
const CUBIC: f32 = 0.044_715;

multiversion! {
    fn swiglu_block(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = g * sigmoid(*g) * u;
        }
    }
    fn swiglu_gradient(gate: &[f32], up: &[f32], dy: &mut [f32], du: &mut [f32]) {
        for (((dy, du), g), u) in dy.iter_mut().zip(du).zip(gate).zip(up) {
            let s = sigmoid(*g);
            *du = *dy * g * s;
            *dy = *dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
    fn gelu_block(x: &mut [f32]) {
        for x in x {
            *x *= sigmoid(GELU * (*x + CUBIC * *x * *x * *x));
        }
    }
    fn gelu_gradient(x: &[f32], dy: &mut [f32]) {
        for (dy, &x) in dy.iter_mut().zip(x) {
            let s = sigmoid(GELU * (x + CUBIC * x * x * x));
            *dy *= s + x * s * (1.0 - s) * GELU * (1.0 + 3.0 * CUBIC * x * x);
        }
    }
    fn drop_block(x: &mut [f32], start: u32, keys: [u32; 2], threshold: u32, scale: f32) {
        for (i, x) in x.iter_mut().enumerate() {
            let hash = crate::dropout::hash(start.wrapping_add(i as u32), keys);
            *x = if hash >= threshold { *x * scale } else { 0.0 };
        }
    }
}
