//! Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) and its generalization, GKD (Agarwal et al. 2023,
//! arXiv:2306.13649, eq. 1 and algorithm 1): the student learns the probabilities of a teacher for every target token.
//!
//! ```text
//! p, q: teacher's and student's probabilities at temperature T      M = β p + (1-β) q
//! D = KL(p ‖ q)                          β = 0
//!     KL(q ‖ p)                          β = 1
//!     β KL(p ‖ M) + (1-β) KL(q ‖ M)      between
//! L = α D + (1-α) NLL                    mean over the target tokens; with t_squared α T² D
//! ```
//!
//! With `hidden_layers`, L also has `hidden_weight` times the distance of the hidden states of these layers (`hidden_states`), summed over
//! the pairs of layers.
//!
//! A teacher whose tokenizer is another one cuts the text into other tokens, so that D is the universal logit distillation loss
//! (Boizard et al. 2024, arXiv:2402.12030) over spans of text, the smallest pieces that whole tokens of both make up (as in TRL's GOLD):
//!
//! ```text
//! s, t: probabilities of a span's first token, times those of its other tokens that are there; student's and teacher's, at temperature T
//! D = Σ_r |s_(r) - t_(r)|                r-th largest of each, 0 where the smaller vocabulary has no more; summed over the spans
//! ```
//!
//! A teacher with a head for labels teaches labels: see `distill_labels`. An encoder without one teaches which tokens stand in hidden
//! places (`mlm`), which are the target tokens then: DistilBERT's recipe (Sanh et al. 2019, arXiv:1910.01108), with the masked-language-model
//! loss as NLL.
//!
//! With probability λ a step is on policy: the student answers the prompts of the batch itself, drawn at temperature T, and learns
//! what the teacher would have said at each of its tokens; the data's answers are not seen in that step, and α counts as 1.

use std::path::PathBuf;
use std::sync::Arc;

use ft_data::{Examples, Sample};
use ft_model::{HeadConfig, Model, ModelConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distill_labels::DistillLabels;
use super::distill_tokens::DistillTokens;
use super::hidden_states::{self, LayerPair};
use super::own_answers::OwnAnswers;
use super::teacher::{Scores, TeacherStorage};
use super::teacher_cache::{About, TeacherCache, starts};
use super::uld::{self, Divergence, Uld};
use super::{Given, HiddenLoss, Objective, ObjectiveKind, Other, Reference, check};
use crate::Result;

/// Options of distillation; the names in parentheses are those of TRL's GKD where they differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// Folder of the teacher, or `"base"`: the student's own base with the adapter off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Reference>,
    /// Folder of an adapter on the teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_adapter: Option<PathBuf>,
    /// Hold the teacher's projections in 4 or 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_quant: Option<TeacherStorage>,
    /// File of `ft distill cache`, in the place of a teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// How far the student is from the teacher: "kl" for the divergence that `beta` chooses, "uld" for a teacher with another tokenizer,
    /// "auto" for the one that the tokenizers ask for.
    pub divergence: Divergence,
    /// Weight of the divergence; the negative log-likelihood of the targets has the rest.
    pub alpha: f64,
    /// Which divergence: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher), between lies the generalized Jensen-Shannon
    /// divergence.
    pub beta: f64,
    /// Both models' logits are divided by it, in the divergence and in the student's own answers.
    pub temperature: f64,
    /// Multiply the divergence by the square of the temperature, which keeps the size of its gradient (Hinton's form).
    pub t_squared: bool,
    /// Share of the steps on the student's own answers (`lmbda`).
    pub lambda: f64,
    /// Most tokens of such an answer.
    pub max_new_tokens: usize,
    /// Pairs of a student's and a teacher's layer, `[[1, 2], [3, 6]]`, whose hidden states are to agree. Layers count from 1; the last
    /// one is meant after the final norm. Where the models' widths differ, a linear map from the student's to the teacher's trains for each
    /// pair; `final/` does not hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hidden_layers: Vec<LayerPair>,
    /// How hidden states are compared.
    pub hidden_loss: HiddenLoss,
    /// Weight of that.
    pub hidden_weight: f64,
    /// Share of the tokens that are hidden, where the two are encoders that fill in hidden tokens.
    pub mask_probability: f64,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            teacher: None,
            teacher_adapter: None,
            teacher_quant: None,
            cache: None,
            divergence: Divergence::default(),
            alpha: 0.5,
            beta: 0.0,
            temperature: 1.0,
            t_squared: false,
            lambda: 0.0,
            max_new_tokens: 128,
            hidden_layers: Vec::new(),
            hidden_loss: HiddenLoss::default(),
            hidden_weight: 1.0,
            mask_probability: 0.15,
        }
    }
}

impl ObjectiveKind for DistillConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::share("alpha", self.alpha);
        wrong.extend(check::share("beta", self.beta));
        wrong.extend(check::share("lambda", self.lambda));
        wrong.extend(check::positive("temperature", self.temperature));
        if self.teacher.is_none() && self.cache.is_none() {
            wrong.push(
                "objective.teacher: missing; give the folder of a model, or \"base\" for the student's own base".into(),
            );
        }
        if self.cache.is_some() && self.lambda > 0.0 {
            wrong.push(
                "objective.lambda: a cache has no scores of the student's own answers; leave objective.cache out"
                    .into(),
            );
        }
        if self.cache.is_some() && !self.hidden_layers.is_empty() {
            wrong.push("objective.hidden_layers: a cache has no hidden states; leave objective.cache out".into());
        }
        if self.divergence == Divergence::Uld {
            wrong.extend(uld::conflicts(self));
        }
        wrong.extend(check::positive("hidden_weight", self.hidden_weight));
        wrong.extend(check::share("mask_probability", self.mask_probability));
        wrong.extend(check::positive("mask_probability", self.mask_probability));
        wrong.extend(hidden_states::check(&self.hidden_layers));
        if self.max_new_tokens == 0 {
            wrong.push("objective.max_new_tokens: must be at least 1".into());
        }
        let own = self.teacher == Some(Reference::Base);
        if own && (self.teacher_adapter.is_some() || self.teacher_quant.is_some()) {
            wrong.push(
                "objective.teacher: \"base\" is the student's own base as it is held; for an adapter or another storage name its folder"
                    .into(),
            );
        }
        wrong
    }

    fn examples(&self) -> Examples {
        match self.teachers_head() {
            None => Examples::Samples,
            Some(_) => Examples::Labelled,
        }
    }

    fn head(&self, _: &ModelConfig) -> std::result::Result<Option<HeadConfig>, String> {
        Ok(self.teachers_head())
    }

    fn masks(&self, own: &ModelConfig) -> bool {
        own.encoder.is_some() && self.teachers_head().is_none()
    }

    fn other(&self) -> Option<Other<'_>> {
        if self.cache.is_some() {
            return None;
        }
        Some(match self.teacher.as_ref()? {
            Reference::Base => Other::Base,
            Reference::Folder(folder) => Other::Model {
                key: "objective.teacher",
                folder,
                adapter: self.teacher_adapter.as_deref(),
                quant: self.teacher_quant.map(TeacherStorage::scheme),
            },
        })
    }

    fn unfit(&self, own: &ModelConfig, other: &ModelConfig) -> Vec<String> {
        let mut wrong = hidden_states::unfit(&self.hidden_layers, own, other);
        if own.encoder.is_some() != other.encoder.is_some() {
            wrong.push(
                "objective.teacher: one of the two is an encoder and the other one is not; take two of a kind".into(),
            );
        }
        if own.writes() {
            return wrong;
        }
        let why = "is about the next token, and these models predict none; leave it out";
        let asked = [
            ("lambda", self.lambda > 0.0),
            ("cache", self.cache.is_some()),
            ("divergence = \"uld\"", self.divergence == Divergence::Uld),
        ];
        wrong.extend(
            asked
                .iter()
                .filter(|(_, asked)| *asked)
                .map(|(key, _)| format!("objective.{key}: {why}")),
        );
        wrong
    }

    fn projections(&self, own: &ModelConfig, other: &ModelConfig) -> Vec<[usize; 2]> {
        match own.hidden_size == other.hidden_size {
            true => Vec::new(),
            false => vec![[other.hidden_size, own.hidden_size]; self.hidden_layers.len()],
        }
    }

    fn answer_tokens(&self) -> usize {
        if self.lambda > 0.0 { self.max_new_tokens } else { 0 }
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        if self.divergence == Divergence::Uld {
            return Ok(Arc::new(Uld::new(self.teacher(given)?, self)));
        }
        let base = given.base();
        if let Some(head) = base.head() {
            return Ok(Arc::new(DistillLabels {
                options: self.clone().with_layers_in_order(),
                head: head.clone(),
                teacher: self.teacher(given)?,
            }));
        }
        let masking = match base.writes() {
            true => None,
            false => Some(given.masking(self.mask_probability)?),
        };
        let scores = match &self.cache {
            Some(path) => {
                let [train, valid] = given.samples;
                let cache = TeacherCache::open(path, &self.about(given.samples, given.base().config().vocab_size)?)?;
                cache.verify()?;
                let first = train.iter().map(Sample::target_tokens).sum();
                Scores::Cached {
                    cache,
                    starts: [starts(train, 0), starts(valid, first)],
                }
            }
            None => Scores::Live(Box::new(self.teacher_of_tokens(given)?)),
        };
        Ok(Arc::new(DistillTokens {
            options: self.clone().with_layers_in_order(),
            scores,
            masking,
            device: base.device(),
            seed: given.seed,
            answers: OwnAnswers {
                max_new_tokens: self.max_new_tokens,
                temperature: self.temperature,
                seed: given.seed,
                generation: given.generation.clone(),
            },
        }))
    }
}

impl DistillConfig {
    /// The teacher, frozen, on a plain device.
    pub(crate) fn teacher(&self, given: &Given<'_>) -> Result<Model> {
        given.model(self.other().unwrap_or(Other::Base))
    }

    /// The teacher of a student without a head for labels.
    fn teacher_of_tokens(&self, given: &Given<'_>) -> Result<Model> {
        let teacher = self.teacher(given)?;
        if teacher.writes() || teacher.config().fills_masks() {
            return Ok(teacher);
        }
        let class = teacher.config().class_of_language_model();
        let why = format!(
            "objective.teacher: this checkpoint has no head, for labels or for masked tokens; take one of class {class}"
        );
        Err(crate::Error::Plan(vec![why]))
    }

    /// The teacher's head for labels, where it has one.
    fn teachers_head(&self) -> Option<HeadConfig> {
        let Some(Other::Model { folder, adapter, .. }) = self.other() else {
            return None;
        };
        let config = ModelConfig::from_dir(folder).ok()?;
        match adapter {
            None => config.head,
            Some(adapter) => config.with_head_of(adapter).ok()?.head,
        }
    }

    /// The student's layers of the pairs.
    pub(super) fn student_layers(&self) -> Vec<usize> {
        self.hidden_layers.iter().map(|[student, _]| *student).collect()
    }

    fn with_layers_in_order(mut self) -> Self {
        self.hidden_layers.sort_unstable();
        self
    }

    /// What a cache must be of, for a student of this vocabulary. The teacher counts where one is named.
    pub(crate) fn about(&self, samples: [&[Sample]; 2], vocabulary: usize) -> Result<About> {
        let teacher = match &self.teacher {
            Some(Reference::Folder(folder)) => {
                let adapter = self
                    .teacher_adapter
                    .as_ref()
                    .map(|path| path.join("adapter_model.safetensors"));
                crate::plan::fingerprint(folder, adapter.as_deref())?
            }
            _ => 0,
        };
        Ok(About {
            samples: samples.map(ft_data::checksum),
            tokens: samples.map(|samples| ft_data::passing(samples).map(Sample::target_tokens).sum()),
            top_k: 0,
            vocabulary,
            temperature: self.temperature,
            teacher,
        })
    }
}
