use crate::{Dtype, TensorInfo, write};

use super::*;

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.put("general.architecture", "llama");
    metadata.put("llama.block_count", 2u32);
    metadata.put("llama.rope.freq_base", 1e-5f32);
    metadata.put("tokenizer.ggml.add_bos_token", true);
    metadata.put("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(), "é".into()]));
    metadata.put("tokenizer.ggml.scores", Value::Floats(vec![0.5, -1.0]));
    metadata.put("tokenizer.ggml.token_type", Value::Ints(vec![1, -3]));
    metadata.put("x.large", Value::I64(-5_000_000_000));
    metadata.put("x.flags", Value::Bools(vec![true, false]));
    metadata
}

/// A small file with tensors of three kinds.
fn file() -> Vec<u8> {
    let tensors = [
        TensorInfo::new("a", &[3], Dtype::F32),
        TensorInfo::new("b.weight", &[2, 32], Dtype::Q8_0),
        TensorInfo::new("c.weight", &[2, 256], Dtype::Q4K),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let values = |index: usize| Ok::<_, std::io::Error>(vec![0.5; [3, 64, 512][index]]);
    write(&path, &metadata(), &tensors, values).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn what_was_written_is_read() {
    let bytes = file();
    let (found, tensors) = parse(&bytes).unwrap();
    assert_eq!(found, metadata());
    assert_eq!(found.get("llama.rope.freq_base").unwrap().as_f64(), Some(1e-5));
    let names: Vec<_> = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.kind.name, t.shape.as_slice()))
        .collect();
    assert_eq!(
        names,
        [
            ("a", "f32", [3].as_slice()),
            ("b.weight", "q8_0", &[2, 32]),
            ("c.weight", "q4_K", &[2, 256])
        ]
    );
    let mut values = [0.0; 64];
    tensors[1].kind.decode(&bytes[tensors[1].bytes.clone()], &mut values);
    assert!(values.iter().all(|v| (v - 0.5).abs() < 1e-3), "{values:?}");
}

#[test]
fn every_truncation_is_an_error_in_words() {
    let bytes = file();
    for length in 0..bytes.len() - 40 {
        let why = parse(&bytes[..length]).unwrap_err();
        assert!(why.contains("again") || why.contains("GGUF"), "{length}: {why}");
    }
}

/// Every byte of the header in turn becomes another: a result or an error, and nothing read from beyond the file.
#[test]
fn changed_bytes_do_not_bring_it_down() {
    let bytes = file();
    let header = parse(&bytes).unwrap().1[0].bytes.start;
    let mut refused = 0;
    for at in 0..header {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            match parse(&changed) {
                Ok((_, tensors)) => assert!(tensors.iter().all(|t| t.bytes.end <= changed.len())),
                Err(why) => {
                    assert!(!why.is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > header, "{refused} of {}", 5 * header);
}

#[test]
fn errors_name_the_key_or_the_tensor() {
    let bytes = file();
    let place = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap() + text.len();
    let with = |at: usize, patch: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + patch.len()].copy_from_slice(patch);
        parse(&changed).unwrap_err()
    };
    let tokens = place("tokenizer.ggml.tokens");
    let why = with(tokens + 8, &u64::MAX.to_le_bytes());
    assert!(
        why.starts_with("tokenizer.ggml.tokens: ") && why.contains("more than the file holds"),
        "{why}"
    );
    let why = with(tokens + 4, &9u32.to_le_bytes());
    assert!(why.contains("array of arrays"), "{why}");
    // Dimensions, then sizes, type and offset.
    let tensor = place("c.weight");
    let why = with(tensor, &99u32.to_le_bytes());
    assert!(why.starts_with("c.weight: 99 dimensions"), "{why}");
    let why = with(tensor + 4, &100u64.to_le_bytes());
    assert!(why.contains("no whole blocks of q4_K"), "{why}");
    let why = with(tensor + 12, &u64::MAX.to_le_bytes());
    assert!(why.contains("c.weight"), "{why}");
    let why = with(tensor + 20, &23u32.to_le_bytes());
    assert!(
        why.contains("iq4_xs is not read") && why.contains("llama-quantize"),
        "{why}"
    );
    let why = with(tensor + 24, &(1u64 << 40).to_le_bytes());
    assert!(why.contains("beyond the end"), "{why}");
    let why = with(tensor + 24, &5u64.to_le_bytes());
    assert!(why.contains("no multiple of 32"), "{why}");
    assert!(with(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(with(4, &3u32.to_be_bytes()).contains("big-endian"));
    assert!(with(0, b"GGML").contains("no GGUF file"));
}
