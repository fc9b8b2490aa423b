//! The metrics: one file per family, one line in [`METRICS`] each.

use std::collections::BTreeMap;

use crate::{Answer, Choice, Error, Likelihood, Result, Settings};

mod bleu;
mod chrf;
mod cider;
pub(crate) mod classification;
mod coco_rouge;
mod exact_match;
mod multiple_choice;
mod nist;
mod perplexity;
mod rouge;
mod squad;

/// Every metric, in the order of reports.
pub const METRICS: &[Metric] = &[
    Metric::likelihood("perplexity", perplexity::ABOUT, perplexity::of_tokens),
    Metric::likelihood("word_perplexity", perplexity::ABOUT_WORD, perplexity::of_words),
    Metric::likelihood("byte_perplexity", perplexity::ABOUT_BYTE, perplexity::of_bytes),
    Metric::likelihood("bits_per_byte", perplexity::ABOUT_BITS, perplexity::bits),
    Metric::answers("exact_match", exact_match::ABOUT, exact_match::compute),
    Metric::answers("f1", squad::ABOUT_F1, squad::f1),
    Metric::answers("squad_exact_match", squad::ABOUT_EXACT, squad::exact),
    Metric::answers("bleu", bleu::ABOUT, bleu::corpus).signed(bleu::corpus_signature),
    Metric::answers("sentence_bleu", bleu::ABOUT_SENTENCE, bleu::mean_of_sentences).signed(bleu::sentence_signature),
    Metric::answers("chrf", chrf::ABOUT, chrf::chrf).signed(chrf::chrf_signature),
    Metric::answers("chrf++", chrf::ABOUT_PLUS, chrf::chrf_plus).signed(chrf::chrf_plus_signature),
    Metric::answers("rouge1", rouge::ABOUT_1, rouge::rouge_1),
    Metric::answers("rouge2", rouge::ABOUT_2, rouge::rouge_2),
    Metric::answers("rougeL", rouge::ABOUT_L, rouge::rouge_l),
    Metric::answers("rougeLsum", rouge::ABOUT_LSUM, rouge::rouge_lsum),
    Metric::answers("nist", nist::ABOUT, nist::compute),
    Metric::answers("cider", cider::ABOUT, cider::compute),
    Metric::answers("coco_rougeL", coco_rouge::ABOUT, coco_rouge::compute),
    Metric::answers("accuracy", classification::ABOUT_ACCURACY, classification::accuracy),
    Metric::answers("macro_f1", classification::ABOUT_MACRO, classification::macro_f1),
    Metric::answers("micro_f1", classification::ABOUT_MICRO, classification::micro_f1),
    Metric::answers("matthews", classification::ABOUT_MATTHEWS, classification::matthews),
    Metric::choices("acc", multiple_choice::ABOUT, multiple_choice::acc),
    Metric::choices("acc_norm", multiple_choice::ABOUT_NORM, multiple_choice::acc_norm),
];

/// A number that says how good a model is.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// What a person types and a report shows.
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    /// How it is computed.
    pub compute: Compute,
    /// What must be said beside the number for others to compute the same, as sacreBLEU writes it.
    pub signature: Option<Signature>,
}

/// What a metric looks at.
#[derive(Clone, Copy, Debug)]
pub enum Compute {
    /// The likelihood of the data under the model.
    Likelihood(fn(&Likelihood) -> f64),
    /// Answers beside the answers of the data.
    Answers(fn(&[Answer], &Settings) -> f64),
    /// The likelihoods of the answers to multiple-choice questions.
    Choices(fn(&[Choice]) -> f64),
}

/// The signature of a score.
pub type Signature = fn(&[Answer], &Settings) -> String;

/// Values by the names of metrics, and the signatures of those that have one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// The values.
    pub values: BTreeMap<&'static str, f64>,
    /// The signatures.
    pub signatures: BTreeMap<&'static str, String>,
}

impl Metric {
    const fn new(name: &'static str, about: &'static str, compute: Compute) -> Self {
        Self {
            name,
            about,
            compute,
            signature: None,
        }
    }

    const fn likelihood(name: &'static str, about: &'static str, compute: fn(&Likelihood) -> f64) -> Self {
        Self::new(name, about, Compute::Likelihood(compute))
    }

    const fn answers(name: &'static str, about: &'static str, compute: fn(&[Answer], &Settings) -> f64) -> Self {
        Self::new(name, about, Compute::Answers(compute))
    }

    const fn choices(name: &'static str, about: &'static str, compute: fn(&[Choice]) -> f64) -> Self {
        Self::new(name, about, Compute::Choices(compute))
    }

    const fn signed(mut self, signature: Signature) -> Self {
        self.signature = Some(signature);
        self
    }

    /// Whether it looks at answers.
    pub fn needs_answers(&self) -> bool {
        matches!(self.compute, Compute::Answers(_))
    }

    /// Whether it looks at multiple-choice questions.
    pub fn needs_choices(&self) -> bool {
        matches!(self.compute, Compute::Choices(_))
    }
}

/// The values of those metrics that look at choices.
pub fn score_choices(metrics: &[&Metric], choices: &[Choice]) -> BTreeMap<&'static str, f64> {
    let value = |metric: &&Metric| match metric.compute {
        Compute::Choices(compute) => Some((metric.name, compute(choices))),
        _ => None,
    };
    metrics.iter().filter_map(value).collect()
}

/// The metric of that name.
///
/// # Errors
/// [`Error::UnknownMetric`], which lists all names.
pub fn find(name: &str) -> Result<&'static Metric> {
    METRICS
        .iter()
        .find(|metric| metric.name == name)
        .ok_or_else(|| Error::UnknownMetric { name: name.to_string() })
}

/// The names of all metrics, for messages.
pub fn names() -> String {
    METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ")
}

/// The values of those metrics that look at answers; 0 where there is no answer at all.
pub fn score(metrics: &[&Metric], answers: &[Answer], settings: &Settings) -> Scores {
    let mut scores = Scores::default();
    for metric in metrics {
        if let Compute::Answers(compute) = metric.compute {
            scores.values.insert(metric.name, compute(answers, settings));
            let signature = metric.signature.map(|sign| (metric.name, sign(answers, settings)));
            scores.signatures.extend(signature);
        }
    }
    scores
}

/// The mean of a number over all answers.
fn mean(answers: &[Answer], of: impl Fn(&Answer) -> f64) -> f64 {
    answers.iter().map(of).sum::<f64>() / answers.len().max(1) as f64
}

/// sacreBLEU's signature: how many references, upper and lower case, what the metric adds, the version whose numbers these are.
fn signature(answers: &[Answer], lowercase: bool, rest: &str) -> String {
    let first = answers.first().map_or(0, |answer| answer.references.len());
    let references = match answers.iter().all(|answer| answer.references.len() == first) {
        true => first.to_string(),
        false => "var".into(),
    };
    let case = if lowercase { "lc" } else { "mixed" };
    format!("nrefs:{references}|case:{case}|{rest}|version:2.6.0")
}

#[cfg(test)]
pub(crate) mod tests;
