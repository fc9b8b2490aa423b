//! One record to its samples, on any thread.

use super::augmented::Making;
use super::records::{Keep, Kept};
use crate::align::Taught;
use crate::augment::Made;
use crate::config::{DataConfig, Overlong};
use crate::error::{Flaw, Place, Result};
use crate::formats::{Format, FormatName, Record, disliked};
use crate::map::{Fields, Mapping};
use crate::sample::Sample;
use crate::sources::Body;
use crate::statistics::Counts;
use crate::tokenizer::Tokenizer;

/// What the threads share.
pub(super) struct Worker<'a> {
    pub config: &'a DataConfig,
    pub tokenizer: &'a Tokenizer,
    pub teacher: Option<&'a Tokenizer>,
    pub mapping: &'a Mapping,
    pub format: Option<FormatName>,
    pub making: Option<&'a Making>,
    pub keep: Option<&'a Keep>,
}

#[derive(Default)]
pub(super) struct Outcome {
    pub samples: Vec<Sample>,
    pub counts: Counts,
    pub made: Vec<Made>,
    pub kept: Option<Kept>,
}

impl Worker<'_> {
    pub fn work(&self, place: Place, body: Body) -> Result<Outcome, Flaw> {
        let Some(format) = self.format.map(|f| f.format()) else {
            return Ok(Outcome::default());
        };
        let fields = body.fields()?;
        if self.mapping.is_empty() {
            disliked(format, &fields)?;
        }
        let by = self.keep.map(|keep| keep.value(&fields)).transpose()?.flatten();
        let fields = self.mapping.apply(fields)?;
        let mut outcome = Outcome::default();
        if self.keep.is_some() {
            outcome.kept = Some(Kept {
                fields: format.own(&fields),
                by,
            });
        }
        let Some(making) = self.making else {
            self.take(format, fields, &mut outcome)?;
            return Ok(outcome);
        };
        if making.places.contains(&place) {
            for made in making.augmenter.copies(&making.files, place, &fields, &making.fields) {
                // A copy that has become unusable is left out: its record is there.
                if self.take(format, made.fields.clone(), &mut outcome).is_ok() {
                    outcome.made.push(made);
                }
            }
        }
        Ok(outcome)
    }

    fn take(&self, format: &dyn Format, fields: Fields, outcome: &mut Outcome) -> Result<(), Flaw> {
        let before = outcome.samples.len();
        let record = Record(fields, self.config.labels.as_ref());
        for sample in self.samples(format, &record)? {
            self.fit(format, &record, sample, outcome)?;
        }
        if let Some(teacher) = self.teacher {
            let tokenizers = [self.tokenizer, teacher];
            let samples = outcome.samples[before..].iter_mut();
            samples.for_each(|sample| sample.align(tokenizers, self.config.max_length));
        }
        Ok(())
    }

    fn samples(&self, format: &dyn Format, record: &Record) -> Result<Vec<Sample>, Flaw> {
        let samples = format.samples(record, self.tokenizer)?;
        if !samples.iter().all(Sample::teaches) {
            return Err(Flaw::NothingToLearn("the loss would cover no token"));
        }
        match self.teacher {
            Some(teacher) => taught(samples, format.samples(record, teacher)),
            None => Ok(samples),
        }
    }

    /// Applies the over-length policy.
    fn fit(&self, format: &dyn Format, record: &Record, sample: Sample, outcome: &mut Outcome) -> Result<(), Flaw> {
        let max_length = self.config.max_length;
        let tokens = sample.width();
        if tokens <= max_length {
            outcome.samples.push(sample);
            return Ok(());
        }
        match self.config.overlong {
            Overlong::Error => return Err(Flaw::TooLong { tokens, max_length }),
            Overlong::Drop => outcome.counts.dropped += 1,
            Overlong::Split => outcome
                .samples
                .extend(sample.windows(max_length).into_iter().filter(|w| w.target_tokens() > 0)),
            Overlong::Truncate => {
                let all = sample.tokens();
                let sample = format.cut(record, self.tokenizer, &sample, max_length)?;
                outcome.counts.truncated_tokens += all - sample.tokens();
                match sample.teaches() && !sample.is_undecided() {
                    false => outcome.counts.emptied += 1,
                    true => {
                        outcome.counts.truncated += 1;
                        outcome.samples.push(sample);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Each sample with the teacher's.
fn taught(samples: Vec<Sample>, theirs: Result<Vec<Sample>, Flaw>) -> Result<Vec<Sample>, Flaw> {
    let theirs = theirs.map_err(|flaw| Flaw::Teacher(Box::new(flaw)))?;
    if samples.len() != theirs.len() {
        return Err(Flaw::TeacherSamples {
            own: samples.len(),
            theirs: theirs.len(),
        });
    }
    let both = samples.into_iter().zip(theirs);
    let teach = |(sample, theirs): (Sample, Sample)| {
        sample.taught(Taught {
            sample: theirs,
            spans: Vec::new(),
        })
    };
    Ok(both.map(teach).collect())
}
