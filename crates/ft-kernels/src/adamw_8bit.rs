//! One update of AdamW with both moments in 8 bits (<https://arxiv.org/abs/2110.02861>) in one pass, on graphics cards.
use crate::many::{beside, on_card};
#[cfg(feature = "gpu")]
use crate::{
    cube,
    list::{Floats, Ints},
};
use burn::backend::Dispatch;
use burn::backend::tensor::{FloatTensor, IntTensor};
#[cfg(feature = "gpu")]
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Int, Tensor};

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 256;

/// What codes stand for.
#[derive(Debug, Clone, Copy)]
pub struct CodeMap {
    /// Ascending.
    pub values: &'static [f32; 256],
    /// Between neighbours: what is above `middles[i]` is nearer to `values[i + 1]`.
    pub middles: &'static [f32; 255],
    /// The code of 0.
    pub zero: u8,
}

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW8bitStep {
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// `lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ)`
    pub step_size: f64,
    /// `√(1 - β₂ᵗ)·ε`
    pub eps: f64,
    /// `1 - lr·λ`
    pub keep: f64,
}

/// A parameter of any shape, and what is kept of its moments by blocks of 256 numbers.
#[derive(Debug, Clone)]
pub struct Coded8bit<const D: usize> {
    /// The parameter.
    pub param: Tensor<D>,
    /// `[blocks · 64]` u32 each: four codes to a word, the first in the lowest bits; the last block is whole.
    pub codes: [Tensor<1, Int>; 2],
    /// `[blocks]` f32 each.
    pub absmax: [Tensor<1>; 2],
}

/// The update of `AdamW8bit` in `ft-optim`, which says what it computes, of parameters of any shapes on one graphics card, in few
/// launches.
#[derive(Debug)]
pub struct ManyAdamW8bit {
    params: Vec<FloatTensor<Dispatch>>,
    grads: Vec<FloatTensor<Dispatch>>,
    codes: [Vec<IntTensor<Dispatch>>; 2],
    absmax: [Vec<FloatTensor<Dispatch>>; 2],
    maps: [CodeMap; 2],
    steps: Vec<AdamW8bitStep>,
}

impl ManyAdamW8bit {
    /// None yet; `maps` are those of both moments.
    pub fn new(maps: [CodeMap; 2]) -> Self {
        Self {
            params: vec![],
            grads: vec![],
            codes: [vec![], vec![]],
            absmax: [vec![], vec![]],
            maps,
            steps: vec![],
        }
    }

    /// Whether [`push`](Self::push) takes a parameter of this type with such a gradient: on the same graphics card as the others, both
    /// in f32, f16 or bf16, with any numbers at all.
    pub fn takes<const D: usize>(&self, param: DType, grad: &Tensor<D>) -> bool {
        matches!(param, DType::F32 | DType::F16 | DType::BF16) && on_card(grad) && beside(&self.grads, grad)
    }

    /// One more.
    pub fn push<const D: usize>(&mut self, before: Coded8bit<D>, grad: Tensor<D>, step: AdamW8bitStep) {
        let blocks = grad.shape().num_elements().div_ceil(BLOCK);
        let stored = before
            .codes
            .iter()
            .all(|x| x.dims() == [blocks * BLOCK / 4] && x.dtype() == DType::U32)
            && before
                .absmax
                .iter()
                .all(|x| x.dims() == [blocks] && x.dtype() == DType::F32);
        assert!(
            before.param.dims() == grad.dims() && stored,
            "adamw_8bit: {before:?}, gradient {:?}",
            grad.dims()
        );
        self.params.push(before.param.into_dispatch());
        self.grads.push(grad.into_dispatch());
        for (all, one) in self.codes.iter_mut().zip(before.codes) {
            all.push(one.into_dispatch());
        }
        for (all, one) in self.absmax.iter_mut().zip(before.absmax) {
            all.push(one.into_dispatch());
        }
        self.steps.push(step);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Each updated. What nothing else holds is written in place.
    pub fn update(self) -> Updated8bit {
        #[cfg(feature = "gpu")]
        if !self.is_empty() {
            let ([code1, code2], [absmax1, absmax2]) = (self.codes.map(Ints), self.absmax.map(Floats));
            let (Floats(params), Ints(code1), Ints(code2), Floats(absmax1), Floats(absmax2)) =
                <Dispatch as AdamW8bitOps>::adamw_8bit_steps(
                    Floats(self.params),
                    Floats(self.grads),
                    code1,
                    code2,
                    absmax1,
                    absmax2,
                    self.maps,
                    self.steps,
                );
            return Updated8bit {
                params: params.into_iter(),
                codes: [code1, code2].map(Vec::into_iter),
                absmax: [absmax1, absmax2].map(Vec::into_iter),
            };
        }
        let _ = self.maps;
        Updated8bit {
            params: self.params.into_iter(),
            codes: self.codes.map(Vec::into_iter),
            absmax: self.absmax.map(Vec::into_iter),
        }
    }
}

/// What [`ManyAdamW8bit::update`] gives, in the order in which it was pushed.
#[derive(Debug)]
pub struct Updated8bit {
    params: std::vec::IntoIter<FloatTensor<Dispatch>>,
    codes: [std::vec::IntoIter<IntTensor<Dispatch>>; 2],
    absmax: [std::vec::IntoIter<FloatTensor<Dispatch>>; 2],
}

impl Updated8bit {
    /// The next one, which was pushed with `D` dimensions.
    pub fn take<const D: usize>(&mut self) -> Option<Coded8bit<D>> {
        let [code1, code2] = self.codes.each_mut().map(|all| all.next().map(Tensor::from_dispatch));
        let [absmax1, absmax2] = self.absmax.each_mut().map(|all| all.next().map(Tensor::from_dispatch));
        Some(Coded8bit {
            param: Tensor::from_dispatch(self.params.next()?),
            codes: [code1?, code2?],
            absmax: [absmax1?, absmax2?],
        })
    }
}

/// The backend operation of [`ManyAdamW8bit`].
#[cfg(feature = "gpu")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
#[backend_extension(Cube, Fusion)]
pub trait AdamW8bitOps: Backend {
    /// The new parameters, codes and scales.
    #[fusion(meta = |params, _grads, code1, code2, absmax1, absmax2, _maps, _steps| {
        (params.clone(), code1.clone(), code2.clone(), absmax1.clone(), absmax2.clone())
    })]
    fn adamw_8bit_steps(
        #[extension_type] params: Floats<Self>,
        #[extension_type] grads: Floats<Self>,
        #[extension_type] code1: Ints<Self>,
        #[extension_type] code2: Ints<Self>,
        #[extension_type] absmax1: Floats<Self>,
        #[extension_type] absmax2: Floats<Self>,
        maps: [CodeMap; 2],
        steps: Vec<AdamW8bitStep>,
    ) -> (Floats<Self>, Ints<Self>, Ints<Self>, Floats<Self>, Floats<Self>);
}

#[cfg(feature = "gpu")]
impl AdamW8bitOps for burn_cubecl::CubeBackend {
    fn adamw_8bit_steps(
        params: Floats<Self>,
        grads: Floats<Self>,
        code1: Ints<Self>,
        code2: Ints<Self>,
        absmax1: Floats<Self>,
        absmax2: Floats<Self>,
        maps: [CodeMap; 2],
        steps: Vec<AdamW8bitStep>,
    ) -> (Floats<Self>, Ints<Self>, Ints<Self>, Floats<Self>, Floats<Self>) {
        let mut lists = [params.0, grads.0, code1.0, code2.0, absmax1.0, absmax2.0].map(Vec::into_iter);
        let rows = steps.into_iter().map(|step| {
            let row = lists
                .each_mut()
                .map(|list| list.next().expect("as many as the updates"));
            (row, step)
        });
        let mut out = [(); 5].map(|()| vec![]);
        for row in cube::adamw_8bit(rows.collect(), maps) {
            for (all, one) in out.iter_mut().zip(row) {
                all.push(one);
            }
        }
        let [params, code1, code2, absmax1, absmax2] = out;
        (
            Floats(params),
            Ints(code1),
            Ints(code2),
            Floats(absmax1),
            Floats(absmax2),
        )
    }
}
