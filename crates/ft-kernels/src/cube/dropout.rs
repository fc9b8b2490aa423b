//! Dropout by a hash of each element's index, in one pass.
use super::address_type;
use crate::dropout::{MIX, Mask, SHIFTS};
use burn::backend::cubecl::dtype_to_elem_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// x with the mask applied, computed in f32. What [`super::fits`] allows.
pub(crate) fn dropout(x: CubeTensor, mask: Mask) -> CubeTensor {
    let x = into_contiguous(x);
    let (client, dtype, shape) = (x.client.clone(), x.dtype, x.meta.shape().clone());
    let n = shape.num_elements();
    let out = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, dtype);
    let dim = CubeDim::new(&client, n);
    let [first, second] = mask.keys(0);
    // SAFETY: units beyond the output, which is as long as the input, end at once.
    unsafe {
        drop_out::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, n, dim),
            dim,
            address_type([&x, &out]),
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            first,
            second,
            mask.threshold,
            mask.scale(),
            dtype_to_elem_type(dtype),
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn drop_out<F: Float>(
    x: &[F],
    out: &mut [F],
    first: u32,
    second: u32,
    threshold: u32,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let survives = mixed(mixed(at as u32, first), second) >= threshold;
    out[at] = F::cast_from(select(survives, f32::cast_from(x[at]) * scale, 0.0f32));
}

/// One round of [`crate::dropout::hash`].
#[cube]
fn mixed(index: u32, key: u32) -> u32 {
    let x = index ^ key;
    let x = (x ^ (x >> comptime!(SHIFTS[0]))) * comptime!(MIX[0]);
    let x = (x ^ (x >> comptime!(SHIFTS[1]))) * comptime!(MIX[1]);
    x ^ (x >> comptime!(SHIFTS[2]))
}
