//! Text is encoded word by word, and words come again: byte-level BPE without the bookkeeping of spans and alignments, which takes most of the
//! time of the `tokenizers` crate.
//!
//! Only pipelines whose words follow from the text alone are taken: no normalizer (or NFC, on ASCII, which it leaves alone), pre-tokenizers that cut by
//! a pattern or at digits, then the byte-level alphabet. Words are cut by the crate's own regular expressions and encoded by its own
//! model; everything else goes through the crate as a whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use ft_seed::mix;
use serde_json::Value;
use tokenizers::utils::SysRegex;
use tokenizers::{Model, OffsetReferential, OffsetType};

use super::{Syntax, Token};

/// GPT-2's pattern, which `ByteLevel` cuts by where it is told to.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Words of a tokenizer that a thread remembers, and the longest in bytes.
const REMEMBERED: usize = 1 << 16;
const LONGEST: usize = 64;
/// Tokenizers whose words it remembers.
const TOKENIZERS: usize = 4;

/// How a tokenizer cuts words.
pub(super) struct Words {
    /// Tells the tokenizers of a process apart.
    number: u64,
    cuts: Vec<Cut>,
    /// Text that is not ASCII would be normalized.
    ascii: bool,
    /// Bytes that a token which is found before words are cut begins with.
    begins: [bool; 256],
}

enum Cut {
    /// What matches is a word, and so is what lies between.
    Pattern(SysRegex),
    /// Every digit is a word, or every run of them.
    Digits { individual: bool },
}

/// A token of a word: its id and its bytes.
type Piece = (u32, u16);

/// A word's tokens; none where their bytes are not those of the word.
type Known = HashMap<Box<str>, Option<Box<[Piece]>>, BuildHasherDefault<Quick>>;

thread_local! {
    static KNOWN: RefCell<HashMap<u64, Known>> = RefCell::default();
}

impl Words {
    /// Of the pipeline in `tokenizer.json`, where it is one of these.
    pub fn of(pipeline: &Syntax, inner: &tokenizers::Tokenizer) -> Option<Words> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let ascii = match &pipeline.normalizer {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        // Dropout would make other tokens of the same word.
        let kind = pipeline.model.name.as_ref();
        if kind.is_some_and(|kind| kind != "BPE") || pipeline.model.dropout.as_ref().is_some_and(|rate| !rate.is_null())
        {
            return None;
        }
        let mut steps = vec![&pipeline.pre_tokenizer];
        if steps[0]["type"] == "Sequence" {
            steps = steps[0]["pretokenizers"].as_array()?.iter().collect();
        }
        let (last, before) = steps.split_last()?;
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        let mut cuts: Vec<Cut> = before.iter().map(|step| Cut::of(step)).collect::<Option<_>>()?;
        if last["use_regex"] != false {
            cuts.push(Cut::Pattern(SysRegex::new(GPT2).ok()?));
        }
        let mut begins = [false; 256];
        for token in inner.get_added_vocabulary().get_added_tokens_decoder().values() {
            begins[usize::from(*token.content.as_bytes().first()?)] = true;
        }
        Some(Words {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            cuts,
            ascii,
            begins,
        })
    }

    /// The ids of `text`; none where it has to go through the whole pipeline.
    pub fn ids(&self, inner: &tokenizers::Tokenizer, text: &str) -> Option<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.pieces(inner, text, &mut |_, (id, _)| ids.push(id))?;
        Some(ids)
    }

    /// The same with the bytes that each came from: of the whole character where a token is a part of one.
    pub fn tokens(&self, inner: &tokenizers::Tokenizer, text: &str) -> Option<Vec<Token>> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        self.pieces(inner, text, &mut |start, (id, bytes)| {
            tokens.push(Token {
                id,
                start: text.floor_char_boundary(start),
                end: text.ceil_char_boundary(start + usize::from(bytes)),
            });
        })?;
        Some(tokens)
    }

    /// Every token with where its bytes begin.
    fn pieces(&self, inner: &tokenizers::Tokenizer, text: &str, take: &mut dyn FnMut(usize, Piece)) -> Option<()> {
        if self.ascii && !text.is_ascii() {
            return None;
        }
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= TOKENIZERS && !known.contains_key(&self.number) {
                known.clear();
            }
            let known = known.entry(self.number).or_default();
            if !text.bytes().any(|byte| self.begins[usize::from(byte)]) {
                return self.cut(&self.cuts, text, 0, &mut |at, word| {
                    word_pieces(inner, known, at, word, take)
                });
            }
            let vocabulary = inner.get_added_vocabulary();
            let parts = vocabulary.extract_and_normalize(inner.get_normalizer(), text);
            for (part, (start, end), found) in parts.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                match found {
                    Some(tokens) => {
                        let [token] = tokens.as_slice() else { return None };
                        take(start, (token.id, u16::try_from(end - start).ok()?));
                    }
                    None => self.cut(&self.cuts, part, start, &mut |at, word| {
                        word_pieces(inner, known, at, word, take)
                    })?,
                }
            }
            Some(())
        })
    }

    /// The words of a text that begins at `at`.
    fn cut(&self, cuts: &[Cut], text: &str, at: usize, take: &mut dyn FnMut(usize, &str) -> Option<()>) -> Option<()> {
        let Some((cut, rest)) = cuts.split_first() else {
            return match text.is_empty() {
                true => Some(()),
                false => take(at, text),
            };
        };
        let mut end = 0;
        let mut next = |from: usize, to: usize| self.cut(rest, &text[from..to], at + from, take);
        match cut {
            Cut::Pattern(pattern) => {
                for (from, to) in pattern.find_iter(text) {
                    next(end, from)?;
                    next(from, to)?;
                    end = to;
                }
            }
            Cut::Digits { individual } => {
                let mut digits = text.char_indices().filter(|(_, c)| c.is_numeric()).peekable();
                while let Some((from, digit)) = digits.next() {
                    let mut to = from + digit.len_utf8();
                    while let Some((_, digit)) = digits.next_if(|(at, _)| !individual && *at == to) {
                        to += digit.len_utf8();
                    }
                    next(end, from)?;
                    next(from, to)?;
                    end = to;
                }
            }
        }
        next(end, text.len())
    }
}

impl Cut {
    fn of(step: &Value) -> Option<Cut> {
        match step["type"].as_str()? {
            "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                let pattern = step["pattern"]["Regex"].as_str()?;
                Some(Cut::Pattern(SysRegex::new(pattern).ok()?))
            }
            "Digits" => Some(Cut::Digits {
                individual: step["individual_digits"].as_bool()?,
            }),
            _ => None,
        }
    }
}

fn word_pieces(
    inner: &tokenizers::Tokenizer,
    known: &mut Known,
    mut at: usize,
    word: &str,
    take: &mut dyn FnMut(usize, Piece),
) -> Option<()> {
    let mut give = |pieces: &[Piece]| {
        for (id, bytes) in pieces {
            take(at, (*id, *bytes));
            at += usize::from(*bytes);
        }
    };
    if let Some(pieces) = known.get(word) {
        give(pieces.as_deref()?);
        return Some(());
    }
    let pieces = encoded(inner, word);
    if let Some(pieces) = &pieces {
        give(pieces);
    }
    let made = pieces.as_ref().map(drop);
    if word.len() <= LONGEST {
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(word.into(), pieces);
    }
    made
}

/// By the model itself, in the alphabet in which every byte is a character.
fn encoded(inner: &tokenizers::Tokenizer, word: &str) -> Option<Box<[Piece]>> {
    let spelled: String = word.bytes().map(super::bytes::character).collect();
    let tokens = inner.get_model().tokenize(&spelled).ok()?;
    let pieces = tokens
        .iter()
        .map(|token| Some((token.id, u16::try_from(token.value.chars().count()).ok()?)));
    let pieces: Box<[Piece]> = pieces.collect::<Option<_>>()?;
    // A token that stands for what is unknown does not say for how much.
    let bytes: usize = pieces.iter().map(|(_, bytes)| usize::from(*bytes)).sum();
    let same = tokens.iter().flat_map(|token| token.value.chars()).eq(spelled.chars());
    (bytes == word.len() && same).then_some(pieces)
}

/// A hash of short texts.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word));
        }
        self.0 ^= bytes.len() as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
