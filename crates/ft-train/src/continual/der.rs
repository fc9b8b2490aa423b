//! Dark experience replay (DER++): samples of earlier tasks are fed again, with what the model said of them when they were stored.
//!
//! ```text
//! L = L_task + α KL(p ‖ q) + β NLL        both means over the target tokens of samples drawn from the buffer
//! p: the model's probabilities at the end of the sample's task, its k likeliest tokens and the rest as one; q: the present ones
//! ```
//!
//! Buzzega et al. 2020, arXiv:2004.07211, eq. 3 and 6. The paper goes on from the divergence to a squared distance of logits, which
//! vocabularies of language models leave no room to store; it draws for α and for β apart, here one draw serves both. It stores samples
//! while their task is trained; here a task's samples come in at its end, as in `replay`, so that what is stored is what the model said once
//! it had learned them. A step costs a pass over the drawn samples, with dropout off.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use ft_data::{Batch, stream};
use ft_kernels::{DistillationOptions, distillation, teacher_topk};
use ft_model::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::memory::share;
use super::vector::Vector;
use super::{Copies, Now, Setting, Strategy, StrategyKind, Summed, at_least_one, at_least_zero};
use crate::batches::{MicroBatch, StepBatch};
use crate::objectives::top_scores::{from_records, record_bytes, targets_of, to_records};
use crate::objectives::{Figure, HeldOut, Loss, LossFn, Objective, Unit, at_targets, plain_hidden, teacher_states};
use crate::{Error, Result};

/// Options of dark experience replay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DerConfig {
    /// α: weight of the divergence from what the model said.
    pub alpha: f64,
    /// β: weight of the negative log-likelihood of the samples' own answers; 0 is DER without its second plus.
    pub beta: f64,
    /// Samples from the buffer for every sample of the present task. The paper takes as many.
    pub ratio: f64,
    /// Samples in the buffer.
    pub buffer: usize,
    /// Tokens whose probabilities are stored for every target token.
    pub top_k: usize,
}

impl Default for DerConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            beta: 0.5,
            ratio: 1.0,
            buffer: 1000,
            top_k: 32,
        }
    }
}

impl DerConfig {
    fn acts(&self) -> bool {
        self.alpha + self.beta > 0.0 && self.ratio > 0.0
    }
}

impl StrategyKind for DerConfig {
    fn check(&self) -> Vec<String> {
        let numbers = [("alpha", self.alpha), ("beta", self.beta), ("ratio", self.ratio)];
        let mut wrong: Vec<String> = numbers
            .iter()
            .filter_map(|(key, value)| at_least_zero(key, *value))
            .collect();
        if self.ratio > 100.0 {
            wrong.push("continual.ratio: more than 100 earlier samples for one of the present task".into());
        }
        wrong.extend(at_least_one("buffer", self.buffer));
        wrong.extend(at_least_one("top_k", self.top_k));
        wrong
    }

    fn needs_likelihood(&self) -> bool {
        true
    }

    fn adds_passes(&self) -> bool {
        self.acts()
    }

    fn distills(&self) -> bool {
        self.acts()
    }

    fn copies(&self, _: usize) -> Copies {
        Copies {
            // The sum.
            in_step: usize::from(self.acts()),
            ..Copies::default()
        }
    }

    fn remembers(&self, samples: usize, tokens: f64) -> u64 {
        let samples = if self.acts() { samples.min(self.buffer) } else { 0 };
        (samples as f64 * tokens) as u64 * record_bytes(self.top_k) as u64
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Der {
            options: *self,
            setting,
            scores: Arc::default(),
            rows: None,
            figures: BTreeMap::new(),
            replayed: 0,
        })
    }
}

struct Der {
    options: DerConfig,
    setting: Setting,
    scores: Arc<Scores>,
    /// The buffer of a phase.
    rows: Option<(usize, Vec<usize>)>,
    /// Means in the last step that fed something again.
    figures: BTreeMap<&'static str, f64>,
    replayed: usize,
}

/// What the model said: records of every target token, by the samples' numbers.
#[derive(Clone, Debug, Default)]
struct Scores {
    of: HashMap<usize, Vec<u8>>,
    top_k: usize,
}

impl Der {
    /// The samples of a step.
    fn drawn(&mut self, step: usize, samples: usize) -> Vec<usize> {
        let phase = self.setting.phase(step);
        if self.rows.as_ref().is_none_or(|(of, _)| *of != phase) {
            self.rows = Some((phase, self.setting.reservoir(self.options.buffer, phase)));
        }
        let rows = self.rows.as_ref().map_or(&[][..], |(_, rows)| rows);
        let mut rng = stream(self.setting.seed, &format!("der/{step}"));
        let count = share(step, samples, self.options.ratio);
        self.setting.draw(rows, count, &mut rng)
    }
}

/// What a plain model says of the samples of a batch: a number and records each.
fn say(model: &Model, batch: &Batch, top_k: usize) -> Vec<(usize, Vec<u8>)> {
    let (hidden, head) = teacher_states(model, batch);
    let [vocabulary, _] = head.dims();
    let (ids, log_probs) = teacher_topk(hidden, head, top_k, 1.0, vocabulary);
    let records = to_records(ids, log_probs);
    let mut rest = records.as_slice();
    let sequences = batch.numbers.iter().enumerate();
    let taken = sequences.map(|(sequence, number)| {
        let (own, others) = rest.split_at(targets_of(batch, sequence) * record_bytes(top_k));
        rest = others;
        (*number, own.to_vec())
    });
    taken.collect()
}

impl Strategy for Der {
    fn project(&mut self, of_step: Summed, batch: &StepBatch, now: &Now<'_>) -> Result<Option<GradientsParams>> {
        self.replayed = 0;
        if !self.options.acts() {
            return Ok(Some(of_step.grads));
        }
        let rows = self.drawn(batch.step, batch.rows.len());
        if rows.is_empty() {
            return Ok(Some(of_step.grads));
        }
        if let Some(row) = rows.iter().find(|row| !self.scores.of.contains_key(row)) {
            let why = format!("der: nothing is stored of training sample {row}; the checkpoint is of another run");
            return Err(Error::Training(why));
        }
        let again = Arc::new(Again {
            options: self.options,
            scores: self.scores.clone(),
            device: now.model.device().without_autodiff(),
        });
        let Some(past) = (now.of)(again, &self.setting.batch(&rows, batch))? else {
            return Ok(None);
        };
        self.replayed = rows.len();
        let mean = |figure: Figure| {
            (
                figure.name,
                f64::from(figure.sum.into_scalar::<f32>()) / figure.count.max(1) as f64,
            )
        };
        self.figures = past.figures.into_iter().map(mean).collect();
        let factor = of_step.count as f64 / past.count.max(1) as f64;
        let own = Vector::of(now.model, &of_step.grads);
        let sum = own.plus(&Vector::of(now.model, &past.grads), factor);
        Ok(Some(sum.into_grads(now.model)))
    }

    fn end_task(&mut self, task: usize, now: &Now<'_>) -> Result<bool> {
        if !self.options.acts() {
            return Ok(true);
        }
        let rows = self.setting.reservoir(self.options.buffer, task + 1);
        let new: Vec<usize> = rows
            .iter()
            .copied()
            .filter(|row| !self.scores.of.contains_key(row))
            .collect();
        let model = now.model.valid();
        let top_k = self.options.top_k.min(model.config().vocab_size);
        let mut of = HashMap::new();
        for rows in new.chunks(self.setting.batches.step_samples()) {
            for micro in self.setting.batches.step_batch(rows, 0).micro_batches {
                if !(now.go_on)() {
                    return Ok(false);
                }
                of.extend(say(&model, &micro.batch, top_k));
            }
        }
        let kept = rows
            .iter()
            .filter_map(|row| Some((*row, self.scores.of.get(row)?.clone())));
        of.extend(kept);
        self.scores = Arc::new(Scores { of, top_k });
        Ok(true)
    }

    fn report(&self, line: &mut Map<String, Value>) {
        line.insert("replayed".into(), self.replayed.into());
        if self.replayed > 0 {
            line.extend(
                self.figures
                    .iter()
                    .map(|(name, mean)| (format!("replayed_{name}"), (*mean).into())),
            );
        }
    }

    fn state(&self, _: &Model) -> Vec<(String, TensorData)> {
        let Scores { of, top_k } = &*self.scores;
        if of.is_empty() {
            return Vec::new();
        }
        let sorted: BTreeMap<&usize, &Vec<u8>> = of.iter().collect();
        let numbers: Vec<i64> = sorted.keys().map(|number| **number as i64).collect();
        let tokens = |records: &&Vec<u8>| (records.len() / record_bytes(*top_k)) as i64;
        let tokens: Vec<i64> = sorted.values().map(tokens).collect();
        let records: Vec<u8> = sorted.values().flat_map(|records| records.iter().copied()).collect();
        let (samples, width) = (numbers.len(), record_bytes(*top_k));
        let rows = records.len() / width;
        vec![
            ("samples".into(), TensorData::new(numbers, [samples])),
            ("tokens".into(), TensorData::new(tokens, [samples])),
            ("scores".into(), TensorData::new(records, [rows, width])),
        ]
    }

    fn load_state(&mut self, model: &Model, tensors: Vec<(String, TensorData)>) -> std::result::Result<(), String> {
        if tensors.is_empty() {
            return Ok(());
        }
        let tensors: HashMap<String, TensorData> = tensors.into_iter().collect();
        let tensor = |name: &str| tensors.get(name).ok_or_else(|| format!("{name}: missing"));
        let whole = |name: &str| -> std::result::Result<Vec<usize>, String> {
            let numbers = tensor(name)?
                .as_slice::<i64>()
                .map_err(|_| format!("{name}: no whole numbers"))?;
            let numbers = numbers.iter().map(|number| usize::try_from(*number));
            numbers
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| format!("{name}: a number below 0"))
        };
        let (samples, tokens) = (whole("samples")?, whole("tokens")?);
        let (scores, top_k) = (tensor("scores")?, self.options.top_k.min(model.config().vocab_size));
        let rows = tokens.iter().try_fold(0usize, |sum, tokens| sum.checked_add(*tokens));
        let shape = rows.map(|rows| vec![rows, record_bytes(top_k)]);
        if samples.len() != tokens.len() || Some(scores.shape().to_vec()) != shape {
            let (found, k) = (scores.shape(), top_k);
            return Err(format!(
                "scores: {k} tokens for each target token of samples expected, not {found:?}"
            ));
        }
        let mut rest = scores.as_slice::<u8>().map_err(|_| "scores: no bytes")?;
        let samples_of = &self.setting.batches.samples();
        let mut of = HashMap::new();
        for (sample, tokens) in samples.into_iter().zip(tokens) {
            if samples_of
                .get(sample)
                .is_none_or(|sample| sample.target_tokens() != tokens)
            {
                return Err(format!("samples: {sample} has not {tokens} target tokens in this data"));
            }
            let (own, others) = rest.split_at(tokens * record_bytes(top_k));
            of.insert(sample, own.to_vec());
            rest = others;
        }
        self.scores = Arc::new(Scores { of, top_k });
        Ok(())
    }
}

/// What is minimized on samples that are fed again: α KL + β NLL.
#[derive(Debug)]
struct Again {
    options: DerConfig,
    scores: Arc<Scores>,
    device: Device,
}

impl Again {
    fn compare(&self, model: &Model, hidden: Tensor<3>, batch: &Batch) -> Loss {
        let DerConfig { alpha, beta, .. } = self.options;
        let (hidden, targets) = at_targets(hidden, batch);
        let (hidden, head) = model.head_product(hidden);
        let [vocabulary, _] = head.dims();
        let none: &[u8] = &[];
        let of = |sample: usize, _: usize| self.scores.of.get(&sample).map_or(none, |records| records);
        let teacher = from_records(batch, self.scores.top_k, vocabulary, &self.device, of);
        let options = DistillationOptions {
            alpha: alpha / (alpha + beta),
            beta: 0.0,
            temperature: 1.0,
            t_squared: false,
        };
        let distilled = distillation(hidden, head, targets, teacher, options);
        let figure = |name, sum: Tensor<1>| Figure {
            name,
            sum: sum.without_autodiff(),
            count: batch.target_tokens(),
        };
        Loss {
            sum: distilled.loss.mul_scalar(alpha + beta),
            figures: vec![figure("nll", distilled.nll), figure("divergence", distilled.divergence)],
        }
    }
}

impl Objective for Again {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|model, hidden| self.compare(model, hidden, &micro.batch))
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        self.compare(model, plain_hidden(model, batch), batch)
            .held_out(batch.target_tokens())
    }
}
