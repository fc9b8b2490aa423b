//! Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, <https://arxiv.org/abs/2302.06675>, program 1).
//!
//! ```text
//! p ← p·(1 - lr·λ) - lr·sign(β₁·m + (1 - β₁)·g)
//! m ← β₂·m + (1 - β₂)·g
//! ```

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, FloatDType, Tensor};

use super::{Rule, STEP, StateTensor, moment, step, take, take_step, zeros};
use crate::error::Problems;
use crate::groups::Group;
#[cfg(feature = "flex")]
use crate::host;

/// `kind = "lion"`. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LionConfig {
    /// Base learning rate. Every number moves by exactly this much, so it wants a third to a tenth of AdamW's.
    pub lr: f64,
    /// Share of a weight, times the learning rate, that every step takes away. Not applied to biases and norms.
    pub weight_decay: f64,
    /// How much of the running mean counts in a step, and how much of it a step keeps.
    pub betas: [f64; 2],
    /// Largest norm of all gradients together; larger ones are scaled down to it. 0 turns clipping off.
    pub clip: f64,
}

impl Default for LionConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            weight_decay: 0.0,
            betas: [0.9, 0.99],
            clip: 1.0,
        }
    }
}

impl Rule for LionConfig {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn clip(&self) -> f64 {
        self.clip
    }

    fn check(&self, problems: &mut Problems) {
        problems.amount(self.lr, "lr");
        problems.amount(self.weight_decay, "weight_decay");
        problems.shares(&self.betas, "betas");
        problems.amount(self.clip, "clip");
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(Lion {
            betas: self.betas,
            weight_decay: group.weight_decay(self.weight_decay),
        })
    }

    fn state(&self, _: Group, shape: &[usize]) -> Vec<StateTensor> {
        vec![moment("exp_avg", shape), step()]
    }
}

/// The update rule, for any of Burn's drivers. On the CPU it is one pass, in place.
#[derive(Debug, Clone)]
pub struct Lion {
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// λ.
    pub weight_decay: f64,
}

/// What Lion remembers of a parameter.
#[derive(Debug, Clone)]
pub struct LionState<const D: usize> {
    step: u64,
    /// Running mean of the gradient, f32.
    exp_avg: Tensor<D>,
}

impl Optimizer for Lion {
    type State<const D: usize> = LionState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LionState<D>>,
    ) -> (Tensor<D>, Option<LionState<D>>) {
        let (step, exp_avg) = state.map_or_else(|| (0, zeros(&param)), |state| (state.step, state.exp_avg));
        let (param, exp_avg) = self.update(lr, param, grad, exp_avg);
        let step = step + 1;
        (param, Some(LionState { step, exp_avg }))
    }

    fn to_device<const D: usize>(mut state: LionState<D>, device: &Device) -> LionState<D> {
        state.exp_avg = state.exp_avg.to_device(device);
        state
    }
}

impl Lion {
    fn update<const D: usize>(
        &self,
        lr: f64,
        param: Tensor<D>,
        grad: Tensor<D>,
        m: Tensor<D>,
    ) -> (Tensor<D>, Tensor<D>) {
        #[cfg(feature = "flex")]
        if host::holds(&param) && host::holds(&grad) && host::holds(&m) {
            let (param, [m]) = host::update(param, grad, [m], self.on_slices(lr));
            return (param, m);
        }
        let [beta1, beta2] = self.betas;
        let dtype: FloatDType = param.dtype().into();
        let grad = grad.cast(FloatDType::F32);
        let way = (m.clone().mul_scalar(beta1) + grad.clone().mul_scalar(1.0 - beta1)).sign();
        let m = m.mul_scalar(beta2) + grad.mul_scalar(1.0 - beta2);
        let kept = param.cast(FloatDType::F32).mul_scalar(1.0 - lr * self.weight_decay);
        ((kept - way.mul_scalar(lr)).cast(dtype), m)
    }

    #[cfg(feature = "flex")]
    fn on_slices(&self, lr: f64) -> impl Fn(&mut [f32], &[f32], [&mut [f32]; 1]) + Send + Sync {
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [rest1, rest2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [lr, keep] = [lr, 1.0 - lr * self.weight_decay].map(|x| x as f32);
        move |param, grad, [m]| {
            for ((p, g), m) in param.iter_mut().zip(grad).zip(m) {
                let way = beta1 * *m + rest1 * g;
                *p = keep * *p - lr * sign(way);
                *m = beta2 * *m + rest2 * g;
            }
        }
    }
}

/// 0 has no sign, unlike in [`f32::signum`]; nor has NaN.
#[cfg(feature = "flex")]
fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

impl<const D: usize> RecordState for LionState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "exp_avg", self.exp_avg.to_data());
        out.push_scalar(prefix, STEP, self.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            step: take_step(prefix, src)?,
            exp_avg: take(prefix, "exp_avg", src, device)?,
        })
    }
}
