//! The metrics: one file each, one line in [`METRICS`] each.

use crate::{Error, Evaluation, Result};

mod bleu;
mod exact_match;
mod perplexity;
mod rouge_l;

/// Every metric, in the order of reports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "perplexity",
        about: perplexity::ABOUT,
        compute: Compute::Likelihood(perplexity::compute),
    },
    Metric {
        name: "exact_match",
        about: exact_match::ABOUT,
        compute: Compute::Answers(exact_match::compute),
    },
    Metric {
        name: "bleu",
        about: bleu::ABOUT,
        compute: Compute::Answers(bleu::compute),
    },
    Metric {
        name: "rouge_l",
        about: rouge_l::ABOUT,
        compute: Compute::Answers(rouge_l::compute),
    },
];

/// A number, or several, that say how good a model is.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// What a person types and a report shows.
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    /// How it is computed.
    pub compute: Compute,
}

/// What a metric looks at.
#[derive(Clone, Copy, Debug)]
pub enum Compute {
    /// The likelihood of the data under the model.
    Likelihood(fn(&Evaluation) -> f64),
    /// Generated answers beside the answers of the data.
    Answers(fn(&[Answer]) -> f64),
}

/// A generated answer and the answers that would have been right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the model wrote.
    pub hypothesis: String,
    /// What the data has for the same prompt; at least one.
    pub references: Vec<String>,
}

impl Metric {
    /// Whether answers must be generated for it.
    pub fn needs_answers(&self) -> bool {
        matches!(self.compute, Compute::Answers(_))
    }
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
pub(crate) fn names() -> String {
    METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An answer with its references.
    pub(crate) fn answer(hypothesis: &str, references: &[&str]) -> Answer {
        Answer {
            hypothesis: hypothesis.into(),
            references: references.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for metric in METRICS {
            assert_eq!(METRICS.iter().filter(|other| other.name == metric.name).count(), 1);
            assert_eq!(find(metric.name).unwrap().about, metric.about);
        }
        let error = find("blue").unwrap_err().to_string();
        assert!(error.contains("blue") && error.contains("bleu, rouge_l"), "{error}");
    }

    /// The golden file that `tests/fixtures/metrics/generate.py` wrote with sacrebleu and rouge-score.
    #[test]
    fn text_metrics_agree_with_the_reference_packages() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/metrics/golden.json")).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let strings = |value: &serde_json::Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
            let references = case["references"].as_array().unwrap();
            let answers: Vec<Answer> = strings(&case["hypotheses"])
                .into_iter()
                .zip(references)
                .map(|(hypothesis, references)| Answer {
                    hypothesis,
                    references: strings(references),
                })
                .collect();
            for (name, tolerance) in [("bleu", 1e-9), ("rouge_l", 1e-12)] {
                let Compute::Answers(compute) = find(name).unwrap().compute else {
                    panic!()
                };
                let (got, expected) = (compute(&answers), case[name].as_f64().unwrap());
                assert!(
                    (got - expected).abs() < tolerance,
                    "{name} of {}: {got}, not {expected}",
                    case["name"]
                );
            }
        }
    }
}
