//! The update by one kernel, on graphics cards.
use super::{Coded, Numbers};
use crate::dynamic_map::Codes;
use burn::tensor::Tensor;
use ft_kernels::{AdamW8bitStep, CodeMap, Coded8bit, adamw_8bit};
use ft_quant::{DynamicMap, SIGNED, UNSIGNED};

impl Numbers {
    /// The update by one kernel; gives everything back where there is none.
    #[allow(clippy::result_large_err)]
    pub(super) fn on_card<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Coded,
    ) -> Result<(Tensor<D>, Coded), (Tensor<D>, Tensor<D>, Coded)> {
        let (step, shape) = (state.step, state.shape);
        let before = Coded8bit {
            param,
            codes: state.codes.map(|codes| codes.0),
            absmax: state.absmax,
        };
        let numbers = AdamW8bitStep {
            beta1: self.beta1,
            beta2: self.beta2,
            step_size: self.step_size,
            eps: self.eps,
            keep: self.keep,
        };
        let (after, step, grad) = match adamw_8bit(before, grad, [&*SIGNED, &*UNSIGNED].map(code_map), numbers) {
            Ok(after) => (after, step + 1, None),
            Err((before, grad)) => (before, step, Some(grad)),
        };
        let Coded8bit { param, codes, absmax } = after;
        let state = Coded {
            step,
            shape,
            codes: codes.map(Codes),
            absmax,
        };
        match grad {
            None => Ok((param, state)),
            Some(grad) => Err((param, grad, state)),
        }
    }
}

fn code_map(map: &'static DynamicMap) -> CodeMap {
    CodeMap {
        values: &map.values,
        middles: &map.middles,
        zero: map.zero,
    }
}
