//! Adapters of a model that also sees or hears: those of its language model have the names that they have in a model by itself.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::PREFIX;

/// How the language model's modules begin among others.
const PARTS: [&str; 2] = ["model.language_model.", "language_model.model."];

pub(super) fn alone(tensors: &mut BTreeMap<String, TensorData>) {
    let renamed = |name: &String| {
        let path = name.strip_prefix(PREFIX)?;
        let rest = PARTS.iter().find_map(|part| path.strip_prefix(part))?;
        Some((name.clone(), format!("{PREFIX}model.{rest}")))
    };
    let names: Vec<_> = tensors.keys().filter_map(renamed).collect();
    for (old, new) in names {
        let data = tensors.remove(&old).expect("it was listed");
        tensors.insert(new, data);
    }
}
