//! RMSNorm and LayerNorm over rows, forward and backward in one pass each.
use super::flex::{Rewrite, contiguous, fresh, last, tensor, values};
use super::isa::multiversion;
use super::math;
use super::par::{Shared, block_rows, row_blocks};
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// `x / sqrt(mean(x²) + eps) · weight`.
pub(crate) fn rms(x: FlexTensor, weight: &FlexTensor, eps: f32) -> FlexTensor {
    let x = contiguous(x);
    let (width, x_values, w) = (last(&x), values(&x), values(weight));
    let mut out = fresh(x_values.len());
    let shared = Shared::new(&mut out);
    row_blocks(x_values.len() / width.max(1), width, |start, len| {
        let (from, len) = (start * width, len * width);
        // SAFETY: every row is one task's.
        rms_rows(&x_values[from..from + len], w, eps, unsafe { shared.slice(from, len) });
    });
    tensor(out, x.shape())
}

/// Gradients to x and, if asked for, to the weight.
pub(crate) fn rms_backward(
    x: FlexTensor,
    weight: &FlexTensor,
    dy: FlexTensor,
    eps: f32,
    weight_too: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let x = contiguous(x);
    let (width, x_values, w) = (last(&x), values(&x), values(weight));
    let rows = x_values.len() / width.max(1);
    let mut partial = Partial::new(rows, width, usize::from(weight_too));
    let sums = Shared::new(&mut partial.sums);
    let dx = Rewrite::new(dy).run(|blocks| {
        row_blocks(rows, width, |start, len| {
            let block = start / block_rows(width);
            let (from, len) = (start * width, len * width);
            // SAFETY: every row, and every block's partial sum, is one task's.
            let (dy, dw) = unsafe {
                (
                    blocks.take(from, len),
                    sums.slice(block * width * partial.kinds, width * partial.kinds),
                )
            };
            rms_gradient(&x_values[from..from + len], w, eps, dy, dw);
        });
    });
    let [dw] = partial.total();
    (dx, weight_too.then(|| tensor(dw, [width])))
}

/// `(x - mean) / sqrt(var + eps) · weight + bias`.
pub(crate) fn layer(x: FlexTensor, weight: &FlexTensor, bias: &FlexTensor, eps: f32) -> FlexTensor {
    let x = contiguous(x);
    let (width, x_values, w, b) = (last(&x), values(&x), values(weight), values(bias));
    let mut out = fresh(x_values.len());
    let shared = Shared::new(&mut out);
    row_blocks(x_values.len() / width.max(1), width, |start, len| {
        let (from, len) = (start * width, len * width);
        // SAFETY: every row is one task's.
        layer_rows(&x_values[from..from + len], w, b, eps, unsafe {
            shared.slice(from, len)
        });
    });
    tensor(out, x.shape())
}

/// Gradients to x and, if asked for, to weight and bias.
pub(crate) fn layer_backward(
    x: FlexTensor,
    weight: &FlexTensor,
    dy: FlexTensor,
    eps: f32,
    affine_too: bool,
) -> (FlexTensor, Option<(FlexTensor, FlexTensor)>) {
    let x = contiguous(x);
    let (width, x_values, w) = (last(&x), values(&x), values(weight));
    let rows = x_values.len() / width.max(1);
    let mut partial = Partial::new(rows, width, if affine_too { 2 } else { 0 });
    let sums = Shared::new(&mut partial.sums);
    let dx = Rewrite::new(dy).run(|blocks| {
        row_blocks(rows, width, |start, len| {
            let block = start / block_rows(width);
            let (from, len) = (start * width, len * width);
            // SAFETY: every row, and every block's partial sum, is one task's.
            let (dy, affine) = unsafe {
                (
                    blocks.take(from, len),
                    sums.slice(block * width * partial.kinds, width * partial.kinds),
                )
            };
            layer_gradient(&x_values[from..from + len], w, eps, dy, affine);
        });
    });
    let [dw, db] = partial.total();
    (dx, affine_too.then(|| (tensor(dw, [width]), tensor(db, [width]))))
}

/// Sums over rows, first per block: the blocks depend on the shape alone, so the result does not depend on threads.
struct Partial {
    sums: Vec<f32>,
    width: usize,
    kinds: usize,
}

impl Partial {
    fn new(rows: usize, width: usize, kinds: usize) -> Self {
        Self {
            sums: vec![0.0; rows.div_ceil(block_rows(width)) * width * kinds],
            width,
            kinds,
        }
    }

    /// One vector per kind; zeros for kinds that were not asked for.
    fn total<const N: usize>(&self) -> [Vec<f32>; N] {
        let mut total: [Vec<f32>; N] = std::array::from_fn(|_| vec![0.0; self.width]);
        for (i, part) in self.sums.chunks_exact(self.width.max(1)).enumerate() {
            total[i % self.kinds].iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        total
    }
}

/// The reciprocal root of the mean square.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (math::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Mean and reciprocal standard deviation.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = math::sum_of(x) / x.len() as f32;
    let variance = math::sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    fn rms_rows(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
            let r = inverse_rms(x, eps);
            for ((o, x), w) in out.iter_mut().zip(x).zip(w) {
                *o = x * r * w;
            }
        }
    }
    fn rms_gradient(x: &[f32], w: &[f32], eps: f32, dy: &mut [f32], dw: &mut [f32]) {
        let d = w.len();
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact_mut(d)) {
            let r = inverse_rms(x, eps);
            for ((dw, dy), x) in dw.iter_mut().zip(&*dy).zip(x) {
                *dw += dy * x * r;
            }
            dy.iter_mut().zip(w).for_each(|(dy, w)| *dy *= w);
            let c = r * r * r * math::dot(dy, x) / d as f32;
            dy.iter_mut().zip(x).for_each(|(dy, x)| *dy = *dy * r - x * c);
        }
    }
    fn layer_rows(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
            let (mean, r) = moments(x, eps);
            for (((o, x), w), b) in out.iter_mut().zip(x).zip(w).zip(b) {
                *o = (x - mean) * r * w + b;
            }
        }
    }
    fn layer_gradient(x: &[f32], w: &[f32], eps: f32, dy: &mut [f32], affine: &mut [f32]) {
        let d = w.len();
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact_mut(d)) {
            let (mean, r) = moments(x, eps);
            if !affine.is_empty() {
                let (dw, db) = affine.split_at_mut(d);
                for (((dw, db), dy), x) in dw.iter_mut().zip(db).zip(&*dy).zip(x) {
                    *dw += dy * (x - mean) * r;
                    *db += dy;
                }
            }
            dy.iter_mut().zip(w).for_each(|(dy, w)| *dy *= w);
            let shift = math::sum_of(dy) / d as f32;
            let slope = r * r * (math::dot(dy, x) / d as f32 - mean * shift);
            dy.iter_mut().zip(x).for_each(|(dy, x)| *dy = (*dy - shift - (x - mean) * slope) * r);
        }
    }
}
