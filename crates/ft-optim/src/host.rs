//! Fused passes over plain f32 tensors in host memory (Burn's flex backend): one read and one write per buffer,
//! shared among the threads, in place when nothing else holds the buffer.
//!
//! Work is cut into chunks of a fixed size and partial sums are added in order, so that results do not depend on the
//! number of threads.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{DType, Device, Int, Tensor};
use rayon::prelude::*;

/// Elements per task: small enough to share among threads, large enough to hide the cost of a task.
const CHUNK: usize = 1 << 15;
const SHAPE: &str = "a state has its parameter's shape";

/// Whether a tensor lies in host memory as plain f32. The other functions here take nothing else.
pub(crate) fn holds<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && !tensor.is_autodiff() && tensor.device() == Device::flex()
}

/// `f(param, grad, state)` on matching chunks of an optimizer's tensors, which all have the parameter's shape. Gives
/// the new parameter and state.
pub(crate) fn update<const D: usize, const N: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    state: [Tensor<D>; N],
    f: impl Fn(&mut [f32], &[f32], [&mut [f32]; N]) + Send + Sync,
) -> (Tensor<D>, [Tensor<D>; N]) {
    let (mut param, grad, mut state) = (open(param), open(grad), state.map(open));
    let mut states = state.each_mut().map(|s| s.storage_mut::<f32>().chunks_mut(CHUNK));
    let tasks: Vec<_> = (param.storage_mut::<f32>().chunks_mut(CHUNK))
        .zip(grad.storage::<f32>().chunks(CHUNK))
        .map(|(p, g)| (p, g, states.each_mut().map(|s| s.next().expect(SHAPE))))
        .collect();
    for_each(tasks, |(p, g, s)| f(p, g, s));
    (close(param), state.map(close))
}

/// `f(param, grad, state)` on all values of an optimizer's tensors at once; the states may have any shape.
pub(crate) fn whole<const D: usize, const N: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    state: [Tensor<D>; N],
    f: impl FnOnce(&mut [f32], &[f32], [&mut [f32]; N]),
) -> (Tensor<D>, [Tensor<D>; N]) {
    let (mut param, grad, mut state) = (open(param), open(grad), state.map(open));
    let states = state.each_mut().map(|s| s.storage_mut::<f32>());
    f(param.storage_mut::<f32>(), grad.storage::<f32>(), states);
    (close(param), state.map(close))
}

/// Rows of a matrix that make one task.
pub(crate) fn rows_per_chunk(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

/// Some consecutive values of a parameter, their gradients, as many bytes of each list of codes, and one number of each list
/// of scales. The last block of a parameter may have fewer values.
pub(crate) struct Block<'a, const N: usize> {
    pub param: &'a mut [f32],
    pub grad: &'a [f32],
    pub codes: [&'a mut [u8]; N],
    pub scales: [&'a mut f32; N],
}

/// `f` on every block of `size` values of an optimizer's tensors.
pub(crate) fn update_blocks<const D: usize, const N: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    codes: [Tensor<1, Int>; N],
    scales: [Tensor<1>; N],
    size: usize,
    f: impl Fn(Block<N>) + Send + Sync,
) -> (Tensor<D>, [Tensor<1, Int>; N], [Tensor<1>; N]) {
    let (mut param, grad, mut codes, mut scales) = (open(param), open(grad), codes.map(open_int), scales.map(open));
    let bytes = codes
        .each_mut()
        .map(|c| bytemuck::cast_slice_mut::<u32, u8>(c.storage_mut::<u32>()));
    let mut bytes = bytes.map(|b| b.chunks_mut(CHUNK));
    let mut numbers = scales
        .each_mut()
        .map(|s| s.storage_mut::<f32>().chunks_mut(CHUNK / size));
    let tasks: Vec<_> = (param.storage_mut::<f32>().chunks_mut(CHUNK))
        .zip(grad.storage::<f32>().chunks(CHUNK))
        .map(|(p, g)| {
            let bytes = bytes.each_mut().map(|b| b.next().expect(SHAPE).chunks_mut(size));
            let numbers = numbers.each_mut().map(|n| n.next().expect(SHAPE).iter_mut());
            (p.chunks_mut(size).zip(g.chunks(size)), bytes, numbers)
        })
        .collect();
    for_each(tasks, |(values, mut bytes, mut numbers)| {
        for (param, grad) in values {
            f(Block {
                param,
                grad,
                codes: bytes.each_mut().map(|b| b.next().expect(SHAPE)),
                scales: numbers.each_mut().map(|n| n.next().expect(SHAPE)),
            });
        }
    });
    (
        close(param),
        codes.map(Tensor::from_primitive::<Flex>),
        scales.map(close),
    )
}

/// Sum of the squares of all elements.
pub(crate) fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> f64 {
    let tensor = open(tensor);
    let values = tensor.storage::<f32>();
    if values.len() <= CHUNK {
        return squares(values);
    }
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(squares).collect();
    partial.iter().sum()
}

/// Eight running sums, so that the additions do not wait for each other.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()
}

/// `tensor · factor`.
pub(crate) fn scale<const D: usize>(tensor: Tensor<D>, factor: f32) -> Tensor<D> {
    let mut tensor = open(tensor);
    let chunks = tensor.storage_mut::<f32>().chunks_mut(CHUNK).collect();
    for_each(chunks, |chunk: &mut [f32]| {
        chunk.iter_mut().for_each(|value| *value *= factor)
    });
    close(tensor)
}

/// A single task runs at once: waking a thread costs more than a small tensor.
fn for_each<T: Send>(tasks: Vec<T>, f: impl Fn(T) + Send + Sync) {
    if tasks.len() > 1 {
        tasks.into_par_iter().for_each(f);
    } else {
        tasks.into_iter().for_each(f);
    }
}

/// The buffer of a tensor that this module [`holds`], without gaps.
fn open<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    match tensor.into_dispatch() {
        DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Float(tensor)),
            ..
        } => tensor.to_contiguous(),
        other => unreachable!("not a plain f32 tensor in host memory: {:?}", other.autodiff),
    }
}

fn open_int(tensor: Tensor<1, Int>) -> IntTensor<Flex> {
    match tensor.into_dispatch() {
        DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Int(tensor)),
            ..
        } => tensor.to_contiguous(),
        other => unreachable!("no integers in host memory: {:?}", other.autodiff),
    }
}

fn close<const D: usize>(tensor: FloatTensor<Flex>) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}
