//! `text`: plain language modelling. `{"text": ".."}`
//!
//! The tokenizer's encoding with its special tokens, then EOS; the loss covers every token but the first.

use super::{Format, Record, close};
use crate::error::Flaw;
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct Text;

impl Format for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["text"]]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let text = record.text("text")?;
        if text.is_empty() {
            return Err(Flaw::NothingToLearn("the text is empty"));
        }
        let mut ids = tokenizer
            .encode(&text, true)
            .map_err(|e| Flaw::Tokenizer(e.to_string()))?;
        close(tokenizer, &mut ids);
        let learn = vec![true; ids.len()];
        Ok(vec![Sample::new(ids, learn)])
    }
}
