//! The dense matrix from its codes: one unit per value.
use super::coded::{Coded, Packed};
use super::{address_type, supported};
use crate::packed::{Form, ScaleCodes};
use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// The values `[rows, cols]` in `dtype`, rounded once.
pub(crate) fn unpack(
    words: CubeTensor,
    scales: CubeTensor,
    codes: ScaleCodes<CubeBackend>,
    form: Form,
    dtype: DType,
) -> CubeTensor {
    if !supported(dtype) {
        let wide = unpack(words, scales, codes, form, DType::F32);
        return CubeBackend::float_cast(wide, dtype.into());
    }
    let packed = Packed::new(words, scales, codes, &form);
    let (client, device) = (packed.words.client.clone(), packed.words.device.clone());
    let out = empty_device_contiguous_dtype(client.clone(), device, Shape::new([form.rows, form.cols]), dtype);
    if form.len() == 0 {
        return out;
    }
    let dim = CubeDim::new(&client, form.len());
    // SAFETY: units beyond the output end at once, and the buffers were compared with the form when the operation was called.
    unsafe {
        unpack_codes::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, form.len(), dim),
            dim,
            address_type([&packed.words, &packed.scales, &out]),
            packed.into_launch(),
            out.clone().into_buffer_arg(),
            dtype_to_elem_type(dtype),
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn unpack_codes<F: Float>(coded: &Coded, out: &mut [F], #[define(F)] _dtype: ElemType) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let per_word = comptime!(coded.layout.per_word);
    let value = coded.value(coded.word(at / per_word), (at % per_word) as u32, coded.scale(at));
    out[at] = F::cast_from(value);
}
