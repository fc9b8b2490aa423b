//! A tokenizer as the metadata of a GGUF file.

use std::collections::{HashMap, HashSet};

use ft_gguf::{Metadata, Value};
use serde_json::Value as Json;

use super::super::Tokenizer;
use super::{BYTE, CONTROL, NORMAL, Rule, SPACE, SPLITS, UNKNOWN, UNUSED, USER_DEFINED};
use crate::error::{Error, Result};

impl Tokenizer {
    /// This tokenizer as `tokenizer.ggml.*`, with `rows` tokens: as many as the model's embedding table has.
    ///
    /// # Errors
    /// When it is of a kind that llama.cpp does not have, or has more tokens than the model.
    pub fn gguf(&self, rows: usize) -> Result<Metadata> {
        let file = self.parts.files.json("tokenizer.json")?;
        let file = Source {
            tokenizer: self,
            file: &file,
        };
        if self.vocab_size() > rows {
            let why = format!(
                "{} tokens, and the model's embedding table has {rows} rows",
                self.vocab_size()
            );
            return Err(file.error(why));
        }
        let mut metadata = match &file.file["model"]["byte_fallback"] {
            Json::Bool(true) => file.sentencepiece(rows)?,
            _ => file.bytes(rows)?,
        };
        file.roles(&mut metadata)?;
        let template = self.chat_template().map(|template| template.source().to_string());
        metadata.put_some("tokenizer.chat_template", template);
        Ok(metadata)
    }
}

/// tokenizer.json and what is around it.
struct Source<'a> {
    tokenizer: &'a Tokenizer,
    file: &'a Json,
}

impl Source<'_> {
    fn error(&self, why: String) -> Error {
        let what = format!("llama.cpp has no tokenizer like this: {why}");
        self.tokenizer.parts.files.error("tokenizer.json", what)
    }

    /// BPE over bytes, as GPT-2's.
    fn bytes(&self, rows: usize) -> Result<Metadata> {
        let normalizer = &self.file["normalizer"];
        if !(normalizer.is_null() || normalizer["type"] == "NFC") {
            return Err(self.error(format!("normalizer {}", normalizer["type"])));
        }
        let pre = self.pre()?;
        let pairs = self.merges()?;
        // A space inside a token would end it in this list.
        let token = |text: &str| text.replace(' ', "Ġ");
        let merges = pairs
            .iter()
            .map(|(a, b)| format!("{} {}", token(a), token(b)))
            .collect();
        let mut metadata = Metadata::default();
        metadata.put("tokenizer.ggml.model", "gpt2");
        metadata.put("tokenizer.ggml.pre", pre);
        self.tokens(&mut metadata, rows);
        metadata.put("tokenizer.ggml.merges", Value::Texts(merges));
        Ok(metadata)
    }

    /// The name of the rules that split text before merging.
    fn pre(&self) -> Result<&'static str> {
        let ignores = self.file["model"]["ignore_merges"] == true;
        let byte_level = |step: &Json, splits: bool| {
            step["type"] == "ByteLevel" && step["add_prefix_space"] == false && (step["use_regex"] != false) == splits
        };
        let pre = &self.file["pre_tokenizer"];
        let steps: &[Json] = match pre["pretokenizers"].as_array() {
            Some(steps) => steps,
            None => std::slice::from_ref(pre),
        };
        let fits = |rule: &Rule| match (rule, steps) {
            (Rule::Gpt2, [only]) => byte_level(only, true),
            (Rule::Digits, [digits, last]) => {
                digits["type"] == "Digits" && digits["individual_digits"] == true && byte_level(last, true)
            }
            (Rule::Regex(regex), [split, last]) => {
                split["type"] == "Split"
                    && split["behavior"] == "Isolated"
                    && split["pattern"]["Regex"] == *regex
                    && byte_level(last, false)
            }
            _ => false,
        };
        let mut known = SPLITS
            .iter()
            .filter(|known| known.ignores_merges == ignores && fits(&known.rule));
        let name = known.next().map(|known| known.name);
        name.ok_or_else(|| {
            self.error(format!(
                "its pre_tokenizer (with ignore_merges = {ignores}) is none of {}",
                SPLITS.map(|known| known.name).join(", ")
            ))
        })
    }

    /// SentencePiece's BPE, as Llama 2's.
    fn sentencepiece(&self, rows: usize) -> Result<Metadata> {
        let prefix = self.space_prefix()?;
        let merges = self.merges()?;
        self.check_merges(&merges)?;
        // What the earliest merge makes wins, so its place is the score of what it makes.
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
        let mut metadata = Metadata::default();
        metadata.put("tokenizer.ggml.model", "llama");
        metadata.put("tokenizer.ggml.pre", "default");
        self.tokens(&mut metadata, rows);
        let score = |id| {
            let token = self.tokenizer.id_to_token(id)?;
            ranks.get(&token).map(|rank| -(*rank as f32))
        };
        let scores = (0..rows as u32).map(|id| score(id).unwrap_or(0.0)).collect();
        metadata.put("tokenizer.ggml.scores", Value::Floats(scores));
        metadata.put("tokenizer.ggml.add_space_prefix", prefix);
        Ok(metadata)
    }

    /// Whether a space is put before the text; an error for other normalizations than spaces to `▁`.
    fn space_prefix(&self) -> Result<bool> {
        let (normalizer, pre) = (&self.file["normalizer"], &self.file["pre_tokenizer"]);
        let is_space =
            |step: &Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE;
        let is_prefix = |step: &Json| step["type"] == "Prepend" && step["prepend"] == SPACE;
        let steps: &[Json] = match normalizer["normalizers"].as_array() {
            Some(steps) => steps,
            None => std::slice::from_ref(normalizer),
        };
        match steps {
            [prefix, space] if pre.is_null() && is_prefix(prefix) && is_space(space) => Ok(true),
            [space] if pre.is_null() && is_space(space) => Ok(false),
            [none]
                if none.is_null()
                    && pre["type"] == "Metaspace"
                    && pre["replacement"] == SPACE
                    && pre["split"] == false =>
            {
                Ok(pre["prepend_scheme"] != "never")
            }
            _ => Err(self.error("with byte_fallback, spaces must become ▁ and nothing else may change".into())),
        }
    }

    /// A score per token says the same as a list of merges only if every way to put a token together is in the list.
    fn check_merges(&self, merges: &[(String, String)]) -> Result<()> {
        let listed: HashSet<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let vocab = self.file["model"]["vocab"].as_object();
        let vocab = vocab.ok_or_else(|| self.error("model.vocab is no table".into()))?;
        for token in merges.iter().map(|(a, b)| format!("{a}{b}")) {
            for (at, _) in token.char_indices().skip(1) {
                let (a, b) = token.split_at(at);
                if vocab.contains_key(a) && vocab.contains_key(b) && !listed.contains(&(a, b)) {
                    return Err(self.error(format!(
                        "it has byte_fallback, but its merges are not SentencePiece's: \"{token}\" is not made from \"{a}\" and \"{b}\""
                    )));
                }
            }
        }
        Ok(())
    }

    /// `model.merges` in either spelling.
    fn merges(&self) -> Result<Vec<(String, String)>> {
        let model = &self.file["model"];
        if model["type"] != "BPE" {
            return Err(self.error(format!("model {}; BPE is needed", model["type"])));
        }
        let pair = |merge: &Json| {
            let (a, b) = match merge {
                Json::String(text) => text.split_once(' ')?,
                _ => (merge[0].as_str()?, merge[1].as_str()?),
            };
            Some((a.to_string(), b.to_string()))
        };
        let list = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pairs: Option<Vec<_>> = list.iter().map(pair).collect();
        pairs.ok_or_else(|| self.error("model.merges is no list of pairs".into()))
    }

    /// Spelling and type of every token; ids without a token get a name that is never matched.
    fn tokens(&self, metadata: &mut Metadata, rows: usize) {
        let added: HashMap<u64, bool> = self.file["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token["id"].as_u64()?, token["special"] == true)))
            .collect();
        let unknown = self.file["model"]["unk_token"].as_str();
        let fallback = self.file["model"]["byte_fallback"] == true;
        let kind = |id: u32, token: &str| match added.get(&u64::from(id)) {
            _ if Some(token) == unknown => UNKNOWN,
            Some(true) => CONTROL,
            Some(false) => USER_DEFINED,
            None if fallback && is_byte(token) => BYTE,
            None => NORMAL,
        };
        let token = |id: u32| match self.tokenizer.id_to_token(id) {
            Some(token) => (kind(id, &token), token),
            None => (UNUSED, format!("[PAD{id}]")),
        };
        let (types, tokens): (Vec<i32>, Vec<String>) = (0..rows as u32).map(token).unzip();
        metadata.put("tokenizer.ggml.tokens", Value::Texts(tokens));
        metadata.put("tokenizer.ggml.token_type", Value::Ints(types));
    }

    /// The tokens with a role, and those that every text gets.
    fn roles(&self, metadata: &mut Metadata) -> Result<()> {
        let tokenizer = self.tokenizer;
        let (bos, eos) = (tokenizer.bos_id(), tokenizer.eos_id());
        metadata.put_some("tokenizer.ggml.bos_token_id", bos);
        metadata.put_some("tokenizer.ggml.eos_token_id", eos);
        metadata.put_some("tokenizer.ggml.eot_token_id", tokenizer.eos_ids().get(1).copied());
        metadata.put_some("tokenizer.ggml.padding_token_id", tokenizer.pad_id());
        let unknown = self.file["model"]["unk_token"].as_str();
        let unknown = unknown.and_then(|token| tokenizer.token_to_id(token));
        metadata.put_some("tokenizer.ggml.unknown_token_id", unknown);
        let around = |ids: &[u32], role: Option<u32>| match ids {
            [] => Ok(false),
            [id] if Some(*id) == role => Ok(true),
            _ => Err(self.error("its post_processor adds tokens other than BOS before and EOS after a text".into())),
        };
        metadata.put("tokenizer.ggml.add_bos_token", around(&tokenizer.parts.prefix, bos)?);
        metadata.put("tokenizer.ggml.add_eos_token", around(&tokenizer.parts.suffix, eos)?);
        Ok(())
    }
}

/// Whether a token stands for one byte: `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}
