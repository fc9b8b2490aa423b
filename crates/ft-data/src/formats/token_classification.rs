//! `token-classification`: words, and the class of each.
//!
//! * `{"tokens": ["Ada", "lives", ..], "tags": ["B-PER", "O", ..]}`: classes by name or number, -100 where none is learned
//!
//! The tags may be called `labels` or `ner_tags`. The first token of a word has its class, the others and special tokens none, as in
//! transformers' examples. What is longer than `data.max_length` is cut before special tokens are added.

use super::{Examples, Format, Record};
use crate::error::{Flaw, Result};
use crate::labels::NO_CLASS;
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct TokenClassification;

const TAGS: [&str; 3] = ["tags", "labels", "ner_tags"];

impl Format for TokenClassification {
    fn name(&self) -> &'static str {
        "token-classification"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["tokens", "tags"], &["tokens", "labels"], &["tokens", "ner_tags"]]
    }

    fn examples(&self) -> Examples {
        Examples::Labelled
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["tokens"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        Ok(vec![sample(record, tokenizer, None)?])
    }

    fn cut(&self, record: &Record, tokenizer: &Tokenizer, _: &Sample, max_length: usize) -> Result<Sample, Flaw> {
        sample(record, tokenizer, Some(max_length))
    }
}

fn sample(record: &Record, tokenizer: &Tokenizer, max_length: Option<usize>) -> Result<Sample, Flaw> {
    let column = TAGS
        .into_iter()
        .find(|name| record.optional(name).is_some())
        .unwrap_or(TAGS[0]);
    let classes = record.labels()?.read(column, record.value(column)?)?;
    let words = record.list("tokens")?;
    if words.len() != classes.len() {
        return Err(Flaw::Tokens(format!(
            "`tokens` has {} words and `{column}` {} classes; give one for each word",
            words.len(),
            classes.len()
        )));
    }
    let text = |word: &serde_json::Value| super::text_of("tokens", word).map(|text| text.into_owned());
    let words: Vec<String> = words.iter().map(text).collect::<Result<_, _>>()?;
    let (ids, first_of) = tokenizer
        .encode_words(&words, max_length)
        .map_err(|e| Flaw::Tokenizer(e.to_string()))?;
    let class = |word: &Option<usize>| word.map_or(NO_CLASS, |word| classes[word]);
    let classes: Vec<f32> = first_of.iter().map(class).collect();
    if classes.iter().all(|class| *class == NO_CLASS) {
        return Err(Flaw::NothingToLearn("no word has a class"));
    }
    Ok(Sample::answered(ids, usize::MAX).tagged(&classes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{LabelKind, Labels};
    use serde_json::json;

    #[test]
    fn the_first_token_of_a_word_has_its_class() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
        let tokenizer = Tokenizer::from_dir(folder.as_ref()).unwrap();
        let labels = Labels {
            names: vec!["O".into(), "B".into()],
            kind: LabelKind::Words,
        };
        let record = |value: serde_json::Value| Record(value.as_object().unwrap().clone(), Some(&labels));
        let words = json!({"tokens": ["Unbelievably", "fine"], "tags": ["B", 0]});
        let [sample] = TokenClassification
            .samples(&record(words), &tokenizer)
            .unwrap()
            .try_into()
            .unwrap();
        let classes = sample.label();
        assert_eq!((classes[0], classes.len()), (1.0, sample.len()));
        assert_eq!(classes.iter().filter(|class| **class == 0.0).count(), 1);
        assert!(sample.is_tagged());
        let short = json!({"tokens": ["a", "b"], "tags": ["O"]});
        let flaw = TokenClassification
            .samples(&record(short), &tokenizer)
            .unwrap_err()
            .to_string();
        assert!(flaw.contains("`tokens` has 2 words and `tags` 1 classes"), "{flaw}");
    }
}
