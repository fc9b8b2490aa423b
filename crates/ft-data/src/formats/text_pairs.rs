//! `text-pairs`: two texts that mean the same, or a question and what answers it, for vectors of texts. `{"anchor", "positive"}`
//!
//! Tokens are the tokenizer's own for each text, special tokens included. What is longer than `data.max_length` is cut before special
//! tokens are added, as transformers' `truncation=True` does.

use super::{Examples, Format, Record};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct TextPairs;

impl Format for TextPairs {
    fn name(&self) -> &'static str {
        "text-pairs"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["anchor", "positive"]]
    }

    fn examples(&self) -> Examples {
        Examples::Similar
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["anchor"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        Ok(vec![encoded(record, tokenizer, None)?])
    }

    fn cut(&self, record: &Record, tokenizer: &Tokenizer, _: &Sample, max_length: usize) -> Result<Sample, Flaw> {
        encoded(record, tokenizer, Some(max_length))
    }
}

/// The two texts, each in at most `max_length` tokens.
fn encoded(record: &Record, tokenizer: &Tokenizer, max_length: Option<usize>) -> Result<Sample, Flaw> {
    let tokens = |column: &'static str| {
        let text = record.text(column)?;
        if text.is_empty() {
            return Err(Flaw::NothingToLearn("one of the two texts is empty"));
        }
        let (ids, _) = tokenizer
            .encode_pair(&text, None, max_length)
            .map_err(|e| Flaw::Tokenizer(e.to_string()))?;
        Ok(Sample::answered(ids, 1))
    };
    Ok(tokens("anchor")?.over(tokens("positive")?))
}
