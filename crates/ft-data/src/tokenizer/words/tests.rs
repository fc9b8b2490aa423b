use super::*;
use crate::Tokenizer;

const WORDS: &[&str] = &[
    "The",
    "cook",
    "don't",
    "WE'LL",
    "Zürich",
    "naïve",
    "日本語",
    "🙂",
    "🙂🙂",
    "e\u{301}",
    "ﬁ",
    "١٢٣",
    "²",
    "Ⅳ",
    "3.14",
    "1999",
    "-",
    "—",
    "…",
    "((",
    "!?",
    "\u{a0}",
    "\u{2003}",
    "\u{200d}",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    " ",
    "  ",
    "     ",
    "x=1;",
    "<|im_start|>",
    "<|im_end|>",
    "<|im",
    "<s>",
    "</s>",
    "<unk>",
    "<",
    "|>",
    "'",
    "'s",
    "'S",
    "\u{0}",
    "\u{feff}",
    "a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn texts(count: usize) -> impl Iterator<Item = String> {
    let mut rng = ft_seed::stream(11, "words");
    let mut below = move |n| ft_seed::below(&mut rng, n);
    (0..count).map(move |_| {
        let words = (0..below(12)).map(|_| WORDS[below(WORDS.len())].to_owned() + [" ", "", "", "  "][below(4)]);
        words.collect::<Vec<_>>().concat()
    })
}

/// The crate's own pipeline says what is right.
fn same_as_the_pipeline(tokenizer: &Tokenizer, what: &str) -> usize {
    let (inner, mut taken) = (&tokenizer.parts.inner, 0);
    let words = tokenizer
        .parts
        .words
        .as_ref()
        .unwrap_or_else(|| panic!("{what} is not cut into words"));
    for text in texts(4000) {
        let whole = inner.encode(text.as_str(), false).unwrap();
        let spans = whole.get_ids().iter().zip(whole.get_offsets());
        let expected: Vec<Token> = spans.map(|(&id, &(start, end))| Token { id, start, end }).collect();
        let Some(tokens) = words.tokens(inner, &text) else {
            continue;
        };
        assert_eq!(tokens, expected, "{what}: {text:?}");
        assert_eq!(words.ids(inner, &text).unwrap(), whole.get_ids(), "{what}: {text:?}");
        taken += 1;
    }
    taken
}

fn fixture() -> (Value, Vec<(String, Vec<u8>)>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((
            path.file_name().unwrap().to_string_lossy().into_owned(),
            std::fs::read(path).unwrap(),
        ));
    }
    let json = &files.iter().find(|(name, _)| name == "tokenizer.json").unwrap().1;
    (serde_json::from_slice(json).unwrap(), files)
}

/// The fixture's vocabulary behind another normalizer and another pre-tokenizer.
fn with(normalizer: Value, pre_tokenizer: Value) -> Tokenizer {
    let (mut json, mut files) = fixture();
    json["normalizer"] = normalizer;
    json["pre_tokenizer"] = pre_tokenizer;
    let bytes = json.to_string().into_bytes();
    files.iter_mut().find(|(name, _)| name == "tokenizer.json").unwrap().1 = bytes;
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    Tokenizer::from_memory(&files).unwrap()
}

#[test]
fn words_are_encoded_as_the_pipeline_encodes_them() {
    use serde_json::json;
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    // As Llama 3 and Qwen cut.
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let pipelines = [
        ("GPT-2", byte_level(true)),
        ("SmolLM2", sequence(vec![digits(true), byte_level(true)])),
        ("runs of digits", sequence(vec![digits(false), byte_level(true)])),
        ("Llama 3", sequence(vec![split(llama3), byte_level(false)])),
        (
            "several",
            sequence(vec![split(r"\p{N}{1,3}"), split("[a-c]+"), byte_level(false)]),
        ),
        ("uncut", byte_level(false)),
    ];
    for (what, pre_tokenizer) in pipelines {
        let taken = same_as_the_pipeline(&with(Value::Null, pre_tokenizer.clone()), what);
        assert!(taken > 3000, "{what}: {taken}");
        let taken = same_as_the_pipeline(&with(json!({"type": "NFC"}), pre_tokenizer), what);
        assert!(
            (100..3000).contains(&taken),
            "{what} after NFC, of ASCII alone: {taken}"
        );
    }
}

#[test]
fn other_pipelines_are_left_alone() {
    use serde_json::json;
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let mut prefixed = byte_level.clone();
    prefixed["add_prefix_space"] = true.into();
    let merged = json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "MergedWithNext", "invert": false});
    for (normalizer, pre_tokenizer) in [
        (Value::Null, prefixed),
        (Value::Null, json!({"type": "WhitespaceSplit"})),
        (Value::Null, Value::Null),
        (
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [merged, byte_level]}),
        ),
        (json!({"type": "Lowercase"}), byte_level),
    ] {
        let tokenizer = with(normalizer, pre_tokenizer.clone());
        assert!(tokenizer.parts.words.is_none(), "{pre_tokenizer}");
    }
}
