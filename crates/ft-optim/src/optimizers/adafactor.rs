//! Adafactor (Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
//! <https://arxiv.org/abs/1804.04235>), in the arithmetic of transformers' `Adafactor`.
//!
//! ```text
//! β = 1 - t^decay_rate
//! R ← β·R + (1 - β)·mean over columns of g² + ε₁       C the same over rows; one V of g² + ε₁ for vectors
//! u = g / √(R·Cᵀ / mean R)                             g / √V
//! u ← lr·u / max(1, rms(u)/d)
//! p ← p·(1 - lr·λ) - u
//! ```
//!
//! `lr` is multiplied by max(ε₂, rms(p)) with `scale_parameter`, and is min(1/100, 1/√t) with `relative_step`.

#[cfg(feature = "flex")]
mod in_place;

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::{Rule, STEP, StateTensor, moment, step, take, take_step, zeros};
use crate::error::Problems;
use crate::groups::Group;
#[cfg(feature = "flex")]
use crate::host;

/// `kind = "adafactor"`. The defaults are those with which Hugging Face's Trainer makes it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorConfig {
    /// Base learning rate.
    pub lr: f64,
    /// Share of a weight, times the learning rate, that every step takes away. Not applied to biases and norms.
    pub weight_decay: f64,
    /// Added to the squared gradient; smallest scale of a parameter.
    pub eps: [f64; 2],
    /// Largest root mean square of an update.
    pub clip_threshold: f64,
    /// How fast the running means forget less and less; below 0.
    pub decay_rate: f64,
    /// How much of a running mean of the updates a step keeps; none where it is not given, which saves its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// Scale the steps of a parameter by its root mean square.
    pub scale_parameter: bool,
    /// Take steps of min(1/100, 1/√step), times the schedule's factor, instead of `lr`.
    pub relative_step: bool,
    /// With `relative_step`: start from a millionth.
    pub warmup_init: bool,
    /// Largest norm of all gradients together; larger ones are scaled down to it. 0 turns clipping off.
    pub clip: f64,
}

const LR: f64 = 1e-3;

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self {
            lr: LR,
            weight_decay: 0.0,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            scale_parameter: false,
            relative_step: false,
            warmup_init: false,
            clip: 1.0,
        }
    }
}

impl Rule for AdafactorConfig {
    /// With `relative_step`, 1: the schedule's factor is what the rule multiplies its own rate by.
    fn lr(&self) -> f64 {
        if self.relative_step { 1.0 } else { self.lr }
    }

    fn clip(&self) -> f64 {
        self.clip
    }

    fn check(&self, problems: &mut Problems) {
        problems.amount(self.lr, "lr");
        problems.unless(!self.relative_step || self.lr == LR, "lr", || {
            "and `optim.relative_step` both say the learning rate; write one of them".into()
        });
        problems.amount(self.weight_decay, "weight_decay");
        problems.unless(self.eps.iter().all(|eps| *eps >= 0.0 && eps.is_finite()), "eps", || {
            format!("is {:?}, expected two numbers of at least 0", self.eps)
        });
        let positive = self.clip_threshold > 0.0 && self.clip_threshold.is_finite();
        problems.unless(positive, "clip_threshold", || {
            format!("is {}, expected a number above 0", self.clip_threshold)
        });
        problems.within(self.decay_rate, -1.0..=0.0, "decay_rate");
        problems.shares(self.beta1.as_slice(), "beta1");
        problems.unless(self.relative_step || !self.warmup_init, "warmup_init", || {
            "needs `optim.relative_step = true`".into()
        });
        problems.amount(self.clip, "clip");
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(Adafactor(Self {
            weight_decay: group.weight_decay(self.weight_decay),
            ..self.clone()
        }))
    }

    fn state(&self, _: Group, shape: &[usize]) -> Vec<StateTensor> {
        let mut state = match shape {
            [.., _, _] => vec![
                moment("exp_avg_sq_row", &without(shape, 1)),
                moment("exp_avg_sq_col", &without(shape, 2)),
            ],
            _ => vec![moment("exp_avg_sq", shape)],
        };
        state.extend(self.beta1.map(|_| moment("exp_avg", shape)));
        state.push(step());
        state
    }
}

/// `shape` with its last (1) or last but one (2) size 1.
fn without(shape: &[usize], back: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    let at = shape.len() - back;
    shape[at] = 1;
    shape
}

/// The update rule, for any of Burn's drivers. On the CPU a matrix takes three passes, in place.
#[derive(Debug, Clone)]
pub struct Adafactor(pub AdafactorConfig);

/// What Adafactor remembers of a parameter.
#[derive(Debug, Clone)]
pub struct AdafactorState<const D: usize> {
    step: u64,
    squares: Squares<D>,
    /// Running mean of the updates, f32.
    exp_avg: Option<Tensor<D>>,
}

/// Running means of the squared gradient, f32.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // matrices, the larger variant, are what there are most of
enum Squares<const D: usize> {
    /// Of a vector.
    Whole(Tensor<D>),
    /// Of a matrix `[.., rows, cols]`: `[.., rows, 1]` and `[.., 1, cols]`.
    Factored([Tensor<D>; 2]),
}

impl Optimizer for Adafactor {
    type State<const D: usize> = AdafactorState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdafactorState<D>>,
    ) -> (Tensor<D>, Option<AdafactorState<D>>) {
        let mut state = state.unwrap_or_else(|| self.start(&param));
        state.step += 1;
        let numbers = Numbers::new(&self.0, lr, state.step);
        #[cfg(feature = "flex")]
        if D == 2 && host::holds(&param) && host::holds(&grad) {
            match state {
                AdafactorState {
                    step,
                    squares: Squares::Factored(means),
                    exp_avg: None,
                } if means.iter().all(host::holds) => {
                    let (param, means) = numbers.on_host(param, grad, means);
                    let (squares, exp_avg) = (Squares::Factored(means), None);
                    return (param, Some(AdafactorState { step, squares, exp_avg }));
                }
                other => state = other,
            }
        }
        let (param, state) = numbers.on_tensors(param, grad, state);
        (param, Some(state))
    }

    fn to_device<const D: usize>(state: AdafactorState<D>, device: &Device) -> AdafactorState<D> {
        AdafactorState {
            step: state.step,
            squares: match state.squares {
                Squares::Whole(mean) => Squares::Whole(mean.to_device(device)),
                Squares::Factored(means) => Squares::Factored(means.map(|mean| mean.to_device(device))),
            },
            exp_avg: state.exp_avg.map(|mean| mean.to_device(device)),
        }
    }
}

impl Adafactor {
    fn start<const D: usize>(&self, param: &Tensor<D>) -> AdafactorState<D> {
        let dims = param.dims();
        let mean = |back| Tensor::zeros(without(&dims, back), (&param.device(), DType::F32));
        AdafactorState {
            step: 0,
            squares: match D {
                1 => Squares::Whole(zeros(param)),
                _ => Squares::Factored([mean(1), mean(2)]),
            },
            exp_avg: self.0.beta1.map(|_| zeros(param)),
        }
    }
}

/// The scalars of one update.
struct Numbers<'a> {
    rule: &'a AdafactorConfig,
    /// The learning rate, but for the parameter's own scale.
    rate: f64,
    /// 1 - t^decay_rate
    beta: f64,
}

impl<'a> Numbers<'a> {
    fn new(rule: &'a AdafactorConfig, lr: f64, step: u64) -> Self {
        let step = step as f64;
        let longest = if rule.warmup_init { 1e-6 * step } else { 1e-2 };
        let own = if rule.relative_step {
            longest.min(1.0 / step.sqrt())
        } else {
            1.0
        };
        Self {
            rule,
            rate: lr * own,
            beta: 1.0 - step.powf(rule.decay_rate),
        }
    }

    /// The update as Burn operations, for every device, float type and rank.
    fn on_tensors<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: AdafactorState<D>,
    ) -> (Tensor<D>, AdafactorState<D>) {
        let dtype: FloatDType = param.dtype().into();
        let (param, grad) = (param.cast(FloatDType::F32), grad.cast(FloatDType::F32));
        let (squares, update) = self.normalized(grad, state.squares);
        let limit = rms(&update).div_scalar(self.rule.clip_threshold).clamp_min(1.0);
        let rate = match self.rule.scale_parameter {
            true => rms(&param).clamp_min(self.rule.eps[1]).mul_scalar(self.rate),
            false => Tensor::full([1; D], self.rate, (&param.device(), DType::F32)),
        };
        let update = update * (rate.clone() / limit);
        let (exp_avg, update) = match (state.exp_avg, self.rule.beta1) {
            (Some(mean), Some(beta1)) => {
                let mean = mean.mul_scalar(beta1) + update.mul_scalar(1.0 - beta1);
                (Some(mean.clone()), mean)
            }
            _ => (None, update),
        };
        let decayed = param.clone() * rate.mul_scalar(self.rule.weight_decay);
        let param = param - decayed - update;
        let step = state.step;
        (param.cast(dtype), AdafactorState { step, squares, exp_avg })
    }

    /// The new running means, and the gradient divided by their root.
    fn normalized<const D: usize>(&self, grad: Tensor<D>, squares: Squares<D>) -> (Squares<D>, Tensor<D>) {
        let new = grad.clone().square().add_scalar(self.rule.eps[0]);
        let mix = |old: Tensor<D>, new: Tensor<D>| old.mul_scalar(self.beta) + new.mul_scalar(1.0 - self.beta);
        match squares {
            Squares::Whole(mean) => {
                let mean = mix(mean, new);
                (Squares::Whole(mean.clone()), grad / mean.sqrt())
            }
            Squares::Factored([row, col]) => {
                let row = mix(row, new.clone().mean_dim(D - 1));
                let col = mix(col, new.mean_dim(D - 2));
                let by_row = (row.clone() / row.clone().mean_dim(D - 2)).sqrt().recip();
                let update = by_row * col.clone().sqrt().recip() * grad;
                (Squares::Factored([row, col]), update)
            }
        }
    }
}

/// Root mean square, `[1; D]`.
fn rms<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().square().mean().sqrt().reshape([1; D])
}

impl<const D: usize> RecordState for AdafactorState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        match &self.squares {
            Squares::Whole(mean) => out.push_tensor(prefix, "exp_avg_sq", mean.to_data()),
            Squares::Factored([row, col]) => {
                out.push_tensor(prefix, "exp_avg_sq_row", row.to_data());
                out.push_tensor(prefix, "exp_avg_sq_col", col.to_data());
            }
        }
        if let Some(mean) = &self.exp_avg {
            out.push_tensor(prefix, "exp_avg", mean.to_data());
        }
        out.push_scalar(prefix, STEP, self.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let row = take(prefix, "exp_avg_sq_row", src, device);
        let squares = match row {
            Some(row) => Squares::Factored([row, take(prefix, "exp_avg_sq_col", src, device)?]),
            None => Squares::Whole(take(prefix, "exp_avg_sq", src, device)?),
        };
        Some(Self {
            step: take_step(prefix, src)?,
            squares,
            exp_avg: take(prefix, "exp_avg", src, device),
        })
    }
}
