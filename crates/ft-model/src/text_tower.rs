//! The language model of a model that also sees or hears: its keys and its tensors as they are in a model by itself.

use serde_json::{Map, Value};

use crate::families;

/// How tensors of a language model begin that is a part of a model which also sees or hears, and how they begin in a model by itself.
const PREFIXES: [(&str, &str); 3] = [
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
];

/// The name of a tensor of the language model by itself.
pub(crate) fn alone(name: &str) -> Option<String> {
    let found = PREFIXES
        .iter()
        .find_map(|(from, to)| Some((name.strip_prefix(from)?, to)));
    found.map(|(rest, to)| format!("{to}{rest}"))
}

/// The keys of the language model where they are a part of a model that also sees or hears: those of `text_config`, and of the whole
/// what that leaves out.
pub(crate) fn keys(mut raw: Map<String, Value>) -> Map<String, Value> {
    let own = raw.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if families::names().any(|name| name == own) {
        return raw;
    }
    let Some(Value::Object(mut text)) = raw.remove("text_config") else {
        return raw;
    };
    for key in [
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
        "dtype",
        "torch_dtype",
        "quantization_config",
        "transformers_version",
    ] {
        if let Some(value) = raw.remove(key) {
            text.entry(key).or_insert(value);
        }
    }
    let class = text.get("model_type").and_then(Value::as_str).and_then(families::class);
    text.extend(class.map(|class| ("architectures".into(), vec![Value::from(class)].into())));
    text
}
