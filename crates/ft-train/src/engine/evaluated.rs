//! What an evaluation comes to: its line of the log, and whether it is the best.

use std::collections::BTreeMap;

use serde_json::json;

use crate::Result;
use crate::checkpoint::{Best, Evaluation, Exact};
use crate::engine::fit::Event;
use crate::engine::session::Session;
use crate::objectives::HeldOut;

impl Session {
    /// The number of the range of held-out samples that a batch is of.
    pub(crate) fn group_of(&self, batch: &ft_data::Batch) -> usize {
        let first = batch.numbers.first().copied().unwrap_or(0);
        let task = self.tasks.0.iter().position(|task| task.valid.contains(&first));
        task.unwrap_or(0)
    }

    /// Takes an evaluation of the present weights into the state: one part for every task, or one for all samples.
    pub(crate) fn evaluated(
        &mut self,
        parts: Vec<HeldOut>,
        mut metrics: BTreeMap<String, f64>,
        seconds: f64,
    ) -> Result<()> {
        let tasks: Vec<Evaluation> = match self.tasks.0.is_empty() {
            true => Vec::new(),
            false => parts.iter().map(HeldOut::mean).collect(),
        };
        let held_out = HeldOut::together(parts);
        let scores = held_out.said.iter().flat_map(ft_eval::HeadAnswers::scores);
        metrics.extend(scores.map(|(name, value)| (name.to_owned(), value)));
        let evaluation = Evaluation {
            tasks: tasks.iter().map(|task| task.loss).collect(),
            metrics: metrics
                .iter()
                .map(|(name, value)| (name.clone(), Exact(*value)))
                .collect(),
            ..held_out.mean()
        };
        let mut line = json!({
            "step": self.state.step,
            "epoch": self.state.epoch,
            "eval_loss": evaluation.loss.0,
        });
        if let (Some(nll), Some((_, tokens))) = (evaluation.nll, held_out.nll) {
            line["eval_perplexity"] = nll.0.exp().into();
            line["eval_tokens"] = tokens.into();
        }
        for (name, sum, count) in &held_out.figures {
            line[format!("eval_{name}")] = (sum / (*count).max(1) as f64).into();
        }
        if let Some(mean) = evaluation.macro_loss() {
            line["eval_loss_macro"] = mean.into();
        }
        for (task, Evaluation { loss, nll, .. }) in self.tasks.0.iter().zip(&tasks) {
            line[format!("eval_loss/{}", task.name)] = loss.0.into();
            if let Some(nll) = nll {
                line[format!("eval_perplexity/{}", task.name)] = nll.0.exp().into();
            }
        }
        for (name, value) in metrics {
            line[format!("eval_{name}")] = value.into();
        }
        line["eval_seconds"] = seconds.into();
        self.log.push(&line)?;
        self.state.log(line);
        self.note(evaluation);
        Ok(())
    }

    fn note(&mut self, evaluation: Evaluation) {
        let state = &mut self.state;
        let (by, step, Exact(loss)) = (&self.best_by, state.step, evaluation.loss);
        let score = by.score(&evaluation);
        self.patience.offer(score);
        state.last_eval = Some(evaluation.clone());
        if step == 0 {
            state.first_eval = Some(evaluation.clone());
        }
        state.evaluated = Some(step);
        let beats = |best: &Best| score < by.score(&best.evaluation);
        if step > 0 && score.is_finite() && state.best.as_ref().is_none_or(beats) {
            state.best = Some(Best { step, evaluation });
        }
        (self.on_event)(&Event::Evaluated { step, loss });
    }
}
