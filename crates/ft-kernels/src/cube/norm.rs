//! RMSNorm and LayerNorm: a cube for each row.
//!
//! ```text
//! u = (x - mean)·r       r = 1 / sqrt(mean((x - mean)²) + eps)      RMSNorm: mean = 0
//! y = u·w + b
//! dx = r·(g - mean(g) - u·mean(g·u))      g = dy·w                  RMSNorm: without mean(g)
//! dw = Σ dy·u,  db = Σ dy over the rows: summed by blocks of rows, then over the blocks, in one order
//! ```
use super::address_type;
use super::column_sum::column_sum;
use super::row::{Rows, element, is_empty, total};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Blocks of rows whose parts of the gradients to weight and bias are kept apart.
const BLOCKS: usize = 256;

/// x `[.., d]`, weight `[d]` and, for LayerNorm, bias `[d]` -> `[.., d]`. What [`super::rows_fit`] allows.
pub(crate) fn norm(x: CubeTensor, weight: CubeTensor, bias: Option<CubeTensor>, eps: f64) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let bias = bias.map(|bias| into_contiguous(cast(bias, weight.dtype)));
    let (client, dtype, shape) = (x.client.clone(), x.dtype, x.shape());
    let y = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, dtype);
    if is_empty(&x) {
        return y;
    }
    let rows = Rows::of(&x, &[dtype, weight.dtype]);
    let types = [element(&x), element(&weight)];
    let centered = bias.is_some();
    // SAFETY: cubes beyond the last row end at once, units stay inside their row, and weight and bias are as long as one.
    unsafe {
        norm_forward::launch_unchecked(
            &client,
            rows.cubes(&client, rows.rows),
            rows.dim(),
            address_type([&x, &y]),
            rows.vector,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.map(CubeTensor::into_buffer_arg).into(),
            y.clone().into_buffer_arg(),
            eps as f32,
            rows.rows,
            rows.width,
            centered,
            rows.units,
            types,
        );
    }
    y
}

/// `h = x + added` and its RMSNorm: x and added `[.., d]` of one type, weight `[d]`. What [`super::rows_fit`] allows.
pub(crate) fn add_norm(x: CubeTensor, added: CubeTensor, weight: CubeTensor, eps: f64) -> (CubeTensor, CubeTensor) {
    let (x, added, weight) = (into_contiguous(x), into_contiguous(added), into_contiguous(weight));
    let (client, dtype, shape) = (x.client.clone(), x.dtype, x.shape());
    let empty = || empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape.clone(), dtype);
    let (h, y) = (empty(), empty());
    if is_empty(&x) {
        return (h, y);
    }
    let rows = Rows::of(&x, &[dtype, weight.dtype]);
    let types = [element(&x), element(&weight)];
    // SAFETY: as in `norm`.
    unsafe {
        add_norm_forward::launch_unchecked(
            &client,
            rows.cubes(&client, rows.rows),
            rows.dim(),
            address_type([&x, &y]),
            rows.vector,
            x.into_buffer_arg(),
            added.into_buffer_arg(),
            weight.into_buffer_arg(),
            h.clone().into_buffer_arg(),
            y.clone().into_buffer_arg(),
            eps as f32,
            rows.rows,
            rows.width,
            rows.units,
            types,
        );
    }
    (h, y)
}

/// Gradient to x, added to `other` if that is given, and, if asked for, those to weight and bias: `[2, d]`, or `[1, d]` where there is no bias, f32.
pub(crate) fn norm_gradients(
    x: CubeTensor,
    weight: CubeTensor,
    dy: CubeTensor,
    other: Option<CubeTensor>,
    eps: f64,
    centered: bool,
    affine_too: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let (x, weight, dy) = (into_contiguous(x), into_contiguous(weight), into_contiguous(dy));
    let (client, device, dtype, shape) = (x.client.clone(), x.device.clone(), x.dtype, x.shape());
    let (d, kinds) = (weight.shape().num_elements(), if centered { 2 } else { 1 });
    if is_empty(&x) {
        let zeros = || CubeBackend::float_zeros(Shape::new([kinds, d]), &device, FloatDType::F32);
        return (x, affine_too.then(zeros));
    }
    let rows = Rows::of(&x, &[dtype, weight.dtype, dy.dtype]);
    let per = if affine_too { rows.rows.div_ceil(BLOCKS) } else { 1 };
    let blocks = rows.rows.div_ceil(per);
    let empty = |shape, dtype| empty_device_contiguous_dtype(client.clone(), device.clone(), shape, dtype);
    let dx = empty(shape, dtype);
    let parts = affine_too.then(|| empty(Shape::new([blocks, kinds * d]), DType::F32));
    let types = [element(&x), element(&weight), element(&dy)];
    let slots = if affine_too { rows.width.div_ceil(rows.units) } else { 0 };
    // SAFETY: as in `norm`; a block's cube writes its own row of the parts.
    unsafe {
        norm_backward::launch_unchecked(
            &client,
            rows.cubes(&client, blocks),
            rows.dim(),
            address_type([&x, &dy, &dx]),
            rows.vector,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            dy.into_buffer_arg(),
            other.map(|other| into_contiguous(other).into_buffer_arg()).into(),
            dx.clone().into_buffer_arg(),
            parts.clone().map(CubeTensor::into_buffer_arg).into(),
            eps as f32,
            rows.rows,
            per,
            rows.width,
            centered,
            slots,
            rows.units,
            types,
        );
    }
    let affine = parts.map(|parts| column_sum(parts, Shape::new([kinds, d])));
    (dx, affine)
}

fn cast(x: CubeTensor, dtype: DType) -> CubeTensor {
    crate::portable::Val::<CubeBackend>(x).cast(dtype).0
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn norm_forward<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    bias: &ComptimeOption<Box<[Vector<W, N>]>>,
    y: &mut [Vector<F, N>],
    eps: f32,
    rows: usize,
    width: usize,
    #[comptime] centered: bool,
    #[comptime] units: usize,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let start = row * width;
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let mean = mean::<F, N>(x, start, width, &mut scratch, centered, units);
    let r = inverse::<F, N>(x, start, width, mean, eps, &mut scratch, units);
    let (mean, r) = (Vector::<f32, N>::new(mean), Vector::<f32, N>::new(r));
    let mut at = unit;
    while at < width {
        let u = (Vector::<f32, N>::cast_from(x[start + at]) - mean) * r;
        let scaled = u * Vector::<f32, N>::cast_from(weight[at]);
        #[comptime]
        match bias {
            ComptimeOption::Some(bias) => {
                y[start + at] = Vector::<F, N>::cast_from(scaled + Vector::<f32, N>::cast_from(bias[at]));
            }
            ComptimeOption::None => y[start + at] = Vector::<F, N>::cast_from(scaled),
        }
        at += units;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_norm_forward<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    added: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    h: &mut [Vector<F, N>],
    y: &mut [Vector<F, N>],
    eps: f32,
    rows: usize,
    width: usize,
    #[comptime] units: usize,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let start = row * width;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut at = unit;
    while at < width {
        let sum = Vector::<f32, N>::cast_from(x[start + at]) + Vector::<f32, N>::cast_from(added[start + at]);
        let sum = Vector::<F, N>::cast_from(sum);
        h[start + at] = sum;
        let rounded = Vector::<f32, N>::cast_from(sum);
        squares += rounded * rounded;
        at += units;
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let numbers = f32::cast_from(width) * f32::cast_from(N::value());
    let square = total(squares.vector_sum(), &mut scratch, units) / numbers;
    let r = Vector::<f32, N>::new(1.0 / (square + eps).sqrt());
    // A unit reads what it has written itself.
    let mut at = unit;
    while at < width {
        let u = Vector::<f32, N>::cast_from(h[start + at]) * r;
        y[start + at] = Vector::<F, N>::cast_from(u * Vector::<f32, N>::cast_from(weight[at]));
        at += units;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn norm_backward<F: Float, W: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    dy: &[Vector<G, N>],
    other: &ComptimeOption<Box<[Vector<F, N>]>>,
    dx: &mut [Vector<F, N>],
    parts: &mut ComptimeOption<Box<[Vector<f32, N>]>>,
    eps: f32,
    rows: usize,
    per: usize,
    width: usize,
    #[comptime] centered: bool,
    #[comptime] slots: usize,
    #[comptime] units: usize,
    #[define(F, W, G)] _types: [ElemType; 3],
) {
    let block = CUBE_POS;
    if block * per >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let inverse_d = 1.0 / (f32::cast_from(width) * f32::cast_from(N::value()));
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut to_weight = Array::<Vector<f32, N>>::new(comptime!(slots.max(1)));
    let mut to_bias = Array::<Vector<f32, N>>::new(comptime!(slots.max(1)));
    #[unroll]
    for slot in 0..comptime!(slots.max(1)) {
        to_weight[slot] = zero;
        to_bias[slot] = zero;
    }

    let end = min((block + 1) * per, rows);
    for row in block * per..end {
        let start = row * width;
        let mean = mean::<F, N>(x, start, width, &mut scratch, centered, units);
        let r = inverse::<F, N>(x, start, width, mean, eps, &mut scratch, units);
        let (middle, scale) = (Vector::<f32, N>::new(mean), Vector::<f32, N>::new(r));
        let mut along = zero;
        let mut shift = zero;
        let mut at = unit;
        while at < width {
            let u = (Vector::<f32, N>::cast_from(x[start + at]) - middle) * scale;
            let g = Vector::<f32, N>::cast_from(dy[start + at]) * Vector::<f32, N>::cast_from(weight[at]);
            along += g * u;
            if comptime!(centered) {
                shift += g;
            }
            at += units;
        }
        let along = total(along.vector_sum(), &mut scratch, units) * inverse_d;
        let along = Vector::<f32, N>::new(along);
        let shift = if comptime!(centered) {
            total(shift.vector_sum(), &mut scratch, units) * inverse_d
        } else {
            0.0f32.runtime()
        };
        let shift = Vector::<f32, N>::new(shift);
        let mut at = unit;
        while at < width {
            let u = (Vector::<f32, N>::cast_from(x[start + at]) - middle) * scale;
            let g = Vector::<f32, N>::cast_from(dy[start + at]) * Vector::<f32, N>::cast_from(weight[at]);
            let own = (g - shift - u * along) * scale;
            #[comptime]
            match other {
                ComptimeOption::Some(other) => {
                    dx[start + at] = Vector::<F, N>::cast_from(own + Vector::<f32, N>::cast_from(other[start + at]));
                }
                ComptimeOption::None => dx[start + at] = Vector::<F, N>::cast_from(own),
            }
            at += units;
        }
        #[unroll]
        for slot in 0..slots {
            let at = unit + slot * units;
            if at < width {
                let u = (Vector::<f32, N>::cast_from(x[start + at]) - middle) * scale;
                let given = Vector::<f32, N>::cast_from(dy[start + at]);
                to_weight[slot] += given * u;
                to_bias[slot] += given;
            }
        }
    }

    #[comptime]
    match parts {
        ComptimeOption::Some(parts) => {
            let kinds = comptime!(if centered { 2 } else { 1 });
            let start = block * kinds * width;
            #[unroll]
            for slot in 0..slots {
                let at = unit + slot * units;
                if at < width {
                    parts[start + at] = to_weight[slot];
                    if comptime!(centered) {
                        parts[start + width + at] = to_bias[slot];
                    }
                }
            }
        }
        ComptimeOption::None => {}
    }
}

/// The mean of a row, or 0.
#[cube]
fn mean<F: Float, N: Size>(
    x: &[Vector<F, N>],
    start: usize,
    width: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] centered: bool,
    #[comptime] units: usize,
) -> f32 {
    if comptime!(centered) {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut at = UNIT_POS as usize;
        while at < width {
            sum += Vector::<f32, N>::cast_from(x[start + at]);
            at += units;
        }
        let numbers = f32::cast_from(width) * f32::cast_from(N::value());
        total(sum.vector_sum(), scratch, units) / numbers
    } else {
        0.0f32.runtime()
    }
}

/// The reciprocal deviation of a row from `mean`.
#[cube]
fn inverse<F: Float, N: Size>(
    x: &[Vector<F, N>],
    start: usize,
    width: usize,
    mean: f32,
    eps: f32,
    scratch: &mut Shared<[f32]>,
    #[comptime] units: usize,
) -> f32 {
    let middle = Vector::<f32, N>::new(mean);
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut at = UNIT_POS as usize;
    while at < width {
        let off = Vector::<f32, N>::cast_from(x[start + at]) - middle;
        sum += off * off;
        at += units;
    }
    let numbers = f32::cast_from(width) * f32::cast_from(N::value());
    let square = total(sum.vector_sum(), scratch, units) / numbers;
    1.0 / (square + eps).sqrt()
}
