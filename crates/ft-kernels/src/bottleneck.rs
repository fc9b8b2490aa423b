//! A bottleneck adapter on a residual stream (Houlsby et al. 2019, <https://arxiv.org/abs/1902.00751>).
#[cfg(feature = "flex")]
use crate::cpu;
use crate::dropout::{DropoutOps, Mask};
use crate::gelu::GeluOps;
use crate::linear::LinearOps;
use crate::portable::{Val, once};
use crate::rms_norm::row;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, backend_extension};
use burn::tensor::Tensor;

mod activation;
#[cfg(all(test, feature = "flex"))]
mod tests;

pub use activation::NonLinearity;

/// `base + drop(scale · (a(x·Wdᵀ + bd)·Wuᵀ + bu))`: x and base `[.., hidden]`, Wd `[width, hidden]`, bd `[width]`, Wu
/// `[hidden, width]`, bu `[hidden]` -> `[.., hidden]`, all of one type. `drop` is probability and seed, as in
/// [`crate::dropout`].
///
/// The last product is accumulated into `base`, and the gradient of the first into that of `base` where `x` is the same
/// tensor. Kept for backward: `x`, and the inside of the bottleneck before its activation.
pub fn bottleneck<const D: usize>(
    x: Tensor<D>,
    base: Tensor<D>,
    [down, up]: [Tensor<2>; 2],
    [down_bias, up_bias]: [Tensor<1>; 2],
    non_linearity: NonLinearity,
    scale: f64,
    drop: Option<(f64, u64)>,
) -> Tensor<D> {
    let [width, hidden] = down.dims();
    assert!(
        x.dims() == base.dims()
            && x.dims()[D - 1] == hidden
            && up.dims() == [hidden, width]
            && down_bias.dims() == [width]
            && up_bias.dims() == [hidden],
        "bottleneck: x {:?}, base {:?}, down {:?} [width, hidden], up {:?} [hidden, width]",
        x.dims(),
        base.dims(),
        down.dims(),
        up.dims()
    );
    let form = Form {
        non_linearity,
        scale,
        drop: drop.and_then(|(p, seed)| Mask::new(p, seed)),
    };
    Tensor::from_dispatch(<Dispatch as BottleneckOps>::bottleneck(
        x.into_dispatch(),
        base.into_dispatch(),
        down.into_dispatch(),
        down_bias.into_dispatch(),
        up.into_dispatch(),
        up_bias.into_dispatch(),
        form,
    ))
}

/// What is no tensor of [`bottleneck`].
#[derive(Debug, Clone, Copy)]
pub struct Form {
    non_linearity: NonLinearity,
    scale: f64,
    drop: Option<Mask>,
}

/// The backend operations of [`bottleneck`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait BottleneckOps: LinearOps + DropoutOps + GeluOps {
    /// The whole of it.
    #[fusion(default)]
    fn bottleneck(
        x: FloatTensor<Self>,
        base: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let inner = inner::<Self>(x, down, down_bias);
        let active = activation::apply::<Self>(form.non_linearity, inner);
        Self::bottleneck_join(base, active, up, up_bias, form)
    }

    /// `base + drop(scale · (active·Wuᵀ + bu))`: active `[.., width]`.
    #[fusion(default)]
    fn bottleneck_join(
        base: FloatTensor<Self>,
        active: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        join::<Self>(base, active, up, up_bias, form)
    }

    /// `dy + dz·Wd`: dz `[.., width]`.
    #[fusion(default)]
    fn bottleneck_input_gradient(
        dy: FloatTensor<Self>,
        dz: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        (Val::<Self>(dy) + Val(Self::project_input_gradient(dz, down))).0
    }
}

/// `x·Wdᵀ + bd`.
fn inner<B: BottleneckOps>(x: FloatTensor<B>, down: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let product = Val::<B>(B::project(x, down));
    let bias = row(bias, &product);
    (product + bias).0
}

/// A composition of Burn's operations, right on every backend and type.
fn join<B: BottleneckOps>(
    base: FloatTensor<B>,
    active: FloatTensor<B>,
    up: FloatTensor<B>,
    up_bias: FloatTensor<B>,
    form: Form,
) -> FloatTensor<B> {
    let product = Val::<B>(B::project(active, up));
    let bias = row(up_bias, &product);
    let branch = (product + bias).scale(form.scale).0;
    let branch = match form.drop {
        None => branch,
        Some(mask) => B::drop_hashed(branch, mask),
    };
    (Val::<B>(base) + Val(branch)).0
}

#[cfg(feature = "gpu")]
impl BottleneckOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl BottleneckOps for burn::backend::Flex {
    fn bottleneck_join(
        base: FloatTensor<Self>,
        active: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        if form.drop.is_none() && cpu::flex::all_f32([&base, &up_bias]) && crate::linear::fused(&active, &up) {
            let (active, bias) = (cpu::flex::contiguous(active), cpu::flex::vector(up_bias));
            return cpu::bottleneck::join(base, &active, &up, &bias, form.scale as f32);
        }
        join::<Self>(base, active, up, up_bias, form)
    }

    fn bottleneck_input_gradient(
        dy: FloatTensor<Self>,
        dz: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if cpu::flex::all_f32([&dy]) && crate::linear::fused(&dz, &down) {
            return cpu::bottleneck::input_gradient(dy, &cpu::flex::contiguous(dz), &down);
        }
        (Val::<Self>(dy) + Val(Self::project_input_gradient(dz, down))).0
    }
}

impl<B: BottleneckOps, C: CheckpointStrategy> BottleneckOps for Autodiff<B, C> {
    fn bottleneck(
        x: FloatTensor<Self>,
        base: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let tracked = [&x, &down, &down_bias, &up].map(|t| t.is_tracked());
        let ((x, x_node), (base, base_node)) = (x.into_parts(), base.into_parts());
        let ((down, down_node), (down_bias, down_bias_node)) = (down.into_parts(), down_bias.into_parts());
        let ((up, up_node), (up_bias, up_bias_node)) = (up.into_parts(), up_bias.into_parts());
        let nodes = [x_node, base_node, down_node, down_bias_node, up_node, up_bias_node];
        match Bottleneck.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [x_tracked, down_tracked, down_bias_tracked, up_tracked] = tracked;
                let before_inner = x_tracked || down_tracked || down_bias_tracked;
                let inner = inner::<B>(x.clone(), down.clone(), down_bias);
                let kept = Kept {
                    x: down_tracked.then_some(x),
                    inner: (before_inner || up_tracked).then(|| inner.clone()),
                    down: x_tracked.then_some(down),
                    up: before_inner.then(|| up.clone()),
                    form,
                };
                let active = activation::apply::<B>(form.non_linearity, inner);
                prep.finish(kept, B::bottleneck_join(base, active, up, up_bias, form))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::bottleneck(x, base, down, down_bias, up, up_bias, form)),
        }
    }

    fn bottleneck_join(
        _base: FloatTensor<Self>,
        _active: FloatTensor<Self>,
        _up: FloatTensor<Self>,
        _up_bias: FloatTensor<Self>,
        _form: Form,
    ) -> FloatTensor<Self> {
        once("bottleneck")
    }

    fn bottleneck_input_gradient(
        _dy: FloatTensor<Self>,
        _dz: FloatTensor<Self>,
        _down: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        once("bottleneck")
    }
}

#[derive(Debug)]
struct Bottleneck;

/// What backward needs, and only that: `None` where no tracked input asks for it.
#[derive(Debug, Clone)]
struct Kept<T> {
    x: Option<T>,
    inner: Option<T>,
    down: Option<T>,
    up: Option<T>,
    form: Form,
}

impl<B: BottleneckOps> Backward<B, 6> for Bottleneck {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 6>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, base_node, down_node, down_bias_node, up_node, up_bias_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            x,
            inner,
            down,
            up,
            form,
        } = ops.state;
        let branch = match form.drop {
            None => dy.clone(),
            Some(mask) => B::drop_hashed(dy.clone(), mask),
        };
        if let Some(node) = up_bias_node {
            let sum = Val::<B>(branch.clone()).sum_rows().scale(form.scale);
            grads.register::<B>(node.id, sum.0);
        }
        if let (Some(node), Some(inner)) = (up_node, &inner) {
            let active = activation::apply::<B>(form.non_linearity, inner.clone());
            let up = B::project_weight_gradient(branch.clone(), active, form.scale);
            grads.register::<B>(node.id, up);
        }
        let dz = up.zip(inner).map(|(up, inner)| {
            let du = Val::<B>(B::project_input_gradient(branch, up)).scale(form.scale);
            activation::gradient::<B>(form.non_linearity, inner, du.0)
        });
        if let (Some(node), Some(dz)) = (down_bias_node, &dz) {
            grads.register::<B>(node.id, Val::<B>(dz.clone()).sum_rows().0);
        }
        if let (Some(node), Some(dz), Some(x)) = (down_node, &dz, x) {
            grads.register::<B>(node.id, B::project_weight_gradient(dz.clone(), x, 1.0));
        }
        match (x_node, base_node, dz.zip(down)) {
            (Some(x), Some(base), Some((dz, down))) if x.id == base.id => {
                grads.register::<B>(x.id, B::bottleneck_input_gradient(dy, dz, down));
            }
            (x, base, inward) => {
                if let (Some(node), Some((dz, down))) = (x, inward) {
                    grads.register::<B>(node.id, B::project_input_gradient(dz, down));
                }
                if let Some(node) = base {
                    grads.register::<B>(node.id, dy);
                }
            }
        }
    }
}
