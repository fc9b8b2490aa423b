use std::path::PathBuf;

use serde_json::json;

use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tokenizers")
        .join(name)
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::from_dir(&folder(name)).unwrap()
}

#[derive(serde::Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    special: Vec<u32>,
    decoded: String,
    skipped: String,
}

fn goldens(name: &str) -> Vec<Golden> {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(folder("goldens.json")).unwrap()).unwrap();
    serde_json::from_value(all[name].clone()).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_the_python_package() {
    for name in ["chatml", "llama"] {
        let tokenizer = load(name);
        for golden in goldens(name) {
            assert_eq!(
                tokenizer.encode(&golden.text, false).unwrap(),
                golden.ids,
                "{name} {:?}",
                golden.text
            );
            assert_eq!(tokenizer.decode(&golden.ids, false), golden.decoded);
            assert_eq!(tokenizer.decode(&golden.ids, true), golden.skipped);
            if !golden.text.starts_with("<s>") {
                assert_eq!(
                    tokenizer.encode(&golden.text, true).unwrap(),
                    golden.special,
                    "{name} {:?}",
                    golden.text
                );
            }
        }
    }
}

#[test]
fn there_is_never_a_double_bos() {
    let tokenizer = load("llama");
    let ids = tokenizer.encode("<s>once", true).unwrap();
    assert_eq!(ids, tokenizer.encode("<s>once", false).unwrap());
    assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.bos_id()).count(), 1);
    assert_eq!(tokenizer.encode("once", true).unwrap()[0], 1);
}

#[test]
fn special_tokens_from_every_file() {
    let chatml = load("chatml");
    assert_eq!(
        (chatml.bos_id(), chatml.eos_id(), chatml.pad_id()),
        (Some(1), Some(2), Some(0))
    );
    assert_eq!(chatml.eos_ids(), [2, 0], "those of generation_config.json too");
    assert_eq!(chatml.vocab_size(), 480);
    assert!(chatml.is_special(7) && !chatml.is_special(20));
    let llama = load("llama");
    assert_eq!(
        (llama.bos_id(), llama.eos_id(), llama.pad_id(), llama.padding()),
        (Some(1), Some(2), Some(2), 2)
    );
    assert!(llama.chat_template().is_none());
}

/// The chatml tokenizer with other files beside it.
fn with(files: &[(&str, Value)]) -> Result<Tokenizer> {
    let tokenizer = std::fs::read(folder("chatml").join("tokenizer.json")).unwrap();
    let rest: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, json)| (*name, json.to_string().into_bytes()))
        .collect();
    let mut all: Vec<(&str, &[u8])> = vec![("tokenizer.json", &tokenizer)];
    all.extend(rest.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    Tokenizer::from_memory(&all)
}

#[test]
fn special_tokens_by_whatever_is_there() {
    let alone = with(&[]).unwrap();
    assert_eq!(
        (alone.bos_id(), alone.eos_id(), alone.pad_id(), alone.padding()),
        (None, None, None, 0),
        "several usual ends: no guess"
    );
    let ids = |t: Tokenizer| (t.bos_id(), t.eos_ids().to_vec(), t.pad_id());
    let config = with(&[(
        "config.json",
        json!({"bos_token_id": 3, "eos_token_id": [4, 7], "pad_token_id": 9999}),
    )])
    .unwrap();
    assert_eq!(
        ids(config),
        (Some(3), vec![4, 7], None),
        "an id outside of the vocabulary is none"
    );
    let nested = with(&[("config.json", json!({"text_config": {"eos_token_id": 7}}))]).unwrap();
    assert_eq!(ids(nested), (None, vec![7], None));
    let files = [
        (
            "tokenizer_config.json",
            json!({"bos_token": null, "eos_token": "<|eot_id|>", "pad_token": "[PAD]"}),
        ),
        ("generation_config.json", json!({"bos_token_id": 1, "eos_token_id": 2})),
    ];
    assert_eq!(
        ids(with(&files).unwrap()),
        (None, vec![7, 2], None),
        "a tokenizer without BOS stays without"
    );
}

#[test]
fn a_lone_tokenizer_with_one_usual_end_uses_it() {
    let bytes = std::fs::read(folder("llama").join("tokenizer.json")).unwrap();
    let alone = Tokenizer::from_memory(&[("tokenizer.json", &bytes)]).unwrap();
    assert_eq!(
        (alone.bos_id(), alone.eos_id(), alone.eos_ids()),
        (None, Some(2), [2].as_slice())
    );
    assert_eq!(
        alone.encode("x", true).unwrap()[0],
        1,
        "the post-processor still opens a text"
    );
}

#[test]
fn broken_files_are_errors_by_name() {
    let error = |files: &[(&str, &[u8])]| Tokenizer::from_memory(files).unwrap_err().to_string();
    assert!(error(&[]).starts_with("tokenizer.json: not found"));
    assert!(error(&[("tokenizer.json", b"{")]).starts_with("tokenizer.json: "));
    let good = std::fs::read(folder("chatml").join("tokenizer.json")).unwrap();
    assert!(error(&[("tokenizer.json", &good[..5000])]).starts_with("tokenizer.json: "));
    assert!(error(&[("tokenizer.json", &good), ("config.json", b"[1,")]).starts_with("config.json: invalid JSON"));
    assert!(
        error(&[("tokenizer.json", &good), ("chat_template.jinja", b"\xff")])
            .starts_with("chat_template.jinja: not UTF-8")
    );
    assert!(error(&[("tokenizer.json", &good), ("chat_template.jinja", b"{% if")]).starts_with("chat template: "));
    assert!(
        Tokenizer::from_dir(Path::new("no/such"))
            .unwrap_err()
            .to_string()
            .contains("tokenizer.json: not found")
    );
}

#[test]
fn hostile_configs_do_not_panic() {
    let odd =
        json!({"eos_token": {"no": "content"}, "pad_token": 7, "bos_token": ["x"], "chat_template": [{"name": 3}]});
    let tokenizer = with(&[
        ("tokenizer_config.json", odd),
        ("config.json", json!({"eos_token_id": [-1, "x", 1e99, 4294967296u64]})),
    ])
    .unwrap();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()),
        (None, None, None)
    );
    assert_eq!(with(&[("config.json", json!([1, 2]))]).unwrap().eos_id(), None);
    assert_eq!(tokenizer.decode(&[u32::MAX, 50], false), tokenizer.decode(&[50], false));
}

#[test]
fn chat_template_by_place_and_name() {
    let source = |files: &[(&str, Value)]| with(files).unwrap().chat_template().map(|t| t.source().to_owned());
    let named = json!({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]});
    assert_eq!(source(&[("tokenizer_config.json", named)]).as_deref(), Some("D"));
    assert_eq!(
        source(&[("chat_template.json", json!({"chat_template": "J"}))]).as_deref(),
        Some("J")
    );
    let tokenizer = std::fs::read(folder("chatml").join("tokenizer.json")).unwrap();
    let both: [(&str, &[u8]); 3] = [
        ("tokenizer.json", &tokenizer),
        ("chat_template.jinja", b"F"),
        ("tokenizer_config.json", br#"{"chat_template": "C"}"#),
    ];
    assert_eq!(
        Tokenizer::from_memory(&both).unwrap().chat_template().unwrap().source(),
        "F"
    );
}

#[test]
fn chats_are_encoded_up_to_the_answer() {
    let tokenizer = load("chatml");
    let ids = tokenizer.encode_chat(&Conversation::new().with("user", "Hi")).unwrap();
    assert_eq!(
        tokenizer.decode(&ids, false),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let error = load("llama")
        .encode_chat(&Conversation::new().with("user", "Hi"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("data.chat_template"), "{error}");
}

#[test]
fn a_stream_gives_the_text_of_all_tokens_in_whole_characters() {
    for name in ["chatml", "llama"] {
        let tokenizer = load(name);
        for golden in goldens(name) {
            for skip in [false, true] {
                let mut stream = tokenizer.text_stream(skip);
                let pieces: Vec<String> = golden.ids.iter().map(|&id| stream.push(id)).collect();
                assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{name} {pieces:?}");
                let text = pieces.concat() + &stream.finish();
                assert_eq!(
                    text,
                    if skip {
                        golden.skipped.clone()
                    } else {
                        golden.decoded.clone()
                    },
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_stream_of_broken_characters_ends_anyway() {
    let tokenizer = load("chatml");
    let emoji = tokenizer.encode("🙂", false).unwrap();
    let mut stream = tokenizer.text_stream(false);
    assert_eq!(stream.push(emoji[0]), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    let mut stream = tokenizer.text_stream(false);
    let shown: String = (0..100).map(|_| stream.push(emoji[0])).collect();
    assert!(shown.contains('\u{fffd}') && shown.chars().all(|c| c == '\u{fffd}'));
}

#[test]
fn files_are_copied_with_the_template_in_use() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("final");
    let tokenizer = load("chatml").with_chat_template("{{ messages[0].content }}!").unwrap();
    tokenizer.copy_to(&target).unwrap();
    let again = Tokenizer::from_dir(&target).unwrap();
    assert_eq!(again.chat_template().unwrap().source(), "{{ messages[0].content }}!");
    assert_eq!(
        again.encode("The cook", true).unwrap(),
        tokenizer.encode("The cook", true).unwrap()
    );
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let (a, b) = (
            std::fs::read(target.join(file)),
            std::fs::read(folder("chatml").join(file)),
        );
        assert_eq!(a.unwrap(), b.unwrap(), "{file}");
    }
    assert!(!target.join("config.json").exists(), "the model's, not the tokenizer's");
}

#[test]
fn additional_templates_are_copied() {
    let from = tempfile::tempdir().unwrap();
    load("llama").copy_to(from.path()).unwrap();
    std::fs::create_dir(from.path().join("additional_chat_templates")).unwrap();
    std::fs::write(from.path().join("additional_chat_templates/rag.jinja"), "R").unwrap();
    let to = tempfile::tempdir().unwrap();
    Tokenizer::from_dir(from.path()).unwrap().copy_to(to.path()).unwrap();
    assert_eq!(
        std::fs::read(to.path().join("additional_chat_templates/rag.jinja")).unwrap(),
        b"R"
    );
}

#[test]
fn stored_truncation_and_padding_are_ignored() {
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(folder("chatml").join("tokenizer.json")).unwrap()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
    let tokenizer = Tokenizer::from_memory(&[("tokenizer.json", json.to_string().as_bytes())]).unwrap();
    assert_eq!(tokenizer.encode("The cook adds salt.", true).unwrap().len(), 8);
}

#[test]
fn offsets_cover_every_byte() {
    let tokenizer = load("chatml");
    let text = "  The cook  adds\n\n salt 🙂. ";
    let tokens = tokenizer.tokens(text).unwrap();
    let mut at = 0;
    for token in &tokens {
        assert!(token.start <= at && token.end >= at, "{token:?} after byte {at}");
        at = token.end;
    }
    assert_eq!(
        (tokens[0].start, at),
        (0, text.len()),
        "leading and trailing spaces belong to tokens"
    );
}

/// The library spells a special token as its normalizer does, and then no longer knows it as special.
#[test]
fn special_tokens_that_a_normalizer_changes_are_left_out_too() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = serde_json::json!({
        "added_tokens": [{"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true}],
        "normalizer": {"type": "Prepend", "prepend": "▁"},
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {"type": "BPE", "vocab": {"▁a": 0, "b": 1, "</s>": 2}, "merges": []},
    });
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.decode(&[0, 1, 2], true), " ab");
    assert!(tokenizer.decode(&[0, 1, 2], false).contains("</s>"));
}
