//! Rotary position embedding in the rotate-half form of Llama (<https://arxiv.org/abs/2104.09864>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
#[cfg(any(feature = "flex", feature = "gpu"))]
use burn::tensor::DType;
use burn::tensor::Tensor;

/// Rotates the pairs `(x[i], x[i + d/2])` of every head: x `[b, s, h, d]`, cos and sin `[b or 1, s, d/2]`.
///
/// The tables are constants. Kept for backward: the tables; the gradient is the inverse rotation.
pub fn rope(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    check(&x, &cos, &sin);
    let [x, cos, sin] = [x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as RopeOps>::rotate(x, cos, sin, false))
}

pub(crate) fn check(x: &Tensor<4>, cos: &Tensor<3>, sin: &Tensor<3>) {
    let ([b, s, _, d], [table, steps, half]) = (x.dims(), cos.dims());
    assert!(
        (table == b || table == 1) && steps == s && 2 * half == d && cos.dims() == sin.dims(),
        "rope: x {:?}, cos {:?}, sin {:?} [b or 1, s, d/2]",
        x.dims(),
        cos.dims(),
        sin.dims()
    );
}

/// The backend operations of [`rope`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait RopeOps: Backend {
    /// Rotates x `[b, s, h, d]` by the angles of cos and sin `[b or 1, s, d/2]`; the other way round if `inverse`.
    #[fusion(dtype = x, shape = x)]
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        portable::<Self>(x, cos, sin, inverse)
    }

    /// The same with q and k, which differ in their heads.
    #[fusion(meta = |q, k, _cos, _sin, _inverse| (q.clone(), k.clone()))]
    fn rotate_both(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let q = Self::rotate(q, cos.clone(), sin.clone(), inverse);
        (q, Self::rotate(k, cos, sin, inverse))
    }
}

/// A composition of Burn's operations, right on every backend and type.
fn portable<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>, inverse: bool) -> FloatTensor<B> {
    let x = Val::<B>(x);
    let dtype = x.dtype();
    let x = x.wide();
    let (d, wide) = (x.dims()[3], x.dtype());
    let table = |t: FloatTensor<B>| {
        let t = Val::<B>(t).cast(wide);
        let dims = t.dims();
        t.reshape(&[dims[0], dims[1], 1, dims[2]])
    };
    let (cos, sin) = (table(cos), table(sin).scale(if inverse { -1.0 } else { 1.0 }));
    let (left, right) = (x.clone().narrow(3, 0, d / 2), x.narrow(3, d / 2, d / 2));
    let first = left.clone() * cos.clone() - right.clone() * sin.clone();
    let second = right * cos + left * sin;
    Val::cat(vec![first, second], 3).cast(dtype).0
}

#[cfg(feature = "gpu")]
impl RopeOps for burn_cubecl::CubeBackend {
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if !cube::rows_fit([&x]) {
            return portable::<Self>(x, cos, sin, inverse);
        }
        let (cos, sin) = (Val::<Self>(cos).cast(DType::F32).0, Val::<Self>(sin).cast(DType::F32).0);
        cube::rope(x, cos, sin, inverse)
    }

    fn rotate_both(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !cube::alike([&q, &k]) {
            let q = Self::rotate(q, cos.clone(), sin.clone(), inverse);
            return (q, Self::rotate(k, cos, sin, inverse));
        }
        let (cos, sin) = (Val::<Self>(cos).cast(DType::F32).0, Val::<Self>(sin).cast(DType::F32).0);
        cube::rope_both(q, k, cos, sin, inverse)
    }
}

#[cfg(feature = "flex")]
impl RopeOps for burn::backend::Flex {
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&x]) {
            return portable::<Self>(x, cos, sin, inverse);
        }
        let (cos, sin) = (Val::<Self>(cos).cast(DType::F32).0, Val::<Self>(sin).cast(DType::F32).0);
        cpu::rope::rotate(x, cos, sin, inverse)
    }
}

impl<B: RopeOps, C: CheckpointStrategy> RopeOps for Autodiff<B, C> {
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let ((x, node), cos, sin) = (x.into_parts(), cos.into_primitive(), sin.into_primitive());
        match Rope.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((cos.clone(), sin.clone(), !inverse), B::rotate(x, cos, sin, inverse))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rotate(x, cos, sin, inverse)),
        }
    }
}

#[derive(Debug)]
struct Rope;

impl<B: RopeOps> Backward<B, 1> for Rope {
    type State = (FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (cos, sin, inverse) = ops.state;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::rotate(dy, cos, sin, inverse));
        }
    }
}
