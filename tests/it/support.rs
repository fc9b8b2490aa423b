//! What several test modules share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// `tests/fixtures/<name>`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// One array of a safetensors file, integers as floats.
#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// Every array of a safetensors file by name.
pub fn arrays(path: &Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_string(), array(view.dtype(), view.shape(), view.data())))
        .collect()
}

fn array(dtype: Dtype, shape: &[usize], data: &[u8]) -> Array {
    let values = match dtype {
        Dtype::F32 => data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
            .collect(),
        Dtype::F64 => data
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        Dtype::I64 => data
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
            .collect(),
        Dtype::I32 => data
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()).into())
            .collect(),
        other => panic!("fixture arrays of type {other:?} are not expected"),
    };
    Array {
        shape: shape.to_vec(),
        values,
    }
}

impl Array {
    pub fn floats<const D: usize>(&self, device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.values.iter().map(|v| *v as f32).collect();
        Tensor::from_data(TensorData::new(values, self.shape.clone()), device)
    }

    /// The weight of a convolution of each channel by itself, `[channels, 1, taps]`, as a matrix.
    pub fn flat(mut self) -> Self {
        self.shape = match self.shape[..] {
            [channels, 1, taps] => vec![channels, taps],
            _ => self.shape,
        };
        self
    }

    pub fn ids(&self, device: &Device) -> Tensor<2, Int> {
        let values: Vec<i32> = self.values.iter().map(|v| *v as i32).collect();
        Tensor::from_data(TensorData::new(values, self.shape.clone()), device)
    }
}

/// Fails when a tensor differs from an array of the same shape by more than `tolerance`, absolute for values up to 1 and
/// relative above. Says by how much in any case, for `--nocapture`.
#[track_caller]
pub fn close<const D: usize>(what: &str, found: Tensor<D>, expected: &Array, tolerance: f64) {
    assert_eq!(found.dims().to_vec(), expected.shape, "{what}");
    let found = found
        .into_data()
        .convert_dtype(burn::tensor::DType::F32)
        .try_into_vec::<f32>()
        .unwrap();
    let error = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() / b.abs().max(1.0);
    let worst = found.iter().zip(&expected.values).map(error).fold(0.0, f64::max);
    let line = std::panic::Location::caller();
    println!("{line}: {what}: differs by {worst:e}, allowed {tolerance:e}");
    assert!(
        worst <= tolerance,
        "{what}: differs by {worst:e}, allowed {tolerance:e}"
    );
}

/// A tokenizer whose token i is the word `wi`, with `</s>` at 2: text for the tiny checkpoints' 96 ids.
pub fn word_tokenizer() -> ft_data::Tokenizer {
    let word = |id: usize| if id == 2 { "</s>".to_string() } else { format!("w{id}") };
    let vocab: serde_json::Map<_, _> = (0..96).map(|id| (word(id), id.into())).collect();
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [{"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    ft_data::Tokenizer::from_memory(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap()
}

/// Positions `[n]` (flat over the batch) whose hidden state predicts a label, and those labels, for labels in the
/// Hugging Face convention: label i is predicted at i - 1, -100 is not learned.
pub fn learned(labels: &Array, device: &Device) -> (Tensor<1, Int>, Tensor<1, Int>) {
    let seq = labels.shape[1];
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    for (i, label) in labels.values.iter().enumerate() {
        if i % seq > 0 && *label >= 0.0 {
            positions.push(i as i32 - 1);
            targets.push(*label as i32);
        }
    }
    (
        Tensor::from_ints(positions.as_slice(), device),
        Tensor::from_ints(targets.as_slice(), device),
    )
}

/// CRC-32 as zlib computes it.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 }
        })
    };
    !bytes.iter().fold(!0, step)
}
