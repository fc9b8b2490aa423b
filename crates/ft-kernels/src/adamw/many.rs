//! [`adamw`](super::adamw()) over many parameters in few launches, on graphics cards.
use super::AdamWStep;
use crate::many::{beside, on_card};
#[cfg(feature = "gpu")]
use crate::{cube, list::Floats};
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
#[cfg(feature = "gpu")]
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Tensor};

/// Parameters of any shapes on one graphics card, with their gradients and moments.
#[derive(Debug, Default)]
pub struct ManyAdamW {
    params: Vec<FloatTensor<Dispatch>>,
    grads: Vec<FloatTensor<Dispatch>>,
    moments: [Vec<FloatTensor<Dispatch>>; 2],
    steps: Vec<AdamWStep>,
}

impl ManyAdamW {
    /// Whether [`push`](Self::push) takes a parameter of this type with such a gradient: on the same graphics card as the others, both
    /// in f32, f16 or bf16, with any numbers at all.
    pub fn takes<const D: usize>(&self, param: DType, grad: &Tensor<D>) -> bool {
        matches!(param, DType::F32 | DType::F16 | DType::BF16) && on_card(grad) && beside(&self.grads, grad)
    }

    /// One more: what [`adamw`](super::adamw()) takes.
    pub fn push<const D: usize>(
        &mut self,
        param: Tensor<D>,
        grad: Tensor<D>,
        moments: [Tensor<D>; 2],
        step: AdamWStep,
    ) {
        assert!(
            moments
                .iter()
                .all(|x| x.dims() == param.dims() && x.dtype() == DType::F32)
                && grad.dims() == param.dims(),
            "adamw: param {:?}, grad {:?}, moments {moments:?}",
            param.dims(),
            grad.dims()
        );
        self.params.push(param.into_dispatch());
        self.grads.push(grad.into_dispatch());
        for (all, one) in self.moments.iter_mut().zip(moments) {
            all.push(one.into_dispatch());
        }
        self.steps.push(step);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Each updated as [`adamw`](super::adamw()) does, to the bit. What nothing else holds is written in place.
    pub fn update(self) -> UpdatedAdamW {
        #[cfg(feature = "gpu")]
        if !self.is_empty() {
            let [m, v] = self.moments.map(Floats);
            let (Floats(params), Floats(m), Floats(v)) =
                <Dispatch as ManyAdamWOps>::adamw_steps(Floats(self.params), Floats(self.grads), m, v, self.steps);
            return UpdatedAdamW([params, m, v].map(Vec::into_iter));
        }
        let [m, v] = self.moments;
        UpdatedAdamW([self.params, m, v].map(Vec::into_iter))
    }
}

/// What [`ManyAdamW::update`] gives, in the order in which it was pushed.
#[derive(Debug)]
pub struct UpdatedAdamW([std::vec::IntoIter<FloatTensor<Dispatch>>; 3]);

impl UpdatedAdamW {
    /// The next parameter and its moments, which were pushed with `D` dimensions.
    pub fn take<const D: usize>(&mut self) -> Option<(Tensor<D>, [Tensor<D>; 2])> {
        let [param, m, v] = self.0.each_mut().map(|all| all.next().map(Tensor::from_dispatch));
        Some((param?, [m?, v?]))
    }
}

/// The backend operation of [`ManyAdamW`].
#[cfg(feature = "gpu")]
#[backend_extension(Cube, Fusion)]
pub trait ManyAdamWOps: Backend {
    /// The new parameters and moments.
    #[fusion(meta = |params, _grads, m, v, _steps| (params.clone(), m.clone(), v.clone()))]
    fn adamw_steps(
        #[extension_type] params: Floats<Self>,
        #[extension_type] grads: Floats<Self>,
        #[extension_type] m: Floats<Self>,
        #[extension_type] v: Floats<Self>,
        steps: Vec<AdamWStep>,
    ) -> (Floats<Self>, Floats<Self>, Floats<Self>);
}

#[cfg(feature = "gpu")]
impl ManyAdamWOps for burn_cubecl::CubeBackend {
    fn adamw_steps(
        params: Floats<Self>,
        grads: Floats<Self>,
        m: Floats<Self>,
        v: Floats<Self>,
        steps: Vec<AdamWStep>,
    ) -> (Floats<Self>, Floats<Self>, Floats<Self>) {
        let rows = params.0.into_iter().zip(grads.0).zip(m.0).zip(v.0).zip(steps);
        let rows = rows.map(|((((param, grad), m), v), step)| ([param, grad, m, v], step));
        let (mut params, mut first, mut second) = (vec![], vec![], vec![]);
        for [param, m, v] in cube::adamw(rows.collect()) {
            params.push(param);
            first.push(m);
            second.push(v);
        }
        (Floats(params), Floats(first), Floats(second))
    }
}
