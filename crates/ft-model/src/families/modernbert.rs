//! ModernBERT (Warner et al. 2024, arXiv:2412.13663): an encoder with Llama's order of things. Normalizations without bias stand before each
//! sub-layer, queries and keys turn, the MLP is gated by GELU, and two of three layers see a window around each token.

use std::ops::Range;

use burn::module::{Module, ParamId, list_param_ids};
use burn::tensor::{Int, Tensor, activation};
use ft_kernels::{Mask, Output};
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, TargetModule};
use serde_json::{Value, json};

use super::encoder::EncoderConfig;
use crate::block::Block;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::heads::{Before, Behind, HeadKind, HeadLayers, Pool};
use crate::masked_head::MaskedNames;
use crate::rope::Rope;
use crate::rows::Rows;
use crate::source::{Fill, Source, centered_norm, linear};

static MASKED: MaskedNames = MaskedNames {
    dense: "head.dense",
    norm: "head.norm",
    decoder: "decoder",
    bias: "decoder",
    exact_gelu: true,
    biased: false,
};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    for key in ["hidden_activation", "classifier_activation"] {
        keys.need_activation(key, &["gelu"])?;
    }
    keys.need_absent(&["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"])?;
    if !keys.flag("decoder_bias", true) {
        return Err(keys.error("decoder_bias", "false is not supported here; true is".into()));
    }
    let pooling = keys.text("classifier_pooling").unwrap_or("cls");
    let pool = match pooling {
        "cls" => Pool::First,
        "mean" => Pool::Mean,
        other => {
            return Err(keys.error(
                "classifier_pooling",
                format!("\"{other}\" is neither \"cls\" nor \"mean\""),
            ));
        }
    };
    let sizes = keys.with_defaults(&[
        ("vocab_size", 50_368),
        ("hidden_size", 768),
        ("num_hidden_layers", 22),
        ("num_attention_heads", 12),
        ("intermediate_size", 1152),
        ("max_position_embeddings", 8192),
    ]);
    let [global, local] = ropes(keys)?;
    let config = ModelConfig::common_with(&sizes, global)?.with_raw(keys);
    let layers = config.num_hidden_layers;
    let every = keys.size("global_attn_every_n_layers", Some(3))?.max(1);
    let slides = keys.sliding(layers)?;
    let slides = slides.unwrap_or_else(|| (0..layers).map(|layer| layer % every != 0).collect());
    // As many tokens on either side.
    let reach = keys.size("local_attention", Some(128))? / 2;
    let masked = keys.states_masked_head();
    Ok(ModelConfig {
        norm_eps: keys.number("norm_eps", 1e-5),
        windows: slides.into_iter().map(|slides| slides.then_some(reach)).collect(),
        masked,
        tie_word_embeddings: masked && keys.flag("tie_word_embeddings", true),
        encoder: Some(EncoderConfig {
            token_types: 0,
            tells_texts: false,
            first_position: 0,
            gelu_tanh: false,
            pool,
            prefix: "model.",
            names: None,
            masked: &MASKED,
        }),
        block: Block {
            local_rope: Some(local),
            ..Block::default()
        },
        ..config
    })
}

/// That of layers that see everything, then that of those with a window: by kind of layer in `rope_parameters` (transformers 5), or
/// `global_rope_theta` and `local_rope_theta`.
fn ropes(keys: &Keys) -> Result<[Rope; 2]> {
    let rope = |kind: &str, key: &str, theta: f64| {
        let of_kind = keys.raw.get("rope_parameters").and_then(|kinds| kinds.get(kind));
        let theta = keys.factor(key)?.unwrap_or(theta);
        let config = match of_kind {
            Some(section) => json!({ "rope_parameters": section, "rope_theta": theta }),
            None => json!({ "rope_scaling": Value::Null, "rope_theta": theta }),
        };
        Rope::parse(&config).map_err(|(key, why)| keys.error(&key, why))
    };
    Ok([
        rope("full_attention", "global_rope_theta", 160_000.0)?,
        rope("sliding_attention", "local_rope_theta", 10_000.0)?,
    ])
}

/// The layers of a head.
pub(super) fn head(kind: HeadKind, pool: Pool) -> HeadLayers {
    HeadLayers {
        before: Some(Before {
            path: MASKED.dense,
            bias: false,
            behind: Behind::Gelu,
            norm: Some(MASKED.norm),
        }),
        last: "classifier",
        bias: true,
        pool: match kind {
            HeadKind::Sequence => pool,
            HeadKind::Token => Pool::Each,
        },
        trained: &["classifier"],
    }
}

/// `model.*` of a checkpoint.
#[derive(Module, Debug)]
pub(crate) struct ModernBert {
    pub words: Embedding,
    norm: Norm,
    /// Nothing stands in them: prefixes are for decoders.
    pub prefixes: Prefixes,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
}

#[derive(Module, Debug)]
pub(crate) struct Layer {
    /// The first layer has none.
    attn_norm: Option<Norm>,
    qkv: Projection,
    attention_output: Projection,
    mlp_norm: Norm,
    /// What GELU is made of, and what it is multiplied with.
    inner: Projection,
    output: Projection,
}

impl ModernBert {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        let (hidden, eps) = (config.hidden_size, config.norm_eps);
        let table = source.matrix(
            "model.embeddings.tok_embeddings.weight",
            [config.vocab_size, hidden],
            Fill::Normal,
        );
        Self {
            words: Embedding::new(table),
            norm: centered_norm("model.embeddings.norm", hidden, eps, source),
            prefixes: Prefixes::default(),
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::build(i, config, source))
                .collect(),
            final_norm: centered_norm("model.final_norm", hidden, eps, source),
        }
    }

    /// Normalized embeddings, `[batch, seq, hidden]` for ids `[batch, seq]`.
    pub fn embed(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        self.norm.forward(self.words.forward(ids, pass))
    }

    /// Parameters of the embeddings and of the layers before `block`.
    pub fn params_before(&self, block: usize) -> Vec<ParamId> {
        let mut ids = list_param_ids(&self.words);
        ids.extend(list_param_ids(&self.norm));
        ids.extend(self.layers[..block].iter().flat_map(list_param_ids));
        ids
    }

    pub fn blocks(
        &self,
        range: Range<usize>,
        mut hidden: Tensor<3>,
        config: &ModelConfig,
        rows: &Rows,
        pass: &Pass,
    ) -> Tensor<3> {
        let ([batch, seq, _], device) = (hidden.dims(), hidden.device());
        let positions = rows.positions(0, 0, seq);
        let tables = |rope: &Rope| <[Tensor<3>; 2]>::from(rope.tables(&positions, config.head_dim, &device));
        let ropes = [&config.rope, &config.block.local_rope].map(|rope| tables(rope.as_ref().expect("of both kinds")));
        let reach = config.windows.iter().find_map(|window| *window);
        let masks = [None, reach].map(|reach| rows.whole_texts(batch, seq, reach, &device));
        let (end, output) = (range.end, pass.output);
        for i in range {
            let kind = usize::from(config.windows[i].is_some());
            let output = if i + 1 == end { output } else { Output::Read };
            hidden = self.layers[i].forward(hidden, &masks[kind], &ropes[kind], config, &pass.with_output(output));
        }
        hidden
    }

    pub fn target_modules(&mut self) -> Vec<TargetModule<'_>> {
        let mut modules = vec![
            TargetModule::embedding("model.embeddings.tok_embeddings", &mut self.words),
            TargetModule::norm("model.embeddings.norm", &mut self.norm),
        ];
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.target_modules(&format!("model.layers.{i}"), &mut modules);
        }
        modules.push(TargetModule::norm("model.final_norm", &mut self.final_norm));
        modules
    }
}

impl Layer {
    fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.norm_eps);
        Self {
            attn_norm: (index > 0).then(|| centered_norm(&at("attn_norm"), hidden, eps, source)),
            qkv: linear(&at("attn.Wqkv"), [3 * hidden, hidden], false, source),
            attention_output: linear(&at("attn.Wo"), [hidden, hidden], false, source),
            mlp_norm: centered_norm(&at("mlp_norm"), hidden, eps, source),
            inner: linear(&at("mlp.Wi"), [2 * inner, hidden], false, source),
            output: linear(&at("mlp.Wo"), [hidden, inner], false, source),
        }
    }

    fn forward(
        &self,
        hidden: Tensor<3>,
        mask: &Mask,
        angles: &[Tensor<3>; 2],
        config: &ModelConfig,
        pass: &Pass,
    ) -> Tensor<3> {
        let ([batch, seq, width], read) = (hidden.dims(), &pass.with_output(Output::Read));
        let normed = match &self.attn_norm {
            None => hidden.clone(),
            Some(norm) => norm.forward(hidden.clone()),
        };
        let qkv = self.qkv.forward(normed, read);
        let part = |i: usize| {
            let part = qkv.clone().narrow(2, i * width, width);
            part.reshape([batch, seq, config.num_attention_heads, config.head_dim])
        };
        let scale = 1.0 / (config.head_dim as f64).sqrt();
        let mixed = ft_kernels::rotary_attention(part(0), part(1), part(2), angles.clone(), mask, scale);
        let hidden = hidden + self.attention_output.forward(mixed.reshape([batch, seq, width]), read);
        let both = self.inner.forward(self.mlp_norm.forward(hidden.clone()), read);
        let inner = config.intermediate_size;
        let [input, gate] = [0, inner].map(|start| both.clone().narrow(2, start, inner));
        hidden + self.output.forward(activation::gelu(input) * gate, pass)
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let path = |name: &str| format!("{at}.{name}");
        let norm = self.attn_norm.as_mut();
        modules.extend(norm.map(|norm| TargetModule::norm(path("attn_norm"), norm)));
        modules.extend([
            TargetModule::projection(path("attn.Wqkv"), &mut self.qkv),
            TargetModule::projection(path("attn.Wo"), &mut self.attention_output),
            TargetModule::norm(path("mlp_norm"), &mut self.mlp_norm),
            TargetModule::projection(path("mlp.Wi"), &mut self.inner),
            TargetModule::projection(path("mlp.Wo"), &mut self.output),
        ]);
    }
}
