//! The keys of a `config.json`, as families ask for them.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// No size of a model is larger, and what is computed from several stays in range.
pub(crate) const LARGEST: usize = 1 << 24;

/// The keys of one `config.json`, with errors that name the file and the key.
pub(crate) struct Keys {
    pub raw: Map<String, Value>,
    pub(crate) path: PathBuf,
}

impl Keys {
    /// Those of a file that is read already; `path` is named in errors.
    pub fn of(raw: Map<String, Value>, path: PathBuf) -> Self {
        Self { raw, path }
    }

    pub fn error(&self, key: &str, why: String) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: key.into(),
            why,
        }
    }

    /// The same keys, and these sizes where the file says nothing.
    pub fn with_defaults(&self, sizes: &[(&str, usize)]) -> Self {
        let said = |key: &str| self.raw.get(key).is_some_and(|value| !value.is_null());
        let missing: Vec<_> = sizes.iter().filter(|(key, _)| !said(key)).copied().collect();
        self.with_sizes(&missing)
    }

    /// The same keys with some sizes under another name.
    pub fn with_sizes(&self, sizes: &[(&str, usize)]) -> Self {
        let mut raw = self.raw.clone();
        raw.extend(sizes.iter().map(|(key, size)| (key.to_string(), Value::from(*size))));
        Self {
            raw,
            path: self.path.clone(),
        }
    }

    pub fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.raw.get(key), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (None | Some(Value::Null), None) => Err(self.error(key, "missing; a number is needed here".into())),
            (Some(value), _) => {
                let size = value.as_u64().map(|n| n as usize);
                let why = || format!("a non-negative whole number is needed, got {value}");
                self.within(key, size.ok_or_else(|| self.error(key, why()))?, LARGEST)
            }
        }
    }

    /// The first of these keys that is there.
    pub fn first_size(&self, names: &[&str]) -> Result<usize> {
        let key = names
            .iter()
            .find(|key| self.raw.contains_key(**key))
            .unwrap_or(&names[0]);
        self.size(key, None)
    }

    /// Weight of the loss that keeps experts equally busy: as in transformers, 0 unless `output_router_logits` is on.
    pub fn balance(&self) -> f64 {
        match self.flag("output_router_logits", false) {
            true => self.number("router_aux_loss_coef", 0.001),
            false => 0.0,
        }
    }

    pub fn within(&self, key: &str, size: usize, largest: usize) -> Result<usize> {
        match size <= largest {
            true => Ok(size),
            false => Err(self.error(key, format!("must be at most {largest}, got {size}"))),
        }
    }

    /// A finite number, if the key is there.
    pub fn factor(&self, key: &str) -> Result<Option<f64>> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_f64().filter(|number| number.is_finite());
                let why = || format!("a number is needed, got {value}");
                number.map(Some).ok_or_else(|| self.error(key, why()))
            }
        }
    }

    /// A soft bound of scores or logits; `null` is none.
    pub fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        match self.factor(key)? {
            None if self.raw.contains_key(key) => Ok(None),
            None => Ok(default),
            Some(cap) if cap > 0.0 => Ok(Some(cap)),
            Some(cap) => Err(self.error(key, format!("must be above 0, or null, got {cap}"))),
        }
    }

    /// Which layers slide, by `layer_types`, if the key is there.
    pub fn sliding(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        self.layers_of("sliding_attention", layers)
    }

    /// Which layers are of this kind, by `layer_types`, if the key is there.
    pub fn layers_of(&self, kind: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        match self.raw.get("layer_types") {
            Some(Value::Array(types)) if types.len() == layers => {
                Ok(Some(types.iter().map(|own| own == kind).collect()))
            }
            Some(Value::Array(types)) => {
                Err(self.error("layer_types", format!("{} entries for {layers} layers", types.len())))
            }
            _ => Ok(None),
        }
    }

    /// What the code does not compute must not be asked for.
    pub fn need_absent(&self, names: &[&str]) -> Result<()> {
        let asked = |key: &&&str| {
            let value = self.raw.get(**key);
            value.is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
        };
        match names.iter().find(asked) {
            None => Ok(()),
            Some(key) => Err(self.error(key, format!("{} is not supported here", self.raw[*key]))),
        }
    }

    pub fn number(&self, key: &str, default: f64) -> f64 {
        self.raw.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.raw.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.raw.get(key).and_then(Value::as_str)
    }

    pub fn ids(&self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.raw.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// The activation must be the one the family's code computes.
    pub fn need_activation(&self, key: &str, supported: &[&str]) -> Result<()> {
        match self.text(key) {
            Some(name) if !supported.contains(&name) => Err(self.error(
                key,
                format!("\"{name}\" is not supported here; supported: {}", supported.join(", ")),
            )),
            _ => Ok(()),
        }
    }
}
