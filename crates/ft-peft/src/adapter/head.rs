//! The head that is saved with an adapter: in PEFT's layout among its tensors, in AdapterHub's in files of its own.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::Value;

use super::{TensorFile, raw_config, weights_file, write_tensors};
use crate::adapterhub::{self, HEAD_CONFIG, HEAD_WEIGHTS};
use crate::attach::module_specs;
use crate::error::{Error, Result};
use crate::target_module::Adaptable;
use crate::targets::Kind;

/// The head of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedHead {
    /// PEFT's `task_type`.
    pub task: String,
    /// Rows of its last matrix.
    pub outputs: usize,
}

/// Where the last matrix of a head is, by the end of its name.
const LAST: [&str; 3] = ["score.weight", "classifier.out_proj.weight", "classifier.weight"];

fn outputs(tensors: &BTreeMap<String, TensorData>) -> Option<usize> {
    // `pre_classifier` is not the last.
    let ends = |name: &str, end: &str| {
        name.strip_suffix(end)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let last = |end: &&str| tensors.iter().find(|(name, _)| ends(name, end));
    LAST.iter()
        .find_map(last)
        .and_then(|(_, data)| data.shape().first().copied())
}

/// The head that is saved with the adapter in `dir`, where one is.
///
/// # Errors
/// Files that cannot be read.
pub fn saved_head(dir: &Path) -> Result<Option<SavedHead>> {
    let config = raw_config(dir)?;
    let task = config.get("task_type").and_then(Value::as_str).unwrap_or_default();
    let (task, file) = match (task, beside(dir)?) {
        ("SEQ_CLS" | "TOKEN_CLS", _) => (task, weights_file(dir)?),
        (_, Some(task)) => (task, dir.join(HEAD_WEIGHTS)),
        _ => return Ok(None),
    };
    Ok(outputs(&TensorFile::read(&file)?.tensors).map(|outputs| SavedHead {
        task: task.into(),
        outputs,
    }))
}

/// The task of the head in AdapterHub's files beside the adapter.
fn beside(dir: &Path) -> Result<Option<&'static str>> {
    let path = dir.join(HEAD_CONFIG);
    if !path.is_file() || !dir.join(HEAD_WEIGHTS).is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let head: Value = serde_json::from_str(&text).map_err(|e| Error::Format {
        path: path.clone(),
        why: format!("not valid JSON: {e}"),
    })?;
    match adapterhub::task(&head) {
        Some(task) => Ok(Some(task)),
        None => Err(Error::Format {
            path,
            why: "model_class is none with a head for labels of texts or tokens, which are what can be read".into(),
        }),
    }
}

/// Adds the tensors of AdapterHub's head file to those of the adapter, where the model has a head.
pub(super) fn read_beside(dir: &Path, model: &impl Adaptable, file: &mut TensorFile) -> Result<()> {
    if model.task_head().is_some() && dir.join(HEAD_WEIGHTS).is_file() {
        file.tensors.extend(TensorFile::read(&dir.join(HEAD_WEIGHTS))?.tensors);
    }
    Ok(())
}

/// Takes the head's tensors out of those of the adapter, and writes them into AdapterHub's files.
pub(super) fn write_beside(
    dir: &Path,
    model: &mut impl Adaptable,
    tensors: &mut BTreeMap<String, TensorData>,
    base_model: &str,
) -> Result<()> {
    let Some(head) = model.task_head() else {
        return Ok(());
    };
    let path = dir.join(HEAD_CONFIG);
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(io)?;
    let own: Vec<String> = tensors.keys().filter(|name| head.holds(name)).cloned().collect();
    let own: BTreeMap<String, TensorData> = own.into_iter().filter_map(|name| tensors.remove_entry(&name)).collect();
    let specs = module_specs(model);
    let hidden = specs
        .iter()
        .find(|spec| spec.kind == Kind::Residual)
        .map_or(0, |spec| spec.dims[0]);
    let record = adapterhub::head_record(outputs(&own).unwrap_or(0), model.architecture(), hidden, base_model);
    let text = serde_json::to_string_pretty(&record).expect("a JSON map serializes");
    std::fs::write(&path, text).map_err(io)?;
    write_tensors(&dir.join(HEAD_WEIGHTS), &own)
}
