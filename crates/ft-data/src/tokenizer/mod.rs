//! A checkpoint's tokenizer: text to ids and back, its special tokens, its chat template.

mod bytes;
mod files;
mod gguf;
mod specials;
mod text_stream;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::PostProcessor;
use tokenizers::processors::PostProcessorWrapper;

use crate::error::{Error, Result};
use crate::template::{ChatTemplate, Conversation};
use bytes::Spelling;
use files::Files;
use specials::Specials;
pub use text_stream::TextStream;
use words::Words;

/// A Hugging Face tokenizer (`tokenizer.json`) with what the files beside it say about special tokens and chat. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    parts: Arc<Parts>,
    template: Option<Arc<ChatTemplate>>,
    /// The template is not the one in `files`.
    template_replaced: bool,
}

struct Parts {
    inner: tokenizers::Tokenizer,
    files: Files,
    specials: Specials,
    /// What the post-processor puts before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// How the vocabulary spells text.
    spelling: Spelling,
    /// XXH3 of `tokenizer.json`.
    hash: u128,
    /// How text is cut into words, where that is all there is to it.
    words: Option<Words>,
}

/// A token with the bytes `start..end` of the text it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub id: u32,
    pub start: usize,
    pub end: usize,
}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint folder, or of a GGUF file. Of a folder, only `tokenizer.json` is required; `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json`, `config.json` and `chat_template.jinja` are used where present.
    ///
    /// # Errors
    /// A missing or broken file, by name; a chat template that does not parse.
    pub fn from_dir(folder: &Path) -> Result<Tokenizer> {
        match ft_gguf::is_gguf(folder) {
            true => Tokenizer::open(Files::Gguf(folder.into(), gguf::files(folder)?)),
            false => Tokenizer::open(Files::Folder(folder.into())),
        }
    }

    /// The same from files built into the program, as `(name, contents)`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn from_memory(files: &[(&str, &[u8])]) -> Result<Tokenizer> {
        Tokenizer::open(Files::Memory(
            files
                .iter()
                .map(|(name, bytes)| (name.to_string(), bytes.to_vec()))
                .collect(),
        ))
    }

    fn open(files: Files) -> Result<Tokenizer> {
        let (inner, hash, words) = load_inner(&files)?;
        let specials = Specials::read(&files, &inner)?;
        let (prefix, suffix) = surroundings(&inner);
        let template = template_source(&files)?
            .map(|source| ChatTemplate::new(&source, &specials.named))
            .transpose()?;
        let parts = Arc::new(Parts {
            spelling: Spelling::of(&inner),
            inner,
            files,
            specials,
            prefix,
            suffix,
            hash,
            words,
        });
        Ok(Tokenizer {
            parts,
            template: template.map(Arc::new),
            template_replaced: false,
        })
    }

    /// The ids of `text`. With `add_special`, with the tokens that the tokenizer's post-processor puts around a text, unless the
    /// text itself already has them there: there is never a double BOS.
    ///
    /// # Errors
    /// When the tokenizer has no token for some part of the text, not even an unknown one.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let inner = &self.parts.inner;
        let mut ids = match self.parts.words.as_ref().and_then(|words| words.ids(inner, text)) {
            Some(ids) => ids,
            None => {
                let encoding = inner.encode_fast(text, false);
                encoding
                    .map_err(|e| Error::Tokenizer(e.to_string()))?
                    .get_ids()
                    .to_vec()
            }
        };
        if add_special && !ids.starts_with(&self.parts.prefix) {
            ids.splice(0..0, self.parts.prefix.iter().copied());
        }
        if add_special && !ids.ends_with(&self.parts.suffix) {
            ids.extend(&self.parts.suffix);
        }
        Ok(ids)
    }

    /// The ids of a text, or of two that are read together, as the tokenizer's post-processor joins them, in at most `max_length` tokens:
    /// of the text, or of the longer of the two, as many are left out at the end; and the column at which tokens of the second type
    /// begin, 0 where there are none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); special tokens alone that are more than `max_length`.
    pub fn encode_pair(&self, text: &str, pair: Option<&str>, max_length: Option<usize>) -> Result<(Vec<u32>, usize)> {
        let inner = &self.parts.inner;
        let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
        let mut first = inner.encode_fast(text, false).map_err(failed)?;
        let mut second = pair
            .map(|pair| inner.encode_fast(pair, false).map_err(failed))
            .transpose()?;
        if let Some(max_length) = max_length {
            let params = tokenizers::TruncationParams {
                max_length: self.room(pair.is_some(), max_length)?,
                ..Default::default()
            };
            (first, second) =
                tokenizers::utils::truncation::truncate_encodings(first, second, &params).map_err(failed)?;
        }
        let joined = inner.post_process(first, second, true).map_err(failed)?;
        let second = joined.get_type_ids().iter().position(|kind| *kind != 0);
        Ok((joined.get_ids().to_vec(), second.unwrap_or(0)))
    }

    /// The ids of a text that is cut into words already, with special tokens and in at most `max_length` tokens, and for each the number of
    /// the word that begins with it.
    ///
    /// # Errors
    /// As [`encode_pair`](Self::encode_pair).
    pub fn encode_words(&self, words: &[String], max_length: Option<usize>) -> Result<(Vec<u32>, Vec<Option<usize>>)> {
        let inner = &self.parts.inner;
        let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
        let mut text = inner.encode(words, false).map_err(failed)?;
        if let Some(max_length) = max_length {
            text.truncate(self.room(false, max_length)?, 0, tokenizers::TruncationDirection::Right);
        }
        let joined = inner.post_process(text, None, true).map_err(failed)?;
        let mut before = None;
        let first_of = |word: &Option<u32>| {
            let first = word.filter(|_| *word != before);
            before = *word;
            first.map(|word| word as usize)
        };
        Ok((
            joined.get_ids().to_vec(),
            joined.get_word_ids().iter().map(first_of).collect(),
        ))
    }

    /// Tokens of text that fit beside the special ones.
    fn room(&self, pair: bool, max_length: usize) -> Result<usize> {
        let added = self
            .parts
            .inner
            .get_post_processor()
            .map_or(0, |p| p.added_tokens(pair));
        max_length.checked_sub(added).ok_or_else(|| {
            Error::Tokenizer(format!(
                "{added} special tokens alone are more than data.max_length = {max_length}; raise it"
            ))
        })
    }

    /// Puts the tokens that open a text before `ids`, unless they are there already.
    pub(crate) fn opened(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if !ids.starts_with(&self.parts.prefix) {
            ids.splice(0..0, self.parts.prefix.iter().copied());
        }
        ids
    }

    /// The ids of a conversation rendered up to where the assistant answers, ready for generation.
    ///
    /// # Errors
    /// When there is no chat template, or it fails.
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or_else(no_template)?;
        let text = template.render(conversation, true).map_err(Error::Template)?;
        self.encode(&text, false)
    }

    /// The tokens of `text` with the bytes each came from, and no special tokens added.
    pub(crate) fn tokens(&self, text: &str) -> Result<Vec<Token>, String> {
        let inner = &self.parts.inner;
        if let Some(tokens) = self.parts.words.as_ref().and_then(|words| words.tokens(inner, text)) {
            return Ok(tokens);
        }
        let encoding = inner.encode(text, false).map_err(|e| e.to_string())?;
        let spans = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(spans.map(|(&id, &(start, end))| Token { id, start, end }).collect())
    }

    /// The text of `ids`. Incomplete characters become U+FFFD; ids outside of the vocabulary are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        // The library knows special tokens by their spelling, which a normalizer may have changed.
        let kept: Vec<u32>;
        let ids = match skip_special {
            true => {
                let special = &self.parts.specials.ids;
                kept = ids.iter().copied().filter(|id| !special.contains(id)).collect();
                &kept
            }
            false => ids,
        };
        // A decoder can only fail on tokens it was not made for; their raw spelling is better than nothing.
        let raw = || ids.iter().filter_map(|&id| self.id_to_token(id)).collect();
        self.parts.inner.decode(ids, skip_special).unwrap_or_else(|_| raw())
    }

    /// Decodes token by token.
    pub fn text_stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special)
    }

    /// The token that opens a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.parts.specials.bos
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.parts.specials.eos
    }

    /// Every id at which generation should stop: EOS first, then those that `generation_config.json` and `config.json` add.
    pub fn eos_ids(&self) -> &[u32] {
        &self.parts.specials.stops
    }

    /// The padding token, if one is declared. It may equal EOS.
    pub fn pad_id(&self) -> Option<u32> {
        self.parts.specials.pad
    }

    /// The token that stands for one that is to be filled in, if there is one.
    pub fn mask_id(&self) -> Option<u32> {
        self.parts.specials.mask
    }

    /// An id to fill padding with: the padding token, or EOS, or 0. Padding is known by length, so any will do.
    pub fn padding(&self) -> u32 {
        self.pad_id().or(self.eos_id()).unwrap_or(0)
    }

    /// True for tokens that stand for no text: BOS, EOS, turn markers.
    pub fn is_special(&self, id: u32) -> bool {
        self.parts.specials.ids.contains(&id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        let largest = self.parts.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parts.inner.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.parts.inner.id_to_token(id)
    }

    /// The chat template, if there is one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_deref()
    }

    /// This tokenizer with another chat template.
    ///
    /// # Errors
    /// When the template does not parse.
    pub fn with_chat_template(mut self, source: &str) -> Result<Tokenizer> {
        self.template = Some(Arc::new(ChatTemplate::new(source, &self.parts.specials.named)?));
        self.template_replaced = true;
        Ok(self)
    }

    /// This tokenizer with further variables for its chat template, as in `data.chat_template_kwargs`.
    pub fn with_chat_template_kwargs(mut self, kwargs: &serde_json::Map<String, Value>) -> Tokenizer {
        if !kwargs.is_empty() {
            self.template = self.template.map(|template| Arc::new(template.with_kwargs(kwargs)));
        }
        self
    }

    /// What ids depend on, but for the chat template: the vocabulary by its hash, and the tokens with a role.
    pub(crate) fn fingerprint(&self) -> String {
        let specials = &self.parts.specials;
        let ids: BTreeSet<u32> = specials.ids.iter().copied().collect();
        let roles = (specials.bos, specials.pad, &specials.stops, &specials.named, ids);
        format!("{:032x} {roles:?}", self.parts.hash)
    }

    /// Copies the files of the tokenizer into `folder` (created if need be), with the chat template in use.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            path: folder.into(),
            source,
        })?;
        self.parts.files.copy_to(folder)?;
        match &self.template {
            Some(template) if self.template_replaced => {
                files::write(&folder.join(files::TEMPLATE), template.source().as_bytes())
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let specials = &self.parts.specials;
        f.debug_struct("Tokenizer")
            .field("files", &self.parts.files.label(""))
            .field("bos", &specials.bos)
            .field("eos", &specials.stops)
            .field("pad", &specials.pad)
            .field("chat_template", &self.template.is_some())
            .finish_non_exhaustive()
    }
}

pub(crate) fn no_template() -> Error {
    Error::Template(
        "the tokenizer has none; name a file with one in data.chat_template, or use the prompt-completion format"
            .into(),
    )
}

/// What of `tokenizer.json` is looked at here. The crate panics where what it reads last, the decoder, is no JSON.
#[derive(serde::Deserialize)]
struct Syntax {
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    model: Kind,
}

/// What kind of model it is, without its vocabulary.
#[derive(Default, serde::Deserialize)]
struct Kind {
    #[serde(rename = "type", default)]
    name: Option<Value>,
    #[serde(default)]
    dropout: Option<Value>,
}

fn load_inner(files: &Files) -> Result<(tokenizers::Tokenizer, u128, Option<Words>)> {
    const NAME: &str = "tokenizer.json";
    let bytes = files.bytes(NAME)?.ok_or_else(|| {
        files.error(
            NAME,
            "not found; save the checkpoint's fast tokenizer (transformers' save_pretrained writes it)".into(),
        )
    })?;
    let syntax: Syntax = serde_json::from_slice(&bytes).map_err(|e| files.error(NAME, e.to_string()))?;
    let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| files.error(NAME, e.to_string()))?;
    // Length is our own business: a stored truncation would cut, and a stored padding would fill, behind our back.
    inner
        .with_truncation(None)
        .map_err(|e| files.error(NAME, e.to_string()))?;
    inner.with_padding(None);
    let mut post = inner.get_post_processor().cloned();
    post.iter_mut().for_each(keep_offsets);
    inner.with_post_processor(post);
    let words = Words::of(&syntax, &inner);
    Ok((inner, twox_hash::xxhash3_128::Hasher::oneshot(&bytes), words))
}

/// Some post-processors shorten a token's offsets to exclude its spaces; masks need the bytes it really covers.
fn keep_offsets(post: &mut PostProcessorWrapper) {
    match post {
        PostProcessorWrapper::ByteLevel(p) => p.trim_offsets = false,
        PostProcessorWrapper::Roberta(p) => p.trim_offsets = false,
        PostProcessorWrapper::Sequence(p) => p.as_mut().iter_mut().for_each(keep_offsets),
        PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Template(_) => {}
    }
}

/// What the post-processor adds before and after a text, found by encoding one with and without.
fn surroundings(inner: &tokenizers::Tokenizer) -> (Vec<u32>, Vec<u32>) {
    let ids = |special| {
        inner
            .encode_fast("a", special)
            .map(|e| e.get_ids().to_vec())
            .unwrap_or_default()
    };
    let (plain, full) = (ids(false), ids(true));
    let at = (0..=full.len()).find(|&at| full[at..].starts_with(&plain));
    at.map_or((vec![], vec![]), |at| {
        (full[..at].to_vec(), full[at + plain.len()..].to_vec())
    })
}

/// The template named "default" where there are several; transformers' own file outranks the older place in the config.
fn template_source(files: &Files) -> Result<Option<String>> {
    if let Some(text) = files.text(files::TEMPLATE)? {
        return Ok(Some(text));
    }
    let legacy = |config: &Value| match config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|t| t["name"] == "default").or(named.first());
            default.and_then(|t| t["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    };
    Ok(legacy(&files.json("tokenizer_config.json")?).or(legacy(&files.json("chat_template.json")?)))
}

#[cfg(test)]
mod tests;
