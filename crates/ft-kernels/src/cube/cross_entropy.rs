//! Softmax and cross-entropy over chunks of logits: a cube for each row, whose gradient takes the place of its logits.
//!
//! ```text
//! lse = ln Σ exp(l)      every unit keeps the largest of its logits so far and the sum relative to it: one pass
//! nll = lse - l[target]
//! dl  = scale·(exp(l - lse) - onehot(target))
//! ```
use super::address_type;
use super::row::{Rows, element, is_empty, largest, total};
use burn::backend::TensorMetadata;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{DType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Below every logit.
const LOWEST: f32 = -3.0e38;

/// Per row of logits `[rows, vocab]`: negative log likelihood and logarithm of the sum of exponentials, `[rows]` f32. What
/// [`super::rows_fit`] allows.
pub(crate) fn losses(logits: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
    let (_, nll, lse) = launch(logits, targets, false);
    (nll, lse)
}

/// The negative log likelihoods `[rows]` f32 and their gradients in the place of the logits.
pub(crate) fn losses_with_gradient(logits: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
    let (gradient, nll, _) = launch(logits, targets, true);
    (nll, gradient)
}

/// The gradients of `scale·nll`, scale `[rows]`, in the place of the logits.
pub(crate) fn gradient(logits: CubeTensor, targets: CubeTensor, lse: CubeTensor, scale: CubeTensor) -> CubeTensor {
    if is_empty(&logits) {
        return logits;
    }
    let logits = writable(logits);
    let (client, rows, stride) = layout(&logits);
    let (targets, lse, scale) = (integers(targets), into_contiguous(lse), into_contiguous(scale));
    let types = element(&logits);
    // SAFETY: as in `launch`.
    unsafe {
        softmax_gradient::launch_unchecked(
            &client,
            rows.cubes(&client, rows.rows),
            rows.dim(),
            address_type([&logits]),
            rows.vector,
            logits.clone().into_buffer_arg(),
            targets.into_buffer_arg(),
            lse.into_buffer_arg(),
            scale.into_buffer_arg(),
            rows.rows,
            rows.width,
            stride,
            rows.units,
            types,
        );
    }
    logits
}

fn launch(logits: CubeTensor, targets: CubeTensor, gradient: bool) -> (CubeTensor, CubeTensor, CubeTensor) {
    let empty = || {
        let shape = Shape::new([logits.shape()[0]]);
        empty_device_contiguous_dtype(logits.client.clone(), logits.device.clone(), shape, DType::F32)
    };
    let (nll, lse) = (empty(), empty());
    if is_empty(&logits) {
        return (logits, nll, lse);
    }
    let logits = if gradient { writable(logits) } else { in_rows(logits) };
    let (client, rows, stride) = layout(&logits);
    let targets = integers(targets);
    let types = element(&logits);
    // SAFETY: cubes beyond the last row end at once, units stay inside their row, and a target outside of it is not read.
    unsafe {
        softmax_losses::launch_unchecked(
            &client,
            rows.cubes(&client, rows.rows),
            rows.dim(),
            address_type([&logits]),
            rows.vector,
            logits.clone().into_buffer_arg(),
            targets.into_buffer_arg(),
            nll.clone().into_buffer_arg(),
            lse.clone().into_buffer_arg(),
            rows.rows,
            rows.width,
            stride,
            gradient,
            rows.units,
            types,
        );
    }
    (logits, nll, lse)
}

/// The rows, and the vectors from one to the next.
fn layout(logits: &CubeTensor) -> (cubecl::client::Client, Rows, usize) {
    let rows = Rows::of(logits, &[logits.dtype]);
    let stride = match rows.rows {
        1 => rows.width,
        _ => logits.meta.strides()[0] / rows.vector,
    };
    (logits.client.clone(), rows, stride)
}

/// Products may leave room behind every row.
fn in_rows(logits: CubeTensor) -> CubeTensor {
    let [rows, vocab] = logits.shape().dims();
    let [row, one] = [logits.meta.strides()[0], logits.meta.strides()[1]];
    let vector = super::row::vector(&logits.client, &[logits.dtype], vocab);
    let apart = rows == 1 || (row >= vocab && row.is_multiple_of(vector));
    if !logits.meta.is_tiled() && one == 1 && apart {
        logits
    } else {
        into_contiguous(logits)
    }
}

fn writable(logits: CubeTensor) -> CubeTensor {
    let logits = in_rows(logits);
    if logits.can_mut() {
        logits
    } else {
        in_rows(logits.copy())
    }
}

fn integers(targets: CubeTensor) -> CubeTensor {
    into_contiguous(CubeBackend::int_cast(targets, IntDType::I32))
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn softmax_losses<F: Float, N: Size>(
    logits: &mut [Vector<F, N>],
    targets: &[i32],
    nll: &mut [f32],
    lse: &mut [f32],
    rows: usize,
    width: usize,
    stride: usize,
    #[comptime] gradient: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let start = row * stride;
    let target = targets[row] as usize;
    let mut aim = 0.0f32;
    if target < width * N::value() {
        let vector = Vector::<f32, N>::cast_from(logits[start + target / N::value()]);
        #[unroll]
        for k in 0..N::value() {
            if target % N::value() == k {
                aim = vector.extract(k);
            }
        }
    }

    let mut most = LOWEST.runtime();
    let mut sum = 0.0f32;
    let mut at = unit;
    while at < width {
        let vector = Vector::<f32, N>::cast_from(logits[start + at]);
        let mut higher = most;
        #[unroll]
        for k in 0..N::value() {
            higher = max(higher, vector.extract(k));
        }
        sum *= (most - higher).exp();
        most = higher;
        sum += (vector - Vector::<f32, N>::new(higher)).exp().vector_sum();
        at += units;
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let highest = largest(most, &mut scratch, units);
    let whole = total(sum * (most - highest).exp(), &mut scratch, units);
    let log = highest + whole.ln();
    if unit == 0 {
        nll[row] = log - aim;
        lse[row] = log;
    }
    if comptime!(gradient) {
        let mut at = unit;
        while at < width {
            let vector = Vector::<f32, N>::cast_from(logits[start + at]);
            let change = change::<N>(vector, log, at, target);
            logits[start + at] = Vector::<F, N>::cast_from(change);
            at += units;
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn softmax_gradient<F: Float, N: Size>(
    logits: &mut [Vector<F, N>],
    targets: &[i32],
    lse: &[f32],
    scale: &[f32],
    rows: usize,
    width: usize,
    stride: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * stride;
    let target = targets[row] as usize;
    let (log, scale) = (lse[row], Vector::<f32, N>::new(scale[row]));
    let mut at = UNIT_POS as usize;
    while at < width {
        let vector = Vector::<f32, N>::cast_from(logits[start + at]);
        let change = change::<N>(vector, log, at, target) * scale;
        logits[start + at] = Vector::<F, N>::cast_from(change);
        at += units;
    }
}

/// The probabilities of vector `at`, less one at the target.
#[cube]
fn change<N: Size>(logits: Vector<f32, N>, lse: f32, at: usize, target: usize) -> Vector<f32, N> {
    let mut p = (logits - Vector::<f32, N>::new(lse)).exp();
    if target / N::value() == at {
        #[unroll]
        for k in 0..N::value() {
            if target % N::value() == k {
                p.insert(k, p.extract(k) - 1.0);
            }
        }
    }
    p
}
