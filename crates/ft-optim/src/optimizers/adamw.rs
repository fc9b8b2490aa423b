//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) with PyTorch's arithmetic and defaults.
//!
//! ```text
//! p ← p·(1 - lr·λ)
//! m ← m + (1 - β₁)(g - m)
//! v ← β₂·v + (1 - β₂)·g²
//! p ← p - lr/(1 - β₁ᵗ) · m / (√v/√(1 - β₂ᵗ) + ε)
//! ```

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor};
use ft_kernels::{AdamWStep, adamw};

use super::{Rule, STEP, StateTensor, moment, step};
use crate::error::Problems;
use crate::groups::Group;
#[cfg(feature = "flex")]
use crate::host;
use crate::together::ManyRule;

/// `kind = "adamw"`. The defaults are PyTorch's and Hugging Face's, but for the learning rate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Base learning rate. The default suits LoRA; full fine-tuning usually wants a tenth of it.
    pub lr: f64,
    /// Share of a weight, times the learning rate, that every step takes away. Not applied to biases and norms.
    pub weight_decay: f64,
    /// How much of the running means of the gradient and of its square a step keeps.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Largest norm of all gradients together; larger ones are scaled down to it. 0 turns clipping off.
    pub clip: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            lr: 2e-4,
            weight_decay: 1e-2,
            betas: [0.9, 0.999],
            eps: 1e-8,
            clip: 1.0,
        }
    }
}

impl Rule for AdamWConfig {
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
        problems.amount(self.eps, "eps");
        problems.amount(self.clip, "clip");
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(self.rule(group))
    }

    fn many(&self, group: Group) -> Option<ManyRule> {
        Some(ManyRule::AdamW(self.rule(group), 1.0))
    }

    fn state(&self, _: Group, shape: &[usize]) -> Vec<StateTensor> {
        vec![moment("exp_avg", shape), moment("exp_avg_sq", shape), step()]
    }
}

impl AdamWConfig {
    /// The update rule of a group.
    pub(super) fn rule(&self, group: Group) -> AdamW {
        AdamW {
            betas: self.betas,
            eps: self.eps,
            weight_decay: group.weight_decay(self.weight_decay),
        }
    }
}

/// The update rule, for any of Burn's drivers.
///
/// Moments are f32 whatever the parameter's type; a parameter of another float type is updated in f32 and rounded
/// back. The whole update is one pass, in place.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
}

/// What AdamW remembers of a parameter.
#[derive(Debug, Clone)]
pub struct AdamWState<const D: usize> {
    /// Updates so far.
    pub step: u64,
    /// Running mean of the gradient, f32.
    pub exp_avg: Tensor<D>,
    /// Running mean of the squared gradient, f32.
    pub exp_avg_sq: Tensor<D>,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let state = state.unwrap_or_else(|| AdamWState::zero(&param));
        let step = state.step + 1;
        let moments = [state.exp_avg, state.exp_avg_sq];
        let (param, [exp_avg, exp_avg_sq]) = update(param, grad, moments, self.numbers(lr, step));
        (
            param,
            Some(AdamWState {
                step,
                exp_avg,
                exp_avg_sq,
            }),
        )
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.exp_avg = state.exp_avg.to_device(device);
        state.exp_avg_sq = state.exp_avg_sq.to_device(device);
        state
    }
}

impl AdamW {
    /// The scalars of update `step`, which counts from 1.
    pub(crate) fn numbers(&self, lr: f64, step: u64) -> AdamWStep {
        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        AdamWStep {
            keep: 1.0 - lr * self.weight_decay,
            toward: 1.0 - beta1,
            beta2,
            step_size: lr / correction(beta1),
            lift: correction(beta2).sqrt().recip(),
            eps: self.eps,
        }
    }
}

fn update<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: [Tensor<D>; 2],
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    #[cfg(feature = "flex")]
    if host::holds(&param) && host::holds(&grad) && moments.iter().all(host::holds) {
        return host::update(param, grad, moments, on_slices(step));
    }
    adamw(param, grad, moments, step)
}

/// The update of one chunk of f32 values.
#[cfg(feature = "flex")]
fn on_slices(step: AdamWStep) -> impl Fn(&mut [f32], &[f32], [&mut [f32]; 2]) + Send + Sync {
    let [keep, toward, beta2, rest2] = [step.keep, step.toward, step.beta2, 1.0 - step.beta2].map(|x| x as f32);
    let [step_size, lift, eps] = [step.step_size, step.lift, step.eps].map(|x| x as f32);
    move |param, grad, [m, v]| {
        for (((p, g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            *m += toward * (g - *m);
            *v = beta2 * *v + rest2 * (g * g);
            *p = keep * *p - step_size * (*m / (v.sqrt() * lift + eps));
        }
    }
}

impl<const D: usize> AdamWState<D> {
    /// Before the first update.
    pub(crate) fn zero(param: &Tensor<D>) -> Self {
        let zeros = || Tensor::zeros(param.shape(), (&param.device(), DType::F32));
        Self {
            step: 0,
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
        }
    }
}

impl<const D: usize> RecordState for AdamWState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "exp_avg", self.exp_avg.to_data());
        out.push_tensor(prefix, "exp_avg_sq", self.exp_avg_sq.to_data());
        out.push_scalar(prefix, STEP, self.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let step = u64::try_from(src.take_scalar(prefix, STEP)?).ok()?;
        let mut moment = |name| Some(Tensor::from_data(src.take_tensor(prefix, name)?, (device, DType::F32)));
        Some(Self {
            step,
            exp_avg: moment("exp_avg")?,
            exp_avg_sq: moment("exp_avg_sq")?,
        })
    }
}
