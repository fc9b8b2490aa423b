//! What an adapter folder says about the head that is saved in it.

use std::path::Path;

use super::{TensorFile, raw_config, weights_file};
use crate::error::Result;

/// The head of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedHead {
    /// PEFT's `task_type`.
    pub task: String,
    /// Rows of its last matrix.
    pub outputs: usize,
}

/// Where the last matrix of a head is, by the end of its name.
const LAST: [&str; 3] = ["score.weight", "classifier.out_proj.weight", ".classifier.weight"];

/// The head that is saved with the adapter in `dir`, where one is.
///
/// # Errors
/// Files that cannot be read.
pub fn saved_head(dir: &Path) -> Result<Option<SavedHead>> {
    let config = raw_config(dir)?;
    let task = config
        .get("task_type")
        .and_then(|task| task.as_str())
        .unwrap_or_default();
    if !matches!(task, "SEQ_CLS" | "TOKEN_CLS") {
        return Ok(None);
    }
    let file = TensorFile::read(&weights_file(dir)?)?;
    let last = |end: &&str| file.tensors.iter().find(|(name, _)| name.ends_with(*end));
    let outputs = LAST
        .iter()
        .find_map(last)
        .and_then(|(_, data)| data.shape().first().copied());
    Ok(outputs.map(|outputs| SavedHead {
        task: task.into(),
        outputs,
    }))
}
