//! Llama 1, 2 and 3 (Touvron et al. 2023, arXiv:2302.13971), and the block that its relatives share with it: see [`Block`](crate::Block).

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use ft_kernels::Output;
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, Residual, TargetModule};

use crate::block::{Activation, Norms, QkNorm};
use crate::cache::KvCache;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::rope::Rope;
use crate::rows::Rows;
use crate::source::{Fill, Source, linear, rms_norm, rms_norm_from_one};
use crate::virtual_tokens::{View, prepend};

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
    self_attn: Attention,
    attention_adapters: Residual,
    /// Before the MLP, or where normalizations come after: after attention.
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Option<Norm>,
    mlp: Mlp,
    post_feedforward_layernorm: Option<Norm>,
    output_adapters: Residual,
}

#[derive(Module, Debug)]
pub(crate) struct Attention {
    q_proj: Option<Projection>,
    k_proj: Option<Projection>,
    v_proj: Option<Projection>,
    /// In the place of the three.
    qkv_proj: Option<Projection>,
    o_proj: Projection,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    gate_proj: Option<Projection>,
    up_proj: Option<Projection>,
    /// In the place of the two.
    gate_up_proj: Option<Projection>,
    down_proj: Projection,
}

/// What the layers of one forward pass share.
struct Shared<'a> {
    config: &'a ModelConfig,
    /// cos and sin, `[rows, seq, dims / 2]`.
    global: [Tensor<3>; 2],
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

/// x `[batch, seq, heads, head_dim]` with as many of the first values of each head turned as there are angles for.
fn turned(x: Tensor<4>, [cos, sin]: &[Tensor<3>; 2]) -> Tensor<4> {
    let (width, dims) = (x.dims()[3], 2 * cos.dims()[2]);
    let turn = |x| ft_kernels::rope(x, cos.clone(), sin.clone());
    match dims == width {
        true => turn(x),
        false => {
            let rest = x.clone().narrow(3, dims, width - dims);
            Tensor::cat(vec![turn(x.narrow(3, 0, dims)), rest], 3)
        }
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
        let input = match self.embed_tokens.prompt(pass).filter(|_| offset == 0) {
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
            local: config.block.local_rope.as_ref().map(tables),
            pass,
        };
        for i in range {
            let view = View {
                mask: rows.mask(prefix, offset, seq, config.windows[i], &device),
                prefix: self.prefixes.layer(i).filter(|_| offset == 0),
                output: if i + 1 == end { output } else { Output::Read },
            };
            hidden = self.layers[i].forward(hidden, i, &view, cache.as_deref_mut(), &shared);
        }
        hidden
    }

    pub fn target_modules(&mut self, config: &ModelConfig) -> Vec<TargetModule<'_>> {
        let device = self.embed_tokens.weight.val().device();
        let mut modules = vec![
            TargetModule::embedding("model.embed_tokens", &mut self.embed_tokens),
            TargetModule::attention("model.layers", &mut self.prefixes, config.attention(), device),
        ];
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.target_modules(&format!("model.layers.{i}"), &mut modules);
        }
        modules.push(TargetModule::norm("model.norm", &mut self.norm));
        modules
    }
}

impl DecoderLayer {
    fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let at = format!("model.layers.{index}");
        let norms = config.block.norms;
        let own = |name: &str, source: &mut _| norm(&format!("{at}.{name}"), config.hidden_size, config, source);
        Self {
            input_layernorm: (norms != Norms::After).then(|| own("input_layernorm", source)),
            self_attn: Attention::build(&format!("{at}.self_attn"), config, source),
            attention_adapters: Residual::default(),
            post_attention_layernorm: own("post_attention_layernorm", source),
            pre_feedforward_layernorm: (norms == Norms::Around).then(|| own("pre_feedforward_layernorm", source)),
            mlp: Mlp::build(&format!("{at}.mlp"), config, source),
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
        let normed = normalized(&self.input_layernorm, hidden.clone());
        let attended = self.self_attn.forward(normed, index, view, cache, shared);
        let (attended, before_mlp) = match block.norms {
            Norms::Before => (attended, Some(&self.post_attention_layernorm)),
            _ => (
                self.post_attention_layernorm.forward(attended),
                self.pre_feedforward_layernorm.as_ref(),
            ),
        };
        let attended = scaled(attended, block.residual_scale);
        let hidden = self.attention_adapters.join(hidden, attended, pass);
        let normed = match before_mlp {
            None => hidden.clone(),
            Some(norm) => norm.forward(hidden.clone()),
        };
        // A normalization reads what it is given; a sum does not.
        let reads = match &self.post_feedforward_layernorm {
            None => self.output_adapters.reads(view.output),
            Some(_) => Output::Read,
        };
        let output = self.mlp.forward(normed, config, pass, reads);
        let output = scaled(
            normalized(&self.post_feedforward_layernorm, output),
            block.residual_scale,
        );
        self.output_adapters.join(hidden, output, pass)
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let norm = self.post_attention_layernorm.weight.val();
        let residual = |path: &str, slot: &'a mut Residual| {
            TargetModule::residual(format!("{at}.{path}"), slot, norm.dims()[0], norm.device())
        };
        let optional = |name: &str, norm: &'a mut Option<Norm>| {
            norm.as_mut()
                .map(|norm| TargetModule::norm(format!("{at}.{name}"), norm))
        };
        modules.extend(optional("input_layernorm", &mut self.input_layernorm));
        self.self_attn.target_modules(&format!("{at}.self_attn"), modules);
        modules.push(residual("attention_adapters", &mut self.attention_adapters));
        modules.push(TargetModule::norm(
            format!("{at}.post_attention_layernorm"),
            &mut self.post_attention_layernorm,
        ));
        modules.extend(optional(
            "pre_feedforward_layernorm",
            &mut self.pre_feedforward_layernorm,
        ));
        self.mlp.target_modules(&format!("{at}.mlp"), modules);
        modules.extend(optional(
            "post_feedforward_layernorm",
            &mut self.post_feedforward_layernorm,
        ));
        modules.push(residual("output_adapters", &mut self.output_adapters));
    }
}

impl Attention {
    fn build(at: &str, config: &ModelConfig, source: &mut impl Source) -> Self {
        let hidden = config.hidden_size;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let (bias, fused) = (config.qkv_bias, config.block.fused);
        let qk_norm = |name: &str, width: usize, source: &mut _| {
            let width = match config.block.qk_norm {
                QkNorm::None => return None,
                QkNorm::Heads => config.head_dim,
                QkNorm::Whole => width,
            };
            Some(norm(&format!("{at}.{name}"), width, config, source))
        };
        let part = |name: &str, rows: usize, there: bool, source: &mut _| {
            there.then(|| linear(&format!("{at}.{name}"), [rows, hidden], bias, source))
        };
        Self {
            q_proj: part("q_proj", queries, !fused, source),
            k_proj: part("k_proj", keys, !fused, source),
            v_proj: part("v_proj", keys, !fused, source),
            qkv_proj: part("qkv_proj", queries + 2 * keys, fused, source),
            o_proj: linear(&format!("{at}.o_proj"), [hidden, queries], config.o_bias, source),
            q_norm: qk_norm("q_norm", queries, source),
            k_norm: qk_norm("k_norm", keys, source),
        }
    }

    /// Queries, keys and values, `[batch, seq, heads head_dim]`.
    fn project(&self, x: Tensor<3>, config: &ModelConfig, pass: &Pass) -> [Tensor<3>; 3] {
        match &self.qkv_proj {
            Some(fused) => {
                let queries = config.num_attention_heads * config.head_dim;
                let keys = config.num_key_value_heads * config.head_dim;
                split(fused.forward(x, pass), [queries, keys, keys])
            }
            None => [&self.q_proj, &self.k_proj, &self.v_proj].map(|part| {
                let part = part.as_ref().expect("three matrices where there is not one");
                part.forward(x.clone(), pass)
            }),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        index: usize,
        view: &View,
        cache: Option<&mut KvCache>,
        shared: &Shared<'_>,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let (config, pass) = (shared.config, shared.pass);
        let heads = |x: Tensor<3>, n| x.reshape([batch, seq, n, config.head_dim]); // [batch, seq, heads, head_dim]
        let whole = config.block.qk_norm == QkNorm::Whole;
        let turn = |x: Tensor<3>, n, norm: &Option<Norm>| {
            let x = match whole {
                true => heads(normalized(norm, x), n),
                false => normalized(norm, heads(x, n)),
            };
            match shared.angles(index) {
                None => x,
                Some(angles) => turned(x, angles),
            }
        };
        let [q, k, v] = self.project(x, config, pass);
        let q = turn(q, config.num_attention_heads, &self.q_norm);
        let k = turn(k, config.num_key_value_heads, &self.k_norm);
        let v = heads(v, config.num_key_value_heads);
        let (k, v) = view.behind_prefix(k, v);
        let scale = config
            .block
            .attention_scale
            .unwrap_or(1.0 / (config.head_dim as f64).sqrt());
        let mixed = match cache {
            None => ft_kernels::attention(q, k, v, &view.mask, scale),
            Some(cache) => cache.attend(index, [q, k, v], &view.mask, scale),
        };
        self.o_proj.forward(
            mixed.reshape([batch, seq, config.num_attention_heads * config.head_dim]),
            pass,
        )
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let parts = [
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("qkv_proj", &mut self.qkv_proj),
        ];
        modules.extend(optional_projections(at, parts));
        modules.push(TargetModule::projection(format!("{at}.o_proj"), &mut self.o_proj));
        modules.extend(
            self.q_norm
                .as_mut()
                .map(|norm| TargetModule::norm(format!("{at}.q_norm"), norm)),
        );
        modules.extend(
            self.k_norm
                .as_mut()
                .map(|norm| TargetModule::norm(format!("{at}.k_norm"), norm)),
        );
    }
}

impl Mlp {
    fn build(at: &str, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let fused = config.block.fused;
        let part = |name: &str, rows: usize, there: bool, source: &mut _| {
            there.then(|| linear(&format!("{at}.{name}"), [rows, hidden], bias, source))
        };
        Self {
            gate_proj: part("gate_proj", inner, !fused, source),
            up_proj: part("up_proj", inner, !fused, source),
            gate_up_proj: part("gate_up_proj", 2 * inner, fused, source),
            down_proj: linear(&format!("{at}.down_proj"), [hidden, inner], bias, source),
        }
    }

    fn forward(&self, x: Tensor<3>, config: &ModelConfig, pass: &Pass, output: Output) -> Tensor<3> {
        let [gate, up] = match &self.gate_up_proj {
            Some(fused) => split(fused.forward(x, pass), [config.intermediate_size; 2]),
            None => [&self.gate_proj, &self.up_proj].map(|part| {
                let part = part.as_ref().expect("two matrices where there is not one");
                part.forward(x.clone(), pass)
            }),
        };
        let inner = match config.block.activation {
            Activation::Silu => ft_kernels::swiglu(gate, up),
            Activation::GeluTanh => ft_kernels::gelu_tanh(gate) * up,
        };
        self.down_proj.forward(inner, &pass.with_output(output))
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let parts = [
            ("gate_proj", &mut self.gate_proj),
            ("up_proj", &mut self.up_proj),
            ("gate_up_proj", &mut self.gate_up_proj),
        ];
        modules.extend(optional_projections(at, parts));
        modules.push(TargetModule::projection(format!("{at}.down_proj"), &mut self.down_proj));
    }
}
