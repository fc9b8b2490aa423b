//! Rotary position embedding: one unit for a few pairs of a head.
use super::address_type;
use super::row::{element, is_empty, vector};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// x `[b, s, h, d]` rotated by the angles of cos and sin `[b or 1, s, d/2]` f32, the other way round if `inverse`. What
/// [`super::rows_fit`] allows.
pub(crate) fn rope(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, inverse: bool) -> CubeTensor {
    let (x, cos, sin) = (into_contiguous(x), into_contiguous(cos), into_contiguous(sin));
    let (client, dtype, shape) = (x.client.clone(), x.dtype, x.shape());
    let [b, s, heads, d] = shape.dims();
    if is_empty(&x) {
        return x;
    }
    let vector = vector(&client, &[dtype, DType::F32], d / 2);
    let (half, angles) = (d / 2 / vector, cos.shape()[0] * s);
    let y = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, dtype);
    let pairs = b * s * heads * half;
    let dim = CubeDim::new(&client, pairs);
    let types = element(&x);
    // SAFETY: units beyond the pairs end at once, and rows of the tables are counted modulo their number.
    unsafe {
        rotate_half::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, pairs, dim),
            dim,
            address_type([&x, &y]),
            vector,
            x.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            pairs,
            heads,
            half,
            angles,
            if inverse { -1.0f32 } else { 1.0 },
            types,
        );
    }
    y
}

/// q `[b, s, hq, d]` and k `[b, s, hk, d]` of one type, as [`rope`] rotates one.
pub(crate) fn rope_both(
    q: CubeTensor,
    k: CubeTensor,
    cos: CubeTensor,
    sin: CubeTensor,
    inverse: bool,
) -> (CubeTensor, CubeTensor) {
    let [q, k, cos, sin] = [q, k, cos, sin].map(into_contiguous);
    let [b, s, q_heads, d] = q.shape().dims();
    let k_heads = k.shape()[2];
    if is_empty(&q) || is_empty(&k) {
        return (rope(q, cos.clone(), sin.clone(), inverse), rope(k, cos, sin, inverse));
    }
    let client = q.client.clone();
    let empty = |x: &CubeTensor| empty_device_contiguous_dtype(client.clone(), x.device.clone(), x.shape(), x.dtype);
    let (q_out, k_out) = (empty(&q), empty(&k));
    let vector = vector(&client, &[q.dtype, DType::F32], d / 2);
    let (half, angles) = (d / 2 / vector, cos.shape()[0] * s);
    let [q_pairs, k_pairs] = [q_heads, k_heads].map(|heads| b * s * heads * half);
    let dim = CubeDim::new(&client, q_pairs + k_pairs);
    let types = element(&q);
    // SAFETY: as in `rope`.
    unsafe {
        rotate_both::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, q_pairs + k_pairs, dim),
            dim,
            address_type([&q, &k]),
            vector,
            q.into_buffer_arg(),
            k.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            q_out.clone().into_buffer_arg(),
            k_out.clone().into_buffer_arg(),
            q_pairs,
            k_pairs,
            q_heads,
            k_heads,
            half,
            angles,
            if inverse { -1.0f32 } else { 1.0 },
            types,
        );
    }
    (q_out, k_out)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rotate_half<F: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    y: &mut [Vector<F, N>],
    pairs: usize,
    heads: usize,
    half: usize,
    angles: usize,
    sign: f32,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= pairs {
        terminate!();
    }
    turn::<F, N>(x, cos, sin, y, ABSOLUTE_POS, heads, half, angles, sign);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rotate_both<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    q_out: &mut [Vector<F, N>],
    k_out: &mut [Vector<F, N>],
    q_pairs: usize,
    k_pairs: usize,
    q_heads: usize,
    k_heads: usize,
    half: usize,
    angles: usize,
    sign: f32,
    #[define(F)] _dtype: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair >= q_pairs + k_pairs {
        terminate!();
    }
    if pair < q_pairs {
        turn::<F, N>(q, cos, sin, q_out, pair, q_heads, half, angles, sign);
    } else {
        turn::<F, N>(k, cos, sin, k_out, pair - q_pairs, k_heads, half, angles, sign);
    }
}

#[cube]
fn turn<F: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    y: &mut [Vector<F, N>],
    pair: usize,
    heads: usize,
    half: usize,
    angles: usize,
    sign: f32,
) {
    let (head, i) = (pair / half, pair % half);
    let angle = (head / heads) % angles * half + i;
    let left = head * half * 2 + i;
    let right = left + half;
    let (c, s) = (cos[angle], sin[angle] * Vector::<f32, N>::new(sign));
    let (first, second) = (
        Vector::<f32, N>::cast_from(x[left]),
        Vector::<f32, N>::cast_from(x[right]),
    );
    y[left] = Vector::<F, N>::cast_from(first * c - second * s);
    y[right] = Vector::<F, N>::cast_from(second * c + first * s);
}
