//! The metadata of a file as the files of a tokenizer.

use std::collections::HashMap;
use std::path::Path;

use ft_gguf::{File, Metadata, Value};
use serde_json::{Map, Value as Json, json};

use super::{BYTE, CONTROL, NORMAL, Rule, SPACE, SPLITS, Split, UNKNOWN, UNUSED, USER_DEFINED, merges};
use crate::error::{Error, Result};

/// `tokenizer.json` and what stands beside it, for the tokenizer in the file at `path`.
///
/// # Errors
/// A file that cannot be read; a kind of tokenizer that is not read, by the key that says so.
pub(in super::super) fn files(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let wrong = |what: String| Error::File {
        file: path.display().to_string(),
        what,
    };
    let file = File::open(path).map_err(|e| match e {
        ft_gguf::Error::Io { path, source } => Error::Io { path, source },
        ft_gguf::Error::Format { why, .. } => wrong(why),
    })?;
    let source = Source::new(file.metadata()).map_err(wrong)?;
    let bytes = |json: &Json| serde_json::to_vec(json).expect("JSON serializes");
    let mut files = vec![
        ("tokenizer.json".to_string(), bytes(&source.tokenizer().map_err(wrong)?)),
        ("tokenizer_config.json".to_string(), bytes(&source.config())),
        (
            "config.json".to_string(),
            bytes(&json!({ "eos_token_id": source.metadata.ends() })),
        ),
    ];
    if let Some(template) = source.metadata.get("tokenizer.chat_template").and_then(Value::as_str) {
        files.push((super::super::files::TEMPLATE.into(), template.as_bytes().to_vec()));
    }
    Ok(files)
}

/// The metadata of a tokenizer.
struct Source<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    /// One for each token.
    kinds: Vec<i32>,
}

impl<'a> Source<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self, String> {
        let tokens = metadata.tokens();
        if tokens.is_empty() {
            return Err(
                "tokenizer.ggml.tokens: missing; name the folder of a tokenizer.json (model.tokenizer), or convert the \
                        model again with its tokenizer"
                    .into(),
            );
        }
        let kinds = match metadata.get("tokenizer.ggml.token_type") {
            None => vec![NORMAL; tokens.len()],
            Some(Value::Ints(kinds)) if kinds.len() == tokens.len() => kinds.clone(),
            Some(_) => {
                return Err(format!(
                    "tokenizer.ggml.token_type: {} numbers are needed",
                    tokens.len()
                ));
            }
        };
        Ok(Self {
            metadata,
            tokens,
            kinds,
        })
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// `tokenizer.json`.
    fn tokenizer(&self) -> Result<Json, String> {
        let (model, split) = match self.text("tokenizer.ggml.model") {
            Some("gpt2") => self.bytes()?,
            Some("llama") => self.sentencepiece()?,
            other => {
                let other = other.map_or("missing".into(), |other| format!("\"{other}\""));
                return Err(format!(
                    "tokenizer.ggml.model: {other} is not read; gpt2 and llama (SentencePiece's BPE) are. Name the folder of the \
                     model's tokenizer.json (model.tokenizer), or take the checkpoint folder"
                ));
            }
        };
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(), "post_processor": self.post_processor(), "model": model,
        });
        if let (Some(file), Json::Object(split)) = (file.as_object_mut(), split) {
            file.extend(split);
        }
        Ok(file)
    }

    /// BPE over bytes: the model, and what stands before and behind it.
    fn bytes(&self) -> Result<(Json, Json), String> {
        let split = self.split()?;
        let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let pre = match split.rule {
            Rule::Gpt2 => byte_level(true),
            Rule::Digits => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true)]}),
            Rule::Regex(regex) => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, byte_level(false)]}),
        };
        let Some(Value::Texts(lines)) = self.metadata.get("tokenizer.ggml.merges") else {
            return Err("tokenizer.ggml.merges: missing".into());
        };
        let merges = lines.iter().enumerate().map(|(at, line)| {
            let pair = line.split_once(' ');
            pair.ok_or_else(|| format!("tokenizer.ggml.merges: entry {at}, \"{line}\", is no pair"))
        });
        let merges: Vec<(&str, &str)> = merges.collect::<Result<_, _>>()?;
        // llama.cpp leaves accents as they are written, Qwen's own tokenizers compose them.
        let normalizer = if split.name == "qwen2" {
            json!({"type": "NFC"})
        } else {
            Json::Null
        };
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": split.ignores_merges,
            "vocab": self.vocab(), "merges": merges,
        });
        Ok((
            model,
            json!({"normalizer": normalizer, "pre_tokenizer": pre, "decoder": byte_level(true)}),
        ))
    }

    /// The rules that split text before merging.
    fn split(&self) -> Result<&'static Split, String> {
        static KNOWN: [Split; SPLITS.len()] = SPLITS;
        let name = self.text("tokenizer.ggml.pre").unwrap_or("default");
        let found = KNOWN
            .iter()
            .find(|split| split.name == name || split.others.contains(&name));
        found.ok_or_else(|| {
            let names = KNOWN.iter().flat_map(|split| std::iter::once(&split.name).chain(split.others));
            let names: Vec<&str> = names.copied().collect();
            format!(
                "tokenizer.ggml.pre: \"{name}\" is not read; {} are. Name the folder of the model's tokenizer.json (model.tokenizer), or take \
                 the checkpoint folder",
                names.join(", ")
            )
        })
    }

    /// SentencePiece's BPE.
    fn sentencepiece(&self) -> Result<(Json, Json), String> {
        let scores = match self.metadata.get("tokenizer.ggml.scores") {
            Some(Value::Floats(scores)) if scores.len() == self.tokens.len() => scores,
            _ => {
                return Err(format!(
                    "tokenizer.ggml.scores: {} numbers are needed",
                    self.tokens.len()
                ));
            }
        };
        let merged = |(score, kind): (&f32, &i32)| (*kind == NORMAL).then_some(*score);
        let scores: Vec<Option<f32>> = scores.iter().zip(&self.kinds).map(merged).collect();
        let unknown = self.metadata.token("unknown").or_else(|| {
            let found = self.kinds.iter().position(|kind| *kind == UNKNOWN);
            found.map(|id| id as u32)
        });
        let prefix = self.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let normalizer = match prefix {
            true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, space]}),
            false => space,
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| &self.tokens[id as usize]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.kinds.contains(&BYTE), "ignore_merges": false,
            "vocab": self.vocab(), "merges": merges::of_scores(self.tokens, &scores),
        });
        Ok((
            model,
            json!({
                "normalizer": normalizer, "pre_tokenizer": null,
                "decoder": {"type": "Sequence", "decoders": decoders},
            }),
        ))
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.metadata.get(key).and_then(Value::as_bool)
    }

    /// Whether nothing stands for this id: rows that fill up the embedding table.
    fn is_filler(&self, id: usize) -> bool {
        self.kinds[id] == UNUSED && self.tokens[id].starts_with("[PAD")
    }

    fn vocab(&self) -> Map<String, Json> {
        let all = self.tokens.iter().enumerate().filter(|(id, _)| !self.is_filler(*id));
        let mut vocab = Map::new();
        for (id, token) in all {
            vocab.entry(token.clone()).or_insert(id.into());
        }
        vocab
    }

    /// Tokens that are found in a text before it is split.
    fn added(&self) -> Vec<Json> {
        // Phi 3's take the space behind them in; no key says so, and llama.cpp knows it by the name, too.
        let phi3 =
            self.text("general.architecture") == Some("phi3") && self.text("tokenizer.ggml.model") == Some("llama");
        let added = |(id, token): (usize, &String)| {
            let kind = self.kinds[id];
            let special = [CONTROL, UNKNOWN].contains(&kind);
            let strips = phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&token.as_str());
            (special || kind == USER_DEFINED).then(|| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": strips && special,
                       "normalized": false, "special": special})
            })
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    /// Whether a token stands before and behind every text; where nothing is said, what llama.cpp does.
    fn surrounds(&self) -> [Option<u32>; 2] {
        let opens = match self.text("tokenizer.ggml.model") {
            Some("llama") => true,
            _ => self
                .split()
                .is_ok_and(|split| ["llama-bpe", "tekken"].contains(&split.name)),
        };
        let bos = self.flag("tokenizer.ggml.add_bos_token").unwrap_or(opens);
        let eos = self.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        [
            self.metadata.token("bos").filter(|_| bos),
            self.metadata.token("eos").filter(|_| eos),
        ]
    }

    fn post_processor(&self) -> Json {
        let [before, behind] = self.surrounds();
        if before.or(behind).is_none() {
            return Json::Null;
        }
        let token = |id: &u32| &self.tokens[*id as usize];
        let special = |id: &u32, kind: u32| json!({"SpecialToken": {"id": token(id), "type_id": kind}});
        let sequence = |name: &str, kind: u32| {
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            let before = before.iter().map(move |id| special(id, kind));
            let behind = behind.iter().map(move |id| special(id, kind));
            before.chain([text]).chain(behind).collect::<Vec<Json>>()
        };
        let specials: HashMap<&String, Json> = [before, behind]
            .iter()
            .flatten()
            .map(|id| (token(id), json!({"id": token(id), "ids": [id], "tokens": [token(id)]})))
            .collect();
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        json!({"type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": specials})
    }

    /// `tokenizer_config.json`.
    fn config(&self) -> Json {
        let token = |role: &str| self.metadata.token(role).map(|id| &self.tokens[id as usize]);
        let [before, behind] = self.surrounds();
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
            "bos_token": token("bos"), "eos_token": token("eos"),
            "add_bos_token": before.is_some(), "add_eos_token": behind.is_some(),
        });
        for (key, role) in [("unk_token", "unknown"), ("pad_token", "padding")] {
            if let Some(token) = token(role) {
                config[key] = json!(token);
            }
        }
        config
    }
}
