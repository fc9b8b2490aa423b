//! One update of AdamW with both moments in 8 bits (<https://arxiv.org/abs/2110.02861>) in one pass, on graphics cards.
#[cfg(feature = "gpu")]
use crate::cube;
#[cfg(feature = "gpu")]
use burn::backend::tensor::{FloatTensor, IntTensor};
#[cfg(feature = "gpu")]
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

/// Numbers that share a scale.
#[cfg(feature = "gpu")]
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
#[derive(Debug, Clone, Copy)]
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

/// The update of `AdamW8bit` in `ft-optim`, which says what it computes; `Err` gives everything back where no kernel takes it.
/// What nothing else holds is written in place.
///
/// # Errors
/// Tensors on the CPU, or of f64.
#[cfg_attr(not(feature = "gpu"), allow(unused_variables))]
#[allow(clippy::result_large_err)]
pub fn adamw_8bit<const D: usize>(
    before: Coded8bit<D>,
    grad: Tensor<D>,
    maps: [CodeMap; 2],
    step: AdamW8bitStep,
) -> Result<Coded8bit<D>, (Coded8bit<D>, Tensor<D>)> {
    #[cfg(feature = "gpu")]
    if fits(&before, &grad) {
        let Coded8bit { param, codes, absmax } = before;
        let [param, grad] = [param, grad].map(Tensor::into_dispatch);
        let ([code1, code2], [absmax1, absmax2]) =
            (codes.map(Tensor::into_dispatch), absmax.map(Tensor::into_dispatch));
        let (param, code1, code2, absmax1, absmax2) =
            <Dispatch as AdamW8bitOps>::adamw_8bit_step(param, grad, code1, code2, absmax1, absmax2, maps, step);
        return Ok(Coded8bit {
            param: Tensor::from_dispatch(param),
            codes: [code1, code2].map(Tensor::from_dispatch),
            absmax: [absmax1, absmax2].map(Tensor::from_dispatch),
        });
    }
    Err((before, grad))
}

#[cfg(feature = "gpu")]
fn fits<const D: usize>(before: &Coded8bit<D>, grad: &Tensor<D>) -> bool {
    use burn::tensor::DType;
    let numbers = grad.shape().num_elements();
    let blocks = numbers.div_ceil(BLOCK);
    assert!(
        before.param.dims() == grad.dims()
            && before.codes.iter().all(|codes| codes.dims() == [blocks * BLOCK / 4])
            && before.absmax.iter().all(|scales| scales.dims() == [blocks]),
        "adamw_8bit: {before:?}, gradient {:?}",
        grad.dims()
    );
    let float = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let stored = before.codes.iter().all(|codes| codes.dtype() == DType::U32)
        && before.absmax.iter().all(|scales| scales.dtype() == DType::F32);
    numbers > 0 && float(grad.dtype()) && float(before.param.dtype()) && stored && !crate::is_cpu(&grad.device())
}

/// The backend operation of [`adamw_8bit`], of plain tensors.
#[cfg(feature = "gpu")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
#[backend_extension(Cube, Fusion)]
pub trait AdamW8bitOps: Backend {
    /// The new parameter, codes and scales.
    #[fusion(meta = |param, _grad, code1, code2, absmax1, absmax2, _maps, _step| {
        (param.clone(), code1.clone(), code2.clone(), absmax1.clone(), absmax2.clone())
    })]
    fn adamw_8bit_step(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        code1: IntTensor<Self>,
        code2: IntTensor<Self>,
        absmax1: FloatTensor<Self>,
        absmax2: FloatTensor<Self>,
        maps: [CodeMap; 2],
        step: AdamW8bitStep,
    ) -> (
        FloatTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

#[cfg(feature = "gpu")]
impl AdamW8bitOps for burn_cubecl::CubeBackend {
    fn adamw_8bit_step(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        code1: IntTensor<Self>,
        code2: IntTensor<Self>,
        absmax1: FloatTensor<Self>,
        absmax2: FloatTensor<Self>,
        maps: [CodeMap; 2],
        step: AdamW8bitStep,
    ) -> (
        FloatTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let (param, [code1, code2], [absmax1, absmax2]) =
            cube::adamw_8bit(param, grad, [code1, code2], [absmax1, absmax2], maps, step);
        (param, code1, code2, absmax1, absmax2)
    }
}
