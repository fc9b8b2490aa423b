//! AdamW with both moments in 8 bits (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022), in
//! bitsandbytes' arithmetic: dynamic maps over blocks of 256 numbers, and decay after the step.
//!
//! ```text
//! m ← β₁·m̂ + (1 - β₁)·g          m̂, v̂: what the codes stand for
//! v ← β₂·v̂ + (1 - β₂)·g²
//! p ← (p - lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ) · m / (√v + √(1 - β₂ᵗ)·ε)) · (1 - lr·λ)
//! ```
//!
//! A code of m never has another sign than m itself: what would be rounded up to zero becomes the smallest negative code.
//! Where the gradient is NaN or infinite, the parameter stays and both moments become 0. Parameters of fewer than 4096
//! numbers keep f32 moments and take plain AdamW, and so do tables of embeddings, for which transformers' Trainer registers the
//! same with bitsandbytes: a row's gradient is zero in most steps and large in some, which 8 bits of a block do not hold.

mod card;
mod tensors;

pub(crate) use card::none as no_coded;

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ft_quant::{SIGNED, UNSIGNED};

use super::{AdamW, AdamWConfig, AdamWState, Rule, STEP, StateTensor, moment, step, take, take_step};
use crate::dynamic_map::{BLOCK, Codes};
use crate::error::Problems;
use crate::groups::Group;
#[cfg(feature = "flex")]
use crate::host;
use crate::together::ManyRule;

/// Parameters below this size keep f32 moments.
const SMALLEST: usize = 4096;

/// `kind = "adamw_8bit"`: the keys of `adamw`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct AdamW8bitConfig(pub AdamWConfig);

/// A derived schema would refer to that of `adamw`, and a tagged enum cannot add its tag to a reference.
impl schemars::JsonSchema for AdamW8bitConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AdamW8bitConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        AdamWConfig::json_schema(generator)
    }
}

impl Rule for AdamW8bitConfig {
    fn lr(&self) -> f64 {
        self.0.lr
    }

    fn clip(&self) -> f64 {
        self.0.clip
    }

    fn check(&self, problems: &mut Problems) {
        self.0.check(problems);
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(self.rule(group))
    }

    fn many(&self, group: Group) -> Option<ManyRule> {
        Some(ManyRule::AdamW8bit(self.rule(group)))
    }

    fn state(&self, group: Group, shape: &[usize]) -> Vec<StateTensor> {
        let numbers = shape.iter().product::<usize>();
        if numbers < SMALLEST || group.embedding {
            return self.0.state(group, shape);
        }
        let codes = |name| StateTensor {
            name,
            shape: shape.to_vec(),
            dtype: DType::U8,
        };
        let scales = [numbers.div_ceil(BLOCK)];
        vec![
            codes("state1"),
            codes("state2"),
            moment("absmax1", &scales),
            moment("absmax2", &scales),
            step(),
        ]
    }
}

impl AdamW8bitConfig {
    fn rule(&self, group: Group) -> AdamW8bit {
        AdamW8bit {
            rule: self.0.rule(group),
            keep_f32: group.embedding,
        }
    }
}

/// The update rule, for any of Burn's drivers.
#[derive(Debug, Clone)]
pub struct AdamW8bit {
    /// Its numbers.
    pub rule: AdamW,
    /// Whether the moments stay in f32 whatever the size.
    pub keep_f32: bool,
}

/// What it remembers of a parameter.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one per parameter
pub enum State8bit<const D: usize> {
    /// Of a small one or a table of embeddings.
    Full(AdamWState<D>),
    /// In codes.
    Coded(Coded),
}

/// Both moments in 8 bits.
#[derive(Debug, Clone)]
pub struct Coded {
    step: u64,
    /// Dimensions of the parameter.
    shape: Vec<usize>,
    codes: [Codes; 2],
    /// `[blocks]` f32.
    absmax: [Tensor<1>; 2],
}

impl Optimizer for AdamW8bit {
    type State<const D: usize> = State8bit<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<State8bit<D>>,
    ) -> (Tensor<D>, Option<State8bit<D>>) {
        let coded = match self.start(&param, state) {
            State8bit::Full(state) => {
                let (param, state) = self.rule.step(lr, param, grad, Some(state));
                return (param, state.map(State8bit::Full));
            }
            State8bit::Coded(coded) => coded,
        };
        let mut alone = card::none();
        let (param, coded) = if alone.takes(param.dtype(), &grad) {
            let finish = self.push(&mut alone, lr, param, grad, coded);
            finish(alone.update().take().expect("one for one"))
        } else {
            self.numbers(lr, coded.step + 1).update(param, grad, coded)
        };
        (param, Some(State8bit::Coded(coded)))
    }

    fn to_device<const D: usize>(state: State8bit<D>, device: &Device) -> State8bit<D> {
        match state {
            State8bit::Full(state) => State8bit::Full(AdamW::to_device(state, device)),
            State8bit::Coded(coded) => State8bit::Coded(Coded {
                codes: coded.codes.map(|codes| Codes(codes.0.to_device(device))),
                absmax: coded.absmax.map(|scales| scales.to_device(device)),
                ..coded
            }),
        }
    }
}

impl AdamW8bit {
    /// The state before an update: the one there is, or the first.
    pub(crate) fn start<const D: usize>(&self, param: &Tensor<D>, state: Option<State8bit<D>>) -> State8bit<D> {
        let full = self.keep_f32 || param.shape().num_elements() < SMALLEST;
        state.unwrap_or_else(|| match full {
            true => State8bit::Full(AdamWState::zero(param)),
            false => State8bit::Coded(Coded::zero(param)),
        })
    }

    fn numbers(&self, lr: f64, step: u64) -> Numbers {
        let [beta1, beta2] = self.rule.betas;
        let lift = (1.0 - beta2.powf(step as f64)).sqrt();
        Numbers {
            beta1,
            beta2,
            step_size: lr * lift / (1.0 - beta1.powf(step as f64)),
            eps: lift * self.rule.eps,
            keep: 1.0 - lr * self.rule.weight_decay,
        }
    }
}

/// The scalars of one update.
struct Numbers {
    beta1: f64,
    beta2: f64,
    /// `lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ)`
    step_size: f64,
    /// `√(1 - β₂ᵗ)·ε`
    eps: f64,
    /// `1 - lr·λ`
    keep: f64,
}

impl Numbers {
    fn update<const D: usize>(&self, param: Tensor<D>, grad: Tensor<D>, state: Coded) -> (Tensor<D>, Coded) {
        #[cfg(feature = "flex")]
        if host::holds(&param) && host::holds(&grad) {
            return self.on_slices(param, grad, state);
        }
        self.on_tensors(param, grad, state)
    }

    /// The update in one pass over f32 values in host memory.
    #[cfg(feature = "flex")]
    fn on_slices<const D: usize>(&self, param: Tensor<D>, grad: Tensor<D>, state: Coded) -> (Tensor<D>, Coded) {
        let [code1, code2] = state.codes;
        let (param, codes, absmax) =
            host::update_blocks(param, grad, [code1.0, code2.0], state.absmax, BLOCK, self.on_block());
        let coded = Coded {
            step: state.step + 1,
            codes: codes.map(Codes),
            absmax,
            ..state
        };
        (param, coded)
    }

    /// The update of one block.
    #[cfg(feature = "flex")]
    fn on_block(&self) -> impl Fn(host::Block<2>) + Send + Sync {
        let [beta1, rest1, beta2, rest2] =
            [self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2].map(|x| x as f32);
        let [step_size, eps, keep] = [self.step_size, self.eps, self.keep].map(|x| x as f32);
        let (signed, unsigned) = (&*SIGNED, &*UNSIGNED);
        move |block| {
            let ([code1, code2], [scale1, scale2]) = (block.codes, block.scales);
            let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
            for i in 0..BLOCK {
                m[i] = signed.values[usize::from(code1[i])] * *scale1;
                v[i] = unsigned.values[usize::from(code2[i])] * *scale2;
            }
            let (mut largest1, mut largest2) = (0f32, 0f32);
            // Selections and no branches, so that it is computed in vectors.
            for (((p, g), m), v) in block.param.iter_mut().zip(block.grad).zip(&mut m).zip(&mut v) {
                let finite = g.is_finite();
                let (new1, new2) = (beta1 * *m + rest1 * g, beta2 * *v + rest2 * (g * g));
                let new = keep * (*p - step_size * (new1 / (new2.sqrt() + eps)));
                *p = if finite { new } else { *p };
                *m = if finite { new1 } else { 0.0 };
                *v = if finite { new2 } else { 0.0 };
                largest1 = if m.abs() > largest1 { m.abs() } else { largest1 };
                largest2 = if *v > largest2 { *v } else { largest2 };
            }
            let numbers = block.grad.len();
            m[numbers..].fill(0.0);
            v[numbers..].fill(0.0);
            for i in 0..BLOCK {
                let code = signed.encode(share(m[i], largest1));
                code1[i] = if code == signed.zero && m[i] < 0.0 {
                    code - 1
                } else {
                    code
                };
                code2[i] = unsigned.encode(share(v[i], largest2));
            }
            (*scale1, *scale2) = (largest1, largest2);
        }
    }
}

/// A block of zeros has no scale.
#[cfg(feature = "flex")]
fn share(value: f32, largest: f32) -> f32 {
    if largest > 0.0 { value / largest } else { 0.0 }
}

impl Coded {
    fn zero<const D: usize>(param: &Tensor<D>) -> Self {
        let (numbers, device) = (param.shape().num_elements(), param.device());
        let codes = [&SIGNED, &UNSIGNED].map(|map| Codes::filled(map.zero, numbers, &device));
        let scales = || Tensor::zeros([numbers.div_ceil(BLOCK)], (&device, DType::F32));
        Self {
            step: 0,
            shape: param.dims().to_vec(),
            codes,
            absmax: [scales(), scales()],
        }
    }

    /// Codes and scales of both moments.
    #[cfg(test)]
    pub(crate) fn parts(self) -> ([Codes; 2], [Tensor<1>; 2]) {
        (self.codes, self.absmax)
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let words = self
            .codes
            .iter()
            .map(|codes| codes.0.dims()[0] * codes.0.dtype().size());
        let scales = self
            .absmax
            .iter()
            .map(|scales| scales.dims()[0] * scales.dtype().size());
        words.chain(scales).sum()
    }
}

impl<const D: usize> RecordState for State8bit<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let coded = match self {
            Self::Full(state) => return state.state_flatten(prefix, out),
            Self::Coded(coded) => coded,
        };
        let numbers = coded.shape.iter().product();
        for (name, codes) in ["state1", "state2"].iter().zip(&coded.codes) {
            let data = TensorData::new(codes.bytes(numbers), coded.shape.clone());
            out.push_tensor(prefix, name, data);
        }
        for (name, scales) in ["absmax1", "absmax2"].iter().zip(&coded.absmax) {
            out.push_tensor(prefix, name, scales.to_data());
        }
        out.push_scalar(prefix, STEP, coded.step.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let Some(state1) = src.take_tensor(prefix, "state1") else {
            return AdamWState::state_unflatten(prefix, src, device).map(Self::Full);
        };
        let shape = state1.shape().to_vec();
        let numbers = shape.iter().product();
        let codes = |data: TensorData, filler| Some(Codes::new(data.as_slice::<u8>().ok()?, numbers, filler, device));
        let state2 = src.take_tensor(prefix, "state2")?;
        Some(Self::Coded(Coded {
            step: take_step(prefix, src)?,
            codes: [codes(state1, SIGNED.zero)?, codes(state2, UNSIGNED.zero)?],
            absmax: [
                take(prefix, "absmax1", src, device)?,
                take(prefix, "absmax2", src, device)?,
            ],
            shape,
        }))
    }
}
