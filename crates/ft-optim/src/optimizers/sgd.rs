//! Stochastic gradient descent with PyTorch's momentum (Sutskever et al., 2013, with torch's form of Nesterov's).
//!
//! ```text
//! g ← g + λ·p
//! b ← μ·b + (1 - d)·g            b starts as g
//! p ← p - lr·(g + μ·b | b)       with Nesterov's momentum | without
//! ```

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, FloatDType, Tensor};

use super::{Rule, STEP, StateTensor, moment, step, take, take_step, zeros};
use crate::error::Problems;
use crate::groups::Group;
#[cfg(feature = "flex")]
use crate::host;

/// `kind = "sgd"`. The defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Base learning rate.
    pub lr: f64,
    /// L2 penalty, added to the gradient. Not applied to biases and norms.
    pub weight_decay: f64,
    /// How much of the running sum of gradients a step keeps; 0 keeps none and needs no memory.
    pub momentum: f64,
    /// Share of a gradient that does not enter the running sum.
    pub dampening: f64,
    /// Looks one step of momentum ahead.
    pub nesterov: bool,
    /// Largest norm of all gradients together; larger ones are scaled down to it. 0 turns clipping off.
    pub clip: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            weight_decay: 0.0,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
            clip: 1.0,
        }
    }
}

impl Rule for SgdConfig {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn clip(&self) -> f64 {
        self.clip
    }

    fn check(&self, problems: &mut Problems) {
        problems.amount(self.lr, "lr");
        problems.amount(self.weight_decay, "weight_decay");
        problems.shares(&[self.momentum], "momentum");
        problems.within(self.dampening, 0.0..=1.0, "dampening");
        let ahead = !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0);
        problems.unless(ahead, "nesterov", || {
            "needs `optim.momentum` above 0 and `optim.dampening` 0".into()
        });
        problems.amount(self.clip, "clip");
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(Sgd {
            momentum: self.momentum,
            dampening: self.dampening,
            nesterov: self.nesterov,
            weight_decay: group.weight_decay(self.weight_decay),
        })
    }

    fn state(&self, _: Group, shape: &[usize]) -> Vec<StateTensor> {
        match self.momentum {
            0.0 => vec![step()],
            _ => vec![moment("momentum_buffer", shape), step()],
        }
    }
}

/// The update rule, for any of Burn's drivers. On the CPU it is one pass, in place.
#[derive(Debug, Clone)]
pub struct Sgd {
    /// μ.
    pub momentum: f64,
    /// d.
    pub dampening: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// λ.
    pub weight_decay: f64,
}

/// What it remembers of a parameter.
#[derive(Debug, Clone)]
pub struct SgdState<const D: usize> {
    step: u64,
    /// Running sum of the gradients, f32; none without momentum.
    buffer: Option<Tensor<D>>,
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        let (step, buffer) = state.map_or((0, None), |state| (state.step, state.buffer));
        let buffer = buffer.or_else(|| (self.momentum != 0.0).then(|| zeros(&param)));
        // The first gradient enters whole.
        let numbers = Numbers {
            enter: if step == 0 { 1.0 } else { 1.0 - self.dampening },
            lr,
            rule: self,
        };
        let (param, buffer) = numbers.update(param, grad, buffer);
        let step = step + 1;
        (param, Some(SgdState { step, buffer }))
    }

    fn to_device<const D: usize>(mut state: SgdState<D>, device: &Device) -> SgdState<D> {
        state.buffer = state.buffer.map(|buffer| buffer.to_device(device));
        state
    }
}

/// One update.
struct Numbers<'a> {
    /// Share of the gradient that enters the buffer.
    enter: f64,
    lr: f64,
    rule: &'a Sgd,
}

impl Numbers<'_> {
    fn update<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        buffer: Option<Tensor<D>>,
    ) -> (Tensor<D>, Option<Tensor<D>>) {
        #[cfg(feature = "flex")]
        if host::holds(&param) && host::holds(&grad) && buffer.as_ref().is_none_or(host::holds) {
            return self.on_host(param, grad, buffer);
        }
        self.on_tensors(param, grad, buffer)
    }

    fn on_tensors<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        buffer: Option<Tensor<D>>,
    ) -> (Tensor<D>, Option<Tensor<D>>) {
        let dtype: FloatDType = param.dtype().into();
        let param = param.cast(FloatDType::F32);
        let grad = grad.cast(FloatDType::F32) + param.clone().mul_scalar(self.rule.weight_decay);
        let buffer = buffer.map(|buffer| buffer.mul_scalar(self.rule.momentum) + grad.clone().mul_scalar(self.enter));
        let way = match (&buffer, self.rule.nesterov) {
            (Some(buffer), true) => grad + buffer.clone().mul_scalar(self.rule.momentum),
            (Some(buffer), false) => buffer.clone(),
            (None, _) => grad,
        };
        ((param - way.mul_scalar(self.lr)).cast(dtype), buffer)
    }

    #[cfg(feature = "flex")]
    fn on_host<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        buffer: Option<Tensor<D>>,
    ) -> (Tensor<D>, Option<Tensor<D>>) {
        let [enter, lr, momentum, decay] =
            [self.enter, self.lr, self.rule.momentum, self.rule.weight_decay].map(|x| x as f32);
        let Some(buffer) = buffer else {
            let plain = |param: &mut [f32], grad: &[f32], []: [&mut [f32]; 0]| {
                for (p, g) in param.iter_mut().zip(grad) {
                    *p -= lr * (g + decay * *p);
                }
            };
            return (host::update(param, grad, [], plain).0, None);
        };
        let nesterov = self.rule.nesterov;
        let (param, [buffer]) = host::update(param, grad, [buffer], |param, grad, [buffer]| {
            for ((p, g), b) in param.iter_mut().zip(grad).zip(buffer) {
                let g = g + decay * *p;
                *b = momentum * *b + enter * g;
                *p -= lr * if nesterov { g + momentum * *b } else { *b };
            }
        });
        (param, Some(buffer))
    }
}

impl<const D: usize> RecordState for SgdState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        if let Some(buffer) = &self.buffer {
            out.push_tensor(prefix, "momentum_buffer", buffer.to_data());
        }
        out.push_scalar(prefix, STEP, self.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            step: take_step(prefix, src)?,
            buffer: take(prefix, "momentum_buffer", src, device),
        })
    }
}
