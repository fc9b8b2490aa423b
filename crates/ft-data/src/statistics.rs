//! What a data set holds, in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cache::passing;
use crate::load::Fate;
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

/// Counted while reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Special tokens that close a run of target tokens, by spelling, with how often they do: what the model learns to stop with.
    pub stops: BTreeMap<String, usize>,
    /// Samples in which no run of target tokens ends in a special token.
    pub without_stop: usize,
    /// Samples that begin with two BOS tokens.
    pub double_bos: usize,
    /// Of `stops`, those at which generation would not stop.
    pub unheeded_stops: Vec<String>,
}

/// A column of the length histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Longest length in the column, in tokens: a power of two.
    pub up_to: usize,
    /// Samples longer than half of it, up to it.
    pub samples: usize,
}

impl Statistics {
    /// Measures `samples`. `counts` is what reading them counted.
    pub fn measure(samples: &[Sample], counts: Counts, tokenizer: &Tokenizer) -> Statistics {
        let mut seen = Seen::default();
        passing(samples).for_each(|sample| seen.add(sample, tokenizer));
        let unheeded = seen.stops.keys().filter(|id| !tokenizer.eos_ids().contains(id));
        let spelling = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_else(|| id.to_string());
        Statistics {
            counts,
            samples: samples.len(),
            tokens: seen.tokens,
            learned: seen.learned,
            longest: seen.longest,
            unheeded_stops: unheeded.map(spelling).collect(),
            stops: seen.stops.iter().map(|(id, n)| (spelling(id), *n)).collect(),
            histogram: seen.histogram(),
            without_stop: seen.without_stop,
            double_bos: seen.double_bos,
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

/// What one pass over samples finds.
#[derive(Default)]
struct Seen {
    tokens: usize,
    learned: usize,
    longest: usize,
    stops: BTreeMap<u32, usize>,
    without_stop: usize,
    double_bos: usize,
    bins: BTreeMap<usize, usize>,
}

impl Seen {
    fn add(&mut self, sample: &Sample, tokenizer: &Tokenizer) {
        let width = sample.width();
        self.tokens += sample.tokens();
        self.learned += sample.sequences().map(Sample::target_tokens).sum::<usize>();
        self.longest = self.longest.max(width);
        *self.bins.entry(width.next_power_of_two()).or_insert(0) += 1;
        let ends = sample.runs().map(|run| sample.ids[run.end - 1]);
        let mut stops = ends.filter(|id| tokenizer.is_special(*id)).peekable();
        self.without_stop += usize::from(stops.peek().is_none() && !sample.is_labelled());
        stops.for_each(|id| *self.stops.entry(id).or_insert(0) += 1);
        let twice = tokenizer
            .bos_id()
            .is_some_and(|bos| sample.ids.starts_with(&[bos, bos]));
        self.double_bos += usize::from(twice);
    }

    fn histogram(&self) -> Vec<Bin> {
        let bin = |(&up_to, &samples)| Bin { up_to, samples };
        self.bins.iter().map(bin).collect()
    }
}
