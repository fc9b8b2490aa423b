//! Two tensors in another type, times a number: one unit for a few numbers of either.
use super::address_type;
use super::row::{element, is_empty, vector};
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_elem_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// `scale·a` and `scale·b` in `dtype`: both of one type. What [`super::rows_fit`] allows, and not empty.
pub(crate) fn cast_both(a: CubeTensor, b: CubeTensor, scale: f64, dtype: DType) -> (CubeTensor, CubeTensor) {
    let [a, b] = [a, b].map(into_contiguous);
    let client = a.client.clone();
    let empty = |x: &CubeTensor| empty_device_contiguous_dtype(client.clone(), x.device.clone(), x.shape(), dtype);
    let (a_out, b_out) = (empty(&a), empty(&b));
    debug_assert!(!is_empty(&a) && !is_empty(&b));
    let [a_numbers, b_numbers] = [&a, &b].map(|x| x.shape().num_elements());
    let width = |numbers| vector(&client, &[a.dtype, dtype], numbers);
    let vector = width(a_numbers).min(width(b_numbers));
    let (first, second) = (a_numbers / vector, b_numbers / vector);
    let dim = CubeDim::new(&client, first + second);
    let types = [element(&a), dtype_to_elem_type(dtype)];
    // SAFETY: units beyond both end at once.
    unsafe {
        scale_cast::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, first + second, dim),
            dim,
            address_type([&a, &b]),
            vector,
            a.into_buffer_arg(),
            b.into_buffer_arg(),
            a_out.clone().into_buffer_arg(),
            b_out.clone().into_buffer_arg(),
            first,
            second,
            scale as f32,
            types,
        );
    }
    (a_out, b_out)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn scale_cast<F: Float, G: Float, N: Size>(
    a: &[Vector<F, N>],
    b: &[Vector<F, N>],
    a_out: &mut [Vector<G, N>],
    b_out: &mut [Vector<G, N>],
    first: usize,
    second: usize,
    scale: f32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let at = ABSOLUTE_POS;
    if at >= first + second {
        terminate!();
    }
    let scale = Vector::<f32, N>::new(scale);
    if at < first {
        a_out[at] = Vector::<G, N>::cast_from(Vector::<f32, N>::cast_from(a[at]) * scale);
    } else {
        b_out[at - first] = Vector::<G, N>::cast_from(Vector::<f32, N>::cast_from(b[at - first]) * scale);
    }
}
