//! Options and adapters that cannot be are refused by name.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use ft_peft::methods::lora::LoraConfig;
use ft_peft::{PeftConfig, adapter, attach};

use crate::methods_laws::{base, config};
use crate::support::fixture;

fn adapter_of(case: &str) -> PathBuf {
    fixture("peft").join(case)
}

#[test]
fn an_adapter_that_does_not_fit_lists_every_misfit() {
    let mut model = base("families/qwen3", &Device::flex());
    let error = adapter::load(&adapter_of("lora_qv"), &mut model)
        .unwrap_err()
        .to_string();
    assert_eq!(error.matches("the model needs").count(), 4, "{error}");

    let out = tempfile::tempdir().unwrap();
    std::fs::copy(
        adapter_of("lora_qv").join("adapter_config.json"),
        out.path().join("adapter_config.json"),
    )
    .unwrap();
    let weights = out.path().join("adapter_model.safetensors");
    std::fs::copy(
        adapter_of("lora_all_rslora").join("adapter_model.safetensors"),
        &weights,
    )
    .unwrap();
    let mut model = base("peft/base", &Device::flex());
    let error = adapter::load(out.path(), &mut model).unwrap_err().to_string();
    assert!(
        error.contains("model.layers.0.mlp.up_proj.lora_A.weight: nothing in this model takes it"),
        "{error}"
    );

    truncate(&weights);
    let error = adapter::load(out.path(), &mut model).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}

/// A copy of the adapter `case` in which `key` of its configuration is `size`.
fn adapter_with(case: &str, key: &str, size: u64) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(adapter_of(case)).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, out.path().join(from.file_name().unwrap())).unwrap();
    }
    let path = out.path().join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = size.into();
    std::fs::write(&path, config.to_string()).unwrap();
    out
}

#[test]
fn sizes_that_nothing_in_the_file_has_are_refused_before_memory_is_taken() {
    let prompts = ["prompt", "prefix", "prefix_projection", "ptuning_mlp", "ptuning_lstm"];
    let cases = prompts.map(|case| (case, "num_virtual_tokens"));
    for (case, key) in cases.into_iter().chain([("vera", "r"), ("loha", "r")]) {
        for size in [1 << 63, 1 << 31, 1 << 20] {
            let dir = adapter_with(case, key, size);
            let mut model = base("peft/base", &Device::flex());
            let error = adapter::load(dir.path(), &mut model).unwrap_err().to_string();
            assert!(
                [
                    "must be at most 1048576",
                    &format!("{key} = {size}"),
                    "peft.rank: 1048576 is above"
                ]
                .iter()
                .any(|wanted| error.contains(wanted)),
                "{case} {key}: {error}"
            );
        }
    }
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn wrong_targets_and_ranks_are_named() {
    let mut model = base("peft/base", &Device::flex());
    let mut error = |config: LoraConfig| {
        attach(&mut model, &PeftConfig::Lora(config), 0)
            .unwrap_err()
            .to_string()
    };
    let targets = |list: &[&str]| ft_peft::Targets::Suffixes(list.iter().map(|s| s.to_string()).collect());
    let none = error(LoraConfig {
        targets: targets(&["q_prj"]),
        ..LoraConfig::default()
    });
    assert!(none.contains("model.layers.0.self_attn.q_proj"), "{none}");
    let rank = error(LoraConfig {
        rank: 33,
        ..LoraConfig::default()
    });
    assert!(rank.contains("33") && rank.contains("model.layers.0"), "{rank}");
    let zero = error(LoraConfig {
        rank: 0,
        ..LoraConfig::default()
    });
    assert!(zero.contains("peft.rank"), "{zero}");
    let norm = error(LoraConfig {
        targets: targets(&["norm"]),
        ..LoraConfig::default()
    });
    assert!(norm.contains("model.norm"), "{norm}");
    let whole = error(LoraConfig {
        modules_to_save: vec!["lm_haed".into()],
        ..LoraConfig::default()
    });
    assert!(whole.contains("lm_head"), "{whole}");
}

#[test]
fn options_that_cannot_be_are_named() {
    for (options, expected) in [
        (r#"{"method": "ia3", "feedforward": "("}"#, "peft.targets"),
        (
            r#"{"method": "ia3", "targets": ["norm"]}"#,
            "model.norm is a normalization",
        ),
        (
            r#"{"method": "adalora", "init_r": 4, "target_r": 5}"#,
            "peft.target_r: 5 is above init_r (4)",
        ),
        (r#"{"method": "adalora", "init_r": 999}"#, "peft.rank: 999 is above"),
        (
            r#"{"method": "adalora", "beta1": 1}"#,
            "peft.beta1: must be above 0 and below 1",
        ),
        (r#"{"method": "loha", "rank": 0}"#, "peft.rank: must be at least 1"),
        (r#"{"method": "loha", "rank": 999}"#, "peft.rank: 999 is above"),
        (r#"{"method": "loha", "alpha": -1}"#, "peft.alpha: must be a positive"),
        (r#"{"method": "lokr", "factor": 0}"#, "peft.factor: must be at least 1"),
        (
            r#"{"method": "lokr", "targets": ["embed_tokens"]}"#,
            "is an embedding table, which LoKr",
        ),
        (r#"{"method": "lora", "dora": true, "lora_bias": true}"#, "peft.dora"),
        (
            r#"{"method": "lora", "dora": true, "targets": ["embed_tokens"]}"#,
            "peft.dora: model.embed_tokens",
        ),
        (r#"{"method": "vera", "d_initial": 0}"#, "peft.d_initial"),
        (r#"{"method": "vera", "dropout": 1}"#, "peft.dropout"),
        (r#"{"method": "vera", "targets": ["q_prj"]}"#, "self_attn.q_proj"),
        (
            r#"{"method": "oft", "block_size": 5}"#,
            "peft.block_size: 5 does not divide",
        ),
        (
            r#"{"method": "oft", "block_size": 1}"#,
            "peft.block_size: must be at least 2",
        ),
        (r#"{"method": "shira", "rank": 0}"#, "peft.rank: must be at least 1"),
        (r#"{"method": "shira"}"#, "of which rank"),
        (r#"{"method": "miss", "rank": 999}"#, "peft.rank: 999 is more than the"),
        (
            r#"{"method": "miss", "rank": 5, "init_weights": "bat"}"#,
            "peft.rank: 5 does not divide both sides",
        ),
        (
            r#"{"method": "miss", "rank": 4, "init_weights": "bat", "dropout": 0.1}"#,
            "peft.dropout: does nothing",
        ),
        (
            r#"{"method": "miss", "rank": 4, "init_weights": "mini", "mini_r": 7}"#,
            "peft.mini_r: 7 does not divide",
        ),
        (
            r#"{"method": "gralora", "rank": 5}"#,
            "peft.rank: 5 is no multiple of gralora_k = 2",
        ),
        (
            r#"{"method": "gralora", "rank": 9, "gralora_k": 3}"#,
            "peft.gralora_k: 3 does not divide both sides",
        ),
        (
            r#"{"method": "gralora", "gralora_k": 0}"#,
            "peft.gralora_k: must be at least 1",
        ),
        (
            r#"{"method": "osf", "effective_rank": 0}"#,
            "peft.effective_rank: must be at least 1",
        ),
        (
            r#"{"method": "osf", "effective_rank": 1.5}"#,
            "peft.effective_rank: must be a whole number",
        ),
        (r#"{"method": "osf", "effective_rank": 999}"#, "so that nothing trains"),
        (
            r#"{"method": "osf", "rank_pattern": {"q_proj": 0}}"#,
            "peft.rank_pattern.\"q_proj\"",
        ),
        (
            r#"{"method": "ln_tuning", "targets": ["q_proj"]}"#,
            "q_proj is no normalization",
        ),
        (r#"{"method": "bitfit"}"#, "names no layer with a bias"),
        (
            r#"{"method": "lora", "targets": ["output_adapters"]}"#,
            "matches no layer",
        ),
        (
            r#"{"method": "pfeiffer", "reduction_factor": 0}"#,
            "peft.reduction_factor: must be a positive",
        ),
        (
            r#"{"method": "pfeiffer", "reduction_factor": {"first": 2}}"#,
            "peft.reduction_factor.first: is neither a layer number",
        ),
        (
            r#"{"method": "pfeiffer", "output_adapter": false}"#,
            "peft.leave_out: no module is left",
        ),
        (
            r#"{"method": "houlsby", "leave_out": [9]}"#,
            "peft.leave_out: the model has no layer 9",
        ),
        (
            r#"{"method": "parallel", "original_ln_before": true}"#,
            "peft.original_ln_before",
        ),
        (
            r#"{"method": "parallel", "scaling": 0}"#,
            "peft.scaling: must be a positive",
        ),
        (r#"{"method": "parallel", "name": "a.b"}"#, "peft.name: \"a.b\""),
        (r#"{"method": "parallel", "dropout": 1}"#, "peft.dropout"),
    ] {
        let mut model = base("families/llama", &Device::flex());
        let error = attach(&mut model, &config(options), 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{options}: {error}");
        assert_eq!(model.num_params(), 0, "{options} changed the model");
    }
}
