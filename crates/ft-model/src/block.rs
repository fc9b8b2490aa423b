//! How a decoder block of Llama's kind computes, beside its sizes: what a family says in `config.json`, as a value. One piece of code
//! (`families/llama.rs`) computes all of them.

use burn::tensor::{Device, Tensor, TensorData};
use ft_kernels::{Clamp, DeltaHeads};

use crate::rope::Rope;

/// The parts in which the families differ. The default is Llama's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Where normalizations stand.
    pub norms: Norms,
    /// Whether normalizations multiply by one more than their weight (Gemma).
    pub norms_count_from_one: bool,
    /// Normalization of queries and keys.
    pub qk_norm: QkNorm,
    /// The activation of the gate.
    pub activation: Activation,
    /// Whether queries, keys and values are one matrix (`qkv_proj`), and gate and up too (`gate_up_proj`).
    pub fused: bool,
    /// Linear attention in the place of attention.
    pub delta: Option<DeltaConfig>,
    /// Whether attention's output passes a gate, which the query projection computes beside each head.
    pub output_gate: bool,
    /// Experts in the place of the MLP.
    pub experts: Option<ExpertsConfig>,
    /// How queries grow with the position.
    pub query_scale: Option<QueryScale>,
    /// Whether the MLP has the names of Granite 4's, gate and up in one matrix.
    pub shared_mlp: bool,
    /// Factor of queries times keys, where it is not 1/√head_dim.
    pub attention_scale: Option<f64>,
    /// Soft bound of the scores of attention: `cap · tanh(score / cap)`.
    pub score_cap: Option<f64>,
    /// Soft bound of the logits.
    pub logit_cap: Option<f64>,
    /// Whether every head has a score that takes a share of the probability and adds nothing (`sinks`).
    pub sinks: bool,
    /// Rotary embedding of the layers with a sliding window, where they have one of their own.
    pub local_rope: Option<Rope>,
    /// Whether each layer has rotary embedding; all have where this is empty.
    pub rotates: Vec<bool>,
    /// Factor of the embeddings of tokens, virtual tokens left out.
    pub token_scale: Option<f64>,
    /// Factor of the first block's input.
    pub input_scale: Option<f64>,
    /// Factor of what a sub-layer adds to the residual stream.
    pub residual_scale: Option<f64>,
    /// Factor of the last hidden states, and with them of the logits.
    pub output_scale: Option<f64>,
}

/// Layers whose attention is a gated delta rule behind a convolution (Gated DeltaNet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaConfig {
    /// Its heads.
    pub heads: DeltaHeads,
    /// Columns that the convolution sees.
    pub taps: usize,
    /// Which layers have it; the others have attention.
    pub layers: Vec<bool>,
}

/// How queries grow with the position: by `1 + beta ln(1 + floor(position / original))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryScale {
    /// How fast.
    pub beta: f64,
    /// Context length of the pretraining.
    pub original: f64,
}

impl QueryScale {
    /// Factors `[rows, seq, 1, 1]` at these positions.
    pub(crate) fn factors(self, positions: &[Vec<usize>], device: &Device) -> Tensor<4> {
        let factor = |position: &usize| {
            let times = (*position as f64 / self.original).floor();
            (1.0 + self.beta * times.ln_1p()) as f32
        };
        let shape = [positions.len(), positions.first().map_or(0, Vec::len), 1, 1];
        let factors: Vec<f32> = positions.iter().flatten().map(factor).collect();
        Tensor::from_data(TensorData::new(factors, shape), device)
    }
}

/// Where the normalizations of a block stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and MLP.
    #[default]
    Before,
    /// After both.
    After,
    /// Before and after both.
    Around,
}

/// Over what queries and keys are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    #[default]
    None,
    /// Each head by itself.
    Heads,
    /// All heads together.
    Whole,
}

/// Of the gate in the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// x · sigmoid(x).
    #[default]
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// Swish with bounds, of gates and ups that alternate in one matrix.
    Clamped(Clamp),
}

/// Experts, of whom a router chooses some for every token.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// How many there are.
    pub count: usize,
    /// How many of them compute a token.
    pub per_token: usize,
    /// Width inside each.
    pub inner: usize,
    /// Width inside one that computes every token, where there is one.
    pub shared: Option<usize>,
    /// Whether the weights of the chosen ones are divided by their sum.
    pub normalized: bool,
    /// Which layers have them; the others have an MLP.
    pub layers: Vec<bool>,
    /// Weight of the loss that keeps them equally busy, in training: `router_aux_loss_coef`, where `output_router_logits` is on.
    pub balance: f64,
    /// Whether gate and up of an expert are one matrix.
    pub fused: bool,
    /// Whether checkpoints hold all experts of a layer in one tensor, `[in, out]` each, with biases, of the router too.
    pub stacked: bool,
    /// How checkpoints name the router.
    pub(crate) router: &'static str,
    /// Below a layer.
    pub(crate) path: &'static str,
    pub(crate) names: MlpNames,
    /// Both as checkpoints spell them, where the modules have others.
    pub(crate) stored: Option<(&'static str, MlpNames)>,
}

/// How checkpoints name the matrices of an MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MlpNames {
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub gate_up: &'static str,
    /// Whether checkpoints have gate and up as two matrices, of which the one is made.
    pub joins: bool,
}

impl MlpNames {
    pub const LLAMA: Self = Self {
        gate: "gate_proj",
        up: "up_proj",
        down: "down_proj",
        gate_up: "gate_up_proj",
        joins: false,
    };
    pub const SHARED: Self = Self {
        gate_up: "input_linear",
        down: "output_linear",
        ..Self::LLAMA
    };
    pub const EXPERT: Self = Self {
        joins: true,
        ..Self::LLAMA
    };
}

impl Block {
    /// The linear attention of layer `index`, where it has one.
    pub(crate) fn linear(&self, index: usize) -> Option<&DeltaConfig> {
        self.delta.as_ref().filter(|delta| delta.layers[index])
    }

    /// The experts of layer `index`, where it has some.
    pub(crate) fn sparse(&self, index: usize) -> Option<&ExpertsConfig> {
        self.experts.as_ref().filter(|experts| experts.layers[index])
    }

    /// Those of a layer that has them.
    pub(crate) fn experts(&self) -> &ExpertsConfig {
        self.experts.as_ref().expect("a block with experts")
    }

    /// Where the MLP or the experts of layer `index` are, below the layer.
    pub(crate) fn feed_forward(&self, index: usize) -> &'static str {
        let dense = if self.shared_mlp { "shared_mlp" } else { "mlp" };
        self.sparse(index).map_or(dense, |experts| experts.path)
    }

    /// The names of a layer's matrices where it has no experts, and whether gate and up are one of them.
    pub(crate) fn dense(&self) -> (&'static MlpNames, bool) {
        match self.shared_mlp {
            true => (&MlpNames::SHARED, true),
            false => (&MlpNames::LLAMA, self.fused),
        }
    }

    /// Whether layer `index` has rotary embedding.
    pub(crate) fn rotates(&self, index: usize) -> bool {
        self.rotates.get(index).copied().unwrap_or(true)
    }
}
