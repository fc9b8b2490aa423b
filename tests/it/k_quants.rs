//! Quantized types of GGUF files against ggml's own bytes.

use std::path::Path;

use ft_gguf::{Dtype, Metadata, TensorInfo, write};
use safetensors::SafeTensors;

use crate::support::fixture;

const TYPES: [(&str, Dtype, usize); 6] = [
    ("q5_0", Dtype::Q5_0, 22),
    ("q5_1", Dtype::Q5_1, 24),
    ("q8_0", Dtype::Q8_0, 34),
    ("q4_k", Dtype::Q4K, 144),
    ("q5_k", Dtype::Q5K, 176),
    ("q6_k", Dtype::Q6K, 210),
];

/// What a file holds of rows of 512 numbers.
fn stored(rows: &[f32], dtype: Dtype, dir: &Path) -> Vec<u8> {
    let path = dir.join("x.gguf");
    let info = TensorInfo::new("x", &[rows.len() / 512, 512], dtype);
    let bytes = info.bytes();
    write(&path, &Metadata::default(), &[info], |_| {
        Ok::<_, std::io::Error>(rows.to_vec())
    })
    .unwrap();
    let file = std::fs::read(&path).unwrap();
    // The only tensor ends at the last multiple of 32.
    let begin = file.len() - bytes.next_multiple_of(32);
    file[begin..begin + bytes].to_vec()
}

#[test]
fn blocks_are_ggmls_byte_by_byte() {
    let golden = std::fs::read(fixture("gguf/k_quants.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let x: Vec<f32> = golden
        .tensor("x")
        .unwrap()
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    for (name, dtype, block) in TYPES {
        let found = stored(&x, dtype, dir.path());
        let expected = golden.tensor(name).unwrap();
        assert_eq!(found.len(), expected.data().len(), "{name}");
        let blocks = found.chunks_exact(block).zip(expected.data().chunks_exact(block));
        let other: Vec<usize> = blocks
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, _)| i)
            .collect();
        assert!(other.is_empty(), "{name}: other bytes in blocks {other:?}");
    }
}
