//! The tensors in which bitsandbytes stores a quantized layer in a checkpoint.
//!
//! ```text
//! 4-bit   X.weight u8 [bytes, 1]   .absmax f32 or u8   .quant_map f32 [16]   .quant_state.bitsandbytes__nf4 u8 (JSON)
//!         with double quantization also .nested_absmax f32   .nested_quant_map f32 [256]
//!         after use on a CPU with AVX-512, by bitsandbytes 0.50: .absmax bf16 [in / blocksize, out]
//! int8    X.weight i8 [out, in]    X.SCB f32 [out]     X.weight_format u8, 0: row by row
//! ```

use burn::tensor::FloatDType;
use serde_json::Value;

use crate::dynamic_map::SIGNED;
use crate::encoded::{Encoded, Scales};
use crate::error::{Error, Result};
use crate::nested::{self, Nested};
use crate::scheme::{Kind, Scheme};

/// Number type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Unsigned bytes.
    U8,
    /// Signed bytes.
    I8,
    /// Little-endian f32.
    F32,
    /// Little-endian bf16.
    BF16,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its full name.
    pub name: String,
    /// Its number type.
    pub dtype: Type,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values.
    pub bytes: Vec<u8>,
}

/// A layer found in a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its matrix.
    pub encoded: Encoded,
    /// Type of the matrix before it was quantized; int8 layers do not say.
    pub dtype: Option<FloatDType>,
    /// Names of the tensors it is made of.
    pub names: Vec<String>,
}

/// The tensors of the layer at `path` (without `.weight`), quantized from numbers of type `dtype`.
pub fn write(path: &str, encoded: &Encoded, dtype: FloatDType) -> Vec<Stored> {
    let tensor = |name: String, dtype, shape: Vec<usize>, bytes: Vec<u8>| Stored {
        name,
        dtype,
        shape,
        bytes,
    };
    let floats = |name: String, values: &[f32]| {
        tensor(
            name,
            Type::F32,
            vec![values.len()],
            bytemuck::cast_slice(values).to_vec(),
        )
    };
    let weight = format!("{path}.weight");
    let Some(table) = encoded.scheme.kind.table() else {
        return vec![
            floats(format!("{path}.SCB"), &encoded.scales.values()),
            tensor(weight, Type::I8, encoded.shape.to_vec(), encoded.codes.clone()),
            tensor(format!("{path}.weight_format"), Type::U8, vec![], vec![0]),
        ];
    };
    let mut tensors = match &encoded.scales {
        Scales::Plain(scales) => vec![floats(format!("{weight}.absmax"), scales)],
        Scales::Nested(nested) => vec![
            tensor(
                format!("{weight}.absmax"),
                Type::U8,
                vec![nested.codes.len()],
                nested.codes.clone(),
            ),
            floats(format!("{weight}.nested_absmax"), &nested.absmax),
            floats(format!("{weight}.nested_quant_map"), &SIGNED.values),
        ],
    };
    let state = state(encoded, dtype).into_bytes();
    tensors.extend([
        floats(format!("{weight}.quant_map"), table),
        tensor(
            format!("{weight}.quant_state.bitsandbytes__{}", encoded.scheme.kind.name()),
            Type::U8,
            vec![state.len()],
            state,
        ),
        tensor(weight, Type::U8, vec![encoded.codes.len(), 1], encoded.codes.clone()),
    ]);
    tensors
}

/// The JSON of `quant_state`, spelled as Python does.
fn state(encoded: &Encoded, dtype: FloatDType) -> String {
    let ([out, inner], scheme) = (encoded.shape, encoded.scheme);
    let nested = match &encoded.scales {
        Scales::Plain(_) => String::new(),
        Scales::Nested(nested) => format!(
            ", \"nested_blocksize\": {}, \"nested_dtype\": \"float32\", \"nested_offset\": {}",
            nested::BLOCK,
            f64::from(nested.offset)
        ),
    };
    format!(
        "{{\"quant_type\": \"{}\", \"blocksize\": {}, \"dtype\": \"{}\", \"shape\": [{out}, {inner}]{nested}}}",
        scheme.kind.name(),
        scheme.block,
        type_name(dtype)
    )
}

fn type_name(dtype: FloatDType) -> &'static str {
    match dtype {
        FloatDType::BF16 => "bfloat16",
        FloatDType::F16 => "float16",
        _ => "float32",
    }
}

/// How the first quantized layer among the tensors called `names` is stored; `None` if none is. `find` looks up tensors.
pub fn scheme<'n>(mut names: impl Iterator<Item = &'n str>, find: impl Fn(&str) -> Option<Stored>) -> Option<Scheme> {
    const STATE: &str = ".weight.quant_state.bitsandbytes__";
    let name = names.find(|name| name.contains(STATE) || name.ends_with(".SCB"))?;
    let Some((_, kind)) = name.split_once(STATE) else {
        return Some(Scheme::new(Kind::Int8));
    };
    let state: Value = serde_json::from_slice(&find(name)?.bytes).ok()?;
    Some(Scheme {
        kind: [Kind::Nf4, Kind::Fp4].into_iter().find(|k| k.name() == kind)?,
        double: state.get("nested_offset").is_some(),
        block: state["blocksize"].as_u64()? as usize,
    })
}

/// The quantized layer at `path`, of shape `[out, in]`; `None` if its matrix is not quantized. `find` looks up tensors.
///
/// # Errors
/// Tensors that are missing, misshapen, or use another code table.
pub fn read(path: &str, shape: [usize; 2], find: impl Fn(&str) -> Option<Stored>) -> Result<Option<Found>> {
    let find = Finder { find: &find };
    let weight = format!("{path}.weight");
    for kind in [Kind::Nf4, Kind::Fp4] {
        let name = format!("{weight}.quant_state.bitsandbytes__{}", kind.name());
        if let Some(state) = (find.find)(&name) {
            return four_bit(&weight, kind, &state, shape, &find).map(Some);
        }
    }
    match (find.find)(&format!("{path}.SCB")) {
        None => Ok(None),
        Some(scales) => int8(path, &scales, shape, &find).map(Some),
    }
}

impl Stored {
    /// Fails unless it has so many numbers of this type.
    fn holding(self, dtype: Type, len: usize) -> Result<Self> {
        let found = self.shape.iter().product::<usize>();
        if self.dtype != dtype || found != len {
            return Err(Error::Stored(format!(
                "{}: {len} numbers of type {dtype:?} expected, found {found} of type {:?}",
                self.name, self.dtype
            )));
        }
        Ok(self)
    }
}

struct Finder<'a> {
    find: &'a dyn Fn(&str) -> Option<Stored>,
}

impl Finder<'_> {
    fn any(&self, name: &str) -> Result<Stored> {
        (self.find)(name).ok_or_else(|| Error::Stored(format!("{name}: missing")))
    }

    /// The tensor with so many numbers of this type.
    fn get(&self, name: &str, dtype: Type, len: usize) -> Result<Stored> {
        self.any(name)?.holding(dtype, len)
    }

    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        Ok(floats(&self.get(name, Type::F32, len)?))
    }

    /// A code table, which must be the one we have.
    fn table(&self, name: &str, ours: &[f32]) -> Result<()> {
        if self.floats(name, ours.len())? != ours {
            return Err(Error::Stored(format!(
                "{name}: another table than that of bitsandbytes"
            )));
        }
        Ok(())
    }
}

fn floats(stored: &Stored) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&stored.bytes)
}

fn four_bit(weight: &str, kind: Kind, state: &Stored, shape: [usize; 2], find: &Finder<'_>) -> Result<Found> {
    let bad = |why: String| Error::Stored(format!("{}: {why}", state.name));
    let json: Value = serde_json::from_slice(&state.bytes).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let number = |key: &str| json[key].as_u64().map(|n| n as usize);
    if json["shape"] != serde_json::json!(shape) {
        return Err(bad(format!("shape {shape:?} expected, found {}", json["shape"])));
    }
    let double = json.get("nested_offset").is_some();
    let scheme = Scheme {
        kind,
        double,
        block: number("blocksize").ok_or_else(|| bad("no \"blocksize\"".into()))?,
    };
    scheme.check().map_err(|e| bad(e.to_string()))?;
    let dtype = match json["dtype"].as_str() {
        Some("bfloat16") => FloatDType::BF16,
        Some("float16") => FloatDType::F16,
        Some("float32") => FloatDType::F32,
        _ => return Err(bad(format!("unknown dtype {}", json["dtype"]))),
    };
    let numbers = shape[0] * shape[1];
    let blocks = numbers.div_ceil(scheme.block);
    let name = |leaf: &str| format!("{weight}.{leaf}");
    let mut names = vec![
        weight.to_string(),
        state.name.clone(),
        name("absmax"),
        name("quant_map"),
    ];
    find.table(&name("quant_map"), kind.table().expect("a 4-bit kind"))?;
    let scales = if double {
        if number("nested_blocksize") != Some(nested::BLOCK) {
            return Err(bad(format!("nested_blocksize must be {}", nested::BLOCK)));
        }
        let offset = json["nested_offset"].as_f64();
        find.table(&name("nested_quant_map"), &SIGNED.values)?;
        names.extend([name("nested_absmax"), name("nested_quant_map")]);
        Scales::Nested(Nested {
            codes: find.get(&name("absmax"), Type::U8, blocks)?.bytes,
            absmax: find.floats(&name("nested_absmax"), blocks.div_ceil(nested::BLOCK))?,
            offset: offset.ok_or_else(|| bad("nested_offset must be a number".into()))? as f32,
        })
    } else {
        Scales::Plain(absmax(&name("absmax"), scheme.block, shape, find)?)
    };
    let codes = find.get(weight, Type::U8, numbers.div_ceil(2))?;
    if codes.shape == [shape[0], shape[1] / 2] && shape[1] > 2 {
        return Err(Error::Stored(format!(
            "{weight}: its codes are in the order of bitsandbytes' CPU kernel; save the model again with `save_pretrained`"
        )));
    }
    let codes = codes.bytes;
    Ok(Found {
        encoded: Encoded {
            scheme,
            shape,
            codes,
            scales,
        },
        dtype: Some(dtype),
        names,
    })
}

/// Scales of the blocks in the order of the codes. bitsandbytes 0.50 turns them and rounds them to bf16 when a layer computes
/// on a CPU with AVX-512, and saves them so, while it saves the codes as they were.
fn absmax(name: &str, block: usize, [out, inner]: [usize; 2], find: &Finder<'_>) -> Result<Vec<f32>> {
    let stored = find.any(name)?;
    if stored.dtype != Type::BF16 {
        return Ok(floats(&stored.holding(Type::F32, (out * inner).div_ceil(block))?));
    }
    if inner % block != 0 || stored.shape != [inner / block, out] {
        return Err(Error::Stored(format!(
            "{name}: {:?} of type BF16, where {:?} is what bitsandbytes saves after use on a CPU; save the model again from \
             weights that were not used",
            stored.shape,
            [inner / block, out]
        )));
    }
    let value = |row: usize, col: usize| {
        let at = 2 * (col * out + row);
        half::bf16::from_le_bytes([stored.bytes[at], stored.bytes[at + 1]]).to_f32()
    };
    let rows = (0..out).flat_map(|row| (0..inner / block).map(move |col| (row, col)));
    Ok(rows.map(|(row, col)| value(row, col)).collect())
}

fn int8(path: &str, scales: &Stored, shape: [usize; 2], find: &Finder<'_>) -> Result<Found> {
    let (weight, format) = (format!("{path}.weight"), format!("{path}.weight_format"));
    let mut names = vec![weight.clone(), scales.name.clone()];
    if let Some(stored) = (find.find)(&format) {
        if stored.bytes != [0] {
            return Err(Error::Stored(format!("{format}: only 0 (row by row) can be read")));
        }
        names.push(format);
    }
    let stored = find.get(&weight, Type::I8, shape[0] * shape[1])?;
    if stored.shape != shape {
        return Err(Error::Stored(format!(
            "{weight}: {shape:?} expected, found {:?}",
            stored.shape
        )));
    }
    Ok(Found {
        encoded: Encoded {
            scheme: Scheme::new(Kind::Int8),
            shape,
            codes: stored.bytes,
            scales: Scales::Plain(find.floats(&scales.name, shape[0])?),
        },
        dtype: None,
        names,
    })
}
