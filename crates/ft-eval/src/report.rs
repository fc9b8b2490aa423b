//! A whole evaluation: the likelihood, and every metric asked for.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use ft_data::{Sample, Tokenizer};
use ft_infer::{GenerationConfig, Token};
use ft_model::Model;
use serde::Serialize;

use crate::metrics::{self, Compute, Metric};
use crate::{Answer, Evaluation, Likelihood, Result, Scores, Settings, answers, batches, check, evaluate, score};

/// What to evaluate, and how.
#[derive(Clone, Debug)]
pub struct EvalConfig {
    /// Names out of [`metrics::METRICS`]. Loss and perplexity are always reported.
    pub metrics: Vec<String>,
    /// What the text metrics leave open.
    pub settings: Settings,
    /// Whether prompts are answered even where no metric needs it.
    pub answer: bool,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Batch widths are multiples of this: 1 on a CPU, 64 on a GPU.
    pub multiple: usize,
    /// How answers are generated, for the metrics that need them.
    pub generation: GenerationConfig,
    /// At most this many prompts are answered; all when absent.
    pub max_answers: Option<usize>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            metrics: vec!["perplexity".into()],
            settings: Settings::default(),
            answer: false,
            batch_size: 8,
            multiple: 1,
            generation: GenerationConfig::default(),
            max_answers: None,
        }
    }
}

/// The result of an evaluation; serializes to one flat JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Mean negative log-likelihood in nats per target token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Target tokens.
    pub tokens: usize,
    /// Samples with at least one target token.
    pub samples: usize,
    /// The other metrics by name.
    #[serde(flatten)]
    pub metrics: BTreeMap<&'static str, f64>,
    /// The signatures of those that have one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub signatures: BTreeMap<&'static str, String>,
    /// The generated answers, where they were needed.
    #[serde(skip)]
    pub answers: Vec<Answer>,
}

impl Report {
    fn new(evaluation: &Evaluation) -> Self {
        Self {
            loss: evaluation.loss(),
            perplexity: evaluation.perplexity(),
            tokens: evaluation.tokens,
            samples: evaluation.samples,
            metrics: BTreeMap::new(),
            signatures: BTreeMap::new(),
            answers: Vec::new(),
        }
    }
}

/// Evaluates `samples` by likelihood and, where a metric asks for it, by generated answers.
///
/// `progress` is called with the share of the work done (0 to 1) after every batch and every answer.
///
/// # Errors
/// An unknown metric, samples that the model cannot take, data without targets, a failing generation.
pub fn report(
    model: &Model,
    tokenizer: &Tokenizer,
    samples: &[Sample],
    config: &EvalConfig,
    progress: &mut dyn FnMut(f64),
) -> Result<Report> {
    let wanted: Vec<&Metric> = config
        .metrics
        .iter()
        .map(|name| metrics::find(name))
        .collect::<Result<_>>()?;
    check(model, samples)?;
    let generates = config.answer || wanted.iter().any(|metric| metric.needs_answers());
    // Generating takes by far the longer part of the time.
    let likelihood_share = if generates { 0.1 } else { 1.0 };
    let all = batches(samples, config.batch_size, config.multiple);
    let count = all.len() as f64;
    let counted = all.enumerate().map(|(index, batch)| {
        progress(likelihood_share * index as f64 / count);
        batch
    });
    let evaluation = evaluate(model, counted)?;
    let mut report = Report::new(&evaluation);
    if generates {
        report.answers = answer_some(model, tokenizer, samples, config, &mut |share| {
            progress(likelihood_share + (1.0 - likelihood_share) * share);
        })?;
    }
    let Scores { mut values, signatures } = score(&wanted, &report.answers, &config.settings);
    let likelihood = Likelihood::new(evaluation, tokenizer, samples);
    values.extend(of_likelihood(&wanted, &likelihood));
    (report.metrics, report.signatures) = (values, signatures);
    progress(1.0);
    Ok(report)
}

/// Answers the first prompts, and tells how many of them are done.
fn answer_some(
    model: &Model,
    tokenizer: &Tokenizer,
    samples: &[Sample],
    config: &EvalConfig,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<Answer>> {
    let kept = first_prompts(samples, config.max_answers);
    let prompts = kept.iter().map(Sample::prompt).collect::<HashSet<_>>().len() as f64;
    let mut done = 0.0;
    answers(model, tokenizer, &kept, &config.generation, &mut |token: Token| {
        if token.finish.is_some() {
            done += 1.0;
            progress(done / prompts);
        }
        ControlFlow::Continue(())
    })
}

/// The samples of the first `limit` distinct prompts.
fn first_prompts(samples: &[Sample], limit: Option<usize>) -> Vec<Sample> {
    let Some(limit) = limit else { return samples.to_vec() };
    let mut seen: HashSet<&[u32]> = HashSet::new();
    let mut kept = Vec::new();
    for sample in samples {
        if seen.len() < limit {
            seen.insert(sample.prompt());
        }
        if seen.contains(sample.prompt()) {
            kept.push(sample.clone());
        }
    }
    kept
}

/// The metrics of the likelihood but for perplexity, which has its own field.
fn of_likelihood(wanted: &[&Metric], likelihood: &Likelihood) -> impl Iterator<Item = (&'static str, f64)> {
    wanted.iter().filter_map(|metric| match metric.compute {
        Compute::Likelihood(compute) if metric.name != "perplexity" => Some((metric.name, compute(likelihood))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_flat() {
        let evaluation = Evaluation {
            nll_sum: 0.0,
            tokens: 3,
            samples: 2,
        };
        let metrics = BTreeMap::from([("exact_match", 0.5)]);
        let report = Report {
            metrics,
            ..Report::new(&evaluation)
        };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            json,
            r#"{"loss":0.0,"perplexity":1.0,"tokens":3,"samples":2,"exact_match":0.5}"#
        );
    }

    #[test]
    fn a_limit_counts_prompts_and_keeps_their_alternatives() {
        let sample = |prompt: u32, answer: u32| Sample::new(vec![prompt, answer], vec![false, true]);
        let samples = [sample(1, 5), sample(2, 5), sample(1, 6), sample(3, 5), sample(2, 7)];
        let kept: Vec<u32> = first_prompts(&samples, Some(2))
            .iter()
            .map(|sample| sample.ids[1])
            .collect();
        assert_eq!(kept, [5, 5, 6, 7]);
        assert_eq!(first_prompts(&samples, None).len(), 5);
    }
}
