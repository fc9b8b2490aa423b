//! Text without meaning: a tokenizer of words and samples of so many tokens.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Entries of the vocabulary.
const WORDS: usize = 1000;

/// Writes a tokenizer of words into a folder.
pub fn tokenizer(dir: &Path) {
    let special = |id: usize, token: &str| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true })
    };
    let mut words: serde_json::Map<String, Value> = (2..WORDS).map(|id| (format!("w{id}"), id.into())).collect();
    words.extend([("<pad>".into(), 0.into()), ("</s>".into(), 1.into())]);
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<pad>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w2" }
    });
    let names = json!({ "eos_token": "</s>", "pad_token": "<pad>" });
    for (name, content) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", names)] {
        fs::write(dir.join(name), content.to_string()).expect("a temporary folder can be written");
    }
}

/// Samples of `width` tokens, all of them learned but the first few; or pairs of such.
pub fn data(path: &Path, samples: usize, width: usize, pairs: bool) {
    let words = |from: usize, count: usize| {
        let word = |i: usize| format!("w{}", 2 + (from + i * 7) % (WORDS - 2));
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let line = |i: usize| {
        let (prompt, [chosen, rejected]) = (words(i, 4), [3, 5].map(|step| words(i * step + step, width - 5)));
        let record = match pairs {
            true => json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }),
            false => json!({ "prompt": prompt, "completion": chosen }),
        };
        format!("{record}\n")
    };
    fs::write(path, (0..samples).map(line).collect::<String>()).expect("a temporary folder can be written");
}
