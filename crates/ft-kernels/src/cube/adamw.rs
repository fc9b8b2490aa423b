//! AdamW: one unit for a few numbers of a parameter.
use super::address_type;
use super::row::{element, is_empty, vector};
use crate::adamw::AdamWStep;
use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// The new parameter and moments, in place where nothing else holds them. What [`super::rows_fit`] allows.
pub(crate) fn adamw(
    param: CubeTensor,
    grad: CubeTensor,
    m: CubeTensor,
    v: CubeTensor,
    step: AdamWStep,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    if is_empty(&param) {
        return (param, m, v);
    }
    let (param, grad, m, v) = (own(param), into_contiguous(grad), own(m), own(v));
    let (client, n) = (param.client.clone(), param.shape().num_elements());
    let vector = vector(&client, &[param.dtype, grad.dtype, m.dtype], n);
    let dim = CubeDim::new(&client, n / vector);
    let types = [element(&param), element(&grad)];
    let number = |x: f64| x as f32;
    // SAFETY: units beyond the parameter end at once, and all tensors are as long.
    unsafe {
        adamw_step::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, n / vector, dim),
            dim,
            address_type([&param, &grad, &m, &v]),
            vector,
            param.clone().into_buffer_arg(),
            grad.into_buffer_arg(),
            m.clone().into_buffer_arg(),
            v.clone().into_buffer_arg(),
            n / vector,
            number(step.keep),
            number(step.toward),
            number(step.beta2),
            number(1.0 - step.beta2),
            number(step.step_size),
            number(step.lift),
            number(step.eps),
            types,
        );
    }
    (param, m, v)
}

/// Itself if nothing else holds it, else a copy; without gaps.
pub(super) fn own(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    if x.can_mut() { x } else { into_contiguous(x.copy()) }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn adamw_step<F: Float, G: Float, N: Size>(
    param: &mut [Vector<F, N>],
    grad: &[Vector<G, N>],
    m: &mut [Vector<f32, N>],
    v: &mut [Vector<f32, N>],
    vectors: usize,
    keep: f32,
    toward: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    lift: f32,
    eps: f32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let at = ABSOLUTE_POS;
    if at >= vectors {
        terminate!();
    }
    let g = Vector::<f32, N>::cast_from(grad[at]);
    let first = m[at] + Vector::<f32, N>::new(toward) * (g - m[at]);
    let second = Vector::<f32, N>::new(beta2) * v[at] + Vector::<f32, N>::new(rest2) * (g * g);
    let divisor = second.sqrt() * Vector::<f32, N>::new(lift) + Vector::<f32, N>::new(eps);
    let old = Vector::<f32, N>::cast_from(param[at]) * Vector::<f32, N>::new(keep);
    param[at] = Vector::<F, N>::cast_from(old - Vector::<f32, N>::new(step_size) * (first / divisor));
    m[at] = first;
    v[at] = second;
}
