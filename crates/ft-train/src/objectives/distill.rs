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
//! With probability λ a step is on policy: the student answers the prompts of the batch itself, drawn at temperature T, and learns
//! what the teacher would have said at each of its tokens; the data's answers are not seen in that step, and α counts as 1.

use std::path::PathBuf;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Sample, sub_seed};
use ft_kernels::DistillationOptions;
use ft_model::{Model, ModelConfig};
use ft_quant::{Kind, Scheme};
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hidden_states::{self, LayerPair, States};
use super::own_answers::OwnAnswers;
use super::teacher::{Asked, Scores};
use super::teacher_cache::{About, TeacherCache, starts};
use super::uld::{self, Divergence, Uld};
use super::{
    Figure, Given, HeldOut, HiddenLoss, LayerLoss, Loss, LossFn, Objective, ObjectiveKind, Other, Part, Reference,
    Unit, at_targets, check,
};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

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
}

/// How the teacher's projections are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TeacherStorage {
    /// 4 bits, normal quantiles.
    Nf4,
    /// 4 bits, floating point.
    Fp4,
    /// 8 bits, row by row.
    Int8,
}

impl TeacherStorage {
    fn scheme(self) -> Scheme {
        Scheme::new(match self {
            TeacherStorage::Nf4 => Kind::Nf4,
            TeacherStorage::Fp4 => Kind::Fp4,
            TeacherStorage::Int8 => Kind::Int8,
        })
    }
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
        hidden_states::unfit(&self.hidden_layers, own, other)
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
            None => Scores::Live(Box::new(self.teacher(given)?)),
        };
        Ok(Arc::new(Distill {
            options: self.clone().with_layers_in_order(),
            scores,
            device: given.base().device(),
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

#[derive(Debug)]
struct Distill {
    options: DistillConfig,
    scores: Scores,
    device: Device,
    seed: u64,
    answers: OwnAnswers,
}

/// A batch with what the teacher says of it.
#[derive(Clone, Copy)]
struct Micro<'a> {
    batch: &'a Batch,
    asked: &'a Asked,
    alpha: f64,
}

impl Distill {
    fn ask(&self, batch: &Batch, part: Part) -> Asked {
        self.scores.ask(batch, part, &self.options.hidden_layers, &self.device)
    }

    fn student_layers(&self) -> Vec<usize> {
        self.options.hidden_layers.iter().map(|[student, _]| *student).collect()
    }

    /// The weighted distance of the model's hidden states `[n, hidden]` from those of the teacher's layer with this number, `[1]`.
    fn apart(&self, model: &Model, student: Tensor<2>, asked: &Asked, number: usize) -> Tensor<1> {
        let student = model.project_hidden(number, student);
        let sum = self.options.hidden_loss.sum(student, asked.states[number].clone());
        sum.mul_scalar(self.options.hidden_weight)
    }

    /// The loss, with what the layers before the last one came to.
    fn compare(&self, model: &Model, hidden: Tensor<3>, micro: Micro<'_>, layers: Option<Tensor<1>>) -> Loss {
        let Micro { batch, asked, alpha } = micro;
        let (at, targets) = at_targets(hidden.clone(), batch);
        let (at, head) = model.head_product(at);
        let options = DistillationOptions {
            alpha,
            beta: self.options.beta,
            temperature: self.options.temperature,
            t_squared: self.options.t_squared,
        };
        let distilled = ft_kernels::distillation(at, head, targets, asked.says.clone(), options);
        let figure = |name, sum: Tensor<1>| Figure {
            name,
            sum: sum.without_autodiff(),
            count: batch.target_tokens(),
        };
        let mut loss = Loss {
            sum: distilled.loss,
            figures: vec![figure("nll", distilled.nll), figure("divergence", distilled.divergence)],
        };
        let last = self
            .student_layers()
            .iter()
            .position(|layer| *layer == model.num_blocks());
        let last = last.map(|number| self.apart(model, hidden_states::chosen(hidden, batch), asked, number));
        if let Some(apart) = layers.into_iter().chain(last).reduce(|a, b| a + b) {
            let unweighted = apart.clone().div_scalar(self.options.hidden_weight);
            loss.figures.push(figure("hidden", unweighted));
            loss.sum = loss.sum + apart;
        }
        loss
    }

    /// Whether the step is on the student's own answers.
    fn on_policy(&self, step: usize) -> bool {
        // 53 bits as a number from 0 to below 1.
        let draw = (sub_seed(self.seed, &format!("on policy/{step}")) >> 11) as f64 / (1u64 << 53) as f64;
        draw < self.options.lambda
    }
}

impl Objective for Distill {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn begin(&self, model: &Model, step: &StepBatch, _: &Ranks) -> Result<Option<StepBatch>> {
        match self.on_policy(step.step) {
            true => self.answers.to(step, &model.valid()).map(Some),
            false => Ok(None),
        }
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let batch = &micro.batch;
        let asked = Arc::new(self.ask(batch, Part::Train));
        let alpha = if step.own_answers { 1.0 } else { self.options.alpha };
        let inner = LayerLoss {
            after: self.student_layers(),
            sum: {
                let asked = asked.clone();
                Box::new(move |model, number, hidden| {
                    self.apart(model, hidden_states::chosen(hidden, batch), &asked, number)
                })
            },
        };
        LossFn::over_layers(inner, move |model, hidden, layers| {
            let micro = Micro {
                batch,
                asked: &asked,
                alpha,
            };
            self.compare(model, hidden, micro, layers)
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let own = States::of(model, batch, &self.student_layers());
        let asked = self.ask(batch, Part::Valid);
        let before_last = own.after.into_iter().zip(&self.options.hidden_layers).enumerate();
        let layers = before_last
            .filter(|(_, (_, [layer, _]))| *layer < model.num_blocks())
            .map(|(number, (states, _))| self.apart(model, states, &asked, number));
        let layers = layers.reduce(|a, b| a + b);
        let micro = Micro {
            batch,
            asked: &asked,
            alpha: self.options.alpha,
        };
        let loss = self.compare(model, own.last, micro, layers);
        let mut judged = loss.held_out(batch.target_tokens());
        let (_, nll, tokens) = judged.figures.remove(0);
        judged.nll = Some((nll, tokens));
        judged
    }
}
