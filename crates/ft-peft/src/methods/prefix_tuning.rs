//! Prefix tuning: keys and values of virtual tokens before those of every layer (Li and Liang 2021, arXiv:2101.00190).
//!
//! ```text
//! attention(Q, [Pk; K], [Pv; V])       Pk, Pv [n, kv_heads, head_dim], one pair per layer, never rotated
//! P = E                                E [n, 2 L d], d = kv_heads · head_dim: keys and values of layer 0, of layer 1, ...
//! P = tanh(E W1ᵀ + b1) W2ᵀ + b2        with prefix_projection: E [n, d], W1 [h, d], W2 [2 L d, h]
//! ```
//!
//! The text's positions start at n. PEFT's file holds P alone; E, W1 and W2 are kept in a file of their own beside it, so
//! that training can go on.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ft_quant::Leaf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{checked, invalid, prompt_record, size};
use super::{InTraining, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::peft_config::{File, Target};
use crate::target_module::{AnyTensor, ModuleSlot, TargetModule};
use crate::targets::Kind;
use crate::virtual_tokens::{Dense, EMBEDDING, Prefix, PrefixTable, normal, replace};

/// Options of prefix tuning, with PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixTuningConfig {
    /// Virtual tokens before the text.
    pub num_virtual_tokens: usize,
    /// Whether an MLP makes keys and values out of a small table, as in the paper; it steadies training.
    pub prefix_projection: bool,
    /// Width inside the MLP; that of a layer's keys where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// What keys and values start as.
    pub init_weights: InitWeights,
}

/// Starting values of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitWeights {
    /// As PyTorch starts tables and linear layers.
    #[default]
    Random,
    /// Zeros: virtual tokens that add nothing, but take their share of the attention.
    Zero,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            prefix_projection: false,
            encoder_hidden_size: None,
            init_weights: InitWeights::Random,
        }
    }
}

/// The module that prefixes go into.
pub(crate) fn attention(specs: &[ModuleSpec]) -> Result<Choice> {
    let spec = specs.iter().find(|spec| spec.kind == Kind::Attention);
    let path = spec.map(|spec| spec.path.clone());
    let path = path.ok_or_else(|| invalid("method", "this model has no attention that a prefix could stand before"))?;
    Ok(Choice {
        adapted: vec![path],
        ..Choice::default()
    })
}

impl PeftMethod for PrefixTuningConfig {
    fn check(&self) -> Result<()> {
        size("num_virtual_tokens", self.num_virtual_tokens)?;
        size("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        attention(specs)
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        let [layers, width] = spec.dims;
        if !self.prefix_projection {
            return self.num_virtual_tokens * 2 * layers * width;
        }
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        let projection = Dense::count([hidden, width]) + Dense::count([2 * layers * width, hidden]);
        self.num_virtual_tokens * width + projection
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Attention { slot, shape, device } = &mut module.slot else {
            unreachable!("`choose` names the attention")
        };
        let (tokens, width) = (self.num_virtual_tokens, shape.width());
        let zero = self.init_weights == InitWeights::Zero;
        slot.prefix = Some(if self.prefix_projection {
            let hidden = self.encoder_hidden_size.unwrap_or(width);
            let up = (0..shape.layers).map(|i| match zero {
                true => Dense::zeros([2 * width, hidden], device),
                false => Dense::start([2 * width, hidden], seed, &format!("transform.2.{i}"), device),
            });
            Prefix::Mlp(PrefixMlp {
                embedding: Param::from_tensor(normal([tokens, width], seed, EMBEDDING, device)),
                down: Dense::start([hidden, width], seed, "transform.0", device),
                up: up.collect(),
            })
        } else {
            let layer = |i: usize| match zero {
                true => Tensor::zeros([tokens, 2 * width], &*device),
                false => normal([tokens, 2 * width], seed, &format!("{EMBEDDING}.{i}"), device),
            };
            let layers = (0..shape.layers).map(|i| Leaf::Trained(Param::from_tensor(layer(i))));
            Prefix::Table(PrefixTable {
                layers: layers.collect(),
            })
        });
    }
}

impl InTraining for PrefixTuningConfig {
    fn learning_rate(&self) -> f64 {
        // Keys and values start with deviation 1, and small steps leave them there; an MLP moves them with every weight.
        if self.prefix_projection { 3e-3 } else { 5e-2 }
    }
}

impl PeftFile for PrefixTuningConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(file(self, target))
    }
}

/// PEFT's `adapter_config.json` of a prefix.
pub(super) fn file(config: &PrefixTuningConfig, target: &Target<'_>) -> serde_json::Value {
    let shape = target.shape;
    let width = shape.kv_heads * shape.head_dim;
    let mut file = prompt_record(
        "PREFIX_TUNING",
        target,
        config.num_virtual_tokens,
        [shape.kv_heads, width],
    );
    file["encoder_hidden_size"] = config.encoder_hidden_size.unwrap_or(width).into();
    file["init_weights"] = match config.init_weights {
        InitWeights::Random => json!(null),
        InitWeights::Zero => json!("zero"),
    };
    file["prefix_projection"] = config.prefix_projection.into();
    file
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["modules_to_save"])?;
    let init: Option<String> = file.read("init_weights")?;
    let config = PrefixTuningConfig {
        num_virtual_tokens: file.need("num_virtual_tokens")?,
        prefix_projection: file.read("prefix_projection")?.unwrap_or(false),
        encoder_hidden_size: file.read("encoder_hidden_size")?,
        init_weights: match init.as_deref() {
            Some("zero") => InitWeights::Zero,
            _ => InitWeights::Random,
        },
    };
    checked(config).map(PeftConfig::PrefixTuning)
}

/// A small table and the MLP that makes keys and values of it.
#[derive(Module, Debug)]
pub struct PrefixMlp {
    /// `[num_virtual_tokens, d]`.
    pub embedding: Param<Tensor<2>>,
    /// `[h, d]`.
    pub down: Dense,
    /// Of each layer, `[2 d, h]`.
    pub up: Vec<Dense>,
}

/// PEFT's names of the two linear layers.
const DOWN: &str = "transform.0";
const UP: &str = "transform.2";

impl PrefixMlp {
    /// Keys and values of a layer, `[n, 2 d]`.
    pub fn layer(&self, layer: usize) -> Tensor<2> {
        self.up[layer].forward(self.down.forward(self.embedding.val()).tanh())
    }

    pub(crate) fn state(&self) -> Vec<(String, AnyTensor)> {
        let weights = self.up.iter().map(|part| part.weight.val()).collect();
        let biases = self.up.iter().map(|part| part.bias.val()).collect();
        let up = [
            (format!("{UP}.weight"), AnyTensor::Matrix(Tensor::cat(weights, 0))),
            (format!("{UP}.bias"), AnyTensor::Vector(Tensor::cat(biases, 0))),
        ];
        let table = (EMBEDDING.to_string(), AnyTensor::Matrix(self.embedding.val()));
        std::iter::once(table).chain(self.down.state(DOWN)).chain(up).collect()
    }

    pub(crate) fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        replace(&mut self.embedding, tensor(EMBEDDING).into_matrix());
        self.down.load_state(DOWN, tensor);
        let layers = self.up.len();
        let weights = tensor(&format!("{UP}.weight")).into_matrix().chunk(layers, 0);
        let biases = tensor(&format!("{UP}.bias")).into_vector().chunk(layers, 0);
        for (part, (weight, bias)) in self.up.iter_mut().zip(weights.into_iter().zip(biases)) {
            replace(&mut part.weight, weight);
            replace(&mut part.bias, bias);
        }
    }
}
