//! [`lora_linear`](crate::lora_linear) over a matrix in codes: the linear layer of QLoRA (<https://arxiv.org/abs/2305.14314>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
use crate::dropout::Mask;
use crate::frozen_matmul::{FrozenOps, buffers};
use crate::lora_linear::factors::{FactorGradients, factors, rounds_beside};
use crate::lora_linear::{LoraOps, add, update_input, widened};
use crate::output::Output;
use crate::packed::{Form, Packed, ScaleCodes};
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// `x·Wᵀ + scale·(dropout(x)·Aᵀ)·Bᵀ`: x `[.., in]`, w `[out, in]` in codes, a `[r, in]`, b `[out, r]` -> `[.., out]`.
/// `dropout` is a probability and a seed, as in [`crate::dropout`]; the output may be [unread](Output::Unread).
///
/// On the CPU both products are one pass, in which the codes are decoded a tile at a time. Kept for backward: `x`, `x·Aᵀ` and
/// the packed buffers; no dense copy of `w`. 16-bit `x` is treated as in [`lora_linear`](crate::lora_linear).
///
/// # Panics
/// If shapes do not fit.
pub fn frozen_lora<const D: usize>(
    x: Tensor<D>,
    w: &Packed,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
    dropout: Option<(f64, u64)>,
    output: Output,
) -> Tensor<D> {
    let ([rank, a_in], [b_out, b_rank], Form { rows, cols, .. }) = (a.dims(), b.dims(), w.form);
    assert!(
        x.dims()[D - 1] == cols && a_in == cols && b_out == rows && b_rank == rank,
        "frozen_lora: x {:?}, w [{rows}, {cols}] [out, in], a {:?} [r, in], b {:?} [out, r]",
        x.dims(),
        a.dims(),
        b.dims()
    );
    let (words, scales, codes) = buffers(w);
    let rounds = rounds_beside(&x);
    let [x, a, b] = [x.into_dispatch(), a.into_dispatch(), b.into_dispatch()];
    let drop = dropout.and_then(|(p, seed)| Mask::new(p, seed));
    Tensor::from_dispatch(<Dispatch as FrozenLoraOps>::frozen_lora(
        x, words, scales, codes, w.form, a, b, scale, rounds, drop, output,
    ))
}

/// The backend operations of [`frozen_lora`].
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait FrozenLoraOps: FrozenOps + LoraOps {
    /// x `[.., in]`, a `[r, in]`, b `[out, r]` -> `[.., out]`, or zeros; dropout before `a`. The factors are rounded to a type first where one is given.
    #[fusion(default)]
    fn frozen_lora(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        rounds: Option<DType>,
        drop: Option<Mask>,
        output: Output,
    ) -> FloatTensor<Self> {
        let (a, b) = factors::<Self>(a, b, rounds);
        output.of::<Self>(x, form.rows, |x| {
            let t = Self::project(update_input::<Self>(x.clone(), a.dtype(), drop), a);
            Self::frozen_lora_combine(x, words, scales, codes, form, t, b, scale)
        })
    }

    /// `x·Wᵀ + scale·t·Bᵀ`: t `[.., r]`.
    #[fusion(default)]
    fn frozen_lora_combine(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let base = Self::frozen_project(x, words, scales, codes, form);
        Self::add_low_rank(base, t, b, scale)
    }

    /// Gradient to x, `dy·W + scale·u·A`: dy `[.., out]`, u = dy·B `[.., r]` -> `[.., in]`.
    #[fusion(default)]
    fn frozen_lora_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
        u: FloatTensor<Self>,
        a: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let base = Self::frozen_input_gradient(dy, words, scales, codes, form);
        Self::add_low_rank(base, u, Val::<Self>(a).t().0, scale)
    }
}

#[cfg(feature = "gpu")]
impl FrozenLoraOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl FrozenLoraOps for burn::backend::Flex {
    fn frozen_lora_combine(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        t: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&x]) || !crate::linear::fused(&t, &b) {
            let w = Self::frozen_unpack(words, scales, codes, form, x.dtype());
            return Self::lora_combine(x, w, t, b, scale);
        }
        let t = cpu::flex::contiguous(t);
        cpu::codes::with_view(words, scales, codes, form, |w| {
            cpu::frozen::forward(w, x, Some((&t, &b, scale as f32)))
        })
    }

    fn frozen_lora_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        u: FloatTensor<Self>,
        a: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&dy]) || !crate::linear::fused(&u, &a) {
            let w = Self::frozen_unpack(words, scales, codes, form, dy.dtype());
            return Self::lora_input_gradient(dy, w, u, a, scale);
        }
        let u = cpu::flex::contiguous(u);
        cpu::codes::with_view(words, scales, codes, form, |w| {
            cpu::frozen::input_gradient(w, dy, Some((&u, &a, scale as f32)))
        })
    }
}

impl<B: FrozenLoraOps, C: CheckpointStrategy> FrozenLoraOps for Autodiff<B, C> {
    fn frozen_lora(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        rounds: Option<DType>,
        drop: Option<Mask>,
        output: Output,
    ) -> FloatTensor<Self> {
        let [x_tracked, a_tracked, b_tracked] = [&x, &a, &b].map(|t| t.is_tracked());
        let gradients = FactorGradients {
            dtypes: [a.dtype(), b.dtype()],
            scale,
            rounds,
        };
        let (scales, codes) = (scales.into_primitive(), codes.inner());
        let ((x, x_node), (a, a_node), (b, b_node)) = (x.into_parts(), a.into_parts(), b.into_parts());
        let (a, b) = factors::<B>(a, b, rounds);
        match FrozenLora
            .prepare::<C>([x_node, a_node, b_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let t = B::project(update_input::<B>(x.clone(), a.dtype(), drop), a.clone());
                let kept = Kept {
                    x: a_tracked.then(|| x.clone()),
                    t: b_tracked.then(|| t.clone()),
                    base: x_tracked.then(|| (words.clone(), scales.clone(), codes.clone())),
                    form,
                    a: x_tracked.then_some(a),
                    b: (x_tracked || a_tracked).then(|| b.clone()),
                    gradients,
                    drop,
                };
                let y = output.of::<B>(x, form.rows, |x| {
                    B::frozen_lora_combine(x, words, scales, codes, form, t, b, scale)
                });
                prep.finish(kept, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_lora(
                x, words, scales, codes, form, a, b, scale, rounds, drop, output,
            )),
        }
    }

    fn frozen_lora_combine(
        _x: FloatTensor<Self>,
        _words: IntTensor<Self>,
        _scales: FloatTensor<Self>,
        _codes: ScaleCodes<Self>,
        _form: Form,
        _t: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _scale: f64,
    ) -> FloatTensor<Self> {
        once("frozen_lora")
    }

    fn frozen_lora_input_gradient(
        _dy: FloatTensor<Self>,
        _words: IntTensor<Self>,
        _scales: FloatTensor<Self>,
        _codes: ScaleCodes<Self>,
        _form: Form,
        _u: FloatTensor<Self>,
        _a: FloatTensor<Self>,
        _scale: f64,
    ) -> FloatTensor<Self> {
        once("frozen_lora")
    }
}

#[derive(Debug)]
struct FrozenLora;

/// What backward needs, and only that: `None` where no tracked input asks for it.
#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    x: Option<FloatTensor<B>>,
    t: Option<FloatTensor<B>>,
    /// Codes, scales and the scales' codes.
    base: Option<(IntTensor<B>, FloatTensor<B>, ScaleCodes<B>)>,
    form: Form,
    a: Option<FloatTensor<B>>,
    b: Option<FloatTensor<B>>,
    gradients: FactorGradients,
    drop: Option<Mask>,
}

impl<B: FrozenLoraOps> Backward<B, 3> for FrozenLora {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, a_node, b_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let kept = ops.state;
        let gradients = kept.gradients;
        let (computed, by) = (gradients.computed(), gradients.product_scale());
        let wide = widened::<B>(dy.clone(), computed);
        let to_b = b_node.zip(kept.t).map(|(node, t)| {
            let db = B::project_weight_gradient(wide.clone(), t, by);
            (node.id, db)
        });
        let Some(b) = kept.b else {
            gradients.register::<B>(grads, None, to_b);
            return;
        };
        let u = B::project_input_gradient(wide, b); // [.., r]
        let to_a = a_node.zip(kept.x).map(|(node, x)| {
            let x = update_input::<B>(x, computed, kept.drop);
            (node.id, B::project_weight_gradient(u.clone(), x, by))
        });
        gradients.register::<B>(grads, to_a, to_b);
        let (Some(node), Some((words, scales, codes)), Some(a)) = (x_node, kept.base, kept.a) else {
            return;
        };
        let dx = match kept.drop {
            None => B::frozen_lora_input_gradient(dy, words, scales, codes, kept.form, u, a, gradients.scale),
            Some(mask) => {
                let low = B::drop_hashed(B::project_input_gradient(u, a), mask);
                add::<B>(
                    B::frozen_input_gradient(dy, words, scales, codes, kept.form),
                    low,
                    gradients.scale,
                )
            }
        };
        grads.register::<B>(node.id, dx);
    }
}
