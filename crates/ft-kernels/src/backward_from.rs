//! The start of a backward pass at a tensor whose gradient is known.
#[cfg(all(test, feature = "flex"))]
mod tests;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Gradients, Shape, Tensor};

/// Gradients of whatever `output` came from, where the gradient to `output` is `gradient`, of the same shape and type, on the
/// plain device or the autodiff one. The values of `output` are not read.
///
/// # Panics
/// If the shapes differ.
pub fn backward_from<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Gradients {
    assert_eq!(output.dims(), gradient.dims(), "backward_from: output and gradient");
    let root = <Dispatch as StartOps>::start(
        output.into_dispatch(),
        gradient.without_autodiff().autodiff().into_dispatch(),
    );
    Tensor::<1>::from_dispatch(root).backward()
}

/// The backend operations of [`backward_from`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait StartOps: Backend {
    /// `[1]`, a zero. With autodiff, the root of a backward pass that starts with `gradient` at `output`.
    #[fusion(default)]
    fn start(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = FloatDType::from(gradient.dtype());
        Self::float_zeros(Shape::from([1]), &output.device(), dtype)
    }
}

#[cfg(feature = "gpu")]
impl StartOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl StartOps for burn::backend::Flex {}

impl<B: StartOps, C: CheckpointStrategy> StartOps for Autodiff<B, C> {
    fn start(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let gradient = gradient.into_primitive();
        let (output, node) = output.into_parts();
        match Start.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient.clone(), B::start(output, gradient)),
            OpsKind::UnTracked(prep) => prep.finish(B::start(output, gradient)),
        }
    }
}

#[derive(Debug)]
struct Start;

impl<B: Backend> Backward<B, 1> for Start {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut burn::backend::autodiff::grads::Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        // The root's own gradient is one.
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}
