//! Metadata as the keys of a `config.json`.

use ft_gguf::{File, Value};
use serde_json::{Map, Value as Json};

use super::architectures::Architecture;
use super::{Said, json, rope};
use crate::error::Result;
use crate::families;

/// Keys of every architecture.
const KNOWN: [&str; 21] = [
    "vocab_size",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    // Of no part in what is computed.
    "rope.scaling.finetuned",
    "tensor_data_layout",
];

/// The metadata below the architecture's name.
pub(super) struct Arch<'a> {
    pub said: &'a Said<'a>,
    pub own: &'static Architecture,
}

impl Arch<'_> {
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.own.name)
    }

    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        self.said.size(&self.key(key))
    }

    pub fn needed(&self, key: &str) -> Result<u64> {
        self.said.needed(&self.key(key))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.said.number(&self.key(key))
    }

    /// Width of a head.
    pub fn head_dim(&self) -> Result<u64> {
        let own = self.size("attention.key_length")?;
        let (hidden, heads) = (self.needed("embedding_length")?, self.needed("attention.head_count")?);
        let head_dim = own.unwrap_or(hidden / heads.max(1));
        match self.size("attention.value_length")? {
            Some(values) if values != head_dim => {
                let why = format!("{values}, and keys have {head_dim}; they are the same in every family here");
                Err(self.said.error(&self.key("attention.value_length"), why))
            }
            _ => Ok(head_dim),
        }
    }

    /// Rows of a tensor.
    pub fn rows(&self, name: &str) -> Result<u64> {
        let tensor = self.said.file.tensor(name);
        let rows = tensor.and_then(|tensor| tensor.shape.first());
        rows.map(|rows| *rows as u64)
            .ok_or_else(|| self.said.error(name, "missing: it is a tensor of every model".into()))
    }

    /// Refuses what nothing here computes.
    fn check(&self) -> Result<()> {
        let prefix = format!("{}.", self.own.name);
        let off = |value: &Value| match value {
            Value::Bool(value) => !value,
            other => other.as_f64() == Some(0.0),
        };
        for (key, value) in self.said.file.metadata().iter() {
            let Some(rest) = key.strip_prefix(&prefix) else {
                continue;
            };
            if !KNOWN.contains(&rest) && !self.own.known.contains(&rest) && !off(value) {
                let why = format!("a {} model with it is not computed here", self.own.name);
                return Err(self.said.error(key, why));
            }
        }
        Ok(())
    }
}

/// The keys of the `config.json` of the checkpoint that the file was made from, as far as it has them.
pub(crate) fn keys(file: &File) -> Result<Map<String, Json>> {
    let said = Said { file };
    let own = Architecture::of(&said)?;
    let arch = Arch { said: &said, own };
    arch.check()?;
    let heads = arch.needed("attention.head_count")?;
    let mut keys = Map::new();
    keys.extend([
        ("vocab_size".into(), Json::from(arch.rows("token_embd.weight")?)),
        ("hidden_size".into(), arch.needed("embedding_length")?.into()),
        ("intermediate_size".into(), arch.needed("feed_forward_length")?.into()),
        ("num_hidden_layers".into(), arch.needed("block_count")?.into()),
        ("num_attention_heads".into(), heads.into()),
        (
            "num_key_value_heads".into(),
            arch.size("attention.head_count_kv")?.unwrap_or(heads).into(),
        ),
        ("head_dim".into(), arch.head_dim()?.into()),
        ("max_position_embeddings".into(), arch.needed("context_length")?.into()),
        (
            "tie_word_embeddings".into(),
            file.tensor("output.weight").is_none().into(),
        ),
        ("dtype".into(), dtype(file).into()),
    ]);
    if let Some(eps) = arch.number("attention.layer_norm_rms_epsilon")? {
        keys.insert("rms_norm_eps".into(), json(eps));
    }
    rope::keys(&arch, &mut keys)?;
    let family = (own.keys)(&arch, &mut keys)?;
    keys.insert("model_type".into(), family.into());
    let class = families::class(family).expect("a family that is here");
    keys.insert("architectures".into(), vec![Json::from(class)].into());
    let metadata = file.metadata();
    if let Some(bos) = metadata.token("bos") {
        keys.insert("bos_token_id".into(), bos.into());
    }
    match metadata.ends().as_slice() {
        [] => {}
        [one] => drop(keys.insert("eos_token_id".into(), (*one).into())),
        many => drop(keys.insert("eos_token_id".into(), many.to_vec().into())),
    }
    Ok(keys)
}

/// As which the weights count: the type that most numbers have, bf16 where they are in blocks.
fn dtype(file: &File) -> &'static str {
    let of = |float: &str| -> usize {
        let tensors = file.tensors().iter().filter(|tensor| match tensor.kind.is_float() {
            true => tensor.kind.name == float,
            false => float == "bf16",
        });
        tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let kinds = [("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")];
    kinds.into_iter().max_by_key(|(kind, _)| of(kind)).expect("three").1
}
