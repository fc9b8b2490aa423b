//! What a data set holds, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::Fate;
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

/// Counted while reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Records in the file.
    pub records: usize,
    /// Samples cut at `max_length`.
    pub truncated: usize,
    /// Tokens cut off, those of emptied samples included.
    pub truncated_tokens: usize,
    /// Samples left out as too long (`overlong = "drop"`).
    pub dropped: usize,
    /// Samples left out because the cut left nothing to learn, or nothing to tell two answers apart.
    pub emptied: usize,
    /// Samples that were made from others (`data.augment`).
    pub made: usize,
    /// Whether `data.limit` was reached: what comes behind it was not read.
    pub limited: bool,
}

impl Counts {
    /// The two together.
    pub fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.truncated += other.truncated;
        self.truncated_tokens += other.truncated_tokens;
        self.dropped += other.dropped;
        self.emptied += other.emptied;
        self.made += other.made;
        self.limited |= other.limited;
    }

    /// What happened to the samples that it counts as cut or left out.
    pub(crate) fn fates(&self) -> impl Iterator<Item = Fate> {
        let counted = [
            (Fate::Truncated, self.truncated),
            (Fate::Emptied, self.emptied),
            (Fate::Dropped, self.dropped),
        ];
        counted.into_iter().flat_map(|(fate, n)| std::iter::repeat_n(fate, n))
    }

    /// Why no sample is left.
    pub(crate) fn why_empty(&self, max_length: usize) -> String {
        match (self.dropped, self.emptied) {
            (0, 0) => "holds no records".into(),
            (dropped, emptied) => format!(
                "no sample fits data.max_length = {max_length}: {dropped} dropped, {emptied} with nothing to learn after the cut; raise it"
            ),
        }
    }
}

/// Counts of samples and tokens; token counts are exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// What happened while reading.
    #[serde(flatten)]
    pub counts: Counts,
    /// Samples to train on.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The tokens that the loss covers.
    pub learned: usize,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Samples by length.
    pub histogram: Vec<Bin>,
    /// Special tokens that close a run of learned tokens, by spelling, with how often they do: what the model learns to stop with.
    pub stops: BTreeMap<String, usize>,
    /// Samples in which no run of learned tokens ends in a special token.
    pub without_stop: usize,
    /// Samples that begin with two BOS tokens.
    pub double_bos: usize,
    /// Of `stops`, those at which generation would not stop.
    pub unheeded_stops: Vec<String>,
}

/// A column of the length histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// Longest length in the column, in tokens: a power of two.
    pub up_to: usize,
    /// Samples longer than half of it, up to it.
    pub samples: usize,
}

impl Statistics {
    /// Measures `samples`. `counts` is what reading them counted.
    pub fn measure(samples: &[Sample], counts: Counts, tokenizer: &Tokenizer) -> Statistics {
        let (stops, without_stop) = stops(samples, tokenizer);
        let unheeded = stops.keys().filter(|id| !tokenizer.eos_ids().contains(id));
        let spelling = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_else(|| id.to_string());
        let twice = |s: &&Sample| tokenizer.bos_id().is_some_and(|bos| s.ids.starts_with(&[bos, bos]));
        let all = || samples.iter().flat_map(Sample::sequences);
        Statistics {
            counts,
            samples: samples.len(),
            tokens: all().map(Sample::len).sum(),
            learned: all().map(Sample::target_tokens).sum(),
            longest: samples.iter().map(Sample::width).max().unwrap_or(0),
            histogram: histogram(samples),
            unheeded_stops: unheeded.map(spelling).collect(),
            stops: stops.iter().map(|(id, n)| (spelling(id), *n)).collect(),
            without_stop,
            double_bos: samples.iter().filter(twice).count(),
        }
    }

    /// What a person should know before training on this, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let mut warn = |condition: bool, text: String| {
            if condition {
                warnings.push(text);
            }
        };
        let Counts {
            truncated,
            truncated_tokens,
            dropped,
            emptied,
            limited,
            records,
            made: _,
        } = self.counts;
        warn(
            self.without_stop == self.samples && self.samples > 0,
            "no sample teaches a stop token, so the model will not learn to stop; check the end-of-text token, the chat template and \
             data.max_length"
                .into(),
        );
        let unheeded = self.unheeded_stops.join(", ");
        let plural = if self.unheeded_stops.len() == 1 { "is" } else { "are" };
        warn(
            !unheeded.is_empty(),
            format!(
                "answers end in {unheeded}, which {plural} not among the end-of-text tokens at which generation stops"
            ),
        );
        warn(
            self.double_bos > 0,
            format!("{} samples begin with two BOS tokens", self.double_bos),
        );
        warn(
            truncated > 0,
            format!("{truncated} samples were cut, losing {truncated_tokens} tokens; see data.max_length"),
        );
        warn(
            dropped > 0,
            format!("{dropped} samples were dropped as too long; see data.max_length"),
        );
        warn(
            emptied > 0,
            format!("{emptied} samples had nothing to learn after the cut and were dropped; see data.max_length"),
        );
        warn(
            limited,
            format!("only the first {records} records were read; see data.limit"),
        );
        warnings
    }
}

fn stops(samples: &[Sample], tokenizer: &Tokenizer) -> (BTreeMap<u32, usize>, usize) {
    let mut stops = BTreeMap::new();
    let mut without = 0;
    for sample in samples {
        let ends = sample
            .runs()
            .map(|run| sample.ids[run.end - 1])
            .filter(|&id| tokenizer.is_special(id));
        let mut any = false;
        for id in ends {
            *stops.entry(id).or_insert(0) += 1;
            any = true;
        }
        without += usize::from(!any);
    }
    (stops, without)
}

fn histogram(samples: &[Sample]) -> Vec<Bin> {
    let mut bins = BTreeMap::new();
    for sample in samples {
        *bins.entry(sample.width().next_power_of_two()).or_insert(0) += 1;
    }
    bins.into_iter()
        .map(|(up_to, samples)| Bin { up_to, samples })
        .collect()
}
