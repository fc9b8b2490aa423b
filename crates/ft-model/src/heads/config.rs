//! What `config.json`, or a file beside an adapter, says of a head.

use std::path::{Path, PathBuf};

use ft_peft::TaskHead;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{HeadConfig, HeadKind, Problem};
use crate::block::MlpNames;
use crate::config::{Keys, ModelConfig};
use crate::error::{Error, Result};

impl ModelConfig {
    /// The same with a head in the place of that for language modelling; `pad` is the token that fills, where `config.json` names none.
    ///
    /// # Errors
    /// No label, or more of them than any model has.
    pub fn with_head(mut self, head: HeadConfig, pad: Option<u32>) -> Result<Self> {
        if head.labels.is_empty() || head.labels.len() > 1 << 20 {
            return Err(Error::Config {
                path: PathBuf::from("config.json"),
                key: "id2label".into(),
                why: format!("a head has at least one output, and not {}", head.labels.len()),
            });
        }
        let class = format!("{}{}", self.class_stem(), head.kind.class());
        let numbered = head.labels.iter().enumerate();
        let id2label: Map<String, Value> = numbered
            .clone()
            .map(|(id, name)| (id.to_string(), json!(name)))
            .collect();
        let label2id: Map<String, Value> = numbered.map(|(id, name)| (name.clone(), json!(id))).collect();
        self.raw.insert("architectures".into(), json!([class]));
        self.raw.insert("id2label".into(), id2label.into());
        self.raw.insert("label2id".into(), label2id.into());
        self.raw.remove("num_labels");
        match head.kind {
            HeadKind::Sequence => self.raw.insert("problem_type".into(), head.problem.name().into()),
            HeadKind::Token => self.raw.remove("problem_type"),
        };
        if let Some(pad) = pad
            && self.raw.get("pad_token_id").is_none_or(Value::is_null)
        {
            self.raw.insert("pad_token_id".into(), pad.into());
        }
        if self.encoder.is_some() {
            (self.masked, self.tie_word_embeddings) = (false, false);
        }
        self.head = Some(head);
        Ok(self)
    }

    /// The same with the head of the adapter in `folder`, where that has one, and with experts as it adapts them: with the labels that stand beside it, or else those of
    /// `config.json`, or numbered ones.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn with_head_of(self, folder: &Path) -> Result<Self> {
        let method = ft_peft::adapter::read_config(folder)?;
        let this = match method.method().target_parameters().is_empty() {
            true => self,
            false => self.with_fused_experts()?,
        };
        this.with_saved_head(folder)
    }

    /// The same in which gate and up of every expert are one matrix, which an adapter of both is for (PEFT's `target_parameters`).
    ///
    /// # Errors
    /// A model without experts.
    pub fn with_fused_experts(mut self) -> Result<Self> {
        let wrong = |why: &str| {
            Err(Error::Config {
                path: PathBuf::from("config.json"),
                key: "model_type".into(),
                why: format!("target_parameters: {why}; leave them out and name matrices in targets"),
            })
        };
        match &mut self.block.experts {
            None => return wrong("this model has no experts"),
            Some(experts) => {
                experts.fused = true;
                // PEFT's files have transformers' names.
                if experts.names.down != MlpNames::EXPERT.down {
                    experts.stored = Some((experts.path, experts.names));
                    (experts.path, experts.names) = ("mlp", MlpNames::EXPERT);
                }
            }
        }
        Ok(self)
    }

    fn with_saved_head(self, folder: &Path) -> Result<Self> {
        let Some(saved) = ft_peft::adapter::saved_head(folder)? else {
            return Ok(self);
        };
        let path = folder.join(LABELS);
        let said = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Format {
                path: path.clone(),
                why: format!("not valid JSON: {e}"),
            })?,
            Err(_) => self.raw.clone(),
        };
        let keys = Keys::of(said, path);
        let mut head = keys.head(HeadKind::of_task(&saved.task));
        if head.labels.len() != saved.outputs {
            head.labels = (0..saved.outputs).map(|id| format!("LABEL_{id}")).collect();
            head.problem = Problem::of(saved.outputs);
        }
        self.with_head(head, None)
    }

    /// Writes the labels of the head beside an adapter, whose own files have no place for them.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_labels(&self, folder: &Path) -> Result<()> {
        if self.head.is_none() {
            return Ok(());
        }
        let keys = ["id2label", "label2id", "problem_type"];
        let own = keys
            .into_iter()
            .filter_map(|key| Some((key.to_string(), self.raw.get(key)?.clone())));
        let text = serde_json::to_string_pretty(&Value::Object(own.collect())).expect("a JSON map serializes");
        let path = folder.join(LABELS);
        std::fs::write(&path, text).map_err(|source| Error::Io { path, source })?;
        self.name_labels(&folder.join("head_config.json"))
    }

    /// Puts the labels into AdapterHub's description of a head, where there is one.
    fn name_labels(&self, path: &Path) -> Result<()> {
        let (Some(labels), true) = (self.raw.get("label2id"), path.is_file()) else {
            return Ok(());
        };
        let io = |source| Error::Io {
            path: path.into(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(io)?;
        let mut head: Value = serde_json::from_str(&text).map_err(|e| Error::Format {
            path: path.into(),
            why: format!("not valid JSON: {e}"),
        })?;
        head["label2id"] = labels.clone();
        let text = serde_json::to_string_pretty(&head).expect("a JSON map serializes");
        std::fs::write(path, text).map_err(io)
    }

    /// Whether the model writes text: it predicts the next token.
    pub fn writes(&self) -> bool {
        self.head.is_none() && self.encoder.is_none()
    }

    /// What the model is, for people: its class in transformers, and what its head says.
    pub fn what(&self) -> String {
        match &self.head {
            None if self.masked => format!("{}: an encoder that fills in masked tokens", self.class()),
            None if self.encoder.is_some() => format!("{}Model: an encoder without a head", self.class_stem()),
            None => self.class().into(),
            Some(head) => format!("{}{}: {}", self.class_stem(), head.kind.class(), head.labels.join(", ")),
        }
    }

    /// The head of this model, as adapters see it.
    pub(crate) fn task_head(&self) -> Option<TaskHead> {
        let kind = self.head.as_ref()?.kind;
        Some(TaskHead {
            task: match kind {
                HeadKind::Sequence => "SEQ_CLS",
                HeadKind::Token => "TOKEN_CLS",
            },
            modules: self.head_layers(kind).trained,
        })
    }
}

/// Keys of `config.json` about labels, beside an adapter.
const LABELS: &str = "labels.json";

impl HeadKind {
    /// What follows the family in the name of a class in transformers.
    pub(crate) fn class(self) -> &'static str {
        match self {
            HeadKind::Sequence => "ForSequenceClassification",
            HeadKind::Token => "ForTokenClassification",
        }
    }

    fn of_task(task: &str) -> Self {
        match task {
            "TOKEN_CLS" => HeadKind::Token,
            _ => HeadKind::Sequence,
        }
    }
}

impl Keys {
    /// The head that the named class has, if it has one.
    pub(crate) fn stated_head(&self) -> Option<HeadConfig> {
        let class = self.raw.get("architectures")?.get(0)?.as_str()?;
        let kinds = [HeadKind::Sequence, HeadKind::Token];
        let kind = kinds.into_iter().find(|kind| class.ends_with(kind.class()))?;
        Some(self.head(kind))
    }

    /// A head with the labels and the problem of the file; two labels where there are none.
    fn head(&self, kind: HeadKind) -> HeadConfig {
        let named = |map: &Map<String, Value>| {
            let name = |id: usize| Some(map.get(&id.to_string())?.as_str()?.to_string());
            (0..map.len()).map(name).collect::<Option<Vec<_>>>()
        };
        let labels = self.raw.get("id2label").and_then(Value::as_object).and_then(named);
        let count = self
            .raw
            .get("num_labels")
            .and_then(Value::as_u64)
            .unwrap_or(2)
            .min(1 << 20);
        let labels = labels.filter(|labels| !labels.is_empty());
        let labels = labels.unwrap_or_else(|| (0..count.max(1)).map(|id| format!("LABEL_{id}")).collect());
        let stated = self
            .raw
            .get("problem_type")
            .and_then(|problem| Problem::deserialize(problem).ok());
        let problem = match kind {
            HeadKind::Token => Problem::SingleLabelClassification,
            HeadKind::Sequence => stated.unwrap_or(Problem::of(labels.len())),
        };
        HeadConfig { kind, labels, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                "num_attention_heads": 2 {more}}}"#
        );
        ModelConfig::from_json(&text, "config.json".as_ref()).unwrap()
    }

    #[test]
    fn the_class_says_whether_there_is_a_head() {
        assert_eq!(config("").head, None);
        let head =
            config(r#", "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}"#)
                .head;
        let labels = vec!["bad".into(), "good".into()];
        let problem = Problem::SingleLabelClassification;
        assert_eq!(
            head,
            Some(HeadConfig {
                kind: HeadKind::Sequence,
                labels,
                problem
            })
        );
        let one = config(r#", "architectures": ["LlamaForSequenceClassification"], "num_labels": 1"#)
            .head
            .unwrap();
        assert_eq!((one.labels.len(), one.problem), (1, Problem::Regression));
    }

    #[test]
    fn a_head_is_written_and_read_back() {
        let head = HeadConfig {
            kind: HeadKind::Sequence,
            labels: vec!["a".into(), "b".into(), "c".into()],
            problem: Problem::MultiLabelClassification,
        };
        let written = config("").with_head(head.clone(), Some(3)).unwrap();
        let read = ModelConfig::from_json(&written.to_json("float32", false, None), "config.json".as_ref()).unwrap();
        assert_eq!(read.head, Some(head));
        assert_eq!(read.raw["pad_token_id"], 3);
        assert_eq!(read.raw["architectures"][0], "LlamaForSequenceClassification");
        let paths: Vec<String> = read.module_specs().into_iter().map(|spec| spec.path).collect();
        assert!(
            paths.contains(&"score".into()) && !paths.contains(&"lm_head".into()),
            "{paths:?}"
        );
    }
}
