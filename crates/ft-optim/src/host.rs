//! Fused passes over plain f32 tensors in host memory (Burn's flex backend): one read and one write per buffer,
//! shared among the threads, in place when nothing else holds the buffer.
//!
//! Work is cut into chunks of a fixed size and partial sums are added in order, so that results do not depend on the
//! number of threads.

use burn::backend::tensor::FloatTensor;
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{DType, Device, Tensor};
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

fn close<const D: usize>(tensor: FloatTensor<Flex>) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}
