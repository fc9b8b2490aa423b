//! LoRA on experts that PEFT sees as one tensor (`target_parameters`): its two matrices hold the pairs of all experts of a layer.
//!
//! ```text
//! lora_A [experts · r, in]    rows e r .. (e + 1) r are expert e's
//! lora_B [out, r · experts]   column i experts + e is column i of expert e's
//! ```
//!
//! Of two parameters of a module, PEFT wraps the wrapper of the first, `gate_up_proj`, whose tensors are below `base_layer` then.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::PREFIX;
use crate::attach::ModuleSpec;

/// Parameters of a layer's experts, in the order in which PEFT wraps them.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];

/// The module of a layer's experts, the number of one of them, and its matrix, out of a module's path.
pub(crate) fn of_experts(path: &str) -> Option<(&str, usize, &'static str)> {
    let (rest, matrix) = path.rsplit_once('.')?;
    let (at, number) = rest.rsplit_once('.')?;
    let matrix = PARAMETERS.into_iter().find(|name| *name == matrix)?;
    at.ends_with(".experts").then_some(())?;
    Some((at, number.parse().ok()?, matrix))
}

/// Where the tensors of a parameter are, below the module of the experts.
fn place(parameter: &str, both: bool) -> &'static str {
    if both && parameter == PARAMETERS[0] {
        ".base_layer"
    } else {
        ""
    }
}

/// The layers' experts that are adapted, with their number and the parameters that are.
type Layers<'a> = BTreeMap<&'a str, (usize, Vec<&'static str>)>;

fn layers<'a>(adapted: impl Iterator<Item = &'a str>) -> Layers<'a> {
    let mut layers = Layers::new();
    for (at, number, matrix) in adapted.filter_map(of_experts) {
        let (count, matrices) = layers.entry(at).or_default();
        *count = (*count).max(number + 1);
        if !matrices.contains(&matrix) {
            matrices.push(matrix);
        }
    }
    layers
}

/// Takes the tensors of PEFT's file apart, expert by expert; those that are not as they should be stay, for who reads them to name.
pub(super) fn take_apart(tensors: &mut BTreeMap<String, TensorData>, specs: &[ModuleSpec], adapted: &[String]) {
    let all = specs
        .iter()
        .map(|spec| spec.path.as_str())
        .filter(|path| adapted.iter().any(|own| own == path));
    for (at, (experts, matrices)) in layers(all) {
        for matrix in &matrices {
            let below = place(matrix, matrices.len() > 1);
            for leaf in ["lora_A.weight", "lora_B.weight"] {
                let name = format!("{PREFIX}{at}{below}.{leaf}");
                let Some(parts) = tensors.get(&name).and_then(|data| split(data, leaf, experts)) else {
                    continue;
                };
                tensors.remove(&name);
                let own = |e: usize| format!("{PREFIX}{at}.{e}.{matrix}.{leaf}");
                tensors.extend(parts.into_iter().enumerate().map(|(e, part)| (own(e), part)));
            }
        }
    }
}

/// Puts the tensors of all experts together as PEFT's file has them.
pub(super) fn put_together(tensors: &mut BTreeMap<String, TensorData>, adapted: &[String]) {
    for (at, (experts, matrices)) in layers(adapted.iter().map(String::as_str)) {
        for matrix in &matrices {
            let below = place(matrix, matrices.len() > 1);
            for leaf in ["lora_A.weight", "lora_B.weight"] {
                let own = |e: usize| format!("{PREFIX}{at}.{e}.{matrix}.{leaf}");
                let parts: Vec<TensorData> = (0..experts).filter_map(|e| tensors.remove(&own(e))).collect();
                tensors.insert(format!("{PREFIX}{at}{below}.{leaf}"), join(&parts, leaf));
            }
        }
    }
}

fn split(data: &TensorData, leaf: &str, experts: usize) -> Option<Vec<TensorData>> {
    let [rows, columns] = data.shape()[..] else { return None };
    let values: Vec<f32> = data.iter().collect();
    let of_a = leaf.starts_with("lora_A");
    let stacked = if of_a { rows } else { columns };
    if !stacked.is_multiple_of(experts) {
        return None;
    }
    let rank = stacked / experts;
    let part = |e: usize| match of_a {
        true => TensorData::new(values[e * rank * columns..][..rank * columns].to_vec(), [rank, columns]),
        false => {
            let row = |row: &[f32]| (0..rank).map(|i| row[i * experts + e]).collect::<Vec<_>>();
            TensorData::new(
                values.chunks_exact(columns).flat_map(row).collect::<Vec<_>>(),
                [rows, rank],
            )
        }
    };
    Some((0..experts).map(part).collect())
}

fn join(parts: &[TensorData], leaf: &str) -> TensorData {
    let values: Vec<Vec<f32>> = parts.iter().map(|part| part.iter().collect()).collect();
    let [rows, columns] = parts[0].shape()[..] else {
        unreachable!("matrices")
    };
    let count = parts.len();
    if leaf.starts_with("lora_A") {
        return TensorData::new(values.concat(), [count * rows, columns]);
    }
    let at = |i: usize| {
        let (row, column) = (i / (count * columns), i % (count * columns));
        values[column % count][row * columns + column / count]
    };
    TensorData::new(
        (0..rows * columns * count).map(at).collect::<Vec<_>>(),
        [rows, columns * count],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_experts_are_known() {
        assert_eq!(
            of_experts("m.mlp.experts.3.down_proj"),
            Some(("m.mlp.experts", 3, "down_proj"))
        );
        assert_eq!(of_experts("m.mlp.down_proj"), None);
        assert_eq!(of_experts("m.mlp.experts.3.gate_proj"), None);
    }

    #[test]
    fn what_is_put_together_is_taken_apart_again() {
        let adapted: Vec<String> = (0..3)
            .flat_map(|e| ["gate_up_proj", "down_proj"].map(|matrix| format!("m.mlp.experts.{e}.{matrix}")))
            .collect();
        let spec = |path: &String| ModuleSpec {
            path: path.clone(),
            kind: crate::targets::Kind::Linear,
            dims: [4, 2],
            bias: false,
        };
        let specs: Vec<ModuleSpec> = adapted.iter().map(spec).collect();
        let mut tensors = BTreeMap::new();
        for (number, path) in adapted.iter().enumerate() {
            let values = |n: usize| (0..n).map(|i| (100 * number + i) as f32).collect::<Vec<_>>();
            tensors.insert(
                format!("{PREFIX}{path}.lora_A.weight"),
                TensorData::new(values(4), [2, 2]),
            );
            tensors.insert(
                format!("{PREFIX}{path}.lora_B.weight"),
                TensorData::new(values(8), [4, 2]),
            );
        }
        let before = tensors.clone();
        put_together(&mut tensors, &adapted);
        let names: Vec<&str> = tensors.keys().map(|name| name.strip_prefix(PREFIX).unwrap()).collect();
        let at = "m.mlp.experts";
        let expected =
            ["base_layer.lora_A", "base_layer.lora_B", "lora_A", "lora_B"].map(|leaf| format!("{at}.{leaf}.weight"));
        assert_eq!(names, expected);
        assert_eq!(tensors[&format!("{PREFIX}{at}.lora_B.weight")].shape()[..], [4, 6]);
        take_apart(&mut tensors, &specs, &adapted);
        assert_eq!(tensors, before);
    }
}
