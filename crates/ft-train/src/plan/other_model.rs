//! The memory of the model that an objective needs beside the one that trains: a reference or a teacher.

use ft_data::Tokenizer;
use ft_model::ModelConfig;
use ft_peft::Attached;

use super::bytes::Bytes;
use super::job::{self, Job};
use crate::objectives::{Divergence, ObjectiveConfig, Other, uld};
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
        // The teacher may have more tokens for the same text, or fewer.
        let of_text = job.alignment.map_or(1.0, |alignment| alignment.teacher_tokens);
        let tokens = (of_text * (rows * width) as f64).ceil() as u64;
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

/// Shapes of the maps of hidden states that the objective trains beside the model.
pub(super) fn projections(objective: &ObjectiveConfig, own: &ModelConfig) -> Result<Vec<[usize; 2]>> {
    match objective.kind().other() {
        Some(Other::Model { folder, .. }) => {
            let other = ModelConfig::from_dir(folder)?;
            Ok(objective.kind().projections(own, &other))
        }
        _ => Ok(Vec::new()),
    }
}

/// A teacher that reads the samples by its own tokenizer.
pub(super) struct Reader {
    pub tokenizer: Tokenizer,
    pub model: ModelConfig,
}

/// How the other model reads texts; with its tokenizer, if its folder has one.
enum Reading {
    /// As the one that trains.
    Same(Option<Reader>),
    /// Otherwise, for this reason.
    Other(Option<Reader>, String),
}

/// Refuses a teacher or a reference that does not fit, and settles how a student is compared with its teacher. Gives a teacher that is
/// to read the samples by its own tokenizer.
pub(super) fn check(objective: &mut ObjectiveConfig, own: &Tokenizer, model: &ModelConfig) -> Result<Option<Reader>> {
    let reading = reading(objective, own, model)?;
    let ObjectiveConfig::Distill(options) = objective else {
        return match reading {
            Reading::Same(_) => Ok(None),
            Reading::Other(_, why) => Err(Error::Plan(vec![why])),
        };
    };
    match (reading, options.divergence) {
        (Reading::Same(Some(reader)), Divergence::Uld) => Ok(Some(reader)),
        (Reading::Same(None), Divergence::Uld) => Err(Error::Plan(vec![
            "objective.divergence = \"uld\": the teacher's folder has no tokenizer".into(),
        ])),
        (Reading::Same(_), _) => {
            options.divergence = Divergence::Kl;
            Ok(None)
        }
        (Reading::Other(_, why), _) if !model.writes() => Err(Error::Plan(vec![why])),
        (Reading::Other(Some(reader), why), Divergence::Auto | Divergence::Uld) => {
            options.divergence = Divergence::Uld;
            match uld::conflicts(options) {
                wrong if wrong.is_empty() => Ok(Some(reader)),
                wrong => Err(Error::Plan([vec![why], wrong].concat())),
            }
        }
        (Reading::Other(_, why), _) => Err(Error::Plan(vec![why])),
    }
}

fn reading(objective: &ObjectiveConfig, own: &Tokenizer, model: &ModelConfig) -> Result<Reading> {
    let kind = objective.kind();
    let fits = |other: &ModelConfig| match kind.unfit(model, other) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(Error::Plan(wrong)),
    };
    let (key, folder) = match kind.other() {
        None => return Ok(Reading::Same(None)),
        Some(Other::Base) => return fits(model).map(|()| Reading::Same(None)),
        Some(Other::Model { key, folder, .. }) => (key, folder),
    };
    super::existing(folder, key)?;
    let other = ModelConfig::from_dir(folder)?;
    fits(&other)?;
    let common = model.vocab_size.min(other.vocab_size) as u32;
    let way_out = match objective {
        ObjectiveConfig::Distill(_) if model.writes() => {
            "; objective.divergence = \"uld\" compares models with different tokenizers"
        }
        _ => "",
    };
    let differs = |why: String| {
        format!(
            "{key}: {} {why}; both models must share one tokenizer (padded vocabularies may differ){way_out}",
            folder.display()
        )
    };
    let Ok(tokenizer) = Tokenizer::from_dir(folder) else {
        let sizes = [other.vocab_size, model.vocab_size];
        return Ok(match sizes[0] == sizes[1] {
            true => Reading::Same(None),
            false => {
                let why = format!(
                    "has no tokenizer, and {} tokens where this model has {}",
                    sizes[0], sizes[1]
                );
                Reading::Other(None, differs(why))
            }
        });
    };
    let text = |t: &Tokenizer, id| t.id_to_token(id).map_or("nothing".into(), |text| format!("\"{text}\""));
    let first = (0..common).find(|id| tokenizer.id_to_token(*id) != own.id_to_token(*id));
    let why = first.map(|id| {
        let [theirs, ours] = [text(&tokenizer, id), text(own, id)];
        differs(format!("has {theirs} where this model has {ours}: token {id}"))
    });
    let reader = Some(Reader {
        tokenizer,
        model: other,
    });
    Ok(match why {
        None => Reading::Same(reader),
        Some(why) => Reading::Other(reader, why),
    })
}
