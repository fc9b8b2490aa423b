//! Checkpoints that hold all experts of a layer in one tensor, as transformers 5 has them in memory: seen as one matrix after the other.
//!
//! ```text
//! …experts.gate_up_proj  [experts, 2 inner, hidden]      gate_proj and up_proj of each
//! …experts.down_proj     [experts, hidden, inner]
//! ```
//!
//! gpt-oss, which has biases beside them, has `[experts, in, out]`, and gate and up stay one matrix; or blocks and scales of MXFP4 in their
//! place.

use crate::checkpoint::Entry;

/// Endings of tensors, and of what they are taken apart into.
type Stacks = &'static [(&'static str, &'static [&'static str])];

const PLAIN: Stacks = &[
    (".gate_up_proj", &["gate_proj.weight", "up_proj.weight"]),
    (".down_proj", &["down_proj.weight"]),
];
const BIASED: Stacks = &[
    (".gate_up_proj", &["gate_up_proj.weight"]),
    (".gate_up_proj_bias", &["gate_up_proj.bias"]),
    (".gate_up_proj_blocks", &["gate_up_proj.blocks"]),
    (".gate_up_proj_scales", &["gate_up_proj.scales"]),
    (".down_proj", &["down_proj.weight"]),
    (".down_proj_bias", &["down_proj.bias"]),
    (".down_proj_blocks", &["down_proj.blocks"]),
    (".down_proj_scales", &["down_proj.scales"]),
];

/// What a tensor of a layer's experts holds, under the names of each; `None` of any other tensor. `is_there` knows the checkpoint's names.
pub(crate) fn one_by_one(name: &str, entry: &Entry, is_there: impl Fn(&str) -> bool) -> Option<Vec<(String, Entry)>> {
    let (at, _) = name.rsplit_once('.').filter(|(at, _)| at.ends_with(".experts"))?;
    let stacks = match is_there(&format!("{at}.gate_up_proj_bias")) {
        true => BIASED,
        false => PLAIN,
    };
    let (_, parts) = stacks.iter().find(|(end, _)| name.strip_suffix(end) == Some(at))?;
    let (experts, own) = entry.shape.split_first()?;
    let (rows, rest) = own.split_first()?;
    if !rows.is_multiple_of(parts.len()) || (stacks.len() == PLAIN.len() && rest.len() != 1) {
        return None;
    }
    let bytes = entry.bytes.len() / (experts * parts.len()).max(1);
    let shape: Vec<usize> = [rows / parts.len()].into_iter().chain(rest.iter().copied()).collect();
    let matrix = |number: usize| {
        let (expert, part) = (number / parts.len(), parts[number % parts.len()]);
        let start = entry.bytes.start + number * bytes;
        let own = Entry {
            shape: shape.clone(),
            bytes: start..start + bytes,
            ..entry.clone()
        };
        (format!("{at}.{expert}.{part}"), own)
    };
    Some((0..experts * parts.len()).map(matrix).collect())
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    fn entry(shape: &[usize]) -> Entry {
        Entry {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            file: 0,
            bytes: 100..100 + 4 * shape.iter().product::<usize>(),
            coded: None,
        }
    }

    #[test]
    fn a_stack_is_taken_apart_and_nothing_else_is() {
        let apart = |name: &str, shape: &[usize]| one_by_one(name, &entry(shape), |_| false);
        let matrices = apart("model.layers.3.mlp.experts.gate_up_proj", &[2, 6, 5]).unwrap();
        let found: Vec<_> = matrices
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.shape[..], entry.bytes.clone()))
            .collect();
        let at = |start: usize| start..start + 60;
        assert_eq!(
            found[0],
            ("model.layers.3.mlp.experts.0.gate_proj.weight", &[3, 5][..], at(100))
        );
        assert_eq!(
            found[3],
            ("model.layers.3.mlp.experts.1.up_proj.weight", &[3, 5][..], at(280))
        );
        assert_eq!(apart("m.mlp.experts.down_proj", &[2, 5, 3]).unwrap().len(), 2);
        assert!(apart("m.mlp.experts.0.down_proj.weight", &[5, 3]).is_none());
        assert!(apart("m.mlp.experts.gate_up_proj", &[6, 5]).is_none());
        assert!(apart("m.mlp.gate_up_proj", &[2, 6, 5]).is_none());
    }

    #[test]
    fn beside_biases_gate_and_up_stay_one() {
        let apart = |name: &str, shape: &[usize]| {
            let there = |name: &str| name == "m.mlp.experts.gate_up_proj_bias";
            let parts = one_by_one(name, &entry(shape), there).unwrap();
            let (name, entry) = &parts[1];
            (name.clone(), entry.shape.clone(), entry.bytes.start)
        };
        assert_eq!(
            apart("m.mlp.experts.gate_up_proj", &[2, 5, 6]),
            ("m.mlp.experts.1.gate_up_proj.weight".into(), vec![5, 6], 220)
        );
        assert_eq!(
            apart("m.mlp.experts.down_proj_bias", &[2, 5]),
            ("m.mlp.experts.1.down_proj.bias".into(), vec![5], 120)
        );
        assert_eq!(
            apart("m.mlp.experts.down_proj_blocks", &[2, 3, 1, 16]),
            ("m.mlp.experts.1.down_proj.blocks".into(), vec![3, 1, 16], 292)
        );
    }
}
