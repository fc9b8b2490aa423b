//! What changed between the configuration of a checkpoint and the one a run is resumed with.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// How much a changed key matters to a resumed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Where things are and what is shown: nothing.
    Free,
    /// The run goes on, differently from here.
    Told,
    /// The checkpoint would mean something else.
    Fatal,
}

/// A key with its value then and now.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Dotted.
    pub key: String,
    /// `old -> new`.
    pub values: String,
    /// Whether it stops the resume.
    pub fatal: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.values)
    }
}

/// First match wins; whatever is not listed is fatal.
const RULES: &[(&str, Weight)] = &[
    // The samples themselves are compared by checksum.
    ("model.path", Weight::Free),
    ("model.tokenizer", Weight::Free),
    ("data.train", Weight::Free),
    ("data.valid", Weight::Told),
    ("data.split", Weight::Free),
    ("data.limit", Weight::Free),
    ("data.valid_split_name", Weight::Told),
    ("data.cache", Weight::Free),
    ("task.*.train", Weight::Free),
    ("task.*.valid", Weight::Told),
    ("task.*.metrics", Weight::Free),
    ("peft.from", Weight::Free),
    ("peft.loraplus_lr_ratio", Weight::Told),
    ("peft.loraplus_lr_embedding", Weight::Told),
    ("train.out", Weight::Free),
    ("train.log_every", Weight::Free),
    ("train.save_every", Weight::Free),
    ("train.keep", Weight::Free),
    ("train.timeout", Weight::Free),
    ("train.check_gradients", Weight::Free),
    ("train.max_bad_steps", Weight::Free),
    ("train.force", Weight::Free),
    ("train.tensorboard", Weight::Free),
    ("train.dump_batches", Weight::Free),
    // The same numbers up to rounding.
    ("train.memory", Weight::Free),
    ("train.checkpointing", Weight::Told),
    ("train.offload_activations", Weight::Free),
    ("train.optimizer_in_backward", Weight::Free),
    ("train.loss_scale", Weight::Free),
    ("train.steps", Weight::Told),
    ("train.epochs", Weight::Told),
    ("train.eval_every", Weight::Told),
    ("train.load_best", Weight::Told),
    ("train.best_by", Weight::Told),
    ("train.early_stopping", Weight::Told),
    ("optim.kind", Weight::Fatal),
    ("optim", Weight::Told),
    ("schedule", Weight::Told),
    ("eval", Weight::Free),
    ("generate", Weight::Free),
];

/// Every change that matters between two configurations as TOML, fatal ones first.
///
/// TOML and not JSON: its numbers read back to the same bits, so that what did not change compares equal.
pub fn compare(old: &str, new: &str) -> Vec<Change> {
    let (old, new) = (flat(old), flat(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let show = |v: Option<&Value>| v.map_or("(absent)".to_owned(), Value::to_string);
    let mut changes: Vec<Change> = keys
        .into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| (k, weight(k)))
        .filter(|(_, w)| *w != Weight::Free)
        .map(|(k, w)| Change {
            key: k.clone(),
            values: format!("{} -> {}", show(old.get(k)), show(new.get(k))),
            fatal: w == Weight::Fatal,
        })
        .collect();
    changes.sort_by_key(|c| !c.fatal);
    changes
}

fn weight(key: &str) -> Weight {
    let covers = |rule: &str| {
        let mut parts = key.split('.');
        rule.split('.')
            .all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
    };
    RULES
        .iter()
        .find(|(rule, _)| covers(rule))
        .map_or(Weight::Fatal, |(_, w)| *w)
}

/// Leaves by dotted path; lists are leaves, but those of tables with a name, such as `[[task]]`, are tables by name. A text that is no TOML has none, and every key counts as changed.
pub(crate) fn flat(text: &str) -> BTreeMap<String, Value> {
    fn collect(table: Table, prefix: &str, out: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let path = if prefix.is_empty() {
                key
            } else {
                format!("{prefix}.{key}")
            };
            match value {
                Value::Table(inner) => collect(inner, &path, out),
                Value::Array(list) if list.iter().any(Value::is_table) => {
                    for (place, item) in list.into_iter().enumerate() {
                        let Value::Table(mut table) = item else { continue };
                        let name = table.remove("name");
                        let name = name
                            .as_ref()
                            .and_then(Value::as_str)
                            .map_or(place.to_string(), str::to_owned);
                        table.insert("place".into(), Value::Integer(place as i64));
                        collect(table, &format!("{path}.{name}"), out);
                    }
                }
                leaf => {
                    out.insert(path, leaf);
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    collect(text.parse().unwrap_or_default(), "", &mut out);
    out
}
