//! A language model for tests: the logits of the next token are a row of a table, picked by the last token.

use burn::tensor::{Device, Tensor, TensorData};
use ft_model::{Model, ModelConfig};
use ft_peft::{Adaptable, ModuleSlot};
use ft_quant::Leaf;

/// A bigram table `[vocab, vocab]`.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) logits: Vec<Vec<f32>>,
    pub(crate) positions: usize,
}

impl Table {
    pub(crate) fn new(logits: Vec<Vec<f32>>) -> Self {
        Self { logits, positions: 100 }
    }

    /// A chain: every token is followed by the next higher one, the last by itself; the runner-up is the token itself.
    pub(crate) fn chain(vocab: usize) -> Self {
        let row = |from: usize| {
            (0..vocab).map(move |to| {
                if to == (from + 1).min(vocab - 1) {
                    5.0
                } else if to == from {
                    2.0
                } else {
                    0.0
                }
            })
        };
        Self::new((0..vocab).map(|from| row(from).collect()).collect())
    }

    /// Logits without a pattern, the same for the same `seed`.
    pub(crate) fn random(vocab: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
        };
        Self::new((0..vocab).map(|_| (0..vocab).map(|_| next()).collect()).collect())
    }

    /// A Llama that computes the table: tokens are unit vectors, its one layer adds nothing, the head holds the columns. A row of NaN is
    /// an embedding of NaN.
    pub(crate) fn model(&self) -> Model {
        let vocab = self.logits.len();
        let json = serde_json::json!({
            "model_type": "llama", "vocab_size": vocab, "hidden_size": vocab, "intermediate_size": 1, "num_hidden_layers": 1,
            "num_attention_heads": 1, "head_dim": 2, "max_position_embeddings": self.positions, "rms_norm_eps": 1e-12,
            "tie_word_embeddings": false,
        });
        let config = ModelConfig::from_json(&json.to_string(), "table".as_ref()).unwrap();
        let mut model = Model::init(&config, 0, &Device::flex());
        let unit = |id: usize| (0..vocab).map(move |at| if at == id { 1.0 } else { 0.0 });
        let token = |id: usize| match self.logits[id][0].is_nan() {
            true => vec![f32::NAN; vocab],
            false => unit(id).collect(),
        };
        let finite = |logit: f32| if logit.is_nan() { 0.0 } else { logit };
        let column = |to: usize| self.logits.iter().map(move |row| finite(row[to]));
        for module in model.target_modules() {
            match module.slot {
                ModuleSlot::Embedding(slot) => slot.weight = Leaf::Frozen(square((0..vocab).flat_map(token))),
                // What a normalized unit vector is multiplied with.
                ModuleSlot::Norm(norm) => {
                    let factor = (vocab as f64).sqrt().recip();
                    norm.weight = Leaf::Frozen(norm.weight.val().full_like(factor));
                }
                ModuleSlot::Projection(slot) if module.path == "lm_head" => {
                    slot.weight.set_dense(square((0..vocab).flat_map(column)));
                }
                ModuleSlot::Projection(slot) => slot.weight.set_dense(slot.weight.dense().zeros_like()),
                _ => {}
            }
        }
        model
    }
}

fn square(values: impl Iterator<Item = f32>) -> Tensor<2> {
    let values: Vec<f32> = values.collect();
    let side = values.len().isqrt();
    Tensor::from_data(TensorData::new(values, [side, side]), &Device::flex())
}
