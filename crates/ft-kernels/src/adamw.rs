//! One update of AdamW (<https://arxiv.org/abs/1711.05101>) in one pass over a parameter and what is kept of it.
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::Val;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

mod many;
pub use many::{ManyAdamW, UpdatedAdamW};

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// `1 - lr·λ`
    pub keep: f64,
    /// `1 - β₁`
    pub toward: f64,
    /// β₂
    pub beta2: f64,
    /// `lr / (1 - β₁ᵗ)`
    pub step_size: f64,
    /// `1 / √(1 - β₂ᵗ)`
    pub lift: f64,
    /// ε
    pub eps: f64,
}

/// The new parameter and its new moments, which are f32; all of one shape.
///
/// ```text
/// m ← m + (1 - β₁)(g - m)      v ← β₂·v + (1 - β₂)·g²      p ← p·keep - step_size · m / (√v·lift + ε)
/// ```
///
/// Computed in f32; a parameter of another type is rounded back. What nothing else holds is written in place on graphics cards.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    [m, v]: [Tensor<D>; 2],
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    assert!(
        [&grad, &m, &v].iter().all(|x| x.dims() == param.dims()) && m.dtype() == DType::F32 && v.dtype() == DType::F32,
        "adamw: param {:?}, grad {:?}, moments {:?} and {:?} f32",
        param.dims(),
        grad.dims(),
        m.dims(),
        v.dims()
    );
    let [param, grad, m, v] = [param, grad, m, v].map(Tensor::into_dispatch);
    let (param, m, v) = <Dispatch as AdamWOps>::adamw_step(param, grad, m, v, step);
    (Tensor::from_dispatch(param), [m, v].map(Tensor::from_dispatch))
}

/// The backend operation of [`adamw`], of plain tensors.
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Fusion: cfg(feature = "gpu"))]
pub trait AdamWOps: Backend {
    /// The new parameter and moments.
    #[fusion(meta = |param, _grad, m, v, _step| (param.clone(), m.clone(), v.clone()))]
    fn adamw_step(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(param, grad, m, v, step)
    }
}

/// A composition of Burn's operations, right on every backend and type.
fn portable<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    m: FloatTensor<B>,
    v: FloatTensor<B>,
    step: AdamWStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = param.dtype();
    let [param, grad] = [param, grad].map(|x| Val::<B>(x).cast(DType::F32));
    let (m, v) = (Val::<B>(m), Val::<B>(v));
    let m = m.clone() + (grad.clone() - m).scale(step.toward);
    let v = v.scale(step.beta2) + grad.square().scale(1.0 - step.beta2);
    let root = Val::<B>(B::float_sqrt(v.0.clone()));
    let change = (m.clone() / root.scale(step.lift).shift(step.eps)).scale(step.step_size);
    ((param.scale(step.keep) - change).cast(dtype).0, m.0, v.0)
}

#[cfg(feature = "gpu")]
impl AdamWOps for burn_cubecl::CubeBackend {
    fn adamw_step(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if param.shape().num_elements() == 0 || !cube::rows_fit([&param, &grad, &m, &v]) {
            return portable::<Self>(param, grad, m, v, step);
        }
        let mut all = cube::adamw(vec![([param, grad, m, v], step)]);
        let [param, m, v] = all.pop().expect("one for one");
        (param, m, v)
    }
}

#[cfg(feature = "flex")]
impl AdamWOps for burn::backend::Flex {}
