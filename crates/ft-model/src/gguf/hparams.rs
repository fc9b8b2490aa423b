//! The architecture as metadata.

use std::path::Path;

use ft_gguf::{FileType, Metadata};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::rope::RopeScaling;

/// Version of ggml's quantized formats.
const QUANTIZATION_VERSION: u32 = 2;

/// llama.cpp's name of the architecture.
pub(super) fn architecture(config: &ModelConfig, dir: &Path) -> Result<&'static str> {
    let error = |key: &str, why: String| {
        Err(Error::Config {
            path: dir.join("config.json"),
            key: key.into(),
            why: format!("{why} in llama.cpp"),
        })
    };
    if config.head.is_some() {
        return error("architectures", "a head for labels has no place".into());
    }
    let Some(name) = config.gguf_architecture() else {
        let why = format!(
            "\"{}\" has no export to GGUF yet, only to Hugging Face folders; it is known",
            config.model_type
        );
        return error("model_type", why);
    };
    let scaling = config.rope.as_ref().map(|rope| &rope.scaling);
    if name != "llama" && matches!(scaling, Some(RopeScaling::Llama3 { .. })) {
        return error(
            "rope_parameters.rope_type",
            format!("\"llama3\" does not go with {name}"),
        );
    }
    if let Some(RopeScaling::LongRope { .. }) = scaling {
        return error(
            "rope_parameters.rope_type",
            format!("\"longrope\" does not go with {name}"),
        );
    }
    if scaling.is_some_and(|scaling| !scaling.is_plain_yarn()) {
        let why = "YaRN goes with its own defaults for beta_fast, beta_slow and attention_factor alone".into();
        return error("rope_parameters", why);
    }
    if config.rope.as_ref().is_some_and(|rope| rope.partial != 1.0) {
        return error("partial_rotary_factor", format!("whole heads turn with {name}"));
    }
    if name == "gemma2"
        && let Err((key, why)) = gemma2(config)
    {
        return error(key, why);
    }
    if name == "qwen3" && config.qkv_bias {
        return error("attention_bias", "qwen3 has no biases".into());
    }
    Ok(name)
}

/// What llama.cpp takes for granted of Gemma 2: key and reason.
fn gemma2(config: &ModelConfig) -> std::result::Result<(), (&'static str, String)> {
    let block = &config.block;
    let slides = |(layer, window): (usize, &Option<usize>)| window.is_some() == (layer % 2 == 0);
    // Of the largest one, by its number of layers.
    let width = match config.num_hidden_layers {
        46 => config.hidden_size / config.num_attention_heads,
        _ => config.head_dim,
    };
    let scale = (width as f64).powf(-0.5);
    match () {
        () if !config.tie_word_embeddings => Err(("tie_word_embeddings", "gemma2 has no head of its own".into())),
        () if block.score_cap.is_none() => Err(("attn_logit_softcapping", "gemma2 has one".into())),
        () if block.logit_cap.is_none() => Err(("final_logit_softcapping", "gemma2 has one".into())),
        () if !config.windows.iter().enumerate().all(slides) => Err((
            "layer_types",
            "gemma2 has a window in every other layer, the first one on".into(),
        )),
        () if block.attention_scale.is_some_and(|own| (own - scale).abs() > 1e-6) => {
            Err(("query_pre_attn_scalar", format!("{width} is taken for granted")))
        }
        () => Ok(()),
    }
}

/// What every file says about itself.
pub(super) fn general(architecture: &str, kind: &str, name: &str, file_type: FileType) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.put("general.architecture", architecture);
    metadata.put("general.type", kind);
    metadata.put("general.name", name);
    metadata.put("general.file_type", file_type.number());
    metadata.put("general.quantization_version", QUANTIZATION_VERSION);
    metadata
}

/// The sizes and constants of the model. llama.cpp has no sliding windows for these architectures but Gemma 2, so a model that has
/// them is given the context in which they do not show.
pub(super) fn architecture_metadata(architecture: &str, config: &ModelConfig) -> Metadata {
    let mut metadata = Metadata::default();
    let mut put = |key: &str, value: ft_gguf::Value| metadata.put(format!("{architecture}.{key}"), value);
    let mut windows = config.windows.iter().flatten().copied();
    let context = match architecture {
        "gemma2" => config.max_position_embeddings,
        _ => windows.clone().fold(config.max_position_embeddings, usize::min),
    };
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("block_count", config.num_hidden_layers),
        ("context_length", context),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ];
    // Sizes were checked to fit when config.json was read.
    sizes.into_iter().for_each(|(key, size)| put(key, (size as u32).into()));
    if let (Some(score), Some(logit)) = (config.block.score_cap, config.block.logit_cap) {
        put("attn_logit_softcapping", (score as f32).into());
        put("final_logit_softcapping", (logit as f32).into());
        let window = windows.next().unwrap_or(config.max_position_embeddings);
        put("attention.sliding_window", (window as u32).into());
    }
    let Some(rope) = &config.rope else {
        put("attention.layer_norm_epsilon", (config.norm_eps as f32).into());
        return metadata;
    };
    put("attention.layer_norm_rms_epsilon", (config.norm_eps as f32).into());
    put("rope.dimension_count", (config.head_dim as u32).into());
    put("rope.freq_base", (rope.theta as f32).into());
    if let RopeScaling::Linear { factor } = rope.scaling {
        put("rope.scaling.type", "linear".into());
        put("rope.scaling.factor", (factor as f32).into());
    }
    if let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        ..
    } = rope.scaling
    {
        put("rope.scaling.type", "yarn".into());
        put("rope.scaling.factor", (factor as f32).into());
        let original = original_max_position_embeddings as u32;
        put("rope.scaling.original_context_length", original.into());
    }
    metadata
}

/// What llama.cpp divides each rotary frequency by, `[head_dim / 2]`, where that is not said in numbers.
pub(super) fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let rope = config.rope.as_ref()?;
    let RopeScaling::Llama3 { .. } = rope.scaling else {
        return None;
    };
    let plain = crate::rope::Rope {
        scaling: RopeScaling::Default,
        ..rope.clone()
    };
    let scaled = rope.inverse_frequencies(config.head_dim, config.max_position_embeddings);
    let plain = plain.inverse_frequencies(config.head_dim, config.max_position_embeddings);
    Some(plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect())
}
