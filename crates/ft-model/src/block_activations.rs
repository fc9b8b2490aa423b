//! What a forward pass keeps for the backward pass, counted from the architecture alone.
//!
//! An operation keeps what its backward pass reads, and only where a gradient will come by:
//!
//! ```text
//! norm         its input
//! attention    queries, keys, values, output, log-sum-exp
//! SwiGLU       gate, up        GELU   its input
//! convolution  its input
//! delta rule   queries, keys and values, gates
//! projection   its input, where its own matrix or adapter learns from it
//! ```

use ft_peft::SavedActivations;

use crate::block::{Activation, DeltaConfig, ExpertsConfig, MlpNames, Norms, QkNorm};
use crate::config::ModelConfig;
use crate::families::Blocks;

/// What one block keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockActivations {
    /// Numbers for every token.
    pub per_token: usize,
    /// Bytes for every token where activations have 16 bits.
    pub half_bytes: usize,
    /// f32 numbers, whatever the tokens.
    pub fixed: usize,
    /// For every token, while its backward pass runs: the gradient on the residual path and those inside the MLP or an
    /// adapter, whichever are more.
    pub passing: usize,
    /// Places of the block that train or carry an adapter.
    pub specs: usize,
    /// Whether a gradient comes by: something trains in the block or before it.
    pub tracked: bool,
}

impl ModelConfig {
    /// What block `index` keeps; `tracked` when something before it trains. `trains` says for a path (`model.layers.0.mlp.up_proj`)
    /// what its adapter or trained tensor keeps, `None` where it is frozen.
    pub fn kept(
        &self,
        index: usize,
        tracked: bool,
        trains: &dyn Fn(&str) -> Option<SavedActivations>,
    ) -> BlockActivations {
        let mut block = Walk {
            trains,
            at: String::new(),
            kept: BlockActivations {
                tracked,
                ..BlockActivations::default()
            },
        };
        match self.blocks() {
            Blocks::Gpt2 => block.gpt2(self, index),
            Blocks::Llama => block.llama(self, index),
            Blocks::Encoder => block.encoder(self, index),
            Blocks::Modern => block.modern(self, index),
        }
        block.kept.passing += self.hidden_size;
        block.kept
    }

    /// Numbers per token of a block's forward pass without a tape, at its widest.
    pub fn forward_numbers(&self) -> usize {
        let inner = match &self.block.experts {
            None => 2 * self.intermediate_size,
            Some(own) => {
                let routed = own.per_token * (2 * own.inner + 3 * self.hidden_size);
                (routed + 2 * own.shared.unwrap_or(0)).max(2 * self.intermediate_size)
            }
        };
        let delta = self.block.delta.as_ref().filter(|_| self.recurs());
        let mixer = delta.map_or(0, |own| 2 * own.heads.width() + 3 * own.heads.values());
        3 * self.hidden_size + inner.max(mixer)
    }
}

struct Walk<'a> {
    trains: &'a dyn Fn(&str) -> Option<SavedActivations>,
    at: String,
    kept: BlockActivations,
}

impl Walk<'_> {
    fn llama(&mut self, config: &ModelConfig, index: usize) {
        let hidden = config.hidden_size;
        self.at = format!("model.layers.{index}");
        let block = &config.block;
        if block.norms != Norms::After {
            self.norm("input_layernorm", hidden);
        }
        match block.linear(index) {
            None => self.causal_attention(config),
            Some(own) => self.delta_net(own, hidden),
        }
        if block.norms != Norms::Before {
            self.norm("post_attention_layernorm", hidden);
        }
        self.projections(&["attention_adapters"], hidden);
        match block.norms {
            Norms::Before => self.norm("post_attention_layernorm", hidden),
            Norms::Around => self.norm("pre_feedforward_layernorm", hidden),
            Norms::After => {}
        }
        match block.sparse(index) {
            None => {
                let ((names, fused), inner) = (block.dense(), config.intermediate_size);
                self.mlp(
                    block.feed_forward(index),
                    names,
                    block.activation,
                    fused,
                    [hidden, inner],
                );
            }
            Some(own) => self.experts(own, block.activation, hidden),
        }
        if block.norms != Norms::Before {
            self.norm("post_feedforward_layernorm", hidden);
        }
        self.projections(&["output_adapters"], hidden);
    }

    fn causal_attention(&mut self, config: &ModelConfig) {
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let (block, sizes) = (&config.block, config.num_attention_heads);
        let parts = ["q_proj", "k_proj", "v_proj", "qkv_proj"].map(|name| format!("self_attn.{name}"));
        self.projections(&parts.each_ref().map(String::as_str), config.hidden_size);
        if block.qk_norm != QkNorm::None {
            self.norm("self_attn.q_norm", queries);
            self.norm("self_attn.k_norm", keys);
        }
        self.prefix("model.layers");
        if block.sinks {
            let trains = self.look("self_attn").is_some();
            self.kept.tracked |= trains;
        }
        let mut before = self.attention(2 * queries + 2 * keys + sizes);
        if block.output_gate {
            self.when_tracked(queries);
            before = false;
        }
        self.projections(&["self_attn.o_proj"], if before { 0 } else { queries });
    }

    fn delta_net(&mut self, own: &DeltaConfig, hidden: usize) {
        let (width, values, heads) = (own.heads.width(), own.heads.values(), own.heads.value_heads);
        let parts = ["qkv", "z", "b", "a"].map(|name| format!("linear_attn.in_proj_{name}"));
        self.projections(&parts.each_ref().map(String::as_str), hidden);
        self.train("linear_attn.conv1d");
        self.train("linear_attn");
        // The convolution's input and output; of the gates, what their functions are made of.
        self.when_tracked(2 * width + 4 * heads);
        self.norm("linear_attn.norm", values);
        self.when_tracked(2 * values);
        self.projections(&["linear_attn.out_proj"], values);
        self.passing(2 * width + values);
    }

    /// The MLP at `path` below the block; `sizes` are the width of its input and the one inside.
    fn mlp(&mut self, path: &str, names: &MlpNames, activation: Activation, fused: bool, [input, inner]: [usize; 2]) {
        let parts = [names.gate, names.up, names.gate_up].map(|name| format!("{path}.{name}"));
        self.projections(&parts.each_ref().map(String::as_str), input);
        self.when_tracked(
            match activation {
                Activation::Silu => 2,
                // And what the activation makes of the gate.
                Activation::GeluTanh => 3,
                Activation::Clamped(_) => 2,
            } * inner,
        );
        let kept = self.projections(&[&format!("{path}.{}", names.down)], inner);
        // The gradients of gate and up come when their product has gone; those of parts of one matrix's output as large as the whole.
        let gradients = match activation {
            Activation::Clamped(_) => 4,
            _ if fused => 5,
            _ => 2,
        };
        self.passing(gradients * inner - kept);
    }

    /// Of every token, those experts that compute it, as if they were the first ones.
    fn experts(&mut self, own: &ExpertsConfig, activation: Activation, hidden: usize) {
        let router = format!("{}.{}", own.path, own.router);
        self.projections(&[&router], hidden);
        self.when_tracked(2 * own.count);
        for expert in 0..own.per_token {
            // Its rows of the sorted input, its output, and that in the order of tokens.
            self.when_tracked(3 * hidden);
            let path = format!("{}.experts.{expert}", own.path);
            self.mlp(&path, &own.names, activation, own.fused, [hidden, own.inner]);
        }
        if let Some(inner) = own.shared {
            let path = format!("{}.shared_expert", own.path);
            self.mlp(&path, &own.names, activation, false, [hidden, inner]);
            self.when_tracked(hidden);
        }
        // The sorted rows and outputs, and their gradients.
        self.passing(4 * own.per_token * hidden);
    }

    fn gpt2(&mut self, config: &ModelConfig, index: usize) {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        self.at = format!("transformer.h.{index}");
        self.norm("ln_1", hidden);
        self.projections(&["attn.c_attn"], hidden);
        self.prefix("transformer.h");
        let before = self.attention(4 * hidden + config.num_attention_heads);
        self.projections(&["attn.c_proj"], if before { 0 } else { hidden });
        self.projections(&["attention_adapters"], hidden);
        self.norm("ln_2", hidden);
        self.projections(&["mlp.c_fc"], hidden);
        self.when_tracked(inner);
        let kept = self.projections(&["mlp.c_proj"], inner);
        self.passing(inner - kept);
        self.projections(&["output_adapters"], hidden);
    }

    fn encoder(&mut self, config: &ModelConfig, index: usize) {
        let (hidden, inner, names) = (config.hidden_size, config.intermediate_size, config.encoder().names());
        self.at = format!("{}.{}.{index}", names.base, names.layers);
        self.projections(&names.inputs, hidden);
        let before = self.attention(4 * hidden + config.num_attention_heads);
        self.projections(&[names.attention_output], if before { 0 } else { hidden });
        self.norm(names.attention_norm, hidden);
        self.projections(&[names.up], hidden);
        // What GELU is made of: its input, and the parts of the product.
        self.when_tracked(if config.encoder().gelu_tanh { inner } else { 3 * inner });
        let kept = self.projections(&[names.down], inner);
        self.passing(2 * inner - kept);
        self.norm(names.output_norm, hidden);
    }

    fn modern(&mut self, config: &ModelConfig, index: usize) {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        self.at = format!("model.layers.{index}");
        self.norm("attn_norm", hidden);
        self.projections(&["attn.Wqkv"], hidden);
        let before = self.attention(4 * hidden + config.num_attention_heads);
        self.projections(&["attn.Wo"], if before { 0 } else { hidden });
        self.norm("mlp_norm", hidden);
        self.projections(&["mlp.Wi"], hidden);
        // What GELU is made of, its value and what it is multiplied with.
        self.when_tracked(5 * inner);
        let kept = self.projections(&["mlp.Wo"], inner);
        self.passing(5 * inner - kept);
    }

    fn keep(&mut self, numbers: usize) {
        self.kept.per_token += numbers;
        self.kept.half_bytes += 2 * numbers;
    }

    fn when_tracked(&mut self, numbers: usize) {
        if self.kept.tracked {
            self.keep(numbers);
        }
    }

    /// A prefix before the keys and values of all layers, which the list of layers at `path` stands for.
    fn prefix(&mut self, path: &str) {
        let trains = (self.trains)(path).is_some();
        self.kept.tracked |= trains;
        self.kept.specs += usize::from(trains);
    }

    /// Whether the attention's output is among what is kept.
    fn attention(&mut self, numbers: usize) -> bool {
        self.when_tracked(numbers);
        self.kept.tracked
    }

    fn norm(&mut self, name: &str, input: usize) {
        self.train(name);
        self.when_tracked(input);
    }

    /// Takes note of a place that may train.
    fn train(&mut self, name: &str) {
        let trains = self.look(name).is_some();
        self.kept.tracked |= trains;
        self.kept.specs += usize::from(trains);
    }

    /// Projections that share one input of this size; how much of it is kept.
    fn projections(&mut self, names: &[&str], input: usize) -> usize {
        let found: Vec<SavedActivations> = names.iter().filter_map(|name| self.look(name)).collect();
        let copies = found.iter().filter(|keeps| keeps.copies).count();
        self.kept.half_bytes += 4 * copies * input;
        if found.iter().any(|keeps| keeps.input && !keeps.copies) {
            self.kept.half_bytes += 2 * input;
        }
        let input = if found.iter().any(|keeps| keeps.input) {
            input
        } else {
            0
        };
        self.kept.per_token += input;
        self.kept.specs += found.len();
        for keeps in found {
            self.keep(keeps.per_token);
            self.kept.half_bytes += 2 * keeps.wide;
            self.kept.fixed += keeps.fixed;
            self.kept.tracked = true;
            self.passing(keeps.passing);
        }
        input
    }

    fn passing(&mut self, numbers: usize) {
        self.kept.passing = self.kept.passing.max(numbers);
    }

    fn look(&self, name: &str) -> Option<SavedActivations> {
        (self.trains)(&format!("{}.{name}", self.at))
    }
}
