//! Llama 1, 2 and 3 (Touvron et al. 2023, arXiv:2302.13971), and the block that its relatives share with it: see [`Block`](crate::Block).

mod attention;
mod delta_net;
mod experts;
mod mlp;

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use ft_kernels::Output;
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, Residual, TargetModule};

use crate::block::Norms;
use crate::cache::KvCache;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::rope::Rope;
use crate::rows::Rows;
use crate::source::{Fill, Source, rms_norm, rms_norm_from_one};
use crate::virtual_tokens::{View, prepend};
use attention::Attention;
use delta_net::GatedDeltaNet;
use mlp::FeedForward;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let attention_bias = keys.flag("attention_bias", false);
    Ok(ModelConfig {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: keys.flag("mlp_bias", false),
        ..ModelConfig::common(keys)?
    })
}

/// `model.*` of a checkpoint.
#[derive(Module, Debug)]
pub(crate) struct Llama {
    pub embed_tokens: Embedding,
    pub prefixes: Prefixes,
    pub layers: Vec<DecoderLayer>,
    pub norm: Norm,
}

#[derive(Module, Debug)]
pub(crate) struct DecoderLayer {
    input_layernorm: Option<Norm>,
    self_attn: Option<Attention>,
    /// One in its place, or none: on the heap, so that layers without it stay small.
    linear_attn: Vec<GatedDeltaNet>,
    attention_adapters: Residual,
    /// Before the MLP, or where normalizations come after: after attention.
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Option<Norm>,
    mlp: FeedForward,
    post_feedforward_layernorm: Option<Norm>,
    output_adapters: Residual,
}

/// What the layers of one forward pass share.
struct Shared<'a> {
    config: &'a ModelConfig,
    /// cos and sin, `[rows, seq, dims / 2]`.
    global: [Tensor<3>; 2],
    /// Factors of queries by their position, `[rows, seq, 1, 1]`.
    queries: Option<Tensor<4>>,
    /// The first column of each column's text, in columns of the call, where linear attention must be told: `[rows, seq]`.
    documents: Option<Tensor<2, Int>>,
    /// Those of layers with a window, where they have others.
    local: Option<[Tensor<3>; 2]>,
    pass: &'a Pass,
}

impl Shared<'_> {
    /// cos and sin of a layer, if its queries and keys turn.
    fn angles(&self, index: usize) -> Option<&[Tensor<3>; 2]> {
        let slides = self.config.windows[index].is_some();
        let angles = self.local.as_ref().filter(|_| slides).unwrap_or(&self.global);
        self.config.block.rotates(index).then_some(angles)
    }
}

fn scaled<const D: usize>(x: Tensor<D>, factor: Option<f64>) -> Tensor<D> {
    match factor {
        None => x,
        Some(factor) => x.mul_scalar(factor),
    }
}

/// `path.weight` of a family's normalization.
fn norm(path: &str, len: usize, config: &ModelConfig, source: &mut impl Source) -> Norm {
    match config.block.norms_count_from_one {
        false => rms_norm(path, len, config.norm_eps, source),
        true => rms_norm_from_one(path, len, config.norm_eps, source),
    }
}

fn normalized<const D: usize>(norm: &Option<Norm>, x: Tensor<D>) -> Tensor<D> {
    match norm {
        None => x,
        Some(norm) => norm.forward(x),
    }
}

fn optional_projections<'a, const N: usize>(
    at: &str,
    parts: [(&str, &'a mut Option<Projection>); N],
) -> impl Iterator<Item = TargetModule<'a>> {
    let there = parts
        .into_iter()
        .filter_map(|(name, part)| Some((name, part.as_mut()?)));
    let modules: Vec<_> = there
        .map(|(name, part)| TargetModule::projection(format!("{at}.{name}"), part))
        .collect();
    modules.into_iter()
}

/// The parts of the last axis.
fn split<const N: usize>(x: Tensor<3>, widths: [usize; N]) -> [Tensor<3>; N] {
    let mut start = 0;
    widths.map(|width| {
        start += width;
        x.clone().narrow(2, start - width, width)
    })
}

impl Llama {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        let table = [config.vocab_size, config.hidden_size];
        Self {
            prefixes: Prefixes::default(),
            embed_tokens: Embedding {
                scale: config.block.token_scale,
                ..Embedding::new(source.matrix("model.embed_tokens.weight", table, Fill::Normal))
            },
            layers: (0..config.num_hidden_layers)
                .map(|i| DecoderLayer::build(i, config, source))
                .collect(),
            norm: norm("model.norm", config.hidden_size, config, source),
        }
    }

    /// Token embeddings, behind the prompt where the columns start at `offset` 0.
    pub fn embed(
        &self,
        ids: Tensor<2, Int>,
        config: &ModelConfig,
        rows: &Rows,
        offset: usize,
        pass: &Pass,
    ) -> Tensor<3> {
        let text = self.embed_tokens.forward(ids, pass);
        let begins = rows.take_virtual_tokens(offset);
        let prompt = begins.then(|| self.embed_tokens.prompt(pass)).flatten();
        let input = match prompt {
            None => text,
            Some(prompt) => prepend(prompt, text, rows),
        };
        scaled(input, config.block.input_scale)
    }

    /// The normalization after the last block.
    pub fn norm(&self, hidden: Tensor<3>, config: &ModelConfig) -> Tensor<3> {
        scaled(self.norm.forward(hidden), config.block.output_scale)
    }

    pub fn blocks(
        &self,
        range: Range<usize>,
        mut hidden: Tensor<3>,
        config: &ModelConfig,
        rows: &Rows,
        mut cache: Option<&mut KvCache>,
        pass: &Pass,
    ) -> Tensor<3> {
        let [_, seq, _] = hidden.dims();
        let offset = cache.as_ref().map_or(0, |c| c.len());
        let begins = rows.take_virtual_tokens(offset);
        let (device, prefix) = (hidden.device(), self.prefixes.virtual_tokens());
        let rope = config
            .rope
            .as_ref()
            .expect("a llama-like configuration has rotary embedding");
        let positions = rows.positions(prefix, offset, seq);
        let tables = |rope: &Rope| <[Tensor<3>; 2]>::from(rope.tables(&positions, config.head_dim, &device));
        let (end, output, pass) = (range.end, pass.output, &pass.with_output(Output::Read));
        let shared = Shared {
            config,
            global: tables(rope),
            queries: config.block.query_scale.map(|scale| scale.factors(&positions, &device)),
            local: config.block.local_rope.as_ref().map(tables),
            documents: config
                .block
                .delta
                .as_ref()
                .and_then(|own| rows.documents(offset, seq, own.taps, &device)),
            pass,
        };
        for i in range {
            let view = View {
                mask: rows.mask(prefix, offset, seq, config.windows[i], &device),
                prefix: begins.then(|| self.prefixes.layer(i)).flatten(),
                output: if i + 1 == end { output } else { Output::Read },
            };
            hidden = self.layers[i].forward(hidden, i, &view, cache.as_deref_mut(), &shared);
        }
        hidden
    }

    pub fn target_modules(&mut self, config: &ModelConfig) -> Vec<TargetModule<'_>> {
        let device = self.embed_tokens.weight.val().device();
        let mut modules = vec![TargetModule::embedding("model.embed_tokens", &mut self.embed_tokens)];
        // Linear attention has no keys and values that a prefix could stand before.
        if !config.recurs() {
            let (prefixes, shape) = (&mut self.prefixes, config.attention());
            modules.push(TargetModule::attention("model.layers", prefixes, shape, device));
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.target_modules(i, config, &mut modules);
        }
        modules.push(TargetModule::norm("model.norm", &mut self.norm));
        modules
    }
}

impl DecoderLayer {
    fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let at = format!("model.layers.{index}");
        let (norms, linear) = (config.block.norms, config.block.linear(index));
        let own = |name: &str, source: &mut _| norm(&format!("{at}.{name}"), config.hidden_size, config, source);
        Self {
            input_layernorm: (norms != Norms::After).then(|| own("input_layernorm", source)),
            self_attn: linear
                .is_none()
                .then(|| Attention::build(&format!("{at}.self_attn"), config, source)),
            linear_attn: linear
                .map(|own| GatedDeltaNet::build(&format!("{at}.linear_attn"), own, config, source))
                .into_iter()
                .collect(),
            attention_adapters: Residual::default(),
            post_attention_layernorm: own("post_attention_layernorm", source),
            pre_feedforward_layernorm: (norms == Norms::Around).then(|| own("pre_feedforward_layernorm", source)),
            mlp: FeedForward::build(index, config, source),
            post_feedforward_layernorm: (norms != Norms::Before).then(|| own("post_feedforward_layernorm", source)),
            output_adapters: Residual::default(),
        }
    }

    /// hidden `[batch, seq, hidden]` to the same.
    fn forward(
        &self,
        hidden: Tensor<3>,
        index: usize,
        view: &View,
        cache: Option<&mut KvCache>,
        shared: &Shared<'_>,
    ) -> Tensor<3> {
        let Shared { config, pass, .. } = *shared;
        let block = &config.block;
        let (hidden, normed) = match &self.input_layernorm {
            None => (hidden.clone(), hidden),
            Some(norm) => norm.beside(hidden, None),
        };
        let attended = match &self.self_attn {
            Some(attention) => attention.forward(normed, index, view, cache, shared),
            None => self.linear_attn[0].forward(normed, index, cache, shared),
        };
        let (attended, before_mlp) = match block.norms {
            Norms::Before => (attended, Some(&self.post_attention_layernorm)),
            _ => (
                self.post_attention_layernorm.forward(attended),
                self.pre_feedforward_layernorm.as_ref(),
            ),
        };
        let attended = scaled(attended, block.residual_scale);
        let (hidden, normed) = match before_mlp {
            None => {
                let hidden = self.attention_adapters.join(hidden, attended, pass);
                (hidden.clone(), hidden)
            }
            Some(norm) => self.attention_adapters.join_normed(hidden, attended, norm, pass),
        };
        // A normalization reads what it is given; a sum does not.
        let reads = match &self.post_feedforward_layernorm {
            None => self.output_adapters.reads(view.output),
            Some(_) => Output::Read,
        };
        let output = self.mlp.forward(normed, index, config, &pass.with_output(reads));
        let output = scaled(
            normalized(&self.post_feedforward_layernorm, output),
            block.residual_scale,
        );
        self.output_adapters.join(hidden, output, pass)
    }

    fn target_modules<'a>(&'a mut self, index: usize, config: &ModelConfig, modules: &mut Vec<TargetModule<'a>>) {
        let at = &format!("model.layers.{index}");
        let norm = self.post_attention_layernorm.weight.val();
        let residual = |path: &str, slot: &'a mut Residual| {
            TargetModule::residual(format!("{at}.{path}"), slot, norm.dims()[0], norm.device())
        };
        let optional = |name: &str, norm: &'a mut Option<Norm>| {
            norm.as_mut()
                .map(|norm| TargetModule::norm(format!("{at}.{name}"), norm))
        };
        modules.extend(optional("input_layernorm", &mut self.input_layernorm));
        if let Some(attention) = &mut self.self_attn {
            attention.target_modules(&format!("{at}.self_attn"), modules);
        }
        for linear in &mut self.linear_attn {
            linear.target_modules(&format!("{at}.linear_attn"), modules);
        }
        modules.push(residual("attention_adapters", &mut self.attention_adapters));
        modules.push(TargetModule::norm(
            format!("{at}.post_attention_layernorm"),
            &mut self.post_attention_layernorm,
        ));
        modules.extend(optional(
            "pre_feedforward_layernorm",
            &mut self.pre_feedforward_layernorm,
        ));
        self.mlp.target_modules(index, config, modules);
        modules.extend(optional(
            "post_feedforward_layernorm",
            &mut self.post_feedforward_layernorm,
        ));
        modules.push(residual("output_adapters", &mut self.output_adapters));
    }
}
