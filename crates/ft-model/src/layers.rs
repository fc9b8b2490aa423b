//! A smaller model out of a larger one: some of its layers, width kept (DistilBERT's recipe: Sanh et al. 2019, arXiv:1910.01108,
//! section 3).

use std::path::PathBuf;

use serde_json::Value;

use crate::block::{Block, DeltaConfig, ExpertsConfig};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::families::Decoder;
use crate::model::Model;

impl Model {
    /// The same with the layers at these numbers alone, from 0, in this order.
    ///
    /// # Errors
    /// [`Error::Config`] for no layer, one that is not there, or one that is named twice.
    pub fn keep_layers(mut self, layers: &[usize]) -> Result<Self> {
        self.config().check_layers(layers)?;
        match &mut self.decoder {
            Decoder::Llama(m) => m.layers = layers.iter().map(|i| m.layers[*i].clone()).collect(),
            Decoder::Gpt2(m) => m.h = layers.iter().map(|i| m.h[*i].clone()).collect(),
            Decoder::Encoder(m) => m.layers = layers.iter().map(|i| m.layers[*i].clone()).collect(),
            // The first layer alone begins without a normalization.
            Decoder::Modern(_) => return Err(self.config().keeps_all_layers()),
        }
        let config = self.config().with_layers(layers);
        Ok(self.configured(config))
    }
}

impl ModelConfig {
    fn check_layers(&self, layers: &[usize]) -> Result<()> {
        let wrong = |why: String| {
            Err(Error::Config {
                path: PathBuf::from("config.json"),
                key: "num_hidden_layers".into(),
                why,
            })
        };
        let count = self.num_hidden_layers;
        if layers.is_empty() {
            return wrong("no layer would be left; name some".into());
        }
        for (i, layer) in layers.iter().enumerate() {
            if *layer >= count {
                return wrong(format!(
                    "there is no layer {layer}: the model has {count}, 0 to {}",
                    count - 1
                ));
            }
            if layers[..i].contains(layer) {
                return wrong(format!("layer {layer} is named twice"));
            }
        }
        Ok(())
    }

    fn keeps_all_layers(&self) -> Error {
        Error::Config {
            path: PathBuf::from("config.json"),
            key: "model_type".into(),
            why: format!(
                "\"{}\" is taken with all of its layers: the first one is no other's kind",
                self.model_type
            ),
        }
    }

    fn with_layers(&self, layers: &[usize]) -> Self {
        let windows: Vec<Option<usize>> = layers.iter().map(|i| self.windows[*i]).collect();
        let mut raw = self.raw.clone();
        for key in ["num_hidden_layers", "n_layer", "n_layers"] {
            if raw.contains_key(key) {
                raw.insert(key.into(), layers.len().into());
            }
        }
        // Which layers have a window may have followed from their numbers.
        let delta = self.block.delta.clone().map(|own| DeltaConfig {
            layers: layers.iter().map(|i| own.layers[*i]).collect(),
            ..own
        });
        let mixed = windows.iter().any(|window| window.is_some() != windows[0].is_some());
        if mixed || delta.is_some() || raw.contains_key("layer_types") {
            let name = |layer: usize| match windows[layer] {
                _ if delta.as_ref().is_some_and(|delta| delta.layers[layer]) => Value::from("linear_attention"),
                Some(_) => Value::from("sliding_attention"),
                None => Value::from("full_attention"),
            };
            raw.insert("layer_types".into(), (0..layers.len()).map(name).collect());
        }
        if let Some(list) = raw.get_mut("no_rope_layers").and_then(Value::as_array_mut)
            && list.len() == self.num_hidden_layers
        {
            *list = layers.iter().map(|i| list[*i].clone()).collect();
        }
        let experts = self.block.experts.clone().map(|own| ExpertsConfig {
            layers: layers.iter().map(|i| own.layers[*i]).collect(),
            ..own
        });
        if let Some(experts) = experts.as_ref().filter(|experts| experts.layers.contains(&false)) {
            let dense = (0..layers.len()).filter(|i| !experts.layers[*i]).collect::<Vec<_>>();
            raw.insert("mlp_only_layers".into(), dense.into());
            raw.insert("decoder_sparse_step".into(), 1.into());
        } else if experts.is_some() {
            raw.insert("decoder_sparse_step".into(), 1.into());
            raw.remove("mlp_only_layers");
        }
        let rotates: Vec<bool> = layers.iter().map(|i| self.block.rotates(*i)).collect();
        Self {
            num_hidden_layers: layers.len(),
            windows,
            block: Block {
                delta,
                experts,
                rotates: if self.block.rotates.is_empty() {
                    Vec::new()
                } else {
                    rotates
                },
                ..self.block.clone()
            },
            raw,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "qwen2", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
                "num_attention_heads": 2 {more}}}"#
        );
        ModelConfig::from_json(&text, "config.json".as_ref()).unwrap()
    }

    #[test]
    fn windows_stay_with_their_layers() {
        let mixed = config(r#", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2"#);
        let kept = mixed.with_layers(&[0, 2]);
        assert_eq!(kept.windows, [None, Some(8)]);
        let text = kept.to_json("float32", false, None);
        let again = ModelConfig::from_json(&text, "config.json".as_ref()).unwrap();
        assert_eq!(again.without_source(), kept.without_source());
    }

    #[test]
    fn layers_that_are_not_there_are_named() {
        let error = |layers: &[usize]| config("").check_layers(layers).unwrap_err().to_string();
        assert!(error(&[]).contains("no layer would be left"));
        assert!(error(&[0, 4]).contains("there is no layer 4: the model has 4, 0 to 3"));
        assert!(error(&[1, 1]).contains("layer 1 is named twice"));
        assert!(config("").check_layers(&[3, 0]).is_ok());
    }
}
