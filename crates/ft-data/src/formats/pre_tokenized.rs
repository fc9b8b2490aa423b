//! `pre-tokenized`: `{"input_ids": [..], "labels": [..], "attention_mask": [..]}`, as transformers' data collators take it.
//!
//! Labels are the ids themselves, or -100 where nothing is learned; without them every token but the first is learned. Tokens that
//! the mask leaves out are no part of the sample. Nothing is added.

use serde_json::Value;

use super::{Format, Record};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

/// The label of a token that is not learned.
const IGNORED: i64 = -100;

pub(super) struct PreTokenized;

impl Format for PreTokenized {
    fn name(&self) -> &'static str {
        "pre-tokenized"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["input_ids"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["labels", "attention_mask"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let wrong = |why: String| Err(Flaw::Tokens(why));
        let ids = numbers("input_ids", &record.list("input_ids")?)?;
        let beside = |name: &str| match record.optional(name) {
            None => Ok(None),
            Some(_) => numbers(name, &record.list(name)?).map(Some),
        };
        let [labels, mask] = [beside("labels")?, beside("attention_mask")?];
        for (name, list) in [("labels", &labels), ("attention_mask", &mask)] {
            if let Some(list) = list.as_ref().filter(|list| list.len() != ids.len()) {
                return wrong(format!(
                    "`{name}` has {} entries and `input_ids` {}",
                    list.len(),
                    ids.len()
                ));
            }
        }
        let is_token = |id: &i64| u32::try_from(*id).is_ok_and(|id| tokenizer.id_to_token(id).is_some());
        if let Some(at) = ids.iter().position(|id| !is_token(id)) {
            return wrong(format!(
                "`input_ids` entry {}: {} is no token of this tokenizer",
                at + 1,
                ids[at]
            ));
        }
        let learned = |at: usize| labels.as_ref().is_none_or(|labels| labels[at] != IGNORED);
        let odd =
            (0..ids.len()).find(|at| learned(*at) && labels.as_ref().is_some_and(|labels| labels[*at] != ids[*at]));
        if let Some(at) = odd {
            return wrong(format!(
                "`labels` entry {} is neither {IGNORED} nor the token there, {}; labels are not shifted",
                at + 1,
                ids[at]
            ));
        }
        let shown = |at: &usize| mask.as_ref().is_none_or(|mask| mask[*at] != 0);
        let kept: Vec<usize> = (0..ids.len()).filter(shown).collect();
        let learn: Vec<bool> = kept.iter().map(|at| learned(*at)).collect();
        if !learn.iter().skip(1).any(|learn| *learn) {
            return Err(Flaw::NothingToLearn("no token behind the first is learned"));
        }
        let ids = kept.iter().map(|at| ids[*at] as u32).collect();
        Ok(vec![Sample::new(ids, learn)])
    }
}

fn numbers(name: &str, list: &[Value]) -> Result<Vec<i64>, Flaw> {
    let number = |(at, value): (usize, &Value)| {
        let number = value.as_i64();
        number.ok_or_else(|| Flaw::Tokens(format!("`{name}` entry {}: {value} is no whole number", at + 1)))
    };
    list.iter().enumerate().map(number).collect()
}
