//! Checkpoints that hold all experts of a layer in one tensor, as transformers 5 has them in memory: seen as one matrix after the other.

use crate::checkpoint::Entry;

/// The matrices in `…experts.gate_up_proj` `[experts, 2 inner, hidden]` and `…experts.down_proj` `[experts, hidden, inner]`, under the names
/// that they have one by one; `None` of any other tensor.
pub(crate) fn one_by_one(name: &str, entry: &Entry) -> Option<Vec<(String, Entry)>> {
    const STACKS: [(&str, &[&str]); 2] = [
        (".gate_up_proj", &["gate_proj", "up_proj"]),
        (".down_proj", &["down_proj"]),
    ];
    let (at, parts) = STACKS
        .iter()
        .find_map(|(end, parts)| Some((name.strip_suffix(end).filter(|at| at.ends_with(".experts"))?, *parts)))?;
    let [experts, rows, columns] = entry.shape[..] else {
        return None;
    };
    if !rows.is_multiple_of(parts.len()) {
        return None;
    }
    let bytes = entry.bytes.len() / (experts * parts.len()).max(1);
    let matrix = |number: usize| {
        let (expert, part) = (number / parts.len(), parts[number % parts.len()]);
        let start = entry.bytes.start + number * bytes;
        let own = Entry {
            shape: vec![rows / parts.len(), columns],
            bytes: start..start + bytes,
            ..entry.clone()
        };
        (format!("{at}.{expert}.{part}.weight"), own)
    };
    Some((0..experts * parts.len()).map(matrix).collect())
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    #[test]
    fn a_stack_is_taken_apart_and_nothing_else_is() {
        let entry = |shape: &[usize]| Entry {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            file: 0,
            bytes: 100..100 + 4 * shape.iter().product::<usize>(),
            coded: None,
        };
        let matrices = one_by_one("model.layers.3.mlp.experts.gate_up_proj", &entry(&[2, 6, 5])).unwrap();
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
        assert_eq!(
            one_by_one("m.mlp.experts.down_proj", &entry(&[2, 5, 3])).unwrap().len(),
            2
        );
        assert!(one_by_one("m.mlp.experts.0.down_proj.weight", &entry(&[5, 3])).is_none());
        assert!(one_by_one("m.mlp.experts.gate_up_proj", &entry(&[6, 5])).is_none());
        assert!(one_by_one("m.mlp.gate_up_proj", &entry(&[2, 6, 5])).is_none());
    }
}
