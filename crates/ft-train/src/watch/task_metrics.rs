//! What the answers of tasks come to, by the metrics of each, at every evaluation.
//!
//! ```text
//! bleu/TASK     of one task's held-out prompts
//! bleu_micro    of the prompts of all tasks that have the metric, together
//! bleu_macro    mean over these tasks
//! ```

use std::collections::BTreeMap;

use ft_data::{Sample, Tokenizer};
use ft_eval::{Answer, Compute, Metric, Settings};
use ft_infer::GenerationConfig;
use ft_model::Model;

use super::completions::some_prompts;
use super::speakers::Speakers;
use crate::tasks::pooled;
use crate::{Plan, Result};

/// The prompts and metrics of tasks.
pub struct TaskMetrics {
    tasks: Vec<Measured>,
    generation: GenerationConfig,
    tokenizer: Tokenizer,
}

struct Measured {
    /// Its number.
    task: usize,
    name: String,
    metrics: Vec<&'static Metric>,
    prompts: Vec<Sample>,
}

impl TaskMetrics {
    /// Those of a plan; none where no task has a metric of answers.
    pub fn of(plan: &Plan) -> Option<Self> {
        let limit = plan.config.eval.max_answers.unwrap_or(usize::MAX);
        let tasks = plan.config.task.iter().zip(&plan.tasks.0).enumerate();
        let measured = tasks.map(|(task, (config, samples))| {
            let metrics = config.metrics.iter().filter_map(|name| ft_eval::find(name).ok());
            let held_out: Vec<&Sample> = plan.valid[samples.valid.clone()].iter().collect();
            let wanted: Vec<Sample> = held_out.into_iter().filter_map(Sample::wanted).collect();
            Measured {
                task,
                name: config.name.clone(),
                metrics: metrics.filter(|metric| metric.needs_answers()).collect(),
                prompts: some_prompts(&wanted, limit, true),
            }
        });
        let tasks: Vec<Measured> = measured
            .filter(|own| !own.metrics.is_empty() && !own.prompts.is_empty())
            .collect();
        (!tasks.is_empty()).then(|| Self {
            tasks,
            generation: plan.generation.clone(),
            tokenizer: plan.tokenizer.clone(),
        })
    }

    /// Lets the model of each task (on a plain device) answer. Values by the names that they have in the log.
    ///
    /// # Errors
    /// A model that cannot answer; a rank that ends or says nothing.
    pub fn measure<'m>(
        &self,
        model_of: impl Fn(usize) -> &'m Model,
        speakers: Speakers<'_>,
    ) -> Result<BTreeMap<String, f64>> {
        let mut values = BTreeMap::new();
        let mut together: BTreeMap<&str, (&Metric, Vec<f64>, Vec<Answer>)> = BTreeMap::new();
        for Measured {
            task,
            name,
            metrics,
            prompts,
        } in &self.tasks
        {
            let answers = ft_eval::answers_of(&self.tokenizer, prompts, |prompts| {
                speakers.answer(model_of(*task), prompts, &self.generation)
            })?;
            for metric in metrics {
                let value = value(metric, &answers);
                values.insert(format!("{}/{name}", metric.name), value);
                let (_, of_tasks, all) = together.entry(metric.name).or_insert((metric, Vec::new(), Vec::new()));
                of_tasks.push(value);
                all.extend(answers.iter().cloned());
            }
        }
        for (metric, of_tasks, all) in together.into_values() {
            let [micro, mean] = pooled(metric.name);
            values.insert(micro, value(metric, &all));
            values.insert(mean, of_tasks.iter().sum::<f64>() / of_tasks.len() as f64);
        }
        Ok(values)
    }
}

fn value(metric: &Metric, answers: &[Answer]) -> f64 {
    match metric.compute {
        Compute::Answers(compute) => compute(answers, &Settings::default()),
        Compute::Likelihood(_) | Compute::Choices(_) => f64::NAN,
    }
}
