//! A linear layer with a low-rank update (LoRA, <https://arxiv.org/abs/2106.09685>).
#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
pub(crate) mod factors;

use crate::dropout::{DropoutOps, Mask};
use crate::linear::LinearOps;
use crate::output::Output;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use factors::{CastOps, FactorGradients, factors, rounds_beside};

/// `x·Wᵀ + scale·(x·Aᵀ)·Bᵀ`: x `[.., in]`, w `[out, in]`, a `[r, in]`, b `[out, r]` -> `[.., out]`.
///
/// The update is accumulated into the output of the frozen product, and its gradient into that of `x`: no pass over
/// `[.., out]` is added. Kept for backward: `x` and `x·Aᵀ`. Where `x` has 16 bits, the output has, too, and the update is
/// computed in the type of `a` and `b`: `x` is kept as it is and widened when it is needed. On graphics cards `a` and `b` are
/// rounded to bf16 where `x` is bf16, and their gradients come in that precision, as in torch's autocast.
pub fn lora_linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<D> {
    lora_linear_for(x, w, a, b, scale, None, Output::Read)
}

/// [`lora_linear`] with [`crate::dropout`], a probability and a seed, on the input of the update:
/// `x·Wᵀ + scale·(dropout(x)·Aᵀ)·Bᵀ`. The output may be [unread](Output::Unread).
///
/// The dropped copy of `x` is not kept: backward makes it again from the seed.
pub fn lora_linear_for<const D: usize>(
    x: Tensor<D>,
    w: Tensor<2>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
    dropout: Option<(f64, u64)>,
    output: Output,
) -> Tensor<D> {
    let ([out, input], [rank, a_in], [b_out, b_rank]) = (w.dims(), a.dims(), b.dims());
    assert!(
        x.dims()[D - 1] == input && a_in == input && b_out == out && b_rank == rank,
        "lora_linear: x {:?}, w {:?} [out, in], a {:?} [r, in], b {:?} [out, r]",
        x.dims(),
        w.dims(),
        a.dims(),
        b.dims()
    );
    let rounds = rounds_beside(&x);
    let [x, w, a, b] = [
        x.into_dispatch(),
        w.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
    ];
    let drop = dropout.and_then(|(p, seed)| Mask::new(p, seed));
    Tensor::from_dispatch(<burn::backend::Dispatch as LoraOps>::lora_linear(
        x, w, a, b, scale, rounds, drop, output,
    ))
}

/// The backend operations of [`lora_linear`].
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait LoraOps: LinearOps + DropoutOps + CastOps {
    /// x `[.., in]`, w `[out, in]`, a `[r, in]`, b `[out, r]` -> `[.., out]`, or zeros; dropout before `a`. The factors are rounded to
    /// a type first where one is given.
    #[fusion(default)]
    fn lora_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        rounds: Option<DType>,
        drop: Option<Mask>,
        output: Output,
    ) -> FloatTensor<Self> {
        let out = w.shape()[0];
        let (a, b) = factors::<Self>(a, b, rounds);
        output.of::<Self>(x, out, |x| {
            let t = Self::project(update_input::<Self>(x.clone(), a.dtype(), drop), a);
            Self::lora_combine(x, w, t, b, scale)
        })
    }

    /// `x·Wᵀ + scale·t·Bᵀ`: t `[.., r]`.
    #[fusion(default)]
    fn lora_combine(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        Self::add_low_rank(Self::project(x, w), t, b, scale)
    }

    /// `base + scale·t·Bᵀ`: base `[.., out]`, t `[.., r]`, b `[out, r]`.
    #[fusion(dtype = base, shape = base)]
    fn add_low_rank(
        base: FloatTensor<Self>,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        add::<Self>(base, Self::project(t, b), scale)
    }

    /// Gradient to x, `dy·W + scale·u·A`: dy `[.., out]`, u = dy·B `[.., r]` -> `[.., in]`.
    #[fusion(default)]
    fn lora_input_gradient(
        dy: FloatTensor<Self>,
        w: FloatTensor<Self>,
        u: FloatTensor<Self>,
        a: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let a = Val::<Self>(a).t().0;
        Self::add_low_rank(Self::project_input_gradient(dy, w), u, a, scale)
    }
}

/// What the update reads, in the type that it is computed in.
pub(crate) fn update_input<B: DropoutOps>(x: FloatTensor<B>, factors: DType, drop: Option<Mask>) -> FloatTensor<B> {
    let x = widened::<B>(x, factors);
    match drop {
        Some(mask) => B::drop_hashed(x, mask),
        None => x,
    }
}

/// 16-bit activations in the type of the factors.
pub(crate) fn widened<B: Backend>(x: FloatTensor<B>, factors: DType) -> FloatTensor<B> {
    match x.dtype() {
        DType::F16 | DType::BF16 => Val::<B>(x).cast(factors).0,
        _ => x,
    }
}

/// `base + scale·update` in the type of `base`.
pub(crate) fn add<B: Backend>(base: FloatTensor<B>, update: FloatTensor<B>, scale: f64) -> FloatTensor<B> {
    let dtype = base.dtype();
    (Val::<B>(base) + Val(update).scale(scale).cast(dtype)).0
}

#[cfg(feature = "gpu")]
impl LoraOps for burn_cubecl::CubeBackend {
    fn add_low_rank(
        base: FloatTensor<Self>,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        match cube::add_low_rank(&base, &t, &b, scale) {
            Some(kernel) => kernel.launch(base, t, b),
            None => add::<Self>(base, Self::project(t, b), scale),
        }
    }
}

#[cfg(feature = "flex")]
impl LoraOps for burn::backend::Flex {
    fn lora_combine(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        if fused(&x, &w, &t, &b) {
            return cpu::linear::forward(x, &w, Some((&cpu::flex::contiguous(t), &b, scale as f32)));
        }
        add::<Self>(Self::project(x, w), Self::project(t, b), scale)
    }

    fn lora_input_gradient(
        dy: FloatTensor<Self>,
        w: FloatTensor<Self>,
        u: FloatTensor<Self>,
        a: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        if fused(&dy, &w, &u, &a) {
            let (dy, u) = (cpu::flex::contiguous(dy), cpu::flex::contiguous(u));
            return cpu::linear::input_gradient(&dy, &w, Some((&u, &a, scale as f32)));
        }
        add::<Self>(
            Self::project_input_gradient(dy, w),
            Self::project_input_gradient(u, a),
            scale,
        )
    }
}

#[cfg(feature = "flex")]
type Flexible = FloatTensor<burn::backend::Flex>;

#[cfg(feature = "flex")]
fn fused(x: &Flexible, w: &Flexible, t: &Flexible, b: &Flexible) -> bool {
    crate::linear::fused(x, w) && crate::linear::fused(t, b)
}

impl<B: LoraOps, C: CheckpointStrategy> LoraOps for Autodiff<B, C> {
    fn lora_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        rounds: Option<DType>,
        drop: Option<Mask>,
        output: Output,
    ) -> FloatTensor<Self> {
        let out = w.shape()[0];
        let tracked = [&x, &w, &a, &b].map(|t| t.is_tracked());
        let w_dtype = w.dtype();
        let gradients = FactorGradients {
            dtypes: [a.dtype(), b.dtype()],
            scale,
            rounds,
        };
        let ((x, x_node), (w, w_node), (a, a_node), (b, b_node)) =
            (x.into_parts(), w.into_parts(), a.into_parts(), b.into_parts());
        let (a, b) = factors::<B>(a, b, rounds);
        match LoraLinear
            .prepare::<C>([x_node, w_node, a_node, b_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let [x_tracked, w_tracked, a_tracked, b_tracked] = tracked;
                let t = B::project(update_input::<B>(x.clone(), a.dtype(), drop), a.clone());
                let kept = Kept {
                    x: (w_tracked || a_tracked).then(|| x.clone()),
                    t: b_tracked.then(|| t.clone()),
                    w: x_tracked.then(|| w.clone()),
                    a: x_tracked.then_some(a),
                    b: (x_tracked || a_tracked).then(|| b.clone()),
                    gradients,
                    drop,
                    w_dtype,
                };
                let y = output.of::<B>(x, out, |x| B::lora_combine(x, w, t, b, scale));
                prep.finish(kept, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::lora_linear(x, w, a, b, scale, rounds, drop, output)),
        }
    }

    fn lora_combine(
        _x: FloatTensor<Self>,
        _w: FloatTensor<Self>,
        _t: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _scale: f64,
    ) -> FloatTensor<Self> {
        once("lora_linear")
    }

    fn lora_input_gradient(
        _dy: FloatTensor<Self>,
        _w: FloatTensor<Self>,
        _u: FloatTensor<Self>,
        _a: FloatTensor<Self>,
        _scale: f64,
    ) -> FloatTensor<Self> {
        once("lora_linear")
    }
}

#[derive(Debug)]
struct LoraLinear;

/// What backward needs, and only that: `None` where no tracked input asks for it.
#[derive(Debug, Clone)]
struct Kept<T> {
    x: Option<T>,
    t: Option<T>,
    w: Option<T>,
    a: Option<T>,
    b: Option<T>,
    gradients: FactorGradients,
    drop: Option<Mask>,
    w_dtype: DType,
}

impl<B: LoraOps> Backward<B, 4> for LoraLinear {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, w_node, a_node, b_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            x,
            t,
            w,
            a,
            b,
            gradients,
            drop,
            w_dtype,
        } = ops.state;
        let (computed, by) = (gradients.computed(), gradients.product_scale());
        if let (Some(node), Some(x)) = (w_node, &x) {
            let dw = B::project_weight_gradient(dy.clone(), x.clone(), 1.0);
            grads.register::<B>(node.id, Val::<B>(dw).cast(w_dtype).0);
        }
        let wide = widened::<B>(dy.clone(), computed);
        let to_b = b_node.zip(t).map(|(node, t)| {
            let db = B::project_weight_gradient(wide.clone(), t, by);
            (node.id, db)
        });
        let Some(b) = b else {
            gradients.register::<B>(grads, None, to_b);
            return;
        };
        let u = B::project_input_gradient(wide, b); // [.., r]
        let to_a = a_node.zip(x).map(|(node, x)| {
            let x = update_input::<B>(x, computed, drop);
            (node.id, B::project_weight_gradient(u.clone(), x, by))
        });
        gradients.register::<B>(grads, to_a, to_b);
        if let (Some(node), Some(w), Some(a)) = (x_node, w, a) {
            grads.register::<B>(node.id, input_gradient::<B>(dy, w, u, a, gradients.scale, drop));
        }
    }
}

/// `dy·W + dropout(scale·u·A)`.
fn input_gradient<B: LoraOps>(
    dy: FloatTensor<B>,
    w: FloatTensor<B>,
    u: FloatTensor<B>,
    a: FloatTensor<B>,
    scale: f64,
    drop: Option<Mask>,
) -> FloatTensor<B> {
    let Some(mask) = drop else {
        return B::lora_input_gradient(dy, w, u, a, scale);
    };
    let low = B::drop_hashed(B::project_input_gradient(u, a), mask);
    add::<B>(B::project_input_gradient(dy, w), low, scale)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
