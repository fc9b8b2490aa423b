//! PEFT's `adapter_config.json`: what every method's file has in common.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::methods::{FROM_PEFT, PeftConfig};
use crate::target_module::AttentionShape;
use crate::targets::Layers;

/// Reads one method's options from its file.
pub(crate) type Parse = fn(&File<'_>) -> Result<PeftConfig>;

/// What an adapter is attached to, for its file.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Folder or id of the base model.
    pub base_model: &'a str,
    /// `target_modules`: the shortest names that mean exactly `paths`.
    pub modules: &'a [String],
    /// The modules themselves.
    pub paths: &'a [String],
    /// Which rank-one parts the file holds, of modules where some were taken away.
    pub kept: &'a BTreeMap<String, Vec<bool>>,
    /// Adapters one behind the other that the file holds as one.
    pub stacked: usize,
    /// Whether the base stores its matrices `[in, out]`.
    pub fan_in_fan_out: bool,
    /// Sizes of the base's attention.
    pub shape: AttentionShape,
}

/// The keys of `value`, an `adapter_config.json` read from `path`.
pub(crate) fn object<'v>(value: &'v Value, path: &Path) -> Result<&'v Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::Format {
        path: path.into(),
        why: "a JSON object is needed".into(),
    })
}

/// The method and options of `object`, an `adapter_config.json` of PEFT read from `path`.
pub(crate) fn parse(object: &Map<String, Value>, path: &Path) -> Result<PeftConfig> {
    let format = |why: String| Error::Format { path: path.into(), why };
    let own = without_head(object);
    let file = File { object: &own, path };
    let Some(kind) = file.text("peft_type") else {
        return Err(format(
            "peft_type is missing: this is not an adapter_config.json of PEFT or AdapterHub".into(),
        ));
    };
    match FROM_PEFT.iter().find(|(name, _)| *name == kind) {
        Some((_, parse)) => parse(&file),
        None => {
            let known = FROM_PEFT.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Err(format(format!(
                "peft_type \"{kind}\" cannot be read yet; supported: {known}"
            )))
        }
    }
}

/// The keys without the modules of a classifier's head in `modules_to_save`: a head trains whatever the method.
fn without_head(object: &Map<String, Value>) -> Map<String, Value> {
    let mut own = object.clone();
    let task = object.get("task_type").and_then(Value::as_str);
    if matches!(task, Some("SEQ_CLS" | "TOKEN_CLS"))
        && let Some(Value::Array(modules)) = own.get_mut("modules_to_save")
    {
        let head = |module: &Value| module.as_str().is_some_and(|name| HEADS.contains(&name));
        modules.retain(|module| !head(module));
        if modules.is_empty() {
            own.insert("modules_to_save".into(), Value::Null);
        }
    }
    own
}

/// Names of the modules of heads.
const HEADS: [&str; 3] = ["classifier", "score", "pre_classifier"];

/// One `adapter_config.json`, with errors that name the file and the key.
pub(crate) struct File<'a> {
    pub object: &'a Map<String, Value>,
    pub path: &'a Path,
}

impl File<'_> {
    /// Fails when one of these options is set.
    pub fn refuse(&self, keys: &[&str]) -> Result<()> {
        match keys.iter().find(|key| self.is_set(key)) {
            Some(key) => Err(self.error(key, "this option cannot be read yet")),
            None => Ok(()),
        }
    }

    /// The value of a key that must be there.
    pub fn need<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.read(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.object.get(key).and_then(Value::as_str)
    }

    fn is_set(&self, key: &str) -> bool {
        match self.object.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        }
    }

    /// `layers_to_transform`: a list or one number.
    pub fn layers(&self) -> Result<Option<Layers>> {
        match self.object.get("layers_to_transform") {
            Some(Value::Number(_)) => Ok(self.read("layers_to_transform")?.map(|layer| Layers::List(vec![layer]))),
            _ => self.read("layers_to_transform"),
        }
    }

    /// The value of a key; `None` where it is missing or null.
    pub fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|e| self.error(key, &format!("{value}: {e}"))),
        }
    }

    /// An error where biases train beside the adapter.
    pub fn refuse_bias(&self) -> Result<()> {
        match self.read::<String>("bias")?.filter(|bias| bias != "none") {
            None => Ok(()),
            Some(bias) => Err(self.error("bias", &format!("\"{bias}\" cannot be read yet; \"none\" can"))),
        }
    }

    /// An error at a key.
    pub fn error(&self, key: &str, why: &str) -> Error {
        Error::Format {
            path: self.path.into(),
            why: format!("{key}: {why}"),
        }
    }
}

/// Whole numbers without a fraction, as PEFT writes them.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
