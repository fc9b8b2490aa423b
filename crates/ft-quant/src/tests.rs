//! Against tensors that bitsandbytes wrote, and laws.

use std::path::Path;

use safetensors::SafeTensors;

use crate::{Encoded, Kind, Layout, Packed, Scales, Scheme, Weight, bnb, nested};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

mod used_on_cpu;

/// One of the fixtures of bitsandbytes.
struct File(Vec<u8>);

impl File {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/bnb");
        Self(std::fs::read(path.join(name)).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        match view.dtype() {
            safetensors::Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
            safetensors::Dtype::BF16 => {
                let upper = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                view.data().chunks(2).map(upper).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

const SHAPE: [usize; 2] = [96, 192];

/// Deterministic values, roughly normal.
pub(crate) fn values(n: usize) -> Vec<f32> {
    let mut state = 7u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| next()).sum::<f32>() * 0.1).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn the_code_books_are_those_of_bitsandbytes() {
    let books = File::open("codebooks.safetensors");
    for kind in [Kind::Nf4, Kind::Fp4] {
        // The fixture's negative zero of fp4 is a positive one here: equal values.
        assert_eq!(kind.table().unwrap().to_vec(), books.floats(kind.name()));
    }
}

#[test]
fn codes_scales_and_values_are_those_of_bitsandbytes() {
    for kind in [Kind::Nf4, Kind::Fp4] {
        let file = File::open(&format!("linear_{}_sq.safetensors", kind.name()));
        let encoded = Encoded::encode(&file.floats("orig"), SHAPE, Scheme::new(kind)).unwrap();
        let Scales::Plain(scales) = &encoded.scales else {
            panic!("plain scales were asked for")
        };
        assert_eq!(bits(scales), bits(&file.floats("weight.absmax")), "{kind:?} scales");
        assert_eq!(encoded.codes, file.bytes("weight"), "{kind:?} codes");
        assert_eq!(encoded.decode(), file.floats("dequant"), "{kind:?} values");
    }
}

#[test]
fn int8_codes_and_scales_are_those_of_bitsandbytes() {
    let file = File::open("linear_int8.safetensors");
    let encoded = Encoded::encode(&file.floats("orig"), SHAPE, Scheme::new(Kind::Int8)).unwrap();
    let Scales::Plain(scales) = &encoded.scales else {
        panic!("int8 has plain scales")
    };
    assert_eq!(bits(scales), bits(&file.floats("SCB")));
    assert_eq!(encoded.codes, file.bytes("weight"));
}

#[test]
fn int8_rows_beyond_the_range_of_f16_are_kept() {
    let encoded = Encoded::encode(&[1e6, -5e5, 0.5, 1.0], [2, 2], Scheme::new(Kind::Int8)).unwrap();
    let found = encoded.decode();
    let wanted = [1e6, -5e5, 0.5, 1.0];
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.01 * b.abs();
    assert!(found.iter().zip(&wanted).all(close), "{found:?}");
}

#[test]
fn double_quantized_values_are_those_of_bitsandbytes() {
    for kind in [Kind::Nf4, Kind::Fp4] {
        let file = File::open(&format!("linear_{}_dq.safetensors", kind.name()));
        let state = file.bytes(&format!("weight.quant_state.bitsandbytes__{}", kind.name()));
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let offset = state["nested_offset"].as_f64().unwrap() as f32;
        let stored = Encoded {
            scheme: Scheme::new(kind).doubled(),
            shape: SHAPE,
            codes: file.bytes("weight"),
            scales: Scales::Nested(nested::Nested {
                codes: file.bytes("weight.absmax"),
                absmax: file.floats("weight.nested_absmax"),
                offset,
            }),
        };
        assert_eq!(stored.decode(), file.floats("dequant"), "{kind:?} values");

        let made = Encoded::encode(&file.floats("orig"), SHAPE, stored.scheme).unwrap();
        assert_eq!(made.codes, stored.codes, "{kind:?} codes");
        let (Scales::Nested(made), Scales::Nested(stored)) = (&made.scales, &stored.scales) else {
            panic!("nested scales were asked for")
        };
        // The mean is summed in another order.
        assert!((made.offset - stored.offset).abs() <= f32::EPSILON * offset);
        // bitsandbytes looks codes up in a table on the CPU: a few are one off the nearest, which is what the GPU takes.
        let off = made.codes.iter().zip(&stored.codes).map(|(a, b)| a.abs_diff(*b));
        assert!(off.clone().all(|d| d <= 1), "{kind:?}: a scale's code is far off");
        assert!(off.filter(|d| *d > 0).count() <= 3, "{kind:?}: too many scales differ");
    }
}

#[test]
fn double_quantization_takes_4_127_bits_per_weight() {
    let shape = [512, 1024];
    let values = values(512 * 1024);
    let bits = |scheme| {
        let encoded = Encoded::encode(&values, shape, scheme).unwrap();
        assert_eq!(encoded.bytes(), scheme.bytes(shape));
        8.0 * encoded.bytes() as f64 / values.len() as f64
    };
    assert!((bits(Scheme::new(Kind::Nf4).doubled()) - 4.127).abs() < 5e-4);
    assert_eq!(bits(Scheme::new(Kind::Nf4)), 4.5);
    assert_eq!(bits(Scheme::new(Kind::Int8)), 8.0 + 32.0 / 1024.0);
}

/// Rounding to the nearest code is off by half the widest gap at most, and values that are codes come back as they are.
#[test]
fn values_come_back_within_half_a_gap_for_every_block_size() {
    // 7 x 101 is odd and no multiple of a block: blocks span rows, the last is short, the last byte half empty.
    let (shape, values) = ([7, 101], values(707));
    for kind in [Kind::Nf4, Kind::Fp4, Kind::Int8] {
        for block in [32, 64, 128, 256, 512, 1024, 2048, 4096] {
            let scheme = Scheme {
                block,
                ..Scheme::new(kind)
            };
            let encoded = Encoded::encode(&values, shape, scheme).unwrap();
            assert_eq!(encoded.bytes(), scheme.bytes(shape));
            let decoded = encoded.decode();
            let (width, gap) = match kind {
                Kind::Nf4 => (block, 0.304),
                Kind::Fp4 => (block, 0.334),
                // Values were rounded to f16 before.
                Kind::Int8 => (101, 1.0 / 127.0 + 2.0 / 2048.0),
            };
            for (values, decoded) in values.chunks(width).zip(decoded.chunks(width)) {
                let bound = crate::blocks::largest(values) * gap * 0.501;
                values
                    .iter()
                    .zip(decoded)
                    .for_each(|(v, d)| assert!((v - d).abs() <= bound, "{scheme:?}: {v} came back as {d}"));
            }
            let again = Encoded::encode(&decoded, shape, scheme).unwrap();
            // Codes of fp4's zeros depend on the sign that was lost.
            match kind {
                Kind::Fp4 => assert_eq!(again.decode(), decoded, "{scheme:?}"),
                _ => assert_eq!(again.codes, encoded.codes, "{scheme:?}"),
            }
        }
    }
}

#[test]
fn a_block_of_zeros_stays_zero() {
    for kind in [Kind::Nf4, Kind::Fp4, Kind::Int8] {
        for scheme in [Scheme::new(kind), Scheme::new(kind).doubled()] {
            let Ok(encoded) = Encoded::encode(&[0.0; 256], [2, 128], scheme) else {
                assert!(kind == Kind::Int8 && scheme.double);
                continue;
            };
            assert_eq!(encoded.decode(), [0.0; 256], "{scheme:?}");
        }
    }
}

#[test]
fn impossible_schemes_and_values_are_errors() {
    let encode = |values: &[f32], scheme| Encoded::encode(values, [2, 32], scheme).unwrap_err().to_string();
    for block in [0, 16, 48, 63, 8192] {
        let scheme = Scheme {
            block,
            ..Scheme::new(Kind::Nf4)
        };
        assert!(encode(&[1.0; 64], scheme).contains(&format!("block size {block}")));
    }
    assert!(encode(&[1.0; 64], Scheme::new(Kind::Int8).doubled()).contains("int8 has one scale per row"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; 64];
        values[37] = bad;
        let error = encode(&values, Scheme::new(Kind::Nf4));
        assert!(error.contains("row 1, column 5"), "{error}");
    }
}

const KINDS: [Kind; 3] = [Kind::Nf4, Kind::Fp4, Kind::Int8];

fn schemes() -> impl Iterator<Item = Scheme> {
    let all = KINDS
        .into_iter()
        .flat_map(|kind| [Scheme::new(kind), Scheme::new(kind).doubled()]);
    all.filter(|scheme| scheme.check().is_ok())
}

fn weight(scheme: Scheme, shape: [usize; 2], layout: Layout, device: &Device) -> (Weight, Encoded) {
    let encoded = Encoded::encode(&values(shape[0] * shape[1]), shape, scheme).unwrap();
    let packed = Packed::new(&encoded, layout, FloatDType::F32, device);
    (Weight::packed(packed, layout), encoded)
}

#[test]
fn a_packed_weight_is_the_matrix_its_codes_stand_for() {
    let (shape, device) = ([7, 101], Device::flex());
    for scheme in schemes() {
        for layout in [Layout::OutIn, Layout::InOut] {
            let (mut weight, encoded) = weight(scheme, shape, layout, &device);
            assert_eq!(
                weight.as_packed().unwrap().encoded(),
                encoded,
                "{scheme:?} there and back"
            );
            assert_eq!(weight.dims(), shape);
            let dense = weight.dense();
            assert_eq!(
                dense.to_data().try_to_vec::<f32>().unwrap(),
                encoded.decode(),
                "{scheme:?}"
            );
            let stored = weight.value.val();
            let stored = if layout == Layout::OutIn {
                stored
            } else {
                stored.transpose()
            };
            assert_eq!(stored.to_data(), dense.to_data());

            let x = Tensor::<2>::from_data(TensorData::new(values(3 * 101), [3, 101]), &device);
            let got = weight.project(x.clone()).into_data();
            let want = Weight::new(dense.clone(), Layout::OutIn).project(x.clone()).into_data();
            got.assert_approx_eq::<f32>(&want, burn::tensor::Tolerance::absolute(1e-5));

            weight.set_dense(dense.clone().mul_scalar(2.0));
            assert!(weight.as_packed().is_none(), "a changed matrix is dense");
            assert_eq!(weight.dense().to_data(), dense.mul_scalar(2.0).to_data());
        }
    }
}

#[test]
fn training_a_packed_weight_starts_from_its_values() {
    let device = Device::flex().autodiff();
    let (mut weight, encoded) = weight(Scheme::new(Kind::Nf4), [8, 64], Layout::OutIn, &device);
    weight.value.train();
    assert!(weight.value.is_trained());
    assert_eq!(weight.dense().to_data().try_to_vec::<f32>().unwrap(), encoded.decode());
}

/// The whole size of a layer's state is that of its codes and scales, rounded up to words.
#[test]
fn a_packed_weight_holds_its_codes_and_nothing_else() {
    let shape = [64, 512];
    for scheme in schemes() {
        let (weight, encoded) = weight(scheme, shape, Layout::OutIn, &Device::flex().autodiff());
        let held = weight.as_packed().unwrap().bytes();
        assert!(
            held.abs_diff(encoded.bytes()) <= 8,
            "{scheme:?}: {held} for {}",
            encoded.bytes()
        );
        assert_eq!(
            burn::module::Module::num_params(&weight),
            0,
            "nothing of it is a parameter"
        );
    }
}

fn stored(file: &File, path: &str) -> Vec<bnb::Stored> {
    let file = SafeTensors::deserialize(&file.0).unwrap();
    let tensors = file.iter().filter(|(name, _)| name.starts_with(path));
    tensors
        .map(|(name, view)| bnb::Stored {
            name: name.into(),
            dtype: match view.dtype() {
                safetensors::Dtype::U8 => bnb::Type::U8,
                safetensors::Dtype::I8 => bnb::Type::I8,
                _ => bnb::Type::F32,
            },
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        })
        .collect()
}

fn read(tensors: &[bnb::Stored], path: &str, shape: [usize; 2]) -> crate::Result<Option<bnb::Found>> {
    bnb::read(path, shape, |name| tensors.iter().find(|t| t.name == name).cloned())
}

#[test]
fn layers_that_transformers_wrote_are_read_and_written_byte_for_byte() {
    let path = "model.layers.0.mlp.up_proj";
    for folder in ["nf4", "nf4_dq", "fp4"] {
        let mut tensors = stored(&File::open(&format!("hf/{folder}/model.safetensors")), path);
        let found = read(&tensors, path, [128, 64]).unwrap().unwrap();
        assert_eq!(found.names.len(), tensors.len());
        let golden = File::open(&format!("hf/{folder}/golden.safetensors"));
        assert_eq!(
            found.encoded.decode(),
            golden.floats(&format!("dequant.{path}.weight")),
            "{folder}"
        );
        let mut again = bnb::write(path, &found.encoded, found.dtype.unwrap());
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        again.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(again, tensors, "{folder}");
    }
}

#[test]
fn int8_layers_are_read_back_as_written() {
    let encoded = Encoded::encode(&values(40), [4, 10], Scheme::new(Kind::Int8)).unwrap();
    let tensors = bnb::write("x", &encoded, FloatDType::BF16);
    assert_eq!(read(&tensors, "x", [4, 10]).unwrap().unwrap().encoded, encoded);
    assert_eq!(read(&tensors, "y", [4, 10]), Ok(None));
}

#[test]
fn damaged_layers_are_errors_that_name_the_tensor() {
    let encoded = Encoded::encode(&values(128), [2, 64], Scheme::new(Kind::Nf4).doubled()).unwrap();
    let whole = bnb::write("x", &encoded, FloatDType::F32);
    let refused = |what: &str, damage: &dyn Fn(&mut Vec<bnb::Stored>)| {
        let mut tensors = whole.clone();
        damage(&mut tensors);
        let error = read(&tensors, "x", [2, 64]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let named = |tensors: &mut Vec<bnb::Stored>, name: &str| tensors.iter().position(|t| t.name == name).unwrap();
    for name in [
        "x.weight",
        "x.weight.absmax",
        "x.weight.quant_map",
        "x.weight.nested_absmax",
    ] {
        refused(&format!("{name}: missing"), &|tensors| {
            let at = named(tensors, name);
            tensors.remove(at);
        });
        refused(&format!("{name}: "), &|tensors| {
            let at = named(tensors, name);
            tensors[at].shape = vec![3];
        });
    }
    refused("another table", &|tensors| {
        let at = named(tensors, "x.weight.quant_map");
        tensors[at].bytes[2] ^= 1;
    });
    refused("not valid JSON", &|tensors| {
        let at = named(tensors, "x.weight.quant_state.bitsandbytes__nf4");
        tensors[at].bytes.truncate(9);
    });
    assert!(
        read(&whole, "x", [64, 2])
            .unwrap_err()
            .to_string()
            .contains("shape [64, 2] expected")
    );
}
