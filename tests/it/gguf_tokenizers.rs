//! Tokenizers in GGUF files: what was exported comes back with the same ids, and what is not read is named.

use ft_data::Tokenizer;
use serde_json::{Value, json};

use crate::support::fixture;

/// Texts of all kinds of characters, spaces and special tokens.
fn texts(special: &[String]) -> Vec<String> {
    let pieces = [
        "the",
        "The quick brown fox",
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t",
        "don't",
        "WE'RE",
        "1234567",
        "3.14",
        "naïve café",
        "北京",
        "🙂",
        "x²",
        "e\u{301}",
        "\u{a0}",
        "a_b",
        "{\"k\": [1, 2]}",
        "...",
        "!?",
        "Ω",
        "д",
        "ñ",
        "#include <x>",
        "\r\n",
    ];
    let mut state = 1u64;
    let mut next = |bound: usize| {
        state = ft_seed::mix(state);
        (state % bound as u64) as usize
    };
    let mut texts = vec![String::new()];
    for _ in 0..300 {
        let count = 1 + next(8);
        let piece = |next: &mut dyn FnMut(usize) -> usize| match next(8) {
            0 if !special.is_empty() => special[next(special.len())].clone(),
            1 => " ".into(),
            _ => pieces[next(pieces.len())].to_string(),
        };
        texts.push((0..count).map(|_| piece(&mut next)).collect());
    }
    texts
}

/// The parts of a committed tokenizer, changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Tokenizer {
    let folder = fixture("tokenizers").join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).ok();
    let mut json: Value = serde_json::from_slice(&read("tokenizer.json").unwrap()).unwrap();
    change(&mut json);
    let json = serde_json::to_vec(&json).unwrap();
    let others = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
    ]
    .map(|file| (file, read(file)));
    let others: Vec<(&str, Vec<u8>)> = others
        .into_iter()
        .filter_map(|(file, bytes)| Some((file, bytes?)))
        .collect();
    let mut files: Vec<(&str, &[u8])> = others.iter().map(|(file, bytes)| (*file, bytes.as_slice())).collect();
    files.push(("tokenizer.json", &json));
    Tokenizer::from_memory(&files).unwrap()
}

/// Byte-level BPE with splitting rules that llama.cpp has.
pub fn byte_level(pre: &str) -> Tokenizer {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let sequence = |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(regex)]});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let (rules, ignores) = match pre {
        "gpt-2" => (bytes(true), false),
        "smollm" => (
            sequence(json!({"type": "Digits", "individual_digits": true}), true),
            false,
        ),
        "llama-bpe" => (sequence(split(LLAMA3), false), true),
        "dbrx" => (sequence(split(LLAMA3), false), false),
        "qwen2" => (sequence(split(QWEN2), false), false),
        _ => (sequence(split(TEKKEN), false), true),
    };
    changed("chatml", |json| {
        json["pre_tokenizer"] = rules;
        json["model"]["ignore_merges"] = ignores.into();
        if pre != "qwen2" {
            json["normalizer"] = Value::Null;
        }
    })
}

/// SentencePiece's BPE, every way to make a token in the list, as transformers writes it.
fn sentencepiece(prefix: bool) -> Tokenizer {
    changed("llama", |json| {
        let vocab = json["model"]["vocab"].as_object().unwrap().clone();
        let merges = json["model"]["merges"].as_array().unwrap();
        let made = merges.iter().map(|pair| match pair {
            Value::String(pair) => pair.replacen(' ', "", 1),
            pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        });
        let mut tokens: Vec<String> = Vec::new();
        made.for_each(|token| tokens.extend((!tokens.contains(&token)).then_some(token)));
        let ways = |token: &String| -> Vec<Value> {
            let cuts: Vec<usize> = token.char_indices().skip(1).map(|(at, _)| at).collect();
            let pairs = cuts.into_iter().rev().map(|at| token.split_at(at));
            let known = pairs.filter(|(a, b)| vocab.contains_key(*a) && vocab.contains_key(*b));
            known.map(|(a, b)| json!([a, b])).collect()
        };
        json["model"]["merges"] = tokens.iter().flat_map(ways).collect();
        if !prefix {
            json["normalizer"] = json["normalizer"]["normalizers"][1].take();
            let steps = json["decoder"]["decoders"].as_array_mut().unwrap();
            steps.retain(|step| step["type"] != "Strip");
        }
    })
}

#[test]
fn tokenizers_come_back_with_the_same_ids() {
    let byte_levels = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken"];
    let all = byte_levels.map(|pre| (pre, byte_level(pre)));
    let spaces = [("a space before", true), ("none", false)].map(|(name, prefix)| (name, sentencepiece(prefix)));
    for (name, original) in all.into_iter().chain(spaces) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.gguf");
        let metadata = original.gguf(original.vocab_size() + 3).unwrap();
        if byte_levels.contains(&name) {
            assert_eq!(metadata.get("tokenizer.ggml.pre"), Some(&name.into()));
        }
        ft_gguf::write(&path, &metadata, &[], |_| Ok::<_, std::io::Error>(Vec::new())).unwrap();
        let again = Tokenizer::from_dir(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again.vocab_size(), original.vocab_size(), "{name}");
        let roles = |t: &Tokenizer| (t.bos_id(), t.eos_id(), t.pad_id());
        assert_eq!(roles(&again), roles(&original), "{name}");
        assert!(
            original.eos_ids().iter().take(2).all(|id| again.eos_ids().contains(id)),
            "{name}"
        );
        let ids = 0..original.vocab_size() as u32;
        let special: Vec<String> = ids
            .clone()
            .filter(|id| original.is_special(*id))
            .filter_map(|id| original.id_to_token(id))
            .collect();
        assert!(
            ids.clone().all(|id| original.id_to_token(id) == again.id_to_token(id)),
            "{name}"
        );
        let mut seen = 0;
        for text in texts(&special) {
            for add_special in [false, true] {
                let (expected, found) = (original.encode(&text, add_special), again.encode(&text, add_special));
                assert_eq!(found.unwrap(), expected.unwrap(), "{name}: {text:?}");
            }
            let ids = original.encode(&text, true).unwrap();
            seen += ids.len();
            for skip in [false, true] {
                assert_eq!(
                    again.decode(&ids, skip),
                    original.decode(&ids, skip),
                    "{name}: {text:?}"
                );
            }
        }
        assert!(seen > 1000);
        let template = |t: &Tokenizer| t.chat_template().map(|template| template.source().to_string());
        assert_eq!(template(&again), template(&original), "{name}");

        // What a run saves beside an adapter is a tokenizer like any other.
        let saved = dir.path().join("saved");
        again.copy_to(&saved).unwrap();
        let saved = Tokenizer::from_dir(&saved).unwrap();
        let text = "Two  words\n";
        assert_eq!(saved.encode(text, true).unwrap(), original.encode(text, true).unwrap());
        assert_eq!(template(&saved), template(&original));
    }
}

#[test]
fn tokenizers_that_are_not_read_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let original = byte_level("smollm");
    let with = |key: &str, value: ft_gguf::Value| {
        let mut metadata = original.gguf(original.vocab_size()).unwrap();
        metadata.put(key, value);
        ft_gguf::write(&path, &metadata, &[], |_| Ok::<_, std::io::Error>(Vec::new())).unwrap();
        Tokenizer::from_dir(&path).unwrap_err().to_string()
    };
    let error = with("tokenizer.ggml.model", "bert".into());
    assert!(
        error.contains("t.gguf") && error.contains("tokenizer.ggml.model: \"bert\""),
        "{error}"
    );
    let error = with("tokenizer.ggml.pre", "poro-chat".into());
    assert!(
        error.contains("tokenizer.ggml.pre: \"poro-chat\" is not read; gpt-2"),
        "{error}"
    );
    let error = with("tokenizer.ggml.merges", ft_gguf::Value::Texts(vec!["ab".into()]));
    assert!(error.contains("entry 0, \"ab\", is no pair"), "{error}");
    let error = with("tokenizer.ggml.token_type", ft_gguf::Value::Ints(vec![1]));
    assert!(error.contains("tokenizer.ggml.token_type"), "{error}");
    let error = with("tokenizer.ggml.tokens", ft_gguf::Value::Texts(Vec::new()));
    assert!(error.contains("tokenizer.ggml.tokens: missing"), "{error}");
}
