//! One file per model family; one line per family in each list here.

use std::ops::Range;

use burn::module::{Module, ParamId, list_param_ids};
use burn::tensor::{Int, Tensor};
use ft_peft::{Pass, Prefixes, TargetModule};

use crate::cache::KvCache;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::heads::{self, HeadKind, HeadLayers};
use crate::rows::Rows;
use crate::source::Source;

pub mod bert;
pub mod distilbert;
pub mod encoder;
pub mod gemma2;
pub mod gemma3;
pub mod gpt2;
pub mod gpt_oss;
pub mod granite;
pub mod granite4;
pub mod llama;
pub mod ministral3;
pub mod mistral;
pub mod mixtral;
pub mod modernbert;
pub mod olmo2;
pub mod phi3;
pub mod qwen2;
pub mod qwen2_moe;
pub mod qwen3;
pub mod qwen3_5;
pub mod qwen3_moe;
pub mod roberta;
pub mod smollm3;

/// A family of checkpoints.
struct Family {
    /// `model_type` in `config.json`.
    name: &'static str,
    /// Its class in transformers.
    class: &'static str,
    /// Its architecture in llama.cpp, where it can be exported.
    gguf: Option<&'static str>,
    blocks: Blocks,
    /// What reads its configuration.
    parse: fn(&Keys) -> Result<ModelConfig>,
}

/// The block shapes that the families share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Llama and its relatives: RMSNorm, rotary embedding, gated MLP.
    Llama,
    /// GPT-2: LayerNorm, learned positions, plain MLP.
    Gpt2,
    /// BERT and its relatives: every token sees its whole text.
    Encoder,
    /// ModernBERT: the same, and otherwise in Llama's order.
    Modern,
}

const FAMILIES: [Family; 22] = [
    family("llama", "LlamaForCausalLM", Some("llama"), Blocks::Llama, llama::parse),
    family(
        "mistral",
        "MistralForCausalLM",
        Some("llama"),
        Blocks::Llama,
        mistral::parse,
    ),
    family(
        "ministral3",
        "Ministral3ForCausalLM",
        None,
        Blocks::Llama,
        ministral3::parse,
    ),
    family("qwen2", "Qwen2ForCausalLM", Some("qwen2"), Blocks::Llama, qwen2::parse),
    family("qwen3", "Qwen3ForCausalLM", Some("qwen3"), Blocks::Llama, qwen3::parse),
    family(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        None,
        Blocks::Llama,
        qwen2_moe::parse,
    ),
    family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        None,
        Blocks::Llama,
        qwen3_moe::parse,
    ),
    family(
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        None,
        Blocks::Llama,
        qwen3_5::parse,
    ),
    family("mixtral", "MixtralForCausalLM", None, Blocks::Llama, mixtral::parse),
    family("gpt_oss", "GptOssForCausalLM", None, Blocks::Llama, gpt_oss::parse),
    family(
        "gemma2",
        "Gemma2ForCausalLM",
        Some("gemma2"),
        Blocks::Llama,
        gemma2::parse,
    ),
    family("gemma3_text", "Gemma3ForCausalLM", None, Blocks::Llama, gemma3::parse),
    family("phi3", "Phi3ForCausalLM", None, Blocks::Llama, phi3::parse),
    family("smollm3", "SmolLM3ForCausalLM", None, Blocks::Llama, smollm3::parse),
    family("olmo2", "Olmo2ForCausalLM", None, Blocks::Llama, olmo2::parse),
    family("granite", "GraniteForCausalLM", None, Blocks::Llama, granite::parse),
    family(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        None,
        Blocks::Llama,
        granite4::parse,
    ),
    family("gpt2", "GPT2LMHeadModel", Some("gpt2"), Blocks::Gpt2, gpt2::parse),
    family("bert", "BertForMaskedLM", None, Blocks::Encoder, bert::parse),
    family(
        "distilbert",
        "DistilBertForMaskedLM",
        None,
        Blocks::Encoder,
        distilbert::parse,
    ),
    family(
        "modernbert",
        "ModernBertForMaskedLM",
        None,
        Blocks::Modern,
        modernbert::parse,
    ),
    family("roberta", "RobertaForMaskedLM", None, Blocks::Encoder, roberta::parse),
];

const fn family(
    name: &'static str,
    class: &'static str,
    gguf: Option<&'static str>,
    blocks: Blocks,
    parse: fn(&Keys) -> Result<ModelConfig>,
) -> Family {
    Family {
        name,
        class,
        gguf,
        blocks,
        parse,
    }
}

/// The class in transformers of the family of this name.
pub(crate) fn class(name: &str) -> Option<&'static str> {
    FAMILIES
        .iter()
        .find(|family| family.name == name)
        .map(|family| family.class)
}

/// Every supported family: its name (`model_type`), its class in transformers, its architecture in llama.cpp where it can be exported.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str, Option<&'static str>)> {
    FAMILIES.iter().map(|family| (family.name, family.class, family.gguf))
}

/// Names of those that are encoders.
pub fn encoders() -> impl Iterator<Item = &'static str> {
    let encoders = FAMILIES
        .iter()
        .filter(|family| matches!(family.blocks, Blocks::Encoder | Blocks::Modern));
    encoders.map(|family| family.name)
}

/// Names of the supported families.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}

impl ModelConfig {
    fn family(&self) -> &'static Family {
        let family = FAMILIES.iter().find(|family| family.name == self.model_type);
        family.expect("a configuration is read by a family")
    }

    /// The class in transformers.
    pub(crate) fn class(&self) -> &'static str {
        self.family().class
    }

    /// The class without what it is for: `Llama`.
    pub(crate) fn class_stem(&self) -> &'static str {
        let class = self.class();
        let ends = ["ForCausalLM", "LMHeadModel", "ForMaskedLM"];
        ends.iter().find_map(|end| class.strip_suffix(end)).unwrap_or(class)
    }

    /// The layers of its head of this kind.
    pub(crate) fn head_layers(&self, kind: HeadKind) -> HeadLayers {
        match self.blocks() {
            Blocks::Llama | Blocks::Gpt2 => heads::of_decoder(kind),
            Blocks::Encoder => self.encoder().names().head(kind),
            Blocks::Modern => modernbert::head(kind, self.encoder().pool),
        }
    }

    /// The architecture in llama.cpp, where it can be exported.
    pub(crate) fn gguf_architecture(&self) -> Option<&'static str> {
        self.family().gguf
    }

    /// The shape of its blocks.
    pub(crate) fn blocks(&self) -> Blocks {
        self.family().blocks
    }
}

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let wanted = keys.text("model_type").unwrap_or("");
    match FAMILIES.iter().find(|family| family.name == wanted) {
        Some(family) => (family.parse)(keys),
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            Err(keys.error(
                "model_type",
                format!("\"{wanted}\" is not supported; supported: {known}"),
            ))
        }
    }
}

/// The layers of a model, in the block shapes the families share.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per model
pub(crate) enum Decoder {
    /// [`Blocks::Llama`].
    Llama(llama::Llama),
    /// [`Blocks::Gpt2`].
    Gpt2(gpt2::Gpt2),
    /// [`Blocks::Encoder`].
    Encoder(encoder::Encoder),
    /// [`Blocks::Modern`].
    Modern(modernbert::ModernBert),
}

impl Decoder {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        match config.blocks() {
            Blocks::Gpt2 => Decoder::Gpt2(gpt2::Gpt2::build(config, source)),
            Blocks::Llama => Decoder::Llama(llama::Llama::build(config, source)),
            Blocks::Encoder => Decoder::Encoder(encoder::Encoder::build(config, source)),
            Blocks::Modern => Decoder::Modern(modernbert::ModernBert::build(config, source)),
        }
    }

    /// Input of the first block, for ids `[batch, seq]` in columns that start at `offset`: `[batch, n + seq, hidden]`, with
    /// the n columns of a prompt where the offset is 0.
    pub fn embed(
        &self,
        ids: Tensor<2, Int>,
        config: &ModelConfig,
        rows: &Rows,
        offset: usize,
        pass: &Pass,
    ) -> Tensor<3> {
        match self {
            Decoder::Llama(m) => m.embed(ids, config, rows, offset, pass),
            Decoder::Gpt2(m) => m.embed(ids, rows, offset, pass),
            Decoder::Encoder(m) => m.embed(ids, config, rows, pass),
            Decoder::Modern(m) => m.embed(ids, pass),
        }
    }

    /// The blocks `range` in turn, `[batch, seq, hidden]` to the same. The cache, where there is one, is not advanced.
    pub fn blocks(
        &self,
        range: Range<usize>,
        hidden: Tensor<3>,
        config: &ModelConfig,
        rows: &Rows,
        cache: Option<&mut KvCache>,
        pass: &Pass,
    ) -> Tensor<3> {
        match self {
            Decoder::Llama(m) => m.blocks(range, hidden, config, rows, cache, pass),
            Decoder::Gpt2(m) => m.blocks(range, hidden, config, rows, cache, pass),
            Decoder::Encoder(m) => m.blocks(range, hidden, config, rows, pass),
            Decoder::Modern(m) => m.blocks(range, hidden, config, rows, pass),
        }
    }

    /// The norm after the last block.
    pub fn norm(&self, hidden: Tensor<3>, config: &ModelConfig) -> Tensor<3> {
        match self {
            Decoder::Llama(m) => m.norm(hidden, config),
            Decoder::Gpt2(m) => m.ln_f.forward(hidden),
            Decoder::Encoder(_) => hidden,
            Decoder::Modern(m) => m.final_norm.forward(hidden),
        }
    }

    /// Trainable numbers of the blocks from `block` on and of the norm after them.
    pub fn num_params_from(&self, block: usize) -> usize {
        match self {
            Decoder::Llama(m) => {
                m.layers.iter().skip(block).map(Module::num_params).sum::<usize>() + m.norm.num_params()
            }
            Decoder::Gpt2(m) => m.h.iter().skip(block).map(Module::num_params).sum::<usize>() + m.ln_f.num_params(),
            Decoder::Encoder(m) => m.layers.iter().skip(block).map(Module::num_params).sum(),
            Decoder::Modern(m) => {
                m.layers.iter().skip(block).map(Module::num_params).sum::<usize>() + m.final_norm.num_params()
            }
        }
    }

    /// Parameters of everything before `block`: embeddings, what stands before the keys of all layers, blocks.
    pub fn params_before(&self, block: usize) -> Vec<ParamId> {
        let mut ids = list_param_ids(self.prefixes());
        match self {
            Decoder::Llama(m) => {
                ids.extend(list_param_ids(&m.embed_tokens));
                ids.extend(m.layers[..block].iter().flat_map(list_param_ids));
            }
            Decoder::Gpt2(m) => {
                ids.extend([&m.wte, &m.wpe].into_iter().flat_map(list_param_ids));
                ids.extend(m.h[..block].iter().flat_map(list_param_ids));
            }
            Decoder::Encoder(m) => ids.extend(m.params_before(block)),
            Decoder::Modern(m) => ids.extend(m.params_before(block)),
        }
        ids
    }

    pub fn target_modules(&mut self, config: &ModelConfig) -> Vec<TargetModule<'_>> {
        match self {
            Decoder::Llama(m) => m.target_modules(config),
            Decoder::Gpt2(m) => m.target_modules(config),
            Decoder::Encoder(m) => m.target_modules(config),
            Decoder::Modern(m) => m.target_modules(),
        }
    }

    pub fn prefixes(&self) -> &Prefixes {
        match self {
            Decoder::Llama(m) => &m.prefixes,
            Decoder::Gpt2(m) => &m.prefixes,
            Decoder::Encoder(m) => &m.prefixes,
            Decoder::Modern(m) => &m.prefixes,
        }
    }

    pub fn embeddings(&self) -> &ft_peft::Embedding {
        match self {
            Decoder::Llama(m) => &m.embed_tokens,
            Decoder::Gpt2(m) => &m.wte,
            Decoder::Encoder(m) => &m.words,
            Decoder::Modern(m) => &m.words,
        }
    }
}
