//! `segments`: `{"segments": [{"text": "..", "label": true}, ..]}`: texts one after the other, each learned or not (axolotl's
//! `input_output`).
//!
//! Each is tokenized by itself and nothing is added between or around them: special tokens are written in the texts.

use serde_json::Value;

use super::{Format, Record, boolean, encode, text_of};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct Segments;

impl Format for Segments {
    fn name(&self) -> &'static str {
        "segments"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["segments"]]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let (mut ids, mut learn) = (Vec::new(), Vec::new());
        for (at, segment) in record.list("segments")?.iter().enumerate() {
            let wrong = |why: &str| Flaw::Tokens(format!("segment {}: {why}", at + 1));
            let Value::Object(fields) = segment else {
                return Err(wrong("is no object with `text` and `label`"));
            };
            let text = fields.get("text").ok_or_else(|| wrong("has no `text`"))?;
            let label = fields.get("label").ok_or_else(|| wrong("has no `label`"))?;
            let label = boolean(label).ok_or_else(|| wrong("its `label` is neither true nor false"))?;
            let own = encode(tokenizer, &text_of("text", text)?)?;
            learn.resize(learn.len() + own.len(), label);
            ids.extend(own);
        }
        if !learn.iter().skip(1).any(|learn| *learn) {
            return Err(Flaw::NothingToLearn("no segment with `label` true has text"));
        }
        Ok(vec![Sample::new(ids, learn)])
    }
}
