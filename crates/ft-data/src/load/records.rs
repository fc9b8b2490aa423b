//! Records themselves, under the names of their format's fields, for what writes data files.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::{Dataset, Loader};
use crate::config::{DataConfig, Overlong};
use crate::duplicates::{Trained, repeats, text_of, whole};
use crate::error::{Error, Flaw, Place, Result};
use crate::map::{Fields, no_column, push_plain};
use crate::minhash::near_duplicates;
use crate::sample::Sample;
use crate::sources::{Files, Role, Source};
use crate::split::{choose, prompt_key};
use crate::tokenizer::Tokenizer;
use ft_seed::mix;

/// What is kept of records beside their samples.
pub(super) struct Keep {
    /// The column whose value is.
    pub by: Option<String>,
}

/// What a worker gives of a record.
pub(super) struct Kept {
    pub fields: Fields,
    pub by: Option<String>,
}

impl Keep {
    /// The value of the column `by`, as text.
    pub fn value(&self, columns: &Fields) -> Result<Option<String>, Flaw> {
        let value = |name: &String| {
            let mut text = String::new();
            push_plain(&mut text, columns.get(name).ok_or_else(|| no_column(name, columns))?);
            Ok(text)
        };
        self.by.as_ref().map(value).transpose()
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// The fields of the format.
    pub fields: Fields,
    /// The value of the column that was asked for, as text.
    pub by: Option<String>,
    /// Which of the samples are its own.
    pub samples: Range<usize>,
}

impl Row {
    /// As a line of JSON, without its line break.
    pub fn line(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// Records with their samples, which are whole whatever `data.max_length` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The samples.
    pub data: Dataset,
    /// The records.
    pub rows: Vec<Row>,
}

/// Which training records are there twice, by index; a record is counted once, by the first that applies: exact, near, held out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Those with the same samples as an earlier one.
    pub exact: Vec<usize>,
    /// Those whose words are nearly those of an earlier one.
    pub near: Vec<usize>,
    /// Those with a prompt of the held-out data.
    pub held_out: Vec<usize>,
}

/// Reads records as `config` says, with the value of their column `by`.
///
/// # Errors
/// As [`load_samples`](super::load_samples), and for records without the column `by`.
pub fn load_records(
    files: impl Into<Files>,
    config: &DataConfig,
    by: Option<&str>,
    tokenizer: &Tokenizer,
) -> Result<Records> {
    let config = DataConfig {
        max_length: usize::MAX,
        overlong: Overlong::Truncate,
        ..config.clone()
    };
    config.check()?;
    let files = files.into().resolve(config.split.as_deref(), Role::Train)?;
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let sources: Vec<Source> = files.paths().iter().map(|path| Source::File(path)).collect();
    let mut loader = Loader::new(&config, &tokenizer, None)?;
    loader.keep = Some(Keep {
        by: by.map(str::to_owned),
    });
    loader.read(&sources)?;
    let rows = std::mem::take(&mut loader.rows);
    Ok(Records {
        data: loader.finish()?,
        rows,
    })
}

impl Records {
    fn samples(&self, row: &Row) -> &[Sample] {
        &self.data.samples[row.samples.clone()]
    }

    /// What could be left out: exact repeats, near ones from the Jaccard similarity `near` on, and records with a prompt of
    /// `held_out`. The first of those that repeat each other counts as the record.
    ///
    /// # Errors
    /// As [`near_duplicates`].
    pub fn duplicates(
        &self,
        near: Option<f64>,
        held_out: Option<&[Sample]>,
        tokenizer: &Tokenizer,
    ) -> Result<Duplicates> {
        let key = |row: &Row| self.samples(row).iter().fold(0, |key, sample| mix(key ^ whole(sample)));
        let exact: Vec<usize> = repeats(self.rows.iter().map(key)).iter().map(|r| r.index).collect();
        let mut others: Vec<usize> = (0..self.rows.len())
            .filter(|i| exact.binary_search(i).is_err())
            .collect();
        let near = match near {
            Some(threshold) => {
                let texts: Vec<_> = others
                    .iter()
                    .map(|&i| text_of(self.samples(&self.rows[i]), tokenizer))
                    .collect();
                near_duplicates(&texts, threshold)?
                    .iter()
                    .map(|r| others[r.index])
                    .collect()
            }
            None => Vec::new(),
        };
        others.retain(|i| near.binary_search(i).is_err());
        let held_out = match held_out {
            Some(held_out) => {
                let known = Trained::beside(held_out, &self.data.samples);
                let leaks = |i: &usize| self.samples(&self.rows[*i]).iter().any(|s| known.first(s).is_some());
                others.into_iter().filter(leaks).collect()
            }
            None => Vec::new(),
        };
        Ok(Duplicates { exact, near, held_out })
    }

    /// For each record whether it is held out: about `share` of them, of every value of the column `by` (with a rest that goes over to the
    /// next value). Records with the same prompt stay together. Depends on the seed, the prompts and the column, not on the order.
    ///
    /// # Errors
    /// [`Error::Source`] where one part would be empty.
    pub fn split(&self, share: f64, seed: u64) -> Result<Vec<bool>> {
        let keys = self.rows.iter().map(|row| prompt_key(&self.samples(row)[0], seed));
        let keys: Vec<u64> = keys.collect();
        let mut values: BTreeMap<u64, &Option<String>> = BTreeMap::new();
        for (key, row) in keys.iter().zip(&self.rows) {
            let value = values.entry(*key).or_insert(&row.by);
            *value = (*value).min(&row.by);
        }
        let mut strata: BTreeMap<&Option<String>, Vec<usize>> = BTreeMap::new();
        for (row, key) in keys.iter().enumerate() {
            strata.entry(values[key]).or_default().push(row);
        }
        let least = if share * (keys.len() as f64) < 1.0 { 1.0 } else { 0.0 };
        let (mut wanted, mut chosen) = (0.0, 0);
        let mut out = vec![false; keys.len()];
        for rows in strata.values() {
            wanted += share * rows.len() as f64;
            let more = (f64::max(wanted, least).round() as usize).saturating_sub(chosen);
            let own: Vec<u64> = rows.iter().map(|&row| keys[row]).collect();
            for (&row, held_out) in rows.iter().zip(choose(&own, more)) {
                out[row] = held_out;
                chosen += usize::from(held_out);
            }
        }
        match (1..keys.len()).contains(&chosen) {
            true => Ok(out),
            false => Err(Error::Source(format!(
                "of {} records {chosen} would be held out: records with the same prompt stay together; other prompts, more of them, or \
                 another share are needed",
                keys.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
