//! GGUF files against what the `gguf` package makes of the same checkpoints, and against the models themselves.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device};
use ft_gguf::{Dtype, FileType, Metadata};
use ft_model::gguf::{GgufSource, write_adapter, write_model};
use ft_model::{LoadDtype, Model};
use ft_peft::plain::PlainLora;
use ft_peft::{Adaptable, AnyTensor, adapter, fold};
use serde_json::{Value, json};

use crate::support::{crc32, fixture};

/// A file read back by the letter of the format.
struct Read {
    metadata: BTreeMap<String, Value>,
    /// Type, shape (rows first) and bytes.
    tensors: BTreeMap<String, (u32, Vec<usize>, Vec<u8>)>,
}

struct Cursor<'a>(&'a [u8], usize);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.1 += N;
        self.0[self.1 - N..self.1].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let len = self.u64();
        self.1 += len;
        String::from_utf8(self.0[self.1 - len..self.1].to_vec()).unwrap()
    }

    fn value(&mut self) -> Value {
        match self.u32() {
            4 => json!(self.u32()),
            6 => json!(f32::from_le_bytes(self.take())),
            7 => json!(self.take::<1>() == [1]),
            8 => json!(self.text()),
            other => panic!("type {other} is not expected here"),
        }
    }
}

fn read(path: &Path) -> Read {
    let bytes = std::fs::read(path).unwrap();
    let mut at = Cursor(&bytes, 0);
    assert_eq!((at.take(), at.u32()), (*b"GGUF", 3));
    let (tensors, keys) = (at.u64(), at.u64());
    let metadata = (0..keys).map(|_| (at.text(), at.value())).collect();
    let infos: Vec<_> = (0..tensors)
        .map(|_| {
            let name = at.text();
            let dims = at.u32();
            let mut shape: Vec<usize> = (0..dims).map(|_| at.u64()).collect();
            shape.reverse();
            (name, shape, at.u32(), at.u64())
        })
        .collect();
    let data = at.1.next_multiple_of(32);
    let tensor = |(name, shape, kind, offset): (String, Vec<usize>, u32, usize)| {
        assert_eq!(offset % 32, 0, "{name}");
        let numbers: usize = shape.iter().product();
        let len = match kind {
            0 => 4 * numbers,
            1 | 30 => 2 * numbers,
            _ => numbers / 32 * 34,
        };
        let bytes = bytes[data + offset..data + offset + len].to_vec();
        (name, (kind, shape, bytes))
    };
    Read {
        metadata,
        tensors: infos.into_iter().map(tensor).collect(),
    }
}

fn written(base: &Path, adapter: Option<&Path>, dtype: Dtype) -> Read {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let source = GgufSource {
        dir: base,
        quant: None,
        adapter,
        tokenizer: Metadata::default(),
    };
    write_model(&source, FileType::All(dtype), &out).unwrap_or_else(|e| panic!("{}: {e}", base.display()));
    read(&out)
}

#[test]
fn models_hold_what_the_gguf_package_makes_of_their_checkpoints() {
    let golden = std::fs::read_to_string(fixture("gguf/golden.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&golden).unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let name = format!("{} {}", case["model"], case["dtype"]);
        let dtype = match case["dtype"].as_str().unwrap() {
            "f32" => Dtype::F32,
            "f16" => Dtype::F16,
            "bf16" => Dtype::Bf16,
            _ => Dtype::Q8_0,
        };
        let file = written(&fixture(case["model"].as_str().unwrap()), None, dtype);
        for (key, expected) in case["metadata"].as_object().unwrap() {
            let found = file.metadata.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
            let same = match (found.as_f64(), expected.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs(),
                _ => found == expected,
            };
            assert!(same, "{name}: {key} is {found}, expected {expected}");
        }
        let expected = case["tensors"].as_object().unwrap();
        assert!(
            file.tensors
                .keys()
                .eq(expected.keys().collect::<std::collections::BTreeSet<_>>()),
            "{name}"
        );
        for (tensor, (kind, shape, bytes)) in &file.tensors {
            // The factors of the rotary frequencies are rounded on the way.
            if tensor == "rope_freqs.weight" {
                continue;
            }
            let found = json!([kind, shape, crc32(bytes)]);
            assert_eq!(found, expected[tensor], "{name}: {tensor}");
        }
    }
}

#[test]
fn llama_3_factors_divide_the_rotary_frequencies() {
    let file = written(&fixture("families/llama3_rope"), None, Dtype::F32);
    let factors = floats(&file.tensors["rope_freqs.weight"].2);
    let (first, last) = (factors[0], factors[factors.len() - 1]);
    let text = std::fs::read_to_string(fixture("families/llama3_rope/config.json")).unwrap();
    let factor = serde_json::from_str::<Value>(&text).unwrap()["rope_parameters"]["factor"]
        .as_f64()
        .unwrap();
    assert!(
        (first - 1.0).abs() < 1e-6 && (f64::from(last) - factor).abs() < 1e-5,
        "{factors:?}"
    );
    assert!(
        factors.iter().any(|f| *f > 1.0 && f64::from(*f) < factor - 1e-3),
        "{factors:?}"
    );
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Rows of `heads` heads back in the checkpoint's order: row i + j · half of a head is row 2i + j of the file.
fn apart(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (columns, head) = (values.len() / rows, rows / heads);
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        let (start, i, j) = (row / head * head, row % head / 2, row % 2);
        let to = start + i + j * (head / 2);
        out[to * columns..(to + 1) * columns].copy_from_slice(&values[row * columns..(row + 1) * columns]);
    }
    out
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// The file's tensors under the names of `peft/base`, whose queries have 4 heads and keys 2.
fn by_path(file: &Read) -> BTreeMap<String, Vec<f32>> {
    let places = [
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
    ];
    let path = |name: &str| match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        None => name
            .replace("token_embd", "model.embed_tokens")
            .replace("output_norm", "model.norm")
            .replace("output.", "lm_head."),
        Some((block, rest)) => {
            let (place, leaf) = rest.split_once('.').unwrap();
            let own = places.iter().find(|(known, _)| *known == place).unwrap().1;
            format!("model.layers.{block}.{own}.{leaf}")
        }
    };
    let values = |name: &str, shape: &[usize], bytes: &[u8]| {
        let heads = if name.contains("attn_q.") { 4 } else { 2 };
        match name.contains("attn_q.") || name.contains("attn_k.") {
            true => apart(&floats(bytes), heads, shape[0]),
            false => floats(bytes),
        }
    };
    let tensors = file.tensors.iter();
    tensors
        .map(|(name, (_, shape, bytes))| (path(name), values(name, shape, bytes)))
        .collect()
}

#[test]
fn merged_files_hold_the_folded_model_for_every_method() {
    let base = fixture("peft/base");
    let cases = [
        "lora_qv",
        "lora_all_rslora",
        "lora_embed",
        "lora_mts_head",
        "dora",
        "ia3",
        "ln_tuning",
        "loha",
        "lokr",
        "oft",
        "adalora",
        "vera",
        "shira",
        "miss_bat",
        "gralora_hybrid",
        "osf",
    ];
    for case in cases {
        let folder = fixture("peft").join(case);
        let mut model = Model::load(&base, LoadDtype::F32, &Device::flex()).unwrap();
        adapter::load(&folder, &mut model).unwrap();
        fold(&mut model).unwrap();
        let found = by_path(&written(&base, Some(&folder), Dtype::F32));
        let mut seen = 0;
        for mut module in model.target_modules() {
            let path = module.path.clone();
            for (leaf, tensor) in module.tensors() {
                let data = match tensor {
                    AnyTensor::Matrix(t) => t.into_data(),
                    AnyTensor::Vector(t) => t.into_data(),
                };
                let expected: Vec<f32> = data.convert_dtype(DType::F32).try_into_vec().unwrap();
                let name = format!("{path}.{leaf}");
                let found = found.get(&name).unwrap_or_else(|| panic!("{case}: no {name}"));
                let difference = largest_difference(found, &expected);
                assert!(difference <= 1e-6, "{case}: {name} differs by {difference:e}");
                seen += 1;
            }
        }
        assert_eq!(seen, found.len(), "{case}");
    }
}

#[test]
fn virtual_tokens_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = GgufSource {
        dir: &fixture("peft/base"),
        quant: None,
        adapter: Some(&fixture("peft/prefix")),
        tokenizer: Metadata::default(),
    };
    let refused = write_model(&source, FileType::All(Dtype::F32), &dir.path().join("x.gguf")).unwrap_err();
    assert!(refused.to_string().contains("cannot be merged"), "{refused}");
}

#[test]
fn a_base_in_codes_is_unpacked() {
    let base = fixture("bnb/hf/nf4_dq");
    let mut model = Model::load(&base, LoadDtype::F32, &Device::flex()).unwrap();
    let file = written(&base, None, Dtype::F32);
    let expected: BTreeMap<String, f64> = model
        .target_modules()
        .iter_mut()
        .filter(|module| module.path.ends_with("down_proj"))
        .map(|module| {
            let (_, AnyTensor::Matrix(weight)) = module.tensors().remove(0) else {
                panic!()
            };
            let values: Vec<f32> = weight.into_data().try_into_vec().unwrap();
            let name = module
                .path
                .replace("model.layers", "blk")
                .replace("mlp.down_proj", "ffn_down.weight");
            (name, values.iter().map(|v| f64::from(v.abs())).sum())
        })
        .collect();
    assert!(!expected.is_empty());
    for (name, sum) in expected {
        let found: f64 = floats(&file.tensors[&name].2).iter().map(|v| f64::from(v.abs())).sum();
        assert!(sum > 0.0 && (found - sum).abs() < 1e-9 * sum, "{name}: {found} {sum}");
    }
}

#[test]
fn adapters_have_one_alpha_and_the_rows_of_their_base() {
    let device = Device::flex();
    let lora = PlainLora::read(&fixture("peft/lora_alpha_pattern"), &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter.gguf");
    write_adapter(&fixture("peft/base"), &lora, Dtype::F32, &out).unwrap();
    let file = read(&out);
    assert_eq!(file.metadata["general.type"], "adapter");
    assert_eq!(file.metadata["adapter.type"], "lora");
    assert_eq!(file.metadata["adapter.lora.alpha"], 4.0);
    assert_eq!(file.tensors.len(), 2 * lora.pairs.len());
    let folded = lora.folded();
    let values = |tensor: &burn::tensor::Tensor<2>| tensor.to_data().try_into_vec::<f32>().unwrap();
    for (place, name, heads) in [
        ("q_proj", "attn_q", 4),
        ("k_proj", "attn_k", 2),
        ("v_proj", "attn_v", 0),
        ("o_proj", "attn_output", 0),
    ] {
        let pair = &folded.pairs[&format!("model.layers.1.self_attn.{place}")];
        let (_, shape, bytes) = &file.tensors[&format!("blk.1.{name}.weight.lora_b")];
        let b = match heads {
            0 => floats(bytes),
            heads => apart(&floats(bytes), heads, shape[0]),
        };
        assert_eq!(b, values(&pair.b), "{place}");
        assert_eq!(
            floats(&file.tensors[&format!("blk.1.{name}.weight.lora_a")].2),
            values(&pair.a),
            "{place}"
        );
    }
}

#[test]
fn an_adapter_of_another_base_and_one_on_embeddings_are_refused() {
    let device = Device::flex();
    let out = std::env::temp_dir().join("never-written.gguf");
    let refused = |case: &str, base: &str| {
        let lora = PlainLora::read(&fixture("peft").join(case), &device).unwrap();
        write_adapter(&fixture(base), &lora, Dtype::F32, &out)
            .unwrap_err()
            .to_string()
    };
    assert!(refused("lora_qv", "families/qwen3").contains("the adapter ["));
    assert!(refused("lora_gpt2", "peft/base").contains("no such module"));
    assert!(refused("lora_embed", "peft/base").contains("model.embed_tokens"));
    assert!(!out.exists());
}
