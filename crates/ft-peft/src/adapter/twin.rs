//! A tied head in PEFT's files of trainable tokens: they hold the rows twice, once under each name of the table.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::PREFIX;
use crate::attach::{Choice, module_specs};
use crate::target_module::Adaptable;
use crate::targets::Kind;

/// PEFT's names of the rows under the table and under a head that is the table, where rows of it train.
fn names(model: &mut impl Adaptable, choice: &Choice) -> Option<[String; 2]> {
    let specs = module_specs(model);
    let of = |kind: Kind| specs.iter().find(|spec| spec.kind == kind);
    let (table, head) = (of(Kind::Embedding)?, of(Kind::TiedHead)?);
    let name = |path: &str| format!("{PREFIX}{path}.trainable_tokens_delta");
    choice
        .rows
        .contains(&table.path)
        .then(|| [name(&table.path), name(&head.path)])
}

/// Writes the rows a second time, where PEFT does.
pub(super) fn add(model: &mut impl Adaptable, choice: &Choice, tensors: &mut BTreeMap<String, TensorData>) {
    if let Some([table, head]) = names(model, choice)
        && let Some(rows) = tensors.get(&table).cloned()
    {
        tensors.insert(head, rows);
    }
}

/// Drops the second copy; one that differs stays, and is told as a tensor that nothing takes.
pub(super) fn drop(model: &mut impl Adaptable, choice: &Choice, tensors: &mut BTreeMap<String, TensorData>) {
    if let Some([table, head]) = names(model, choice)
        && tensors.contains_key(&head)
        && tensors.get(&table) == tensors.get(&head)
    {
        tensors.remove(&head);
    }
}
