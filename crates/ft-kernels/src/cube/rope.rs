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
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
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
