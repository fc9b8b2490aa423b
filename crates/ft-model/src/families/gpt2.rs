//! GPT-2 (Radford et al. 2019): LayerNorm before each sub-layer, learned positions, `Conv1D` weights `[in, out]`.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, s};
use ft_kernels::Output;
use ft_peft::{Embedding, Norm, Pass, Prefixes, Projection, Residual, TargetModule};

use crate::cache::KvCache;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::rows::Rows;
use crate::source::{Fill, Source, conv1d, layer_norm};
use crate::virtual_tokens::{View, prepend};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    for flag in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if keys.flag(flag, false) {
            return Err(keys.error(flag, "not supported".into()));
        }
    }
    let hidden_size = keys.size("n_embd", Some(768))?;
    let heads = keys.size("n_head", Some(12))?;
    if !hidden_size.is_multiple_of(heads.max(1)) {
        return Err(keys.error(
            "n_head",
            format!("{heads} heads do not share n_embd = {hidden_size} evenly"),
        ));
    }
    let layers = keys.size("n_layer", Some(12))?;
    let renamed = Keys::with_sizes(
        keys,
        &[
            ("hidden_size", hidden_size),
            ("num_attention_heads", heads),
            ("num_hidden_layers", layers),
            ("intermediate_size", keys.size("n_inner", Some(4 * hidden_size))?),
            ("max_position_embeddings", keys.size("n_positions", Some(1024))?),
        ],
    );
    Ok(ModelConfig {
        norm_eps: keys.number("layer_norm_epsilon", 1e-5),
        rope: None,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        tie_word_embeddings: keys.flag("tie_word_embeddings", true),
        ..ModelConfig::common(&renamed)?
    }
    .with_raw(keys))
}

/// `transformer.*` of a checkpoint.
#[derive(Module, Debug)]
pub(crate) struct Gpt2 {
    pub wte: Embedding,
    pub wpe: Embedding,
    pub prefixes: Prefixes,
    pub h: Vec<Block>,
    pub ln_f: Norm,
}

#[derive(Module, Debug)]
pub(crate) struct Block {
    ln_1: Norm,
    attn: Attention,
    attention_adapters: Residual,
    ln_2: Norm,
    mlp: Mlp,
    output_adapters: Residual,
}

#[derive(Module, Debug)]
pub(crate) struct Attention {
    c_attn: Projection,
    c_proj: Projection,
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    c_fc: Projection,
    c_proj: Projection,
}

impl Gpt2 {
    pub fn build(config: &ModelConfig, source: &mut impl Source) -> Self {
        let hidden = config.hidden_size;
        let positions = [config.max_position_embeddings, hidden];
        Self {
            wte: Embedding::new(source.matrix("transformer.wte.weight", [config.vocab_size, hidden], Fill::Normal)),
            wpe: Embedding::new(source.matrix("transformer.wpe.weight", positions, Fill::Normal)),
            prefixes: Prefixes::default(),
            h: (0..config.num_hidden_layers)
                .map(|i| Block::build(i, config, source))
                .collect(),
            ln_f: layer_norm("transformer.ln_f", hidden, config.norm_eps, source),
        }
    }

    /// Token and position embeddings, behind the prompt where the columns start at `offset` 0.
    pub fn embed(&self, ids: Tensor<2, Int>, rows: &Rows, offset: usize, pass: &Pass) -> Tensor<3> {
        let device = ids.device();
        let text = self.wte.forward(ids, pass);
        let begins = rows.take_virtual_tokens(offset);
        let prompt = begins.then(|| self.wte.prompt(pass)).flatten();
        let (text, rows) = match prompt {
            None => (text, rows.clone()),
            Some(prompt) => {
                let inner = rows.behind_prompts(prompt.dims()[0]);
                (prepend(prompt, text, rows), inner)
            }
        };
        let [_, seq, _] = text.dims();
        let positions = rows.positions(self.prefixes.virtual_tokens(), offset, seq);
        let shape = [positions.len(), seq];
        // Padding at the end of a row may reach beyond the last position.
        let last = self.wpe.weight.dims()[0] - 1;
        let positions: Vec<i32> = positions.into_iter().flatten().map(|p| p.min(last) as i32).collect();
        let positions = Tensor::<2, Int>::from_data(TensorData::new(positions, shape), &device);
        text + self.wpe.forward(positions, &pass.with_noise(0.0)) // [batch, seq, hidden]
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
        let prefix = self.prefixes.virtual_tokens();
        let mask = rows.mask(prefix, offset, seq, None, &hidden.device());
        let (end, output, pass) = (range.end, pass.output, &pass.with_output(Output::Read));
        for i in range {
            let view = View {
                mask: mask.clone(),
                prefix: begins.then(|| self.prefixes.layer(i)).flatten(),
                output: if i + 1 == end { output } else { Output::Read },
            };
            hidden = self.h[i].forward(hidden, i, &view, cache.as_deref_mut(), config, pass);
        }
        hidden
    }

    pub fn target_modules(&mut self, config: &ModelConfig) -> Vec<TargetModule<'_>> {
        let device = self.wte.weight.val().device();
        let mut modules = vec![
            TargetModule::embedding("transformer.wte", &mut self.wte),
            TargetModule::embedding("transformer.wpe", &mut self.wpe),
            TargetModule::attention("transformer.h", &mut self.prefixes, config.attention(), device),
        ];
        for (i, block) in self.h.iter_mut().enumerate() {
            block.target_modules(&format!("transformer.h.{i}"), &mut modules);
        }
        modules.push(TargetModule::norm("transformer.ln_f", &mut self.ln_f));
        modules
    }
}

impl Block {
    fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let at = format!("transformer.h.{index}");
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.norm_eps);
        Self {
            ln_1: layer_norm(&format!("{at}.ln_1"), hidden, eps, source),
            attn: Attention {
                c_attn: conv1d(&format!("{at}.attn.c_attn"), [hidden, 3 * hidden], source),
                c_proj: conv1d(&format!("{at}.attn.c_proj"), [hidden, hidden], source),
            },
            attention_adapters: Residual::default(),
            ln_2: layer_norm(&format!("{at}.ln_2"), hidden, eps, source),
            mlp: Mlp {
                c_fc: conv1d(&format!("{at}.mlp.c_fc"), [hidden, inner], source),
                c_proj: conv1d(&format!("{at}.mlp.c_proj"), [inner, hidden], source),
            },
            output_adapters: Residual::default(),
        }
    }

    fn forward(
        &self,
        hidden: Tensor<3>,
        index: usize,
        view: &View,
        cache: Option<&mut KvCache>,
        config: &ModelConfig,
        pass: &Pass,
    ) -> Tensor<3> {
        let normed = self.ln_1.forward(hidden.clone());
        let attended = self.attn.forward(normed, index, view, cache, config, pass);
        let hidden = self.attention_adapters.join(hidden, attended, pass);
        let inner = self.mlp.c_fc.forward(self.ln_2.forward(hidden.clone()), pass);
        let last = pass.with_output(self.output_adapters.reads(view.output));
        let output = self.mlp.c_proj.forward(ft_kernels::gelu_tanh(inner), &last);
        self.output_adapters.join(hidden, output, pass)
    }

    fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let norm = self.ln_1.weight.val();
        let residual = |path: &str, slot: &'a mut Residual| {
            TargetModule::residual(format!("{at}.{path}"), slot, norm.dims()[0], norm.device())
        };
        modules.push(TargetModule::norm(format!("{at}.ln_1"), &mut self.ln_1));
        modules.push(TargetModule::projection(
            format!("{at}.attn.c_attn"),
            &mut self.attn.c_attn,
        ));
        modules.push(TargetModule::projection(
            format!("{at}.attn.c_proj"),
            &mut self.attn.c_proj,
        ));
        modules.push(residual("attention_adapters", &mut self.attention_adapters));
        modules.push(TargetModule::norm(format!("{at}.ln_2"), &mut self.ln_2));
        modules.push(TargetModule::projection(format!("{at}.mlp.c_fc"), &mut self.mlp.c_fc));
        modules.push(TargetModule::projection(
            format!("{at}.mlp.c_proj"),
            &mut self.mlp.c_proj,
        ));
        modules.push(residual("output_adapters", &mut self.output_adapters));
    }
}

impl Attention {
    fn forward(
        &self,
        x: Tensor<3>,
        index: usize,
        view: &View,
        cache: Option<&mut KvCache>,
        config: &ModelConfig,
        pass: &Pass,
    ) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let fused = self.c_attn.forward(x, pass); // [batch, seq, 3 hidden]
        let part = |i: usize| {
            let part = fused.clone().slice(s![.., .., i * hidden..(i + 1) * hidden]);
            part.reshape([batch, seq, config.num_attention_heads, config.head_dim])
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let (k, v) = view.behind_prefix(k, v);
        let scale = 1.0 / (config.head_dim as f64).sqrt();
        let mixed = match cache {
            None => ft_kernels::attention(q, k, v, &view.mask, scale),
            Some(cache) => cache.attend(index, [q, k, v], &view.mask, scale),
        };
        self.c_proj.forward(mixed.reshape([batch, seq, hidden]), pass)
    }
}
