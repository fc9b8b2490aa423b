use ft_gguf::{Dtype, Metadata, TensorInfo, write};

use crate::{ModelConfig, RopeScaling};

/// A file of a tiny Llama that holds its embeddings alone, with further keys and factors of its rotary frequencies.
fn config(keys: &[(&str, ft_gguf::Value)], factors: Option<&[f32]>) -> crate::Result<ModelConfig> {
    let mut metadata = Metadata::default();
    metadata.put("general.architecture", "llama");
    let sizes = [
        ("block_count", 2u32),
        ("context_length", 131_072),
        ("embedding_length", 256),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("rope.dimension_count", 64),
    ];
    sizes
        .iter()
        .for_each(|(key, size)| metadata.put(format!("llama.{key}"), *size));
    metadata.put("llama.rope.freq_base", 500_000f32);
    metadata.put("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    keys.iter().for_each(|(key, value)| metadata.put(*key, value.clone()));
    let mut tensors = vec![TensorInfo::new("token_embd.weight", &[40, 256], Dtype::Q8_0)];
    tensors.extend(factors.map(|factors| TensorInfo::new("rope_freqs.weight", &[factors.len()], Dtype::F32)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let values = |i: usize| {
        Ok::<_, std::io::Error>(match i {
            0 => vec![0.0; 40 * 256],
            _ => factors.unwrap().to_vec(),
        })
    };
    write(&path, &metadata, &tensors, values).unwrap();
    ModelConfig::from_dir(&path)
}

#[test]
fn sizes_and_constants() {
    let config = config(&[], None).unwrap();
    assert_eq!(
        (config.model_type.as_str(), config.vocab_size, config.head_dim),
        ("llama", 40, 64)
    );
    assert_eq!(
        (config.num_key_value_heads, config.norm_eps, config.tie_word_embeddings),
        (4, 1e-5, true)
    );
    assert_eq!(config.rope.unwrap().theta, 500_000.0);
}

/// Of the five numbers of Llama 3.1's scaling, the file holds what comes of them.
#[test]
fn factors_are_the_scaling_they_come_from() {
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let rope = |scaling| crate::Rope {
        theta: 500_000.0,
        partial: 1.0,
        scaling,
    };
    let plain = rope(RopeScaling::Default).inverse_frequencies(64, 1);
    let scaled = rope(scaling.clone()).inverse_frequencies(64, 1);
    let mut factors: Vec<f32> = plain
        .iter()
        .zip(&scaled)
        .map(|(plain, scaled)| plain / scaled)
        .collect();
    let found = config(&[], Some(&factors)).unwrap().rope.unwrap();
    assert_eq!(found.scaling, scaling);

    // Others are kept as they are.
    factors[3] = 1.5;
    let found = config(&[], Some(&factors)).unwrap().rope.unwrap();
    assert!(
        matches!(&found.scaling, RopeScaling::LongRope { short_factor, attention_factor, .. }
        if *attention_factor == 1.0 && (short_factor[3] - 1.5).abs() < 1e-12)
    );
    let frequencies = found.inverse_frequencies(64, 200_000);
    assert!((plain[3] / frequencies[3] - 1.5).abs() < 1e-6);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |key: &str, value: ft_gguf::Value| config(&[(key, value)], None).unwrap_err().to_string();
    let error = refused("llama.attention.value_length", 32u32.into());
    assert!(
        error.contains("llama.attention.value_length: 32, and keys have 64"),
        "{error}"
    );
    let error = refused("llama.attention.head_count_kv", ft_gguf::Value::Ints(vec![4, 2]));
    assert!(error.contains("layers differ"), "{error}");
    let error = refused("llama.attention.clamp_kqv", 8.0f32.into());
    assert!(error.contains("llama.attention.clamp_kqv"), "{error}");
    let error = refused("llama.block_count", ft_gguf::Value::I64(1 << 40));
    assert!(error.contains("num_hidden_layers"), "{error}");
    let error = refused("llama.rope.scaling.type", "yarn".into());
    assert!(error.contains("llama.rope.scaling.factor: missing"), "{error}");
    assert!(config(&[("llama.attention.clamp_kqv", 0.0f32.into())], None).is_ok());
}
