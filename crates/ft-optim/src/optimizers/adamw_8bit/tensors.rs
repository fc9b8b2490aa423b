//! The update as a composition of Burn's operations, for every device and float type.
use super::{Coded, Numbers};
use crate::dynamic_map::{self, BLOCK, Codes};
use burn::tensor::{DType, FloatDType, Int, IntDType, Tensor};
use ft_quant::{SIGNED, UNSIGNED};

impl Numbers {
    pub(super) fn on_tensors<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Coded,
    ) -> (Tensor<D>, Coded) {
        let (dtype, shape): (FloatDType, _) = (param.dtype().into(), param.shape());
        let numbers = shape.num_elements();
        let blocks = numbers.div_ceil(BLOCK);
        let [code1, code2] = state.codes.map(|codes| codes.split());
        let [scale1, scale2] = state.absmax.map(|scales| scales.reshape([blocks, 1]));

        let grad = into_blocks(grad.cast(FloatDType::F32), blocks);
        let bad = grad.clone().is_nan().bool_or(grad.clone().is_inf());
        let grad = grad.mask_fill(bad.clone(), 0.0);
        let m = (dynamic_map::decode(&SIGNED, code1) * scale1).mul_scalar(self.beta1)
            + grad.clone().mul_scalar(1.0 - self.beta1);
        let v = (dynamic_map::decode(&UNSIGNED, code2) * scale2).mul_scalar(self.beta2)
            + grad.square().mul_scalar(1.0 - self.beta2);
        let (m, v) = (m.mask_fill(bad.clone(), 0.0), v.mask_fill(bad.clone(), 0.0));

        let old = into_blocks(param.cast(FloatDType::F32), blocks);
        let change = (m.clone() / v.clone().sqrt().add_scalar(self.eps)).mul_scalar(self.step_size);
        let new = (old.clone() - change).mul_scalar(self.keep).mask_where(bad, old);
        let new = new
            .reshape([blocks * BLOCK])
            .narrow(0, 0, numbers)
            .reshape(shape)
            .cast(dtype);

        let (code1, absmax1) = encoded(m, true);
        let (code2, absmax2) = encoded(v, false);
        let coded = Coded {
            step: state.step + 1,
            codes: [code1, code2],
            absmax: [absmax1, absmax2],
            ..state
        };
        (new, coded)
    }
}

/// Flattened and filled up with zeros: `[blocks, BLOCK]`.
fn into_blocks<const D: usize>(tensor: Tensor<D>, blocks: usize) -> Tensor<2> {
    let numbers = tensor.shape().num_elements();
    let flat = tensor.reshape([numbers]);
    let missing = blocks * BLOCK - numbers;
    let flat = match missing {
        0 => flat,
        _ => Tensor::cat(
            vec![flat.clone(), Tensor::zeros([missing], (&flat.device(), DType::F32))],
            0,
        ),
    };
    flat.reshape([blocks, BLOCK])
}

/// Codes and scales of `[blocks, BLOCK]` values.
fn encoded(values: Tensor<2>, signed: bool) -> (Codes, Tensor<1>) {
    let blocks = values.dims()[0];
    let largest = values.clone().abs().max_dim(1); // [blocks, 1]
    let divisor = largest.clone().mask_fill(largest.clone().equal_elem(0.0), 1.0);
    let shares = values.clone() / divisor;
    let codes = if signed {
        let codes = dynamic_map::encode(&SIGNED, &shares);
        let zero = codes.clone().equal_elem(i32::from(SIGNED.zero));
        let flipped: Tensor<2, Int> = zero.bool_and(values.lower_elem(0.0)).int().cast(IntDType::I32);
        codes - flipped
    } else {
        dynamic_map::encode(&UNSIGNED, &shares)
    };
    (Codes::join(codes), largest.reshape([blocks]))
}
