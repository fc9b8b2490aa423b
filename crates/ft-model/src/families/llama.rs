//! Llama 1, 2 and 3 (Touvron et al. 2023, arXiv:2302.13971), and the block that Mistral and Qwen share with it.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use ft_kernels::Output;
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, Residual, TargetModule};

use crate::cache::KvCache;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::rows::Rows;
use crate::source::{Fill, Source, linear, rms_norm};
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
    input_layernorm: Norm,
    self_attn: Attention,
    attention_adapters: Residual,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    output_adapters: Residual,
}

#[derive(Module, Debug)]
pub(crate) struct Attention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
}

/// What the layers of one forward pass share.
struct Shared<'a> {
    config: &'a ModelConfig,
    cos: Tensor<3>,
    sin: Tensor<3>,
    pass: &'a Pass,
}

impl Llama {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        let table = [config.vocab_size, config.hidden_size];
        Self {
            prefixes: Prefixes::default(),
            embed_tokens: Embedding::new(source.matrix("model.embed_tokens.weight", table, Fill::Normal)),
            layers: (0..config.num_hidden_layers)
                .map(|i| DecoderLayer::build(i, config, source))
                .collect(),
            norm: rms_norm("model.norm", config.hidden_size, config.norm_eps, source),
        }
    }

    /// Token embeddings, behind the prompt where the columns start at `offset` 0.
    pub fn embed(&self, ids: Tensor<2, Int>, rows: &Rows, offset: usize, pass: &Pass) -> Tensor<3> {
        let text = self.embed_tokens.forward(ids, pass);
        match self.embed_tokens.prompt(pass).filter(|_| offset == 0) {
            None => text,
            Some(prompt) => prepend(prompt, text, rows),
        }
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
        let (cos, sin) = rope.tables(&rows.positions(prefix, offset, seq), config.head_dim, &device);
        let (end, output, pass) = (range.end, pass.output, &pass.with_output(Output::Read));
        let shared = Shared { config, cos, sin, pass };
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
        let (hidden, eps) = (config.hidden_size, config.norm_eps);
        Self {
            input_layernorm: rms_norm(&format!("{at}.input_layernorm"), hidden, eps, source),
            self_attn: Attention::build(&format!("{at}.self_attn"), config, source),
            attention_adapters: Residual::default(),
            post_attention_layernorm: rms_norm(&format!("{at}.post_attention_layernorm"), hidden, eps, source),
            mlp: Mlp::build(&format!("{at}.mlp"), config, source),
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
        let attended = self
            .self_attn
            .forward(self.input_layernorm.forward(hidden.clone()), index, view, cache, shared);
        let hidden = self.attention_adapters.join(hidden, attended, shared.pass);
        let normed = self.post_attention_layernorm.forward(hidden.clone());
        let reads = self.output_adapters.reads(view.output);
        let output = self.mlp.forward(normed, shared.pass, reads);
        self.output_adapters.join(hidden, output, shared.pass)
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let norm = self.input_layernorm.weight.val();
        let residual = |path: &str, slot: &'a mut Residual| {
            TargetModule::residual(format!("{at}.{path}"), slot, norm.dims()[0], norm.device())
        };
        modules.push(TargetModule::norm(
            format!("{at}.input_layernorm"),
            &mut self.input_layernorm,
        ));
        self.self_attn.target_modules(&format!("{at}.self_attn"), modules);
        modules.push(residual("attention_adapters", &mut self.attention_adapters));
        modules.push(TargetModule::norm(
            format!("{at}.post_attention_layernorm"),
            &mut self.post_attention_layernorm,
        ));
        self.mlp.target_modules(&format!("{at}.mlp"), modules);
        modules.push(residual("output_adapters", &mut self.output_adapters));
    }
}

impl Attention {
    fn build(at: &str, config: &ModelConfig, source: &mut impl Source) -> Self {
        let hidden = config.hidden_size;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let bias = config.qkv_bias;
        let head_norm = |name: &str, source: &mut _| {
            config
                .qk_norm
                .then(|| rms_norm(&format!("{at}.{name}"), config.head_dim, config.norm_eps, source))
        };
        Self {
            q_proj: linear(&format!("{at}.q_proj"), [queries, hidden], bias, source),
            k_proj: linear(&format!("{at}.k_proj"), [keys, hidden], bias, source),
            v_proj: linear(&format!("{at}.v_proj"), [keys, hidden], bias, source),
            o_proj: linear(&format!("{at}.o_proj"), [hidden, queries], config.o_bias, source),
            q_norm: head_norm("q_norm", source),
            k_norm: head_norm("k_norm", source),
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
        let turn = |x: Tensor<4>, norm: &Option<Norm>| {
            let x = match norm {
                None => x,
                Some(norm) => norm.forward(x),
            };
            ft_kernels::rope(x, shared.cos.clone(), shared.sin.clone())
        };
        let q = turn(
            heads(self.q_proj.forward(x.clone(), pass), config.num_attention_heads),
            &self.q_norm,
        );
        let k = turn(
            heads(self.k_proj.forward(x.clone(), pass), config.num_key_value_heads),
            &self.k_norm,
        );
        let v = heads(self.v_proj.forward(x, pass), config.num_key_value_heads);
        let (k, v) = view.behind_prefix(k, v);
        let scale = 1.0 / (config.head_dim as f64).sqrt();
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
        modules.push(TargetModule::projection(format!("{at}.q_proj"), &mut self.q_proj));
        modules.push(TargetModule::projection(format!("{at}.k_proj"), &mut self.k_proj));
        modules.push(TargetModule::projection(format!("{at}.v_proj"), &mut self.v_proj));
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
        Self {
            gate_proj: linear(&format!("{at}.gate_proj"), [inner, hidden], bias, source),
            up_proj: linear(&format!("{at}.up_proj"), [inner, hidden], bias, source),
            down_proj: linear(&format!("{at}.down_proj"), [hidden, inner], bias, source),
        }
    }

    fn forward(&self, x: Tensor<3>, pass: &Pass, output: Output) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone(), pass);
        let inner = ft_kernels::swiglu(gate, self.up_proj.forward(x, pass));
        self.down_proj.forward(inner, &pass.with_output(output))
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        modules.push(TargetModule::projection(format!("{at}.gate_proj"), &mut self.gate_proj));
        modules.push(TargetModule::projection(format!("{at}.up_proj"), &mut self.up_proj));
        modules.push(TargetModule::projection(format!("{at}.down_proj"), &mut self.down_proj));
    }
}
