//! SwiGLU and GELU: one pass over the inputs.
use super::address_type;
use super::row::{element, is_empty, vector};
use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// `2·sqrt(2/π)`: `(1 + tanh(u))/2 = sigmoid(2u)`.
const SLOPE: f32 = 1.595_769_1;
const CUBIC: f32 = 0.044_715;

/// `silu(gate) · up`; both of one type.
pub(crate) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let y = like(&gate);
    if is_empty(&gate) {
        return y;
    }
    let grid = Grid::of(&gate);
    let types = element(&gate);
    // SAFETY: units beyond the inputs, which are as long as the output, end at once.
    unsafe {
        swiglu_forward::launch_unchecked(
            &grid.client,
            grid.count,
            grid.dim,
            address_type([&gate, &up, &y]),
            grid.vector,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            grid.vectors,
            types,
        );
    }
    y
}

/// Gradients to gate and up.
pub(crate) fn swiglu_gradients(gate: CubeTensor, up: CubeTensor, dy: CubeTensor) -> (CubeTensor, CubeTensor) {
    let (gate, up, dy) = (into_contiguous(gate), into_contiguous(up), into_contiguous(dy));
    let (to_gate, to_up) = (like(&gate), like(&up));
    if is_empty(&gate) {
        return (to_gate, to_up);
    }
    let grid = Grid::of(&gate);
    let types = element(&gate);
    // SAFETY: as above.
    unsafe {
        swiglu_backward::launch_unchecked(
            &grid.client,
            grid.count,
            grid.dim,
            address_type([&gate, &up, &dy]),
            grid.vector,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            dy.into_buffer_arg(),
            to_gate.clone().into_buffer_arg(),
            to_up.clone().into_buffer_arg(),
            grid.vectors,
            types,
        );
    }
    (to_gate, to_up)
}

/// `gelu_new(x)`.
pub(crate) fn gelu(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let y = like(&x);
    if is_empty(&x) {
        return y;
    }
    let grid = Grid::of(&x);
    let types = element(&x);
    // SAFETY: as above.
    unsafe {
        gelu_forward::launch_unchecked(
            &grid.client,
            grid.count,
            grid.dim,
            address_type([&x, &y]),
            grid.vector,
            x.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            grid.vectors,
            types,
        );
    }
    y
}

/// Gradient to x.
pub(crate) fn gelu_gradient(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
    let (x, dy) = (into_contiguous(x), into_contiguous(dy));
    let dx = like(&x);
    if is_empty(&x) {
        return dx;
    }
    let grid = Grid::of(&x);
    let types = element(&x);
    // SAFETY: as above.
    unsafe {
        gelu_backward::launch_unchecked(
            &grid.client,
            grid.count,
            grid.dim,
            address_type([&x, &dy, &dx]),
            grid.vector,
            x.into_buffer_arg(),
            dy.into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            grid.vectors,
            types,
        );
    }
    dx
}

/// Whether the kernels take these: all of one of their types.
pub(crate) fn alike<const N: usize>(tensors: [&CubeTensor; N]) -> bool {
    super::rows_fit(tensors) && tensors.iter().all(|x| x.dtype == tensors[0].dtype)
}

/// One unit for each vector of a tensor.
struct Grid {
    client: cubecl::client::Client,
    vector: usize,
    vectors: usize,
    dim: CubeDim,
    count: CubeCount,
}

impl Grid {
    fn of(x: &CubeTensor) -> Self {
        let (client, n) = (x.client.clone(), x.shape().num_elements());
        let vector = vector(&client, &[x.dtype], n);
        let vectors = n / vector;
        let dim = CubeDim::new(&client, vectors);
        Self {
            count: calculate_cube_count_elemwise(&client, vectors, dim),
            client,
            vector,
            vectors,
            dim,
        }
    }
}

fn like(x: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), x.dtype)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_forward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= vectors {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate[at]);
    let y_at = sigmoid::<N>(gate) * gate * Vector::<f32, N>::cast_from(up[at]);
    y[at] = Vector::<F, N>::cast_from(y_at);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_backward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    dy: &[Vector<F, N>],
    to_gate: &mut [Vector<F, N>],
    to_up: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= vectors {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate[at]);
    let up = Vector::<f32, N>::cast_from(up[at]);
    let dy = Vector::<f32, N>::cast_from(dy[at]);
    let s = sigmoid::<N>(gate);
    let silu = gate * s;
    let slope = s + silu - silu * s; // s · (1 + gate · (1 - s))
    to_gate[at] = Vector::<F, N>::cast_from(dy * up * slope);
    to_up[at] = Vector::<F, N>::cast_from(dy * silu);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_forward<F: Float, N: Size>(
    x: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= vectors {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[at]);
    y[at] = Vector::<F, N>::cast_from(opening::<N>(x) * x);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_backward<F: Float, N: Size>(
    x: &[Vector<F, N>],
    dy: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= vectors {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[at]);
    let s = opening::<N>(x);
    let cubic = Vector::<f32, N>::new(comptime!(3.0 * CUBIC * SLOPE));
    let inner = x * x * cubic + Vector::<f32, N>::new(SLOPE);
    let slope = s + x * (s - s * s) * inner;
    dx[at] = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(dy[at]) * slope);
}

/// The gate of GELU: `sigmoid(2·sqrt(2/π)·(x + 0.044715·x³))`.
#[cube]
fn opening<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0f32);
    let inner = (x * x * Vector::<f32, N>::new(CUBIC) + one) * x;
    sigmoid::<N>(inner * Vector::<f32, N>::new(SLOPE))
}

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0f32);
    one / (one + (x * Vector::<f32, N>::new(-1.0f32)).exp())
}
