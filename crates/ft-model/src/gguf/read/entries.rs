//! The tensors of a file under the names that checkpoints have.

use std::collections::BTreeMap;

use ft_gguf::{File, Tensor};
use safetensors::Dtype;

use super::architectures::Architecture;
use super::keys::Arch;
use super::{Said, rope};
use crate::checkpoint::Entry;
use crate::error::Result;
use crate::numbers::{Change, Coded};

/// Places of a block of Llama's relatives.
const INSIDE: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

const OUTSIDE_GPT2: [(&str, &str); 4] = [
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];

/// Every tensor of the file as one of a checkpoint. One that has no place there keeps its name, so that loading tells of it.
pub(crate) fn entries(file: &File) -> Result<BTreeMap<String, Entry>> {
    let said = Said { file };
    let own = Architecture::of(&said)?;
    let arch = Arch { said: &said, own };
    let heads = arch.needed("attention.head_count")?;
    let heads = Heads {
        queries: heads,
        keys: arch.size("attention.head_count_kv")?.unwrap_or(heads),
    };
    let mut entries = BTreeMap::new();
    for tensor in file
        .tensors()
        .iter()
        .filter(|t| !rope::TENSORS.contains(&t.name.as_str()))
    {
        for (name, entry) in placed(&arch, &heads, tensor)? {
            if entries.insert(name.clone(), entry).is_some() {
                return Err(said.error(&tensor.name, format!("{name} is there twice")));
            }
        }
    }
    Ok(entries)
}

struct Heads {
    queries: u64,
    keys: u64,
}

/// Name in a checkpoint of the module of this name.
fn path(own: &Architecture, module: &str) -> Option<String> {
    let find = |list: &[(&str, &str)], module: &str| {
        let found = list.iter().find(|(known, _)| *known == module);
        found.map(|(_, path)| path.to_string())
    };
    let outside: &[(&str, &str)] = if own.transposed() { &OUTSIDE_GPT2 } else { &OUTSIDE };
    let Some((layer, inside)) = module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return find(outside, module);
    };
    let layer: usize = layer.parse().ok()?;
    let inside = find(own.names, inside).or_else(|| find(&INSIDE, inside))?;
    let at = if own.transposed() {
        "transformer.h"
    } else {
        "model.layers"
    };
    Some(format!("{at}.{layer}.{inside}"))
}

/// The tensors of the checkpoint that one of the file is: several where it holds the matrices of all experts.
fn placed(arch: &Arch, heads: &Heads, tensor: &Tensor) -> Result<Vec<(String, Entry)>> {
    let own = arch.own;
    let (module, leaf) = tensor.name.rsplit_once('.').unwrap_or((&tensor.name, "weight"));
    let Some(path) = path(own, module) else {
        return Ok(vec![(tensor.name.clone(), entry(tensor, Change::Nothing))]);
    };
    let place = module.rsplit('.').next().unwrap_or(module);
    let change = match (place, tensor.shape.len()) {
        ("attn_q", _) if own.pairs => pairs(arch, tensor, heads.queries)?,
        ("attn_k", _) if own.pairs => pairs(arch, tensor, heads.keys)?,
        _ if place.ends_with("norm") && own.norms_from_one() => Change::FromOne,
        (_, 2) if own.transposed() && module.starts_with("blk.") => Change::Transposed,
        _ => Change::Nothing,
    };
    let mut entry = entry(tensor, change);
    match (&tensor.shape[..], change) {
        ([rows, columns], Change::Transposed) => entry.shape = vec![*columns, *rows],
        ([width], _) if place == "ffn_gate_inp_shexp" => entry.shape = vec![1, *width],
        ([experts, rows, columns], _) if place.ends_with("_exps") => {
            let (at, matrix) = path.rsplit_once('.').expect("below a layer");
            let bytes = entry.bytes.len() / experts;
            let of = |expert: usize| {
                let start = entry.bytes.start + expert * bytes;
                let own = Entry {
                    shape: vec![*rows, *columns],
                    bytes: start..start + bytes,
                    ..entry.clone()
                };
                (format!("{at}.{expert}.{matrix}.{leaf}"), own)
            };
            return Ok((0..*experts).map(of).collect());
        }
        _ => {}
    }
    Ok(vec![(format!("{path}.{leaf}"), entry)])
}

fn pairs(arch: &Arch, tensor: &Tensor, heads: u64) -> Result<Change> {
    let rows = tensor.shape[0];
    let fit = usize::try_from(heads).ok().filter(|heads| {
        let head = rows.checked_div(*heads);
        rows.is_multiple_of((*heads).max(1)) && head.is_some_and(|head| head > 0 && head.is_multiple_of(2))
    });
    // A vector has its numbers for rows, of which each is a block of its own only where it is stored as floats.
    match fit.filter(|_| tensor.shape.len() == 2 || tensor.kind.is_float()) {
        Some(heads) => Ok(Change::Pairs(heads)),
        None => Err(arch.said.error(
            &tensor.name,
            format!("{rows} rows of {} do not make {heads} heads", tensor.kind.name),
        )),
    }
}

fn entry(tensor: &Tensor, change: Change) -> Entry {
    let dtype = match tensor.kind.name {
        "f32" | "f64" => Dtype::F32,
        "f16" => Dtype::F16,
        _ => Dtype::BF16,
    };
    let plain = change == Change::Nothing && ["f32", "f16", "bf16"].contains(&tensor.kind.name);
    Entry {
        dtype,
        shape: tensor.shape.clone(),
        file: 0,
        bytes: tensor.bytes.clone(),
        coded: (!plain).then_some(Coded {
            kind: tensor.kind,
            change,
        }),
    }
}
