use ft_gguf::Value;
use serde_json::{Value as Json, json};

use super::*;
use crate::Tokenizer;
use crate::error::Result;

fn tokenizer(file: &Json) -> Tokenizer {
    let text = file.to_string();
    Tokenizer::from_memory(&[("tokenizer.json", text.as_bytes())]).unwrap()
}

fn byte_level(pre: Json, ignore_merges: bool) -> Json {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [
            {"id": 3, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 4, "content": "<tool>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false},
        ],
        "pre_tokenizer": pre,
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    })
}

fn sequence(steps: &[Json]) -> Json {
    json!({"type": "Sequence", "pretokenizers": steps})
}

#[test]
fn the_splitting_rules_have_names() {
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let name = |pre: Json, ignore: bool| {
        let metadata = tokenizer(&byte_level(pre, ignore)).gguf(6);
        metadata.map(|metadata| metadata.get("tokenizer.ggml.pre").cloned().unwrap())
    };
    let is = |found: Result<Value>, name: &str| assert_eq!(found.unwrap(), Value::from(name));
    is(name(bytes(true), false), "gpt-2");
    is(name(sequence(&[digits, bytes(true)]), false), "smollm");
    is(name(sequence(&[split(LLAMA3), bytes(false)]), true), "llama-bpe");
    is(name(sequence(&[split(LLAMA3), bytes(false)]), false), "dbrx");
    is(name(sequence(&[split(QWEN2), bytes(false)]), false), "qwen2");
    is(name(sequence(&[split(TEKKEN), bytes(false)]), true), "tekken");
    let unknown = name(sequence(&[split(r"\w+"), bytes(false)]), false)
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("tokenizer.json") && unknown.contains("pre_tokenizer"),
        "{unknown}"
    );
    assert!(name(bytes(true), true).is_err());
}

#[test]
fn tokens_have_types_and_the_table_is_filled_up() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = tokenizer(&byte_level(bytes, false));
    let metadata = tokenizer.gguf(7).unwrap();
    let texts = ["a", "b", "ab", "<|end|>", "<tool>", "[PAD5]", "[PAD6]"]
        .map(String::from)
        .to_vec();
    assert_eq!(metadata.get("tokenizer.ggml.tokens"), Some(&Value::Texts(texts)));
    let types = vec![NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED, UNUSED];
    assert_eq!(metadata.get("tokenizer.ggml.token_type"), Some(&Value::Ints(types)));
    assert_eq!(
        metadata.get("tokenizer.ggml.merges"),
        Some(&Value::Texts(vec!["a b".into()]))
    );
    assert!(tokenizer.gguf(4).unwrap_err().to_string().contains("4 rows"));
}

#[test]
fn scores_are_the_places_of_the_merges_where_these_are_complete() {
    let file = |merges: Json| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "pre_tokenizer": null,
            "post_processor": null, "decoder": null,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true,
                      "vocab": {"<unk>": 0, "<0x0A>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "ab": 6, "▁ab": 7},
                      "merges": merges},
        })
    };
    let whole = json!([["▁", "a"], ["a", "b"], ["▁a", "b"], ["▁", "ab"]]);
    let metadata = tokenizer(&file(whole)).gguf(8).unwrap();
    let scores = vec![0.0, 0.0, 0.0, 0.0, 0.0, -0.0, -1.0, -2.0];
    assert_eq!(metadata.get("tokenizer.ggml.scores"), Some(&Value::Floats(scores)));
    let types = vec![UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL];
    assert_eq!(metadata.get("tokenizer.ggml.token_type"), Some(&Value::Ints(types)));
    assert_eq!(
        metadata.get("tokenizer.ggml.add_space_prefix"),
        Some(&Value::Bool(true))
    );
    let partial = json!([["▁", "a"], ["a", "b"], ["▁a", "b"]]);
    let error = tokenizer(&file(partial)).gguf(8).unwrap_err().to_string();
    assert!(error.contains("\"▁ab\" is not made from \"▁\" and \"ab\""), "{error}");
}
