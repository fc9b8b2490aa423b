//! Grouped-query attention with rotary embedding.

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{FloatDType, Tensor};
use ft_kernels::Scoring;
use ft_peft::{Norm, Pass, Projection, TargetModule};
use ft_quant::Leaf;

use super::{Shared, norm, normalized, optional_projections, split};
use crate::block::QkNorm;
use crate::cache::KvCache;
use crate::config::ModelConfig;
use crate::source::{Fill, Source, linear};
use crate::virtual_tokens::View;

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
    sinks: Option<Leaf<1>>,
}

impl Attention {
    pub fn build(at: &str, config: &ModelConfig, source: &mut impl Source) -> Self {
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
        let gated = if config.block.output_gate { 2 } else { 1 };
        let part = |name: &str, rows: usize, there: bool, source: &mut _| {
            there.then(|| linear(&format!("{at}.{name}"), [rows, hidden], bias, source))
        };
        Self {
            q_proj: part("q_proj", gated * queries, !fused, source),
            k_proj: part("k_proj", keys, !fused, source),
            v_proj: part("v_proj", keys, !fused, source),
            qkv_proj: part("qkv_proj", queries + 2 * keys, fused, source),
            o_proj: linear(&format!("{at}.o_proj"), [hidden, queries], config.o_bias, source),
            q_norm: qk_norm("q_norm", queries, source),
            k_norm: qk_norm("k_norm", keys, source),
            sinks: config.block.sinks.then(|| {
                let name = format!("{at}.sinks");
                Leaf::Frozen(source.vector(&name, config.num_attention_heads, Fill::Zeros))
            }),
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

    pub fn forward(
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
        let normed = |x: Tensor<3>, n, norm: &Option<Norm>| match whole {
            true => heads(normalized(norm, x), n),
            false => normalized(norm, heads(x, n)),
        };
        let [q, k, v] = self.project(x, config, pass);
        let (q, gate) = match config.block.output_gate {
            false => (q, None),
            true => {
                let [q, gate] = halves(q, config.num_attention_heads, config.head_dim);
                (q, Some(gate))
            }
        };
        let q = normed(q, config.num_attention_heads, &self.q_norm);
        let q = match &shared.queries {
            None => q,
            Some(factors) => {
                let dtype = FloatDType::from(q.dtype());
                q * factors.clone().cast(dtype)
            }
        };
        let k = normed(k, config.num_key_value_heads, &self.k_norm);
        let v = heads(v, config.num_key_value_heads);
        let scoring = Scoring {
            scale: config
                .block
                .attention_scale
                .unwrap_or(1.0 / (config.head_dim as f64).sqrt()),
            cap: config.block.score_cap,
            sinks: self.sinks.as_ref().map(Leaf::val),
        };
        let angles = shared.angles(index);
        let whole = angles.filter(|[cos, _]| 2 * cos.dims()[2] == config.head_dim);
        let mixed = match (cache, whole) {
            (None, Some(angles)) if view.prefix.is_none() => {
                ft_kernels::rotary_attention(q, k, v, angles.clone(), &view.mask, scoring)
            }
            (cache, _) => {
                let [q, k] = [q, k].map(|x| match angles {
                    None => x,
                    Some(angles) => turned(x, angles),
                });
                let (k, v) = view.behind_prefix(k, v);
                match cache {
                    None => ft_kernels::attention(q, k, v, &view.mask, scoring),
                    Some(cache) => cache.attend(index, [q, k, v], &view.mask, &scoring),
                }
            }
        };
        let mixed = mixed.reshape([batch, seq, config.num_attention_heads * config.head_dim]);
        let mixed = match gate {
            None => mixed,
            Some(gate) => mixed * sigmoid(gate),
        };
        self.o_proj.forward(mixed, pass)
    }

    pub fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let parts = [
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("qkv_proj", &mut self.qkv_proj),
        ];
        modules.extend(optional_projections(at, parts));
        modules.push(TargetModule::projection(format!("{at}.o_proj"), &mut self.o_proj));
        modules.extend(
            self.sinks
                .as_mut()
                .map(|sinks| TargetModule::vector(at, "sinks", sinks)),
        );
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

/// Queries and gates `[batch, seq, heads head_dim]` out of x, which has one behind the other for each head.
fn halves(x: Tensor<3>, heads: usize, head_dim: usize) -> [Tensor<3>; 2] {
    let [batch, seq, _] = x.dims();
    let x = x.reshape([batch, seq, heads, 2 * head_dim]);
    let half = |start: usize| {
        x.clone()
            .narrow(3, start, head_dim)
            .reshape([batch, seq, heads * head_dim])
    };
    [half(0), half(head_dim)]
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
