//! A student of another family: BERT's layers as DistilBERT's (Sanh et al. 2019, arXiv:1910.01108, section 3).

use std::path::Path;

use serde_json::{Value, json};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::families::Decoder;
use crate::model::Model;

impl Model {
    /// A BERT as a DistilBERT, with its head for masked tokens, where it has one. DistilBERT knows no token types: what the first type adds
    /// to every token goes into the table of positions, so that texts by themselves come out as before; pairs do not. A head for labels
    /// is left behind, as DistilBERT's has another shape.
    ///
    /// # Errors
    /// [`Error::Config`] for a model of another family.
    pub fn into_distilbert(mut self) -> Result<Self> {
        let config = self.config().to_distilbert()?;
        let Decoder::Encoder(encoder) = &mut self.decoder else {
            unreachable!("BERT is an encoder")
        };
        if let Some(types) = encoder.types.take() {
            let first = types.weight.val().narrow(0, 0, 1);
            let positions = encoder.positions.weight.val() + first;
            encoder.positions.weight.set(positions);
        }
        self.task_head = None;
        if let Some(head) = &mut self.masked_head {
            head.joins_decoder();
        }
        Ok(self.configured(config))
    }
}

impl ModelConfig {
    fn to_distilbert(&self) -> Result<Self> {
        let path = Path::new("config.json");
        let wrong = |key: &str, why: String| {
            let (path, key) = (path.to_path_buf(), key.to_string());
            Err(Error::Config { path, key, why })
        };
        if self.model_type != "bert" {
            return wrong(
                "model_type",
                format!("\"{}\" has no DistilBERT; \"bert\" has one", self.model_type),
            );
        }
        if (self.norm_eps - 1e-12).abs() > 1e-13 {
            return wrong(
                "layer_norm_eps",
                format!("DistilBERT's is 1e-12, and not {}", self.norm_eps),
            );
        }
        let own = |key: &str, default: Value| {
            self.raw
                .get(key)
                .filter(|value| !value.is_null())
                .cloned()
                .unwrap_or(default)
        };
        let class = if self.masked {
            "DistilBertForMaskedLM"
        } else {
            "DistilBertModel"
        };
        let student = json!({
            "model_type": "distilbert",
            "architectures": [class],
            "vocab_size": self.vocab_size,
            "dim": self.hidden_size,
            "hidden_dim": self.intermediate_size,
            "n_layers": self.num_hidden_layers,
            "n_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "activation": own("hidden_act", "gelu".into()),
            "dropout": own("hidden_dropout_prob", json!(0.1)),
            "attention_dropout": own("attention_probs_dropout_prob", json!(0.1)),
            "initializer_range": own("initializer_range", json!(0.02)),
            "pad_token_id": own("pad_token_id", json!(0)),
            "sinusoidal_pos_embds": false,
            "tie_word_embeddings": self.tie_word_embeddings,
            "dtype": own("dtype", own("torch_dtype", "float32".into())),
        });
        Self::from_json(&student.to_string(), path)
    }
}
