//! The update by a kernel over many parameters, on graphics cards.
use super::{AdamW8bit, Coded};
use crate::dynamic_map::Codes;
use burn::tensor::Tensor;
use ft_kernels::{AdamW8bitStep, CodeMap, Coded8bit, ManyAdamW8bit};
use ft_quant::{DynamicMap, SIGNED, UNSIGNED};

/// No parameter yet.
pub(crate) fn none() -> ManyAdamW8bit {
    ManyAdamW8bit::new([&*SIGNED, &*UNSIGNED].map(code_map))
}

impl AdamW8bit {
    /// Puts the update of a parameter to those of others. What comes of it is made a value and a state by what is returned.
    pub(crate) fn push<const D: usize>(
        &self,
        all: &mut ManyAdamW8bit,
        lr: f64,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Coded,
    ) -> impl FnOnce(Coded8bit<D>) -> (Tensor<D>, Coded) + use<D> {
        let (step, shape) = (state.step + 1, state.shape);
        let numbers = self.numbers(lr, step);
        let before = Coded8bit {
            param,
            codes: state.codes.map(|codes| codes.0),
            absmax: state.absmax,
        };
        let update = AdamW8bitStep {
            beta1: numbers.beta1,
            beta2: numbers.beta2,
            step_size: numbers.step_size,
            eps: numbers.eps,
            keep: numbers.keep,
        };
        all.push(before, grad, update);
        move |after| {
            let state = Coded {
                step,
                shape,
                codes: after.codes.map(Codes),
                absmax: after.absmax,
            };
            (after.param, state)
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
