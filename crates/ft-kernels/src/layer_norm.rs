//! LayerNorm over the last dimension (<https://arxiv.org/abs/1607.06450>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// `(x - mean) / sqrt(var + eps) · weight + bias`: x `[.., d]`, weight and bias `[d]`, computed in f32 (f64 for f64).
///
/// Kept for backward: `x`. Frozen weight and bias get no gradient.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    let d = x.dims()[D - 1];
    assert!(
        weight.dims() == [d] && bias.dims() == [d],
        "layer_norm: x {:?}, weight {:?}, bias {:?}",
        x.dims(),
        weight.dims(),
        bias.dims()
    );
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as LayerNormOps>::standardize(x, weight, bias, eps))
}

/// Gradients to x, and to weight and bias if they were asked for.
type Gradients3<T> = (T, Option<T>, Option<T>);

/// The backend operations of [`layer_norm`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait LayerNormOps: Backend {
    /// x `[.., d]`, weight and bias `[d]` -> `[.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn standardize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        portable::forward::<Self>(x, weight, bias, eps)
    }

    /// Gradients to x and, if asked for, to weight and bias (in the type of x, at least f32).
    #[fusion(default)]
    fn standardize_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
        affine_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        if !affine_too {
            return (Self::standardize_gradient(x, weight, dy, eps), None, None);
        }
        let (dx, affine) = Self::standardize_all_gradients(x, weight, dy, eps);
        let row = |i| {
            let row = Val::<Self>(affine.clone()).narrow(0, i, 1);
            let d = row.dims()[1];
            Some(row.reshape(&[d]).0)
        };
        (dx, row(0), row(1))
    }

    /// Gradient to x alone.
    #[fusion(dtype = x, shape = x)]
    fn standardize_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        portable::backward::<Self>(x, weight, dy, eps, false).0
    }

    /// Gradient to x, and those to weight and bias, `[2, d]`, at least f32.
    #[fusion(meta = |x, weight, _dy, _eps| (x.clone(), crate::portable::widened_pair(weight, x)))]
    fn standardize_all_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::all::<Self>(x, weight, dy, eps)
    }
}

/// Compositions of Burn's operations, right on every backend and type.
mod portable {
    use super::Gradients3;
    use crate::portable::Val;
    use crate::rms_norm::row;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, TensorMetadata};

    pub(super) fn forward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
        eps: f64,
    ) -> FloatTensor<B> {
        let dtype = x.dtype();
        let x = Val::<B>(x).wide();
        let (weight, bias) = (row(weight, &x), row(bias, &x));
        let (unit, _) = unit(x, eps);
        (unit * weight + bias).cast(dtype).0
    }

    pub(super) fn backward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        dy: FloatTensor<B>,
        eps: f64,
        affine_too: bool,
    ) -> Gradients3<FloatTensor<B>> {
        let dtype = x.dtype();
        let (x, dy) = (Val::<B>(x).wide(), Val::<B>(dy).wide());
        let weight = row(weight, &x);
        let (unit, r) = unit(x, eps);
        let dw = affine_too.then(|| (dy.clone() * unit.clone()).sum_rows().0);
        let db = affine_too.then(|| dy.clone().sum_rows().0);
        let g = dy * weight;
        let along = (g.clone() * unit.clone()).mean_last();
        let shift = g.clone().mean_last();
        (((g - shift - unit * along) * r).cast(dtype).0, dw, db)
    }

    /// [`backward`] with weight and bias, whose gradients are one tensor `[2, d]`.
    pub(super) fn all<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        dy: FloatTensor<B>,
        eps: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (dx, dw, db) = backward::<B>(x, weight, dy, eps, true);
        let rows = [dw, db].map(|row| {
            let row = Val::<B>(row.expect("asked for"));
            let d = row.dims()[0];
            row.reshape(&[1, d])
        });
        (dx, Val::cat(rows.into(), 0).0)
    }

    /// The standardized rows and their reciprocal deviations.
    fn unit<B: Backend>(x: Val<B>, eps: f64) -> (Val<B>, Val<B>) {
        let centered = x.clone() - x.mean_last();
        let r = centered.clone().square().mean_last().shift(eps).rsqrt();
        (centered * r.clone(), r)
    }
}

#[cfg(feature = "gpu")]
impl LayerNormOps for burn_cubecl::CubeBackend {
    fn standardize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        match cube::rows_fit([&x, &weight, &bias]) {
            true => cube::norm(x, weight, Some(bias), eps),
            false => portable::forward::<Self>(x, weight, bias, eps),
        }
    }

    fn standardize_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        match cube::rows_fit([&x, &weight, &dy]) {
            true => cube::norm_gradients(x, weight, dy, None, eps, true, false).0,
            false => portable::backward::<Self>(x, weight, dy, eps, false).0,
        }
    }

    fn standardize_all_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !cube::rows_fit([&x, &weight, &dy]) {
            return portable::all::<Self>(x, weight, dy, eps);
        }
        let (dx, affine) = cube::norm_gradients(x, weight, dy, None, eps, true, true);
        (dx, affine.expect("asked for"))
    }
}

#[cfg(feature = "flex")]
impl LayerNormOps for burn::backend::Flex {
    fn standardize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&x]) {
            return portable::forward::<Self>(x, weight, bias, eps);
        }
        cpu::norm::layer(x, &cpu::flex::vector(weight), &cpu::flex::vector(bias), eps as f32)
    }

    fn standardize_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
        affine_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        if !cpu::flex::all_f32([&x, &dy]) {
            return portable::backward::<Self>(x, weight, dy, eps, affine_too);
        }
        let (dx, affine) = cpu::norm::layer_backward(x, &cpu::flex::vector(weight), dy, eps as f32, affine_too);
        let (dw, db) = affine.unzip();
        (dx, dw, db)
    }
}

impl<B: LayerNormOps, C: CheckpointStrategy> LayerNormOps for Autodiff<B, C> {
    fn standardize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let affine_too = weight.is_tracked() || bias.is_tracked();
        let dtypes = [weight.dtype(), bias.dtype()];
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        match LayerNorm
            .prepare::<C>([x_node, weight_node, bias_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    x: x.clone(),
                    weight: weight.clone(),
                    eps,
                    affine_too,
                    dtypes,
                };
                prep.finish(kept, B::standardize(x, weight, bias, eps))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::standardize(x, weight, bias, eps)),
        }
    }

    fn standardize_gradients(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
        _eps: f64,
        _affine_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        once("layer_norm")
    }
}

#[derive(Debug)]
struct LayerNorm;

#[derive(Debug, Clone)]
struct Kept<T> {
    x: T,
    weight: T,
    eps: f64,
    affine_too: bool,
    dtypes: [DType; 2],
}

impl<B: LayerNormOps> Backward<B, 3> for LayerNorm {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            x,
            weight,
            eps,
            affine_too,
            dtypes,
        } = ops.state;
        let (dx, dw, db) = B::standardize_gradients(x, weight, dy, eps, affine_too);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        for (node, gradient, dtype) in [(weight_node, dw, dtypes[0]), (bias_node, db, dtypes[1])] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, Val::<B>(gradient).cast(dtype).0);
            }
        }
    }
}
