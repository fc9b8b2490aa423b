//! The head of an encoder that fills in masked tokens (Devlin et al. 2018, arXiv:1810.04805, section 3.1), with the layers and names of
//! transformers' `...ForMaskedLM`: a layer, GELU and a normalization, the product with the embedding table, and a bias.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Tensor, activation};
use ft_peft::{Norm, Pass, Projection, TargetModule};
use ft_quant::Leaf;
use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::config::{Keys, ModelConfig};
use crate::error::{Error, Result};
use crate::model::HEAD;
use crate::source::{Fill, Source, centered_norm, layer_norm, linear};

/// How checkpoints of a family name the parts.
#[derive(Debug, PartialEq)]
pub(crate) struct MaskedNames {
    pub dense: &'static str,
    pub norm: &'static str,
    /// The product with the vocabulary, whose matrix is mostly the embedding table.
    pub decoder: &'static str,
    /// Below which its bias is.
    pub bias: &'static str,
    /// Whether GELU is the exact one, whatever the blocks have.
    pub exact_gelu: bool,
    /// Whether the layer and the normalization have biases.
    pub biased: bool,
}

impl MaskedNames {
    /// Whether the product and its bias are one layer of the checkpoint.
    pub fn is_one_layer(&self) -> bool {
        self.bias == self.decoder
    }
}

/// What stands before the product with the vocabulary, and the bias of a product with the embedding table.
#[derive(Module, Debug)]
pub(crate) struct MaskedHead {
    dense: Projection,
    norm: Norm,
    /// `[vocab]`; none where it is in the layer of the product.
    pub bias: Option<Leaf<1>>,
    #[module(skip)]
    gelu_tanh: bool,
    /// Whether the product and its bias are one layer of the checkpoint.
    #[module(skip)]
    one_layer: bool,
}

impl MaskedHead {
    pub fn build(names: &MaskedNames, config: &ModelConfig, source: &mut impl Source) -> Self {
        let hidden = config.hidden_size;
        let beside = config.tie_word_embeddings || !names.is_one_layer();
        let mut bias = || source.vector(&format!("{}.bias", names.bias), config.vocab_size, Fill::Zeros);
        let bias = beside.then(|| Leaf::Frozen(bias()));
        Self {
            dense: linear(names.dense, [hidden, hidden], names.biased, source),
            norm: match names.biased {
                true => layer_norm(names.norm, hidden, config.norm_eps, source),
                false => centered_norm(names.norm, hidden, config.norm_eps, source),
            },
            bias,
            gelu_tanh: config.encoder().gelu_tanh && !names.exact_gelu,
            one_layer: names.is_one_layer(),
        }
    }

    /// `[.., hidden]` to the same.
    pub fn forward<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let inner = self.dense.forward(hidden, &Pass::eval());
        self.norm.forward(match self.gelu_tanh {
            true => ft_kernels::gelu_tanh(inner),
            false => activation::gelu(inner),
        })
    }

    /// The bias, for a product that gets a matrix of its own, where the two are one layer.
    pub fn give_bias_of_one_layer(&mut self) -> Option<Tensor<1>> {
        match self.one_layer {
            true => self.bias.take().map(|bias| bias.val().detach()),
            false => None,
        }
    }

    /// For a family in which the product and its bias are one layer.
    pub fn joins_decoder(&mut self) {
        self.one_layer = true;
    }

    pub fn target_modules<'a>(&'a mut self, names: &MaskedNames) -> Vec<TargetModule<'a>> {
        let mut modules = vec![
            TargetModule::projection(names.dense, &mut self.dense),
            TargetModule::norm(names.norm, &mut self.norm),
        ];
        modules.extend(
            self.bias
                .as_mut()
                .map(|bias| TargetModule::bias_alone(names.bias, bias)),
        );
        modules
    }
}

impl ModelConfig {
    /// The same with the head that fills in masked tokens.
    ///
    /// # Errors
    /// A decoder.
    pub fn with_masked_head(mut self) -> Result<Self> {
        if self.encoder.is_none() {
            return Err(Error::Config {
                path: PathBuf::from("config.json"),
                key: "model_type".into(),
                why: format!(
                    "\"{}\" is a decoder, and encoders alone fill in masked tokens",
                    self.model_type
                ),
            });
        }
        self.raw.insert("architectures".into(), json!([self.class()]));
        for key in ["id2label", "label2id", "num_labels", "problem_type"] {
            self.raw.remove(key);
        }
        let tied = self.raw.get("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        (self.head, self.masked, self.tie_word_embeddings) = (None, true, tied.unwrap_or(true));
        Ok(self)
    }

    /// The same without a head, for labels or for masked tokens; a decoder keeps the one that predicts the next token.
    ///
    /// # Errors
    /// A decoder with a head for labels, whose checkpoint lacks the other one.
    pub fn without_head(mut self) -> Result<Self> {
        if self.encoder.is_none() {
            return match self.head {
                None => Ok(self),
                Some(_) => Err(Error::Config {
                    path: PathBuf::from("config.json"),
                    key: "architectures".into(),
                    why: "this decoder has a head for labels; take the model that it was put on".into(),
                }),
            };
        }
        let class = format!("{}Model", self.class_stem());
        self.raw.insert("architectures".into(), json!([class]));
        (self.head, self.masked, self.tie_word_embeddings) = (None, false, false);
        Ok(self)
    }

    /// Whether the model fills in masked tokens.
    pub fn fills_masks(&self) -> bool {
        self.masked
    }

    /// The class in transformers that predicts tokens.
    pub fn class_of_language_model(&self) -> &'static str {
        self.class()
    }

    pub(crate) fn masked_names(&self) -> Option<&'static MaskedNames> {
        self.masked.then(|| self.encoder().masked)
    }

    /// Checkpoint path of the output head.
    pub fn head_path(&self) -> &'static str {
        self.masked_names().map_or(HEAD, |names| names.decoder)
    }

    /// The same without a head for masked tokens that the class names and the checkpoint does not hold: many a sentence encoder still
    /// has the class that it was trained from.
    pub(crate) fn held_by(mut self, checkpoint: &Checkpoint) -> Self {
        let held = |names: &MaskedNames| checkpoint.entries.contains_key(&format!("{}.weight", names.dense));
        if !self.masked_names().is_none_or(held) {
            (self.masked, self.tie_word_embeddings) = (false, false);
        }
        self
    }
}

impl Keys {
    /// Whether the named class fills in masked tokens.
    pub(crate) fn states_masked_head(&self) -> bool {
        let class = self.raw.get("architectures").and_then(|list| list.get(0)?.as_str());
        class.is_some_and(|class| class.ends_with("ForMaskedLM"))
    }
}
