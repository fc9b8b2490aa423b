//! The memory of the model that an objective needs beside the one that trains: a reference or a teacher.

use ft_data::Tokenizer;
use ft_model::ModelConfig;
use ft_peft::Attached;

use super::bytes::Bytes;
use super::job::{self, Job};
use crate::objectives::{ObjectiveConfig, Other};
use crate::{Error, Result};

/// What the model takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OtherBytes {
    /// Its tensors.
    weights: u64,
    /// Its forward pass, before that of the model that trains.
    forward: u64,
    /// What is kept of it until the loss.
    kept: u64,
}

const FLOAT: u64 = 4;

/// Tensors `[tokens, hidden]` that are kept to compare two layers.
const COMPARED: usize = 5;

impl OtherBytes {
    /// Of what `job`'s objective asks for.
    pub fn of(job: &Job) -> Result<Self> {
        let (rows, width) = job.batch;
        let tokens = (rows * width) as u64;
        let kept = |hidden: usize| match job.objective {
            // The last hidden states; and those of chosen layers, which the student's own, as they are compared, stand beside.
            ObjectiveConfig::Distill(distill) => {
                FLOAT * tokens * (hidden * (1 + COMPARED * distill.hidden_layers.len())) as u64
            }
            _ => 0,
        };
        let forward = |model: &ModelConfig| FLOAT * tokens * (model.forward_numbers() + 2 * model.hidden_size) as u64;
        let own = match job.objective.kind().other() {
            None => Ok(Self::default()),
            Some(Other::Base) => Ok(Self {
                weights: FLOAT * job::checkpoint_numbers(job) as u64,
                forward: forward(job.model),
                kept: kept(job.model.hidden_size),
            }),
            Some(Other::Model {
                folder, adapter, quant, ..
            }) => {
                let model = ModelConfig::from_dir(folder)?;
                let frozen = Attached::default();
                let held = job::held(&Job {
                    model: &model,
                    folder,
                    attached: &frozen,
                    quant,
                    ..*job
                })?;
                let file = adapter.and_then(|path| std::fs::metadata(path.join("adapter_model.safetensors")).ok());
                Ok(Self {
                    weights: held + file.map_or(0, |file| file.len()),
                    forward: forward(&model),
                    kept: kept(model.hidden_size),
                })
            }
        };
        // The model that trains as it was: its values are counted with the strategy that keeps them.
        let before = |own: Self| Self {
            forward: own.forward.max(forward(job.model)),
            kept: own.kept + FLOAT * tokens * job.model.hidden_size as u64,
            ..own
        };
        if job.kept.copies.teaches { own.map(before) } else { own }
    }

    /// A step's bytes with the model beside.
    pub fn beside(self, step: Bytes) -> Bytes {
        let activations = step.activations + self.kept;
        // Its forward pass is over before the one that trains begins.
        let passing = self.forward.saturating_sub(step.gradients + activations + step.logits);
        Bytes {
            other_model: self.weights,
            activations: activations + passing,
            ..step
        }
    }
}

/// Refuses a teacher or a reference that reads texts differently.
pub(super) fn check(objective: &ObjectiveConfig, own: &Tokenizer, model: &ModelConfig) -> Result<()> {
    let kind = objective.kind();
    let fits = |other: &ModelConfig| match kind.unfit(model, other) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(Error::Plan(wrong)),
    };
    let (key, folder) = match kind.other() {
        None => return Ok(()),
        Some(Other::Base) => return fits(model),
        Some(Other::Model { key, folder, .. }) => (key, folder),
    };
    super::existing(folder, key)?;
    let other = ModelConfig::from_dir(folder)?;
    fits(&other)?;
    let common = model.vocab_size.min(other.vocab_size) as u32;
    let refused = |why: String| {
        Err(Error::Plan(vec![format!(
            "{key}: {} {why}; both models must share one tokenizer (padded vocabularies may differ)",
            folder.display()
        )]))
    };
    match Tokenizer::from_dir(folder) {
        Ok(tokenizer) => match (0..common).find(|id| tokenizer.id_to_token(*id) != own.id_to_token(*id)) {
            None => Ok(()),
            Some(id) => {
                let text = |t: &Tokenizer| t.id_to_token(id).map_or("nothing".into(), |text| format!("\"{text}\""));
                refused(format!(
                    "has {} where this model has {}: token {id}",
                    text(&tokenizer),
                    text(own)
                ))
            }
        },
        Err(_) if other.vocab_size == model.vocab_size => Ok(()),
        Err(_) => refused(format!(
            "has no tokenizer, and {} tokens where this model has {}",
            other.vocab_size, model.vocab_size
        )),
    }
}
