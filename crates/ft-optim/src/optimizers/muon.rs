//! Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
//! <https://kellerjordan.github.io/posts/muon/>), as in PyTorch, for hidden matrices; [`AdamW`] for all other parameters.
//!
//! ```text
//! b ← μ·b + (1 - μ)·g
//! u = (1 - μ)·g + μ·b | b            with Nesterov's momentum | without
//! X = u / ‖u‖, then k times  X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X
//! p ← p·(1 - lr·λ) - lr·ratio·X      ratio = √max(1, rows/cols), or 0.2·√max(rows, cols)
//! ```
//!
//! Burn's own Muon takes the same steps (a test compares them), but has no count of updates and no rule for vectors.
//! PyTorch iterates in bfloat16; here it is f32.

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, FloatDType, Tensor};

use super::{AdamW, AdamWState, Rule, STEP, StateTensor, moment, step, take, take_step, zeros};
use crate::error::Problems;
use crate::groups::Group;
use crate::together::ManyRule;

/// `kind = "muon"`. The defaults are PyTorch's `torch.optim.Muon`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Base learning rate.
    pub lr: f64,
    /// Share of a weight, times the learning rate, that every step takes away. Not applied to biases and norms.
    pub weight_decay: f64,
    /// How much of the running mean of the gradient a step keeps.
    pub momentum: f64,
    /// Looks one step of momentum ahead.
    pub nesterov: bool,
    /// Coefficients a, b and c of the iteration that orthogonalizes.
    pub ns_coefficients: [f64; 3],
    /// Its steps.
    pub ns_steps: usize,
    /// Smallest norm that is divided by.
    pub eps: f64,
    /// How a step depends on the shape of the matrix.
    pub adjust_lr_fn: AdjustLr,
    /// Base learning rate of the parameters that AdamW updates; `lr` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adamw_lr: Option<f64>,
    /// Their betas.
    pub adamw_betas: [f64; 2],
    /// Their epsilon.
    pub adamw_eps: f64,
    /// Largest norm of all gradients together; larger ones are scaled down to it. 0 turns clipping off.
    pub clip: f64,
}

/// The factor of the learning rate of a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// √max(1, rows/cols).
    #[default]
    Original,
    /// 0.2·√max(rows, cols): steps as large as AdamW's, whose learning rates then fit (Moonshot AI, 2025).
    MatchRmsAdamw,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_coefficients: [3.4445, -4.775, 2.0315],
            ns_steps: 5,
            eps: 1e-7,
            adjust_lr_fn: AdjustLr::Original,
            adamw_lr: None,
            adamw_betas: [0.9, 0.999],
            adamw_eps: 1e-8,
            clip: 1.0,
        }
    }
}

impl Rule for MuonConfig {
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
        problems.unless(
            self.ns_coefficients.iter().all(|c| c.is_finite()),
            "ns_coefficients",
            || format!("is {:?}, expected three numbers", self.ns_coefficients),
        );
        problems.unless((1..100).contains(&self.ns_steps), "ns_steps", || {
            format!("is {}, expected 1 to 99", self.ns_steps)
        });
        problems.amount(self.eps, "eps");
        let adamw_lr = self.adamw_lr.unwrap_or(self.lr);
        problems.amount(adamw_lr, "adamw_lr");
        problems.unless(adamw_lr == 0.0 || self.lr > 0.0, "adamw_lr", || {
            "follows `optim.lr` through the schedule, which therefore must be above 0".into()
        });
        problems.shares(&self.adamw_betas, "adamw_betas");
        problems.amount(self.adamw_eps, "adamw_eps");
        problems.amount(self.clip, "clip");
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        if !group.hidden {
            return Arc::new(self.rest(group));
        }
        Arc::new(Muon {
            momentum: self.momentum,
            nesterov: self.nesterov,
            ns_coefficients: self.ns_coefficients,
            ns_steps: self.ns_steps,
            eps: self.eps,
            adjust_lr_fn: self.adjust_lr_fn,
            weight_decay: group.weight_decay(self.weight_decay),
        })
    }

    fn many(&self, group: Group) -> Option<ManyRule> {
        let Rest { ratio, rule } = self.rest(group);
        (!group.hidden).then_some(ManyRule::AdamW(rule, ratio))
    }

    fn state(&self, group: Group, shape: &[usize]) -> Vec<StateTensor> {
        match group.hidden {
            true => vec![moment("momentum_buffer", shape), step()],
            false => vec![moment("exp_avg", shape), moment("exp_avg_sq", shape), step()],
        }
    }
}

impl MuonConfig {
    fn rest(&self, group: Group) -> Rest {
        let ratio = |lr| if lr == 0.0 { 0.0 } else { lr / self.lr };
        Rest {
            ratio: self.adamw_lr.map_or(1.0, ratio),
            rule: AdamW {
                betas: self.adamw_betas,
                eps: self.adamw_eps,
                weight_decay: group.weight_decay(self.weight_decay),
            },
        }
    }
}

/// AdamW for what is no hidden matrix.
#[derive(Debug, Clone)]
struct Rest {
    /// Of its learning rate to Muon's.
    ratio: f64,
    rule: AdamW,
}

impl Optimizer for Rest {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        self.rule.step(lr * self.ratio, param, grad, state)
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

/// The update rule of matrices, for any of Burn's drivers.
#[derive(Debug, Clone)]
pub struct Muon {
    /// μ.
    pub momentum: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// a, b and c.
    pub ns_coefficients: [f64; 3],
    /// k.
    pub ns_steps: usize,
    /// Smallest norm that is divided by.
    pub eps: f64,
    /// The ratio.
    pub adjust_lr_fn: AdjustLr,
    /// λ.
    pub weight_decay: f64,
}

/// What Muon remembers of a matrix.
#[derive(Debug, Clone)]
pub struct MuonState<const D: usize> {
    step: u64,
    /// Running mean of the gradient, f32.
    buffer: Tensor<D>,
}

impl Optimizer for Muon {
    type State<const D: usize> = MuonState<D>;

    /// # Panics
    /// If the parameter has other than two dimensions.
    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<MuonState<D>>,
    ) -> (Tensor<D>, Option<MuonState<D>>) {
        let (step, buffer) = state.map_or_else(|| (0, zeros(&param)), |state| (state.step, state.buffer));
        let shape: [usize; 2] = param.dims().as_slice().try_into().expect("Muon updates matrices");
        let dtype: FloatDType = param.dtype().into();
        let grad = grad.cast(FloatDType::F32).mul_scalar(1.0 - self.momentum);
        let buffer = buffer.mul_scalar(self.momentum) + grad.clone();
        let update = match self.nesterov {
            true => grad + buffer.clone().mul_scalar(self.momentum),
            false => buffer.clone(),
        };
        let way: Tensor<D> = self.orthogonal(update.reshape(shape)).reshape(param.shape());
        let kept = param.cast(FloatDType::F32).mul_scalar(1.0 - lr * self.weight_decay);
        let param = kept - way.mul_scalar(lr * self.adjust_lr_fn.ratio(shape));
        let step = step + 1;
        (param.cast(dtype), Some(MuonState { step, buffer }))
    }

    fn to_device<const D: usize>(mut state: MuonState<D>, device: &Device) -> MuonState<D> {
        state.buffer = state.buffer.to_device(device);
        state
    }
}

impl Muon {
    /// A matrix with the same singular vectors whose singular values are all near 1: Newton-Schulz's iteration, on the side
    /// on which the products are smaller.
    fn orthogonal(&self, update: Tensor<2>) -> Tensor<2> {
        let [rows, cols] = update.dims();
        let x = if rows > cols { update.transpose() } else { update };
        let norm = x.clone().square().sum().sqrt().clamp_min(self.eps);
        let [a, b, c] = self.ns_coefficients;
        let mut x = x / norm.reshape([1, 1]);
        for _ in 0..self.ns_steps {
            let gram = x.clone().matmul(x.clone().transpose());
            let powers = gram.clone().mul_scalar(b) + gram.clone().matmul(gram).mul_scalar(c);
            x = x.clone().mul_scalar(a) + powers.matmul(x);
        }
        if rows > cols { x.transpose() } else { x }
    }
}

impl AdjustLr {
    fn ratio(self, [rows, cols]: [usize; 2]) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Self::Original => (rows / cols).max(1.0).sqrt(),
            Self::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
        }
    }
}

impl<const D: usize> RecordState for MuonState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "momentum_buffer", self.buffer.to_data());
        out.push_scalar(prefix, STEP, self.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            step: take_step(prefix, src)?,
            buffer: take(prefix, "momentum_buffer", src, device)?,
        })
    }
}
