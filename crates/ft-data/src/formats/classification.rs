//! `classification`: texts, or pairs of texts, and what a head is to say of them.
//!
//! * `{"text", "label"}`: a class by name or number, or a number where numbers are learned
//! * `{"text", "labels"}`: several classes, as a list of names or a 0 or 1 for each; or several numbers
//! * with `"text_pair"`: two texts that are read together
//!
//! Tokens are the tokenizer's own for a text or a pair, special tokens included. What is longer than `data.max_length` is cut before
//! special tokens are added, of a pair the longer text first, as transformers' `truncation=True` does.

use super::{Examples, Format, Record};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct Classification;

impl Format for Classification {
    fn name(&self) -> &'static str {
        "classification"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["text", "label"], &["text", "labels"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["text_pair"]
    }

    fn examples(&self) -> Examples {
        Examples::Labelled
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["text", "text_pair"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let (column, value) = match record.optional("labels") {
            Some(value) => ("labels", value),
            None => ("label", record.value("label")?),
        };
        let label = record.labels()?.read(column, value)?;
        Ok(vec![encoded(record, tokenizer, None)?.labelled(&label)])
    }

    fn cut(&self, record: &Record, tokenizer: &Tokenizer, sample: &Sample, max_length: usize) -> Result<Sample, Flaw> {
        Ok(encoded(record, tokenizer, Some(max_length))?.labelled(&sample.label()))
    }
}

/// The tokens of the text or the pair, in at most `max_length` of them.
fn encoded(record: &Record, tokenizer: &Tokenizer, max_length: Option<usize>) -> Result<Sample, Flaw> {
    let text = record.text("text")?;
    let pair = record
        .optional("text_pair")
        .map(|_| record.text("text_pair"))
        .transpose()?;
    let (ids, second) = tokenizer
        .encode_pair(&text, pair.as_deref(), max_length)
        .map_err(|e| Flaw::Tokenizer(e.to_string()))?;
    match ids.is_empty() {
        true => Err(Flaw::NothingToLearn("the text is empty")),
        false => Ok(Sample::answered(ids, usize::MAX).with_second(second)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{LabelKind, Labels};
    use serde_json::json;

    #[test]
    fn a_text_has_its_tokens_and_its_class() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
        let tokenizer = Tokenizer::from_dir(folder.as_ref()).unwrap();
        let labels = Labels {
            names: vec!["bad".into(), "good".into()],
            kind: LabelKind::Class,
        };
        let record = |value: serde_json::Value, labels| Record(value.as_object().unwrap().clone(), labels);
        let good = record(json!({"text": "A fine day.", "label": "good"}), Some(&labels));
        let [sample] = Classification.samples(&good, &tokenizer).unwrap().try_into().unwrap();
        assert_eq!(sample.ids, tokenizer.encode("A fine day.", true).unwrap());
        assert_eq!((sample.label(), sample.target_tokens()), (vec![1.0], 0));
        let cut = Classification.cut(&good, &tokenizer, &sample, 2).unwrap();
        assert_eq!((&cut.ids[..], cut.label()), (&sample.ids[..2], vec![1.0]));
        let unnamed = record(json!({"text": "A", "label": 1}), None);
        let flaw = Classification.samples(&unnamed, &tokenizer).unwrap_err().to_string();
        assert!(flaw.contains("objective.kind = \"classify\""), "{flaw}");
    }
}
