//! Encoders of BERT's kind (Devlin et al. 2018, arXiv:1810.04805): learned positions, token types, normalizations behind each sub-layer,
//! and every token sees its whole text. Families differ in how their checkpoints name the parts, and in sizes.

use std::ops::Range;

use burn::module::{Module, ParamId, list_param_ids};
use burn::tensor::{Int, Tensor, TensorData, activation};
use ft_kernels::{Mask, Output};
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, Residual, TargetModule};

use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::heads::{Before, Behind, HeadKind, HeadLayers, Pool};
use crate::masked_head::MaskedNames;
use crate::rows::Rows;
use crate::source::{Fill, Source, layer_norm, linear};

/// What an encoder has that a decoder has not.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the table of token types; 0 where there is none.
    pub token_types: usize,
    /// Whether tokens of the second of two texts have another type than those of the first.
    pub tells_texts: bool,
    /// Row of the table of positions that a text's first token takes.
    pub first_position: usize,
    /// Whether GELU is approximated by tanh.
    pub gelu_tanh: bool,
    /// Which token of a text its head for labels reads.
    pub pool: Pool,
    /// What the names of all tensors but a head's begin with.
    pub(crate) prefix: &'static str,
    /// How checkpoints of BERT's relatives name the parts.
    pub(crate) names: Option<&'static Names>,
    /// Of the head that fills in masked tokens.
    pub(crate) masked: &'static MaskedNames,
}

/// How checkpoints of a family name the parts of an encoder: layers below `base`, the rest below a layer.
#[derive(Debug, PartialEq)]
pub(crate) struct Names {
    pub base: &'static str,
    /// The same, with a dot behind it.
    pub prefix: &'static str,
    pub layers: &'static str,
    /// Queries, keys, values.
    pub inputs: [&'static str; 3],
    pub attention_output: &'static str,
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub output_norm: &'static str,
    /// Where AdapterHub puts bottleneck adapters: behind attention, behind the feed-forward block.
    pub adapters: [&'static str; 2],
    /// Of the head for whole texts: the layer before the last, and the last.
    pub before: (&'static str, HeadActivation),
    pub last: &'static str,
    /// What of it trains whatever the method.
    pub trained: &'static [&'static str],
    /// Of the head that fills in masked tokens.
    pub masked: MaskedNames,
}

/// Behind the layer before the last of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HeadActivation {
    Tanh,
    Relu,
}

impl EncoderConfig {
    /// Of one of BERT's relatives, which has these names, and neither token types nor positions that begin elsewhere.
    pub(crate) fn of(names: &'static Names) -> Self {
        Self {
            token_types: 0,
            tells_texts: false,
            first_position: 0,
            gelu_tanh: false,
            pool: Pool::First,
            prefix: names.prefix,
            names: Some(names),
            masked: &names.masked,
        }
    }

    /// How checkpoints of BERT's relatives name the parts.
    pub(crate) fn names(&self) -> &'static Names {
        self.names.expect("one of BERT's relatives")
    }
}

impl Names {
    /// The layers of a head.
    pub fn head(&self, kind: HeadKind) -> HeadLayers {
        let (before, activation) = self.before;
        let behind = match activation {
            HeadActivation::Tanh => Behind::Tanh,
            HeadActivation::Relu => Behind::Relu,
        };
        let before = Before {
            path: before,
            bias: true,
            behind,
            norm: None,
        };
        match kind {
            HeadKind::Sequence => HeadLayers {
                before: Some(before),
                last: self.last,
                bias: true,
                pool: Pool::First,
                trained: self.trained,
            },
            HeadKind::Token => HeadLayers {
                before: None,
                last: "classifier",
                bias: true,
                pool: Pool::Each,
                trained: &["classifier"],
            },
        }
    }
}

/// The configuration of an encoder whose sizes are under the names that decoders use.
pub(crate) fn config(keys: &Keys, activation: &str, eps: f64, encoder: EncoderConfig) -> Result<ModelConfig> {
    keys.need_activation(activation, &["gelu", "gelu_new", "gelu_pytorch_tanh"])?;
    keys.need_absent(&["is_decoder", "add_cross_attention"])?;
    if let Some(kind) = keys.text("position_embedding_type").filter(|kind| *kind != "absolute") {
        return Err(keys.error(
            "position_embedding_type",
            format!("\"{kind}\" is not supported here; \"absolute\" is"),
        ));
    }
    let masked = keys.states_masked_head();
    Ok(ModelConfig {
        norm_eps: eps,
        masked,
        tie_word_embeddings: masked && keys.flag("tie_word_embeddings", true),
        rope: None,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        encoder: Some(EncoderConfig {
            gelu_tanh: keys.text(activation).is_some_and(|name| name != "gelu"),
            ..encoder
        }),
        ..ModelConfig::common(keys)?
    })
}

/// The encoder of a checkpoint.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    pub words: Embedding,
    pub positions: Embedding,
    pub types: Option<Embedding>,
    norm: Norm,
    /// Nothing stands in them: prefixes are for decoders.
    pub prefixes: Prefixes,
    pub layers: Vec<Layer>,
}

#[derive(Module, Debug)]
pub(crate) struct Layer {
    inputs: Vec<Projection>,
    attention_output: Projection,
    attention_norm: Norm,
    up: Projection,
    down: Projection,
    output_norm: Norm,
    attention_adapters: Residual,
    output_adapters: Residual,
}

impl Encoder {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        let (encoder, hidden) = (config.encoder(), config.hidden_size);
        let at = format!("{}.embeddings", encoder.names().base);
        let positions = config.max_position_embeddings + encoder.first_position;
        let mut table = |name: &str, rows: usize| {
            Embedding::new(source.matrix(&format!("{at}.{name}.weight"), [rows, hidden], Fill::Normal))
        };
        Self {
            words: table("word_embeddings", config.vocab_size),
            positions: table("position_embeddings", positions),
            types: (encoder.token_types > 0).then(|| table("token_type_embeddings", encoder.token_types)),
            norm: layer_norm(&format!("{at}.LayerNorm"), hidden, config.norm_eps, source),
            prefixes: Prefixes::default(),
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::build(i, config, source))
                .collect(),
        }
    }

    /// The sum of token, position and type, normalized: `[batch, seq, hidden]` for ids `[batch, seq]`.
    pub fn embed(&self, ids: Tensor<2, Int>, config: &ModelConfig, rows: &Rows, pass: &Pass) -> Tensor<3> {
        let ([batch, seq], device, plain) = (ids.dims(), ids.device(), pass.with_noise(0.0));
        let (encoder, table) = (config.encoder(), self.positions.weight.dims()[0]);
        // Padding at the end of a row may reach beyond the last position.
        let position = |at: usize| (at + encoder.first_position).min(table - 1) as i32;
        let positions: Vec<Vec<i32>> = rows
            .positions(0, 0, seq)
            .into_iter()
            .map(|row| row.into_iter().map(position).collect())
            .collect();
        let shape = [positions.len(), seq];
        let positions = Tensor::<2, Int>::from_data(TensorData::new(positions.concat(), shape), &device);
        let mut hidden = self.words.forward(ids, pass) + self.positions.forward(positions, &plain);
        if let Some(types) = &self.types {
            let kinds = match encoder.tells_texts {
                false => vec![0; batch * seq],
                true => rows.types(batch, seq),
            };
            let kinds = Tensor::<2, Int>::from_data(TensorData::new(kinds, [batch, seq]), &device);
            hidden = hidden + types.forward(kinds, &plain);
        }
        self.norm.forward(hidden)
    }

    /// Parameters of the embeddings and of the layers before `block`.
    pub fn params_before(&self, block: usize) -> Vec<ParamId> {
        let mut ids = list_param_ids(&self.words);
        ids.extend(list_param_ids(&self.positions));
        ids.extend(list_param_ids(&self.types));
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
        let [batch, seq, _] = hidden.dims();
        let mask = rows.whole_texts(batch, seq, None, &hidden.device());
        // A normalization comes last, and reads what it is given.
        let pass = &pass.with_output(Output::Read);
        for layer in &self.layers[range] {
            hidden = layer.forward(hidden, &mask, config, pass);
        }
        hidden
    }

    pub fn target_modules(&mut self, config: &ModelConfig) -> Vec<TargetModule<'_>> {
        let names = config.encoder().names();
        let at = format!("{}.embeddings", names.base);
        let mut modules = vec![
            TargetModule::embedding(format!("{at}.word_embeddings"), &mut self.words),
            TargetModule::embedding(format!("{at}.position_embeddings"), &mut self.positions),
        ];
        let types = self.types.as_mut();
        modules.extend(types.map(|types| TargetModule::embedding(format!("{at}.token_type_embeddings"), types)));
        modules.push(TargetModule::norm(format!("{at}.LayerNorm"), &mut self.norm));
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.target_modules(
                &format!("{}.{}.{i}", names.base, names.layers),
                names,
                config,
                &mut modules,
            );
        }
        modules
    }
}

impl Layer {
    fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let names = config.encoder().names();
        let at = |name: &str| format!("{}.{}.{index}.{name}", names.base, names.layers);
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.norm_eps);
        Self {
            inputs: names
                .inputs
                .iter()
                .map(|name| linear(&at(name), [hidden, hidden], true, source))
                .collect(),
            attention_output: linear(&at(names.attention_output), [hidden, hidden], true, source),
            attention_norm: layer_norm(&at(names.attention_norm), hidden, eps, source),
            up: linear(&at(names.up), [inner, hidden], true, source),
            down: linear(&at(names.down), [hidden, inner], true, source),
            output_norm: layer_norm(&at(names.output_norm), hidden, eps, source),
            attention_adapters: Residual::default(),
            output_adapters: Residual::default(),
        }
    }

    fn forward(&self, hidden: Tensor<3>, mask: &Mask, config: &ModelConfig, pass: &Pass) -> Tensor<3> {
        let [batch, seq, width] = hidden.dims();
        let heads = [batch, seq, config.num_attention_heads, config.head_dim];
        let [q, k, v] = [0, 1, 2].map(|i| self.inputs[i].forward(hidden.clone(), pass).reshape(heads));
        let mixed = ft_kernels::attention(q, k, v, mask, 1.0 / (config.head_dim as f64).sqrt());
        let attended = self.attention_output.forward(mixed.reshape([batch, seq, width]), pass);
        let join = |slot: &Residual, stream, output, norm| slot.join_behind(stream, output, norm, pass);
        let hidden = join(&self.attention_adapters, hidden, attended, &self.attention_norm);
        let inner = self.up.forward(hidden.clone(), pass);
        let inner = match config.encoder().gelu_tanh {
            true => ft_kernels::gelu_tanh(inner),
            false => activation::gelu(inner),
        };
        let output = self.down.forward(inner, pass);
        join(&self.output_adapters, hidden, output, &self.output_norm)
    }

    fn target_modules<'a>(
        &'a mut self,
        at: &str,
        names: &Names,
        config: &ModelConfig,
        modules: &mut Vec<TargetModule<'a>>,
    ) {
        let path = |name: &str| format!("{at}.{name}");
        let (hidden, device) = (config.hidden_size, self.attention_norm.weight.val().device());
        let [attention, output] = names.adapters;
        for (slot, name) in self.inputs.iter_mut().zip(names.inputs) {
            modules.push(TargetModule::projection(path(name), slot));
        }
        modules.extend([
            TargetModule::projection(path(names.attention_output), &mut self.attention_output),
            TargetModule::norm(path(names.attention_norm), &mut self.attention_norm),
            TargetModule::projection(path(names.up), &mut self.up),
            TargetModule::projection(path(names.down), &mut self.down),
            TargetModule::norm(path(names.output_norm), &mut self.output_norm),
            TargetModule::residual(path(attention), &mut self.attention_adapters, hidden, device.clone()),
            TargetModule::residual(path(output), &mut self.output_adapters, hidden, device),
        ]);
    }
}
