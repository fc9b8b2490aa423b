use serde_json::{Map, Value};

use crate::{decays, embedding};

const GOLDEN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/optim/decay.json"
));

#[test]
fn decay_is_the_trainers_for_every_family() {
    let families: Map<String, Value> = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(families.len(), 5);
    for (family, names) in &families {
        for (name, decayed) in names.as_object().unwrap() {
            assert_eq!(decays(name), decayed.as_bool().unwrap(), "{family}: {name}");
        }
    }
}

#[test]
fn adapters_decay_but_for_their_biases() {
    assert!(decays("model.layers.0.self_attn.q_proj.delta.a"));
    assert!(decays("model.layers.0.mlp.normalizer.weight"));
    assert!(!decays("model.layers.0.self_attn.q_proj.bias"));
    assert!(!decays("model.layers.0.self_attn.q_proj.delta.lora_bias"));
    assert!(!decays("encoder.LayerNorm.weight"));
    assert!(!decays("norm"));
}

#[test]
fn tables_of_embeddings_are_told_from_matrices_and_heads() {
    for table in [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "prompt_embeddings",
    ] {
        assert!(embedding(table), "{table}");
    }
    for other in [
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.norm.weight",
    ] {
        assert!(!embedding(other), "{other}");
    }
}
