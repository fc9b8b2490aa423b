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
//! With probability λ a step is on policy: the student answers the prompts of the batch itself, drawn at temperature T, and learns
//! what the teacher would have said at each of its tokens; the data's answers are not seen in that step, and α counts as 1.

use std::path::PathBuf;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Sample, sub_seed};
use ft_infer::GenerationConfig;
use ft_kernels::{DistillationOptions, Teacher};
use ft_model::Model;
use ft_quant::{Kind, Scheme};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::targets::{plain_hidden, prompts_and_answers};
use super::teacher_cache::{About, TeacherCache, starts};
use super::{
    Figure, Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Other, Part, Reference, Unit, at_targets, check,
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
            alpha: 0.5,
            beta: 0.0,
            temperature: 1.0,
            t_squared: false,
            lambda: 0.0,
            max_new_tokens: 128,
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

    fn answer_tokens(&self) -> usize {
        if self.lambda > 0.0 { self.max_new_tokens } else { 0 }
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
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
            options: self.clone(),
            scores,
            device: given.base().device(),
            seed: given.seed,
            generation: given.generation.clone(),
        }))
    }
}

impl DistillConfig {
    /// The teacher, frozen, on a plain device.
    pub(crate) fn teacher(&self, given: &Given<'_>) -> Result<Model> {
        given.model(self.other().unwrap_or(Other::Base))
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
            samples: samples.map(crate::plan::checksum),
            tokens: samples.map(|samples| samples.iter().map(Sample::target_tokens).sum()),
            top_k: 0,
            vocabulary,
            temperature: self.temperature,
            teacher,
        })
    }
}

/// Where a teacher's scores come from.
#[derive(Debug)]
enum Scores {
    /// A model, frozen, on a plain device.
    Live(Box<Model>),
    /// A file; and the first target token of every training and held-out sample in it.
    Cached {
        cache: TeacherCache,
        starts: [Vec<usize>; 2],
    },
}

#[derive(Debug)]
struct Distill {
    options: DistillConfig,
    scores: Scores,
    device: Device,
    seed: u64,
    generation: GenerationConfig,
}

impl Distill {
    /// What the teacher says at the positions that predict a target token.
    fn teacher_at(&self, batch: &Batch, part: Part, device: &Device) -> Teacher {
        match &self.scores {
            Scores::Live(teacher) => {
                let (hidden, head) = teacher_states(teacher, batch);
                Teacher::Live { hidden, head }
            }
            Scores::Cached { cache, starts } => cache.teacher(batch, &starts[part as usize], device),
        }
    }

    fn compare(&self, model: &Model, hidden: Tensor<3>, batch: &Batch, teacher: Teacher, alpha: f64) -> Loss {
        let (hidden, targets) = at_targets(hidden, batch);
        let (hidden, head) = model.head_product(hidden);
        let options = DistillationOptions {
            alpha,
            beta: self.options.beta,
            temperature: self.options.temperature,
            t_squared: self.options.t_squared,
        };
        let distilled = ft_kernels::distillation(hidden, head, targets, teacher, options);
        let figure = |name, sum: Tensor<1>| Figure {
            name,
            sum: sum.without_autodiff(),
            count: batch.target_tokens(),
        };
        Loss {
            sum: distilled.loss,
            figures: vec![figure("nll", distilled.nll), figure("divergence", distilled.divergence)],
        }
    }

    /// Whether the step is on the student's own answers.
    fn on_policy(&self, step: usize) -> bool {
        // 53 bits as a number from 0 to below 1.
        let draw = (sub_seed(self.seed, &format!("on policy/{step}")) >> 11) as f64 / (1u64 << 53) as f64;
        draw < self.options.lambda
    }

    /// The batch with the student's own answers to its prompts.
    fn answered(&self, model: &Model, step: &StepBatch) -> Result<StepBatch> {
        let batches = step.micro_batches.iter().map(|micro| &micro.batch);
        // Plain text, which has no prompt, is answered from its first token.
        let rows = batches.clone().flat_map(prompts_and_answers);
        let prompts: Vec<Vec<u32>> = rows.map(|(prompt, _)| prompt).collect();
        let room = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let config = GenerationConfig {
            max_new_tokens: self
                .options
                .max_new_tokens
                .min(model.positions().saturating_sub(room))
                .max(1),
            do_sample: true,
            temperature: self.options.temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            num_beams: 1,
            seed: sub_seed(self.seed, &format!("answers/{}", step.step)),
            batch_size: batches.clone().map(Batch::sequences).max().unwrap_or(1),
            ..self.generation.clone()
        };
        let answers = ft_infer::generate(model, &prompts, &config, &mut ft_infer::no_stream)?;
        let mut samples = prompts
            .iter()
            .zip(&answers)
            .map(|(prompt, answer)| Sample::answered([prompt.as_slice(), &answer.tokens].concat(), prompt.len()));
        let micro = step.micro_batches.iter().map(|micro| {
            let own: Vec<Sample> = samples.by_ref().take(micro.batch.sequences()).collect();
            MicroBatch {
                batch: micro.batch.with_sequences(&own),
                dropout_seed: micro.dropout_seed,
            }
        });
        Ok(StepBatch {
            rows: step.rows.clone(),
            loss_factor: step.loss_factor,
            own_answers: true,
            ..StepBatch::new(step.step, micro.collect())
        })
    }
}

/// A teacher's hidden states at the positions that predict a target token, and its head: `[n, d]`, `[vocab, d]`.
pub(crate) fn teacher_states(teacher: &Model, batch: &Batch) -> (Tensor<2>, Tensor<2>) {
    let (hidden, _) = at_targets(plain_hidden(teacher, batch), batch);
    teacher.head_product(hidden)
}

impl Objective for Distill {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn begin(&self, model: &Model, step: &StepBatch) -> Result<Option<StepBatch>> {
        match self.on_policy(step.step) {
            true => self.answered(&model.valid(), step).map(Some),
            false => Ok(None),
        }
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let teacher = self.teacher_at(&micro.batch, Part::Train, &self.device);
        let alpha = if step.own_answers { 1.0 } else { self.options.alpha };
        Box::new(move |model, hidden| self.compare(model, hidden, &micro.batch, teacher.clone(), alpha))
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let hidden = plain_hidden(model, batch);
        let teacher = self.teacher_at(batch, Part::Valid, &self.device);
        let loss = self.compare(model, hidden, batch, teacher, self.options.alpha);
        let mut judged = loss.held_out(batch.target_tokens());
        let (_, nll, tokens) = judged.figures.remove(0);
        judged.nll = Some((nll, tokens));
        judged
    }
}
