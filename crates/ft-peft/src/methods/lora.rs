//! LoRA: low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, eq. 3), with rank-stabilized scaling
//! (Kalajdzievski 2023, arXiv:2312.03732) and principal-component starts (PiSSA, arXiv:2404.02948; OLoRA,
//! arXiv:2406.01775).
//!
//! ```text
//! y = x Wᵀ + s · drop(x) Aᵀ Bᵀ      A [r, in]   B [out, r]   s = α/r, rank-stabilized α/√r
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{self, invalid, positive};
use super::dora::Dora;
use super::trainable_tokens::{self, Token};
use super::{Delta, InTraining, PeftFile, PeftMethod};
use crate::adapter::experts::of_experts;
use crate::attach::{Choice, ModuleSpec};
use crate::embedding_delta::EmbeddingDelta;
use crate::error::Result;
use crate::patterns::Patterns;
use crate::peft_config::Target;
use crate::rates::Part;
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Kind, Layers, Selector, Targets};

mod embedding;
pub(crate) mod file;
mod init;
pub(super) mod low_rank;
pub mod mixed;
mod parameters;
mod projection;
pub(crate) mod stack;

pub use embedding::LoraEmbedding;
pub use init::Start;
pub use projection::Lora;

/// Options of LoRA; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Inner dimension of the adapters (`r`).
    pub rank: usize,
    /// Numerator of the scale (`lora_alpha`).
    pub alpha: f64,
    /// Share of the adapter's input that is dropped in training (`lora_dropout`).
    pub dropout: f64,
    /// `"all-linear"`, a list of path suffixes, or one regular expression over whole paths (`target_modules`).
    pub targets: Targets,
    /// Path suffixes of matrices that a layer's experts have in one tensor: `["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]`. Experts are
    /// adapted here alone then, whatever `targets` says, and gate and up of an expert share their A. Left out, each matrix of each expert is
    /// a target like any other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_parameters: Vec<String>,
    /// Path suffixes to leave out (`exclude_modules`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"` (`layers_to_transform`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Rank of the paths whose end matches the key (`rank_pattern`).
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// Alpha of the paths whose end matches the key (`alpha_pattern`).
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
    /// Scale by α/√r instead of α/r (`use_rslora`).
    pub rslora: bool,
    /// Which biases of the base train too (`bias`).
    pub bias: BiasMode,
    /// Train direction and magnitude of the weights apart, see [`dora`](super::dora) (`use_dora`).
    pub dora: bool,
    /// Give B a bias of its own (`lora_bias`).
    pub lora_bias: bool,
    /// Starting values (`init_lora_weights`).
    pub init: Init,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
    /// Tokens, by id or by text, whose rows of the input embeddings train and are saved with the adapter, see
    /// [`trainable_tokens`](super::trainable_tokens).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trainable_token_indices: Vec<Token>,
    /// LoRA+ (Hayou et al. 2024, arXiv:2402.12354): the learning rate of B, and of all vectors that train, over `optim.lr`. The
    /// paper found 16 good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// With LoRA+: the learning rate of adapters of embedding tables, 1e-6 where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_embedding: Option<f64>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::all_linear(),
            target_parameters: Vec::new(),
            exclude: Vec::new(),
            layers: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            rslora: false,
            bias: BiasMode::None,
            dora: false,
            lora_bias: false,
            init: Init::Kaiming,
            modules_to_save: Vec::new(),
            trainable_token_indices: Vec::new(),
            loraplus_lr_ratio: None,
            loraplus_lr_embedding: None,
        }
    }
}

/// PEFT's key of the chosen tokens.
const TOKENS: &str = "trainable_token_indices";

/// PEFT's default for adapters of embedding tables with LoRA+.
const EMBEDDING_LR: f64 = 1e-6;

/// Which biases of the base model train with the adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BiasMode {
    /// None of them.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// The biases of the adapted layers.
    LoraOnly,
}

/// Starting values of A and B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// A uniform in ±1/√in, B zero: the adapted model starts as the base.
    #[default]
    Kaiming,
    /// A normal with variance 1/r², B zero.
    Gaussian,
    /// The r principal components of W; the base keeps the rest.
    Pissa,
    /// The first r columns of W's QR decomposition; the base keeps the rest.
    Olora,
}

impl LoraConfig {
    /// Rank at `path`, after `rank_pattern`.
    pub fn rank_at(&self, path: &str) -> usize {
        self.rank_pattern.get(path).copied().unwrap_or(self.rank)
    }

    /// Scale at `path`, after both patterns.
    pub fn scale_at(&self, path: &str) -> f64 {
        let alpha = self.alpha_pattern.get(path).copied().unwrap_or(self.alpha);
        let rank = self.rank_at(path) as f64;
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Whether the base gives up what the adapter starts with.
    pub fn moves_base(&self) -> bool {
        matches!(self.init, Init::Pissa | Init::Olora)
    }

    fn fits(&self, spec: &ModuleSpec) -> Result<()> {
        let path = spec.path.clone();
        let vector = match spec.kind {
            Kind::Norm => Some("a normalization"),
            Kind::Bias => Some("a bias"),
            Kind::Vector => Some("a vector"),
            Kind::Convolution => Some("a convolution"),
            Kind::Gates => Some("no matrix"),
            _ => None,
        };
        if let Some(what) = vector {
            let why = format!("{path} is {what}, which LoRA cannot adapt; train it whole with modules_to_save");
            return Err(invalid("targets", why));
        }
        if self.dora && spec.kind == Kind::Embedding {
            let why = format!("{path} is an embedding table, where only plain LoRA works; leave it out of the targets");
            return Err(invalid("dora", why));
        }
        spec.holds_rank(self.rank_at(&path))
    }
}

impl PeftMethod for LoraConfig {
    fn check(&self) -> Result<()> {
        common::ranks(self.rank, &self.rank_pattern)?;
        common::dropout("dropout", self.dropout)?;
        if self.dora && self.lora_bias {
            return Err(invalid(
                "dora",
                "does not go with lora_bias: the magnitude has no place for a second bias",
            ));
        }
        parameters::check(self)?;
        trainable_tokens::check(TOKENS, &self.trainable_token_indices)?;
        let ratio = self.loraplus_lr_ratio;
        if self.loraplus_lr_embedding.is_some() && ratio.is_none() {
            return Err(invalid("loraplus_lr_embedding", "goes with loraplus_lr_ratio only"));
        }
        positive("loraplus_lr_ratio", ratio.unwrap_or(1.0))?;
        positive("loraplus_lr_embedding", self.loraplus_lr_embedding.unwrap_or(1.0))?;
        common::alphas(self.alpha, &self.alpha_pattern)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let mut choice = match &self.targets {
            Targets::Suffixes(none) if none.is_empty() && !self.target_parameters.is_empty() => Choice::default(),
            _ => Choice::adapters(specs, selector, &self.modules_to_save, self.bias)?,
        };
        if !self.target_parameters.is_empty() {
            choice.adapted = parameters::with_experts(choice.adapted, &self.target_parameters, specs)?;
        }
        if !self.trainable_token_indices.is_empty() {
            choice.rows = vec![trainable_tokens::input_embeddings(specs).path.clone()];
            trainable_tokens::fits(TOKENS, &self.trainable_token_indices, specs, &choice)?;
        }
        specs
            .iter()
            .filter(|spec| choice.adapted.contains(&spec.path))
            .try_for_each(|spec| self.fits(spec))?;
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        let [rows, cols] = spec.dims;
        let bias = if self.lora_bias && spec.kind != Kind::Embedding {
            rows
        } else {
            0
        };
        let magnitude = if self.dora { rows } else { 0 };
        self.rank_at(&spec.path) * (rows + cols) + bias + magnitude
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let ([out, inner], rank) = (spec.dims, self.rank_at(&spec.path));
        let dropped = self.dropout > 0.0 && (self.dora || self.lora_bias);
        let (norms, product) = if self.dora {
            (2 * rank * (out + inner), out)
        } else {
            (0, 0)
        };
        SavedActivations {
            // A dropped copy takes the place of the input.
            input: !dropped,
            per_token: rank + product + if dropped { inner } else { 0 },
            wide: rank,
            fixed: norms,
            passing: if self.dropout > 0.0 { inner } else { 0 },
            ..SavedActivations::default()
        }
    }

    fn shapes_at(&self, spec: &ModuleSpec) -> Vec<Vec<usize>> {
        let ([rows, cols], rank) = (spec.dims, self.rank_at(&spec.path));
        let vectors = self.parameters_at(spec) - rank * (rows + cols);
        let mut shapes = vec![vec![rank, cols], vec![rows, rank]];
        shapes.extend((vectors > 0).then(|| vec![vectors]));
        shapes
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        match &mut module.slot {
            ModuleSlot::Projection(slot) => {
                let (lora, residual) = init::projection(self, &module.path, seed, slot);
                if let Some(residual) = residual {
                    slot.weight.set_dense(residual);
                }
                slot.delta = Some(if self.dora {
                    Delta::Dora(Dora::new(lora, slot))
                } else {
                    Delta::Lora(lora)
                });
            }
            ModuleSlot::Embedding(slot) => {
                let lora = init::embedding(self, &module.path, seed, slot);
                slot.delta = Some(EmbeddingDelta::Lora(lora));
            }
            _ => unreachable!("refused by `choose`"),
        }
    }

    fn tokens(&self) -> &[Token] {
        &self.trainable_token_indices
    }

    fn target_parameters(&self) -> &[String] {
        &self.target_parameters
    }

    fn name_tokens(&mut self, id_of: &dyn Fn(&str) -> Option<u32>) -> Result<()> {
        trainable_tokens::name(TOKENS, &mut self.trainable_token_indices, id_of)
    }
}

impl InTraining for LoraConfig {
    fn learning_rate(&self) -> f64 {
        // QLoRA (Dettmers et al. 2023) up to 13B parameters.
        2e-4
    }

    /// The groups of PEFT's `create_loraplus_optimizer`.
    fn rate(&self, part: Part, lr: f64) -> f64 {
        let Some(ratio) = self.loraplus_lr_ratio else {
            return lr;
        };
        match part {
            Part::Embedding => self.loraplus_lr_embedding.unwrap_or(EMBEDDING_LR),
            Part::Vector => ratio * lr,
            Part::Matrix(name) if name.starts_with("lora_B") => ratio * lr,
            Part::Matrix(_) => lr,
        }
    }
}

impl PeftFile for LoraConfig {
    fn targeted(&self, choice: &Choice) -> Vec<String> {
        let of_experts = |path: &String| !self.target_parameters.is_empty() && of_experts(path).is_some();
        choice
            .adapted
            .iter()
            .filter(|path| !of_experts(path))
            .cloned()
            .collect()
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(file::write(self, target))
    }
}
