//! P-tuning: virtual tokens at the input that an encoder makes out of a table (Liu et al. 2021, arXiv:2103.10385).
//!
//! ```text
//! P = MLP(E)                                   E [n, hidden]; Linear ReLU Linear ReLU Linear, h wide inside
//! P = Linear(ReLU(Linear(biLSTM(E))))          the LSTM h wide in each direction, the MLP 2 h
//! [P; embed(x)] -> layers                      P [n, hidden]
//! ```
//!
//! PEFT's file holds P alone. The encoder is kept in a file of its own beside it, so that training can go on.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{checked, dropout, invalid, prompt_record, size};
use super::{InTraining, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::prompt_tuning::input_table;
use crate::pass::Pass;
use crate::peft_config::{File, Target, number};
use crate::target_module::{AnyTensor, ModuleSlot, TargetModule};
use crate::virtual_tokens::{Dense, EMBEDDING, Prompt, VirtualTokens, normal, replace};

mod lstm;
pub use lstm::Lstm;

/// Options of P-tuning, with PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PTuningConfig {
    /// Virtual tokens before the text.
    pub num_virtual_tokens: usize,
    /// What the encoder is.
    pub encoder_reparameterization_type: Encoder,
    /// Width inside the encoder; that of the model's embeddings where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM. An MLP always has 2 hidden ones.
    pub encoder_num_layers: usize,
    /// Share dropped between the layers of the LSTM in training. An MLP drops nothing.
    pub encoder_dropout: f64,
}

/// Encoders of virtual tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// Linear, ReLU, linear, ReLU, linear.
    #[default]
    Mlp,
    /// A bidirectional LSTM, then linear, ReLU, linear.
    Lstm,
}

impl Default for PTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            encoder_reparameterization_type: Encoder::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
        }
    }
}

impl PeftMethod for PTuningConfig {
    fn check(&self) -> Result<()> {
        size("num_virtual_tokens", self.num_virtual_tokens)?;
        size("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        size("encoder_num_layers", self.encoder_num_layers)?;
        dropout("encoder_dropout", self.encoder_dropout)?;
        if self.encoder_reparameterization_type == Encoder::Lstm {
            return Ok(());
        }
        let lstm = "choose encoder_reparameterization_type = \"lstm\" or leave it out";
        if self.encoder_num_layers != 2 {
            return Err(invalid(
                "encoder_num_layers",
                format!("an MLP has exactly 2 hidden layers; {lstm}"),
            ));
        }
        if self.encoder_dropout > 0.0 {
            return Err(invalid("encoder_dropout", format!("an MLP drops nothing; {lstm}")));
        }
        Ok(())
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        input_table(specs)
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        let width = spec.dims[1];
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        let encoder = match self.encoder_reparameterization_type {
            Encoder::Mlp => mlp_shapes(width, hidden).map(Dense::count).iter().sum(),
            Encoder::Lstm => lstm::count(width, hidden, self.encoder_num_layers),
        };
        self.num_virtual_tokens * width + encoder
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Embedding(slot) = &mut module.slot else {
            unreachable!("`choose` names the input table")
        };
        let (table, device) = (slot.weight.dims(), slot.weight.val().device());
        let start = Start {
            tokens: self.num_virtual_tokens,
            width: table[1],
            hidden: self.encoder_hidden_size.unwrap_or(table[1]),
            seed,
            device: &device,
        };
        slot.prompt = Some(match self.encoder_reparameterization_type {
            Encoder::Mlp => Prompt::Mlp(Mlp::start(&start)),
            Encoder::Lstm => Prompt::Lstm(Lstm::start(&start, self.encoder_num_layers, self.encoder_dropout)),
        });
    }
}

impl InTraining for PTuningConfig {
    fn learning_rate(&self) -> f64 {
        3e-3
    }
}

impl PeftFile for PTuningConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let shape = target.shape;
        let mut file = prompt_record("P_TUNING", target, self.num_virtual_tokens, [shape.heads, shape.hidden]);
        file["encoder_dropout"] = number(self.encoder_dropout);
        file["encoder_hidden_size"] = self.encoder_hidden_size.unwrap_or(shape.hidden).into();
        file["encoder_num_layers"] = self.encoder_num_layers.into();
        file["encoder_reparameterization_type"] = json!(match self.encoder_reparameterization_type {
            Encoder::Mlp => "MLP",
            Encoder::Lstm => "LSTM",
        });
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["modules_to_save"])?;
    let kind: Option<String> = file.read("encoder_reparameterization_type")?;
    let encoder = match kind.as_deref() {
        None | Some("MLP") => Encoder::Mlp,
        Some("LSTM") => Encoder::Lstm,
        Some(other) => {
            let why = format!("\"{other}\" cannot be read; \"MLP\" and \"LSTM\" can");
            return Err(file.error("encoder_reparameterization_type", &why));
        }
    };
    let lstm = encoder == Encoder::Lstm;
    // PEFT passes over what an MLP has no use for.
    let config = PTuningConfig {
        num_virtual_tokens: file.need("num_virtual_tokens")?,
        encoder_reparameterization_type: encoder,
        encoder_hidden_size: file.read("encoder_hidden_size")?,
        encoder_num_layers: file.read("encoder_num_layers")?.filter(|_| lstm).unwrap_or(2),
        encoder_dropout: file.read("encoder_dropout")?.filter(|_| lstm).unwrap_or(0.0),
    };
    checked(config).map(PeftConfig::PTuning)
}

/// What an encoder starts from.
pub(super) struct Start<'a> {
    tokens: usize,
    width: usize,
    hidden: usize,
    seed: u64,
    device: &'a Device,
}

impl Start<'_> {
    fn table(&self) -> Param<Tensor<2>> {
        Param::from_tensor(normal([self.tokens, self.width], self.seed, EMBEDDING, self.device))
    }

    fn dense(&self, shape: [usize; 2], name: &str) -> Dense {
        Dense::start(shape, self.seed, name, self.device)
    }
}

/// A table and an MLP over it.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[num_virtual_tokens, hidden]`.
    pub embedding: Param<Tensor<2>>,
    /// The three linear layers, with ReLU between them.
    pub mlp_head: Vec<Dense>,
}

fn mlp_shapes(width: usize, hidden: usize) -> [[usize; 2]; 3] {
    [[hidden, width], [hidden, hidden], [width, hidden]]
}

/// Name of linear layer `i` in PEFT's `mlp_head`, where activations are counted too.
fn head(i: usize) -> String {
    format!("mlp_head.{}", 2 * i)
}

/// Linear layers with ReLU between them.
fn run(layers: &[Dense], x: Tensor<2>) -> Tensor<2> {
    let (last, inner) = layers.split_last().expect("at least one layer");
    let x = inner.iter().fold(x, |x, layer| activation::relu(layer.forward(x)));
    last.forward(x)
}

impl Mlp {
    fn start(start: &Start<'_>) -> Self {
        let shapes = mlp_shapes(start.width, start.hidden).into_iter().enumerate();
        Self {
            embedding: start.table(),
            mlp_head: shapes.map(|(i, shape)| start.dense(shape, &head(i))).collect(),
        }
    }
}

impl VirtualTokens for Mlp {
    fn embeddings(&self, _: &Pass) -> Tensor<2> {
        run(&self.mlp_head, self.embedding.val())
    }

    fn is_encoded(&self) -> bool {
        true
    }

    fn state(&self) -> Vec<(String, AnyTensor)> {
        let table = (EMBEDDING.to_string(), AnyTensor::Matrix(self.embedding.val()));
        let heads = self
            .mlp_head
            .iter()
            .enumerate()
            .flat_map(|(i, layer)| layer.state(&head(i)));
        std::iter::once(table).chain(heads).collect()
    }

    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        replace(&mut self.embedding, tensor(EMBEDDING).into_matrix());
        for (i, layer) in self.mlp_head.iter_mut().enumerate() {
            layer.load_state(&head(i), tensor);
        }
    }
}
