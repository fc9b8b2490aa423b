//! Where a checkpoint's tensor goes in a GGUF file.

use crate::block::Norms;
use crate::config::ModelConfig;

/// Modules outside of the blocks.
const OUTSIDE: [(&str, &str); 7] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("rope_freqs", "rope_freqs"),
];

/// Places of a block.
const INSIDE: [(&str, &str); 17] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// The same where normalizations stand around the sub-layers.
const AROUND: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The name of the module at a checkpoint path, without `.weight`.
pub(super) fn name(path: &str, config: &ModelConfig) -> Option<String> {
    if let Some((_, name)) = OUTSIDE.iter().find(|(known, _)| *known == path) {
        return Some(name.to_string());
    }
    let rest = path
        .strip_prefix("model.layers.")
        .or_else(|| path.strip_prefix("transformer.h."))?;
    let (block, module) = rest.split_once('.')?;
    let around = AROUND.iter().filter(|_| config.block.norms == Norms::Around);
    let (_, name) = around.chain(&INSIDE).find(|(known, _)| *known == module)?;
    Some(format!("blk.{block}.{name}"))
}

/// Whether llama.cpp's architecture has a bias at a place of this name.
pub(super) fn takes_bias(architecture: &str, name: &str) -> bool {
    let module = name.rsplit('.').next().unwrap_or(name);
    match architecture {
        "qwen2" => ["attn_q", "attn_k", "attn_v"].contains(&module),
        "qwen3" | "gemma2" => false,
        _ => module != "output",
    }
}

/// How many heads' rows are to be put in another order, if any: Hugging Face turns the first half of a head's values
/// against the second, llama.cpp's "llama" architecture each even value against the odd one after it.
pub(super) fn interleaved(architecture: &str, path: &str, config: &ModelConfig) -> Option<usize> {
    if architecture != "llama" {
        return None;
    }
    match path.rsplit('.').next() {
        Some("q_proj") => Some(config.num_attention_heads),
        Some("k_proj") => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// Rows `[rows, columns]` of `heads` heads in llama.cpp's order: row 2i + j of a head was row i + j · head_dim / 2.
pub(super) fn interleave(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (columns, head) = (values.len() / rows, rows / heads);
    let row = |row: usize| {
        let (start, within) = (row / head * head, row % head);
        let source = start + within / 2 + within % 2 * (head / 2);
        &values[source * columns..(source + 1) * columns]
    };
    (0..rows).flat_map(row).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_head_become_pairs() {
        let rows: Vec<f32> = (0..8).map(|v| v as f32).collect();
        assert_eq!(interleave(&rows, 2, 8), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(interleave(&rows, 1, 4), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    }

    #[test]
    fn paths_have_names() {
        let named = |family: &str, path: &str| {
            let text = format!(
                r#"{{"model_type": "{family}", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "num_key_value_heads": 1}}"#
            );
            name(path, &ModelConfig::from_json(&text, "config.json".as_ref()).unwrap())
        };
        let llama = |path: &str| named("llama", path);
        assert_eq!(llama("model.layers.12.mlp.down_proj").unwrap(), "blk.12.ffn_down");
        assert_eq!(llama("transformer.h.0.attn.c_attn").unwrap(), "blk.0.attn_qkv");
        assert_eq!(llama("lm_head").unwrap(), "output");
        assert_eq!(llama("model.layers.0.mlp.gate"), None);
        let norm = "model.layers.0.post_attention_layernorm";
        assert_eq!(llama(norm).unwrap(), "blk.0.ffn_norm");
        assert_eq!(named("gemma2", norm).unwrap(), "blk.0.post_attention_norm");
    }
}
