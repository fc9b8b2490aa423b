//! Sample answers and generated metrics, before and after a run.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use ft_data::{Sample, Tokenizer};
use ft_eval::{Compute, Settings};
use ft_infer::GenerationConfig;
use ft_model::Model;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::EvalSection;
use crate::plan::spread;
use crate::watch::history::{Done, MetricsFile};
use crate::watch::speakers::Speakers;
use crate::{Error, Plan, Result};

/// A prompt with what is expected and what the model says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleCompletion {
    /// The prompt as text, special tokens left out.
    pub prompt: String,
    /// The data's own answer.
    pub expected: String,
    /// The model's.
    pub answer: String,
}

/// What generation shows about a model at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Answers to the first held-out prompts.
    pub samples: Vec<SampleCompletion>,
    /// The metrics of `eval.metrics`, by name.
    pub metrics: BTreeMap<String, f64>,
}

/// The model, on a plain device, that answers prompts of a task, by the task's number.
pub type ModelOf<'a> = &'a dyn Fn(usize) -> Model;

/// Which prompts are answered, and how.
#[derive(Clone, Debug)]
pub struct Prompts {
    shown: Vec<Sample>,
    measured: Vec<Sample>,
    metrics: Vec<&'static ft_eval::Metric>,
    generation: GenerationConfig,
    /// Those of single tasks, where each has a model of its own: the task's number, and its prompts.
    tasks: Vec<(usize, Prompts)>,
}

impl Prompts {
    /// Those of a run.
    pub fn of(plan: &Plan) -> Self {
        let eval = &plan.config.eval;
        // Where each task has a model of its own, it answers its own prompts.
        let separate = plan.config.separates_tasks();
        let share = |number: usize| (eval.samples + number) / plan.tasks.0.len().max(1);
        let tasks = plan.tasks.0.iter().enumerate();
        let tasks = tasks.filter(|_| separate);
        let tasks = tasks.map(|(number, task)| {
            let own = EvalSection {
                samples: share(number),
                metrics: Vec::new(),
                ..eval.clone()
            };
            let held_out = &plan.valid[task.valid.clone()];
            (number, Self::new(held_out, &[], &own, &plan.generation))
        });
        let together = EvalSection {
            samples: if separate { 0 } else { eval.samples },
            ..eval.clone()
        };
        Self {
            tasks: tasks.collect(),
            ..Self::new(&plan.valid, plan.batches.samples(), &together, &plan.generation)
        }
    }

    /// Takes the prompts from the held-out samples; from the training samples where nothing is held out.
    pub fn new(held_out: &[Sample], train: &[Sample], eval: &EvalSection, generation: &GenerationConfig) -> Self {
        let wanted = |samples: &[Sample]| samples.iter().filter_map(Sample::wanted).collect::<Vec<_>>();
        let (held_out, train) = (wanted(held_out), wanted(train));
        let source = if held_out.is_empty() { &train } else { &held_out };
        let metrics: Vec<_> = eval
            .metrics
            .iter()
            .filter_map(|name| ft_eval::find(name).ok())
            .collect();
        let metrics: Vec<_> = metrics.into_iter().filter(|m| m.needs_answers()).collect();
        let measured = match metrics.is_empty() {
            true => Vec::new(),
            false => some_prompts(&held_out, eval.max_answers.unwrap_or(usize::MAX), true),
        };
        Self {
            shown: some_prompts(source, eval.samples, false)
                .iter()
                .map(with_prompt)
                .collect(),
            measured,
            metrics,
            generation: generation.clone(),
            tasks: Vec::new(),
        }
    }

    /// Lets the model of each task (on a plain device) answer.
    pub fn ask(&self, model_of: ModelOf<'_>, tokenizer: &Tokenizer, speakers: Speakers<'_>) -> Result<Shown> {
        Ok(Shown {
            samples: self.show(model_of, tokenizer, speakers)?,
            metrics: self.measure(&model_of(0), tokenizer, speakers)?,
        })
    }

    /// The sample answers alone.
    fn show(
        &self,
        model_of: ModelOf<'_>,
        tokenizer: &Tokenizer,
        speakers: Speakers<'_>,
    ) -> Result<Vec<SampleCompletion>> {
        let mut samples = self.show_own(&model_of(0), tokenizer, speakers)?;
        for (number, prompts) in &self.tasks {
            samples.extend(prompts.show_own(&model_of(*number), tokenizer, speakers)?);
        }
        Ok(samples)
    }

    fn show_own(&self, model: &Model, tokenizer: &Tokenizer, speakers: Speakers<'_>) -> Result<Vec<SampleCompletion>> {
        let prompts: Vec<Vec<u32>> = self.shown.iter().map(|s| s.prompt().to_vec()).collect();
        let text = |ids: &[u32]| tokenizer.decode(ids, true);
        let generated = speakers.answer(model, &prompts, &self.generation)?;
        let samples = self
            .shown
            .iter()
            .zip(&generated)
            .map(|(sample, generation)| SampleCompletion {
                prompt: text(sample.prompt()),
                expected: text(sample.answer()),
                answer: text(generation.content()),
            });
        Ok(samples.collect())
    }

    fn measure(&self, model: &Model, tokenizer: &Tokenizer, speakers: Speakers<'_>) -> Result<BTreeMap<String, f64>> {
        if self.metrics.is_empty() || self.measured.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answers = ft_eval::answers_of(tokenizer, &self.measured, |prompts| {
            speakers.answer(model, prompts, &self.generation)
        })?;
        let value = |metric: &&ft_eval::Metric| match metric.compute {
            Compute::Answers(compute) => Some((metric.name.to_owned(), compute(&answers, &Settings::default()))),
            Compute::Likelihood(_) | Compute::Choices(_) => None,
        };
        Ok(self.metrics.iter().filter_map(value).collect())
    }
}

/// `samples.jsonl`: what the model answered at every evaluation.
pub struct CompletionsFile {
    /// Of several ranks the first writes.
    file: Option<MetricsFile>,
    prompts: Prompts,
    tokenizer: Tokenizer,
}

impl CompletionsFile {
    /// Its name in the run folder.
    pub const NAME: &str = "samples.jsonl";

    /// Opens the file, where this is the rank that `writes`, for a run that goes on after step `done`.
    pub fn open(
        out: &Path,
        prompts: &Prompts,
        tokenizer: &Tokenizer,
        done: Option<Done>,
        writes: bool,
    ) -> Result<Self> {
        let file = || MetricsFile::open(&out.join(Self::NAME), done);
        Ok(Self {
            file: writes.then(file).transpose()?,
            prompts: prompts.clone(),
            tokenizer: tokenizer.clone(),
        })
    }

    /// Lets the model of each task (on a plain device) answer after `step` steps. The answers before the first step are in `before.json`,
    /// and answers cut short by a stop are not kept: the evaluation is made again.
    pub fn ask(&mut self, step: usize, model_of: ModelOf<'_>, speakers: Speakers<'_>) -> Result<()> {
        if step == 0 {
            return Ok(());
        }
        // A model that cannot answer (its weights have overflowed) may still recover; the run itself judges its loss.
        let line = match self.prompts.show(model_of, &self.tokenizer, speakers) {
            Ok(samples) => json!({ "step": step, "samples": samples }),
            Err(error @ Error::Rank { .. }) => return Err(error),
            Err(error) => json!({ "step": step, "error": error.to_string() }),
        };
        match &mut self.file {
            Some(file) if !speakers.stopped() => file.push(&line),
            _ => Ok(()),
        }
    }
}

/// The samples of at most `limit` distinct prompts, spread evenly: all of them, or one each.
pub(super) fn some_prompts(samples: &[Sample], limit: usize, alternatives: bool) -> Vec<Sample> {
    let mut seen: HashSet<&[u32]> = HashSet::new();
    let first: Vec<&Sample> = samples.iter().filter(|s| seen.insert(s.prompt())).collect();
    let chosen = spread(first, limit);
    if !alternatives {
        return chosen.into_iter().cloned().collect();
    }
    let prompts: HashSet<&[u32]> = chosen.iter().map(|s| s.prompt()).collect();
    samples
        .iter()
        .filter(|s| prompts.contains(s.prompt()))
        .cloned()
        .collect()
}

/// Plain text has no prompt (all but its first token is learned); its beginning serves as one.
fn with_prompt(sample: &Sample) -> Sample {
    const BEGINNING: usize = 16;
    if sample.prompt().len() >= 2 {
        return sample.clone();
    }
    let end = BEGINNING.min(sample.len() / 2).max(1);
    let mut learn = sample.learn();
    learn[..end].fill(false);
    Sample::new(sample.ids.to_vec(), learn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: &[u32], prompt: usize) -> Sample {
        Sample::answered(ids.to_vec(), prompt)
    }

    #[test]
    fn one_or_all_samples_of_prompts_spread_evenly() {
        let samples = [
            sample(&[1, 2, 5], 2),
            sample(&[1, 2, 6], 2),
            sample(&[3, 4, 5], 2),
            sample(&[7, 8, 5], 2),
            sample(&[9, 8, 5], 2),
        ];
        let firsts = |limit, all| {
            some_prompts(&samples, limit, all)
                .iter()
                .map(|s| s.ids[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(2, false), [1, 7]);
        assert_eq!(firsts(2, true), [1, 1, 7]);
        assert_eq!(firsts(9, false), [1, 3, 7, 9]);
        assert!(firsts(0, false).is_empty());
    }

    #[test]
    fn plain_text_is_continued_from_its_beginning() {
        let text = sample(&[1, 2, 3, 4, 5, 6], 0);
        assert_eq!(with_prompt(&text).prompt(), [1, 2, 3]);
        assert_eq!(with_prompt(&text).answer(), [4, 5, 6]);
        let long = sample(&(0..100).collect::<Vec<_>>(), 0);
        assert_eq!(with_prompt(&long).prompt().len(), 16);
    }
}
