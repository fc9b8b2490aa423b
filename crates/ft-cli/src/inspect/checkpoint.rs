//! A model folder, read from its `config.json` and the headers of its tensor files.

use std::collections::BTreeMap;
use std::path::Path;

use ft_model::{Checkpoint, ModelConfig};
use ft_quant::Scheme;
use serde::Serialize;

use crate::failure::Failure;
use crate::output;

/// A checkpoint in numbers.
#[derive(Debug, Serialize)]
pub struct Model {
    model_type: String,
    /// Its class in transformers, and what its head says.
    what: String,
    parameters: u64,
    tensors: usize,
    bytes: u64,
    /// Parameters by type.
    dtypes: BTreeMap<String, u64>,
    /// How its projections are stored in codes.
    quant: Option<Scheme>,
    /// Whether its experts are stored in MXFP4, which is unpacked while it is read.
    mxfp4: bool,
    tied_embeddings: bool,
    /// Whether it writes text.
    writes: bool,
    layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<Experts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_attention: Option<LinearAttention>,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    positions: usize,
    eos_token_ids: Vec<u32>,
    /// Tensors of the folder that are none of the language model's.
    left_out: usize,
}

/// The linear attention of a model.
#[derive(Debug, Serialize)]
struct LinearAttention {
    /// Layers that have it in the place of attention.
    layers: usize,
    key_heads: usize,
    key_dim: usize,
    value_heads: usize,
    value_dim: usize,
}

impl LinearAttention {
    fn said(&self) -> String {
        let Self {
            layers,
            key_heads,
            key_dim,
            value_heads,
            value_dim,
        } = self;
        format!(
            "; linear (Gated DeltaNet) in {layers} of the layers, {key_heads} key heads of {key_dim}, {value_heads} value heads of {value_dim}"
        )
    }
}

/// The experts of a model.
#[derive(Debug, Serialize)]
struct Experts {
    count: usize,
    /// How many compute a token.
    per_token: usize,
    /// Width inside each.
    inner: usize,
    /// Layers that have them.
    layers: usize,
}

impl Experts {
    fn said(&self) -> String {
        let Self {
            count,
            per_token,
            inner,
            layers,
        } = self;
        format!("; in {layers} of them {count} experts, {inner} inside, {per_token} for a token")
    }
}

impl Model {
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let config = ModelConfig::from_dir(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let mut dtypes = BTreeMap::new();
        let mut model = Self {
            model_type: config.model_type.clone(),
            what: config.what(),
            parameters: config.num_parameters() as u64,
            tensors: 0,
            bytes: 0,
            dtypes: BTreeMap::new(),
            quant: checkpoint.scheme(),
            mxfp4: checkpoint.has_mxfp4(),
            tied_embeddings: config.tie_word_embeddings,
            writes: config.writes(),
            layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            experts: config.block.experts.as_ref().map(|own| Experts {
                count: own.count,
                per_token: own.per_token,
                inner: own.inner,
                layers: own.layers.iter().filter(|has| **has).count(),
            }),
            linear_attention: config.block.delta.as_ref().map(|own| LinearAttention {
                layers: own.layers.iter().filter(|has| **has).count(),
                key_heads: own.heads.key_heads,
                key_dim: own.heads.key_dim,
                value_heads: own.heads.value_heads,
                value_dim: own.heads.value_dim,
            }),
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            positions: config.max_position_embeddings,
            eos_token_ids: config.eos_token_ids.clone(),
            left_out: checkpoint.left_out().len(),
        };
        for (_, entry) in checkpoint.entries() {
            let numbers: u64 = entry.shape.iter().map(|d| *d as u64).product();
            model.tensors += 1;
            model.bytes += entry.stored_bytes() as u64;
            *dtypes.entry(entry.type_name()).or_insert(0) += numbers;
        }
        model.dtypes = dtypes;
        Ok(model)
    }

    pub fn page(&self) -> String {
        let dtypes = self.dtypes.iter().map(|(name, n)| match self.dtypes.len() {
            1 => name.clone(),
            _ => format!("{name} {}", output::count(*n)),
        });
        let head = match (self.writes, self.tied_embeddings) {
            (false, _) => "none for text",
            (true, true) => "tied to the embeddings",
            (true, false) => "of its own",
        };
        let heads = format!(
            "{} heads of {}, {} for keys and values{}",
            self.heads,
            self.head_dim,
            self.key_value_heads,
            self.linear_attention
                .as_ref()
                .map_or(String::new(), LinearAttention::said)
        );
        let rows = [
            ("model", format!("{} ({})", self.model_type, self.what)),
            ("parameters", output::count(self.parameters)),
            ("tensors", format!("{}, {}", self.tensors, output::bytes(self.bytes))),
            ("types", dtypes.collect::<Vec<_>>().join(", ")),
            (
                "layers",
                format!(
                    "{}, {} wide, {} inside the MLP{}",
                    self.layers,
                    self.hidden_size,
                    self.intermediate_size,
                    self.experts.as_ref().map_or(String::new(), Experts::said)
                ),
            ),
            ("attention", heads),
            (
                "vocabulary",
                format!("{}, output head {head}", output::count(self.vocab_size as u64)),
            ),
            ("positions", output::count(self.positions as u64)),
        ];
        let quant = self.quant.map(|scheme| ("quantized", scheme.to_string()));
        let mxfp4 = self
            .mxfp4
            .then(|| ("experts", "in MXFP4; read as bf16, or as --quant says".into()));
        let beside =
            |count| format!("{count} tensors beside the language model (what sees or hears, what guesses ahead)");
        let beside = (self.left_out > 0).then(|| ("left out", beside(self.left_out)));
        let rows = rows.into_iter().chain(quant).chain(mxfp4).chain(beside);
        output::fields(&rows.collect::<Vec<_>>())
    }
}
