//! What a run minimizes: one file per objective, one line per objective in the list here.
//!
//! ```text
//! hidden states after the final norm ──loss──> sum over units (target tokens, or examples) + figures for the log
//!          ^ of the model that trains    ^ scores of a reference or a teacher, computed before without a tape
//! ```
//!
//! A loss sees the model through its hidden states alone: the last ones, and where it says so those between two blocks. That is why
//! every objective works with block checkpointing, accumulation, smaller micro-batches where memory runs out, and steps inside the
//! backward pass without knowing of them.

mod check;
mod classify;
pub(crate) mod distill;
mod distill_labels;
mod distill_tokens;
mod dpo;
mod given;
mod hidden_states;
mod infonce;
mod ipo;
mod kto;
mod log_probs;
mod loss;
mod mlm;
mod orpo;
mod own_answers;
mod pairs;
mod reference;
mod reference_scores;
mod sft;
mod simpo;
mod targets;
mod teacher;
pub(crate) mod teacher_cache;
pub(crate) mod top_scores;
pub(crate) mod uld;
mod weighted;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use ft_data::{Batch, Examples};
use ft_eval::HeadAnswers;
use ft_model::{HeadConfig, Model, ModelConfig, Problem};
use ft_quant::Scheme;
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::batches::{MicroBatch, StepBatch, Totals};
use crate::checkpoint::{Evaluation, Exact};

pub use classify::{ClassifyConfig, Level};
pub use distill::DistillConfig;
pub use dpo::{DpoConfig, DpoLoss};
pub use given::Given;
pub use hidden_states::HiddenLoss;
pub use infonce::{InfonceConfig, TextPooling};
pub use ipo::IpoConfig;
pub use kto::KtoConfig;
use loss::read;
pub use loss::{Figure, LayerLoss, Loss, LossFn};
pub use mlm::MlmConfig;
pub use orpo::OrpoConfig;
pub use reference::Reference;
pub use sft::SftConfig;
pub use simpo::SimpoConfig;
pub(crate) use targets::plain_hidden;
pub use targets::{at_targets, nll_sum};
pub use teacher::TeacherStorage;
pub(crate) use teacher::teacher_states;
pub use teacher_cache::WrittenCache;
pub use uld::Divergence;

/// Learning rate of preference objectives over that of the method: TRL's defaults are 1e-6 for DPO and 2e-5 for supervised
/// fine-tuning.
const PREFERENCE_RATE: f64 = 0.05;

/// What the mean of a loss is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Every target token of the step counts alike.
    Tokens,
    /// Every example of the step counts alike, whatever its length.
    Examples,
    /// Everything that a head is to say counts alike: of an example, or of a token.
    Labels,
}

impl Unit {
    /// How many of these a step holds.
    pub fn of(self, totals: Totals) -> usize {
        match self {
            Unit::Tokens => totals.tokens,
            Unit::Examples => totals.examples,
            Unit::Labels => totals.labels,
        }
    }
}

/// Which samples a batch is made of: an index into [`Given`]'s.
#[derive(Clone, Copy)]
enum Part {
    Train = 0,
    Valid = 1,
}

/// What the negative log-likelihood is called between ranks.
const NLL: &str = "/nll";

/// A held-out batch, judged: sums and counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    /// Sum of the objective's loss.
    pub loss: f64,
    /// Units that it is a sum over.
    pub count: usize,
    /// Sum of the negative log-likelihood of the target tokens in nats, and how many there are, where it was computed.
    pub nll: Option<(f64, usize)>,
    /// Named sums and counts.
    pub figures: Vec<(&'static str, f64, usize)>,
    /// What a head said.
    pub said: Option<HeadAnswers>,
}

/// A held-out batch as ranks send it: sums and counts by name, and what a head said.
type Written = (Vec<(String, u64, usize)>, Option<(Problem, usize, Vec<u32>, Vec<u32>)>);

impl HeldOut {
    /// The two parts together.
    pub fn add(&mut self, other: HeldOut) {
        self.loss += other.loss;
        self.count += other.count;
        match (&mut self.said, other.said) {
            (Some(own), Some(more)) => own.add(more),
            (own, more) => *own = own.take().or(more),
        }
        self.nll = match (self.nll, other.nll) {
            (Some((a, n)), Some((b, m))) => Some((a + b, n + m)),
            (one, other) => one.or(other),
        };
        for (name, sum, count) in other.figures {
            match self.figures.iter_mut().find(|(own, ..)| *own == name) {
                Some((_, total, units)) => (*total, *units) = (*total + sum, *units + count),
                None => self.figures.push((name, sum, count)),
            }
        }
    }

    /// Its sums and counts with their names, as bits: no number of JSON is NaN.
    pub(crate) fn to_bits(&self) -> Written {
        let nll = self.nll.map(|(sum, count)| (NLL.to_owned(), sum.to_bits(), count));
        let figures = self.figures.iter();
        let figures = figures.map(|(name, sum, count)| ((*name).to_owned(), sum.to_bits(), *count));
        let loss = (String::new(), self.loss.to_bits(), self.count);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect();
        let said = self.said.as_ref();
        (
            [loss].into_iter().chain(nll).chain(figures).collect(),
            said.map(|said| (said.problem, said.width, bits(&said.outputs), bits(&said.labels))),
        )
    }

    /// What [`to_bits`](Self::to_bits) has written.
    pub(crate) fn from_bits((sums, said): Written) -> Self {
        let numbers = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
        let said = said.map(|(problem, width, outputs, labels)| HeadAnswers {
            problem,
            width,
            outputs: numbers(outputs),
            labels: numbers(labels),
            numbers: Vec::new(),
        });
        let mut read = Self {
            said,
            ..Self::default()
        };
        for (name, bits, count) in sums {
            let sum = f64::from_bits(bits);
            match name.as_str() {
                "" => (read.loss, read.count) = (sum, count),
                NLL => read.nll = Some((sum, count)),
                _ => read.figures.push((loss::known(name), sum, count)),
            }
        }
        read
    }

    /// All parts together.
    pub(crate) fn together(parts: Vec<HeldOut>) -> HeldOut {
        let mut all = HeldOut::default();
        parts.into_iter().for_each(|part| all.add(part));
        all
    }

    /// The means.
    pub(crate) fn mean(&self) -> Evaluation {
        let mean = |sum: f64, count: usize| Exact(sum / count.max(1) as f64);
        Evaluation {
            loss: mean(self.loss, self.count),
            nll: self.nll.map(|(sum, count)| mean(sum, count)),
            tasks: Vec::new(),
            metrics: BTreeMap::new(),
        }
    }
}

/// What a run minimizes, with the models that it needs beside the one that trains.
pub trait Objective: Debug + Send + Sync {
    /// What the mean is taken over.
    fn unit(&self) -> Unit;

    /// α of NEFTune's noise on the token embeddings; 0 is none.
    fn noise_alpha(&self) -> f64 {
        0.0
    }

    /// What is done for a whole step before its first forward pass, without a tape: an objective that completes the batch, or writes
    /// its own from the model's completions, gives it back. Every rank gives back the same.
    ///
    /// # Errors
    /// What goes wrong in the forward passes that this takes.
    fn begin(&self, _model: &Model, _batch: &StepBatch, _ranks: &Ranks) -> Result<Option<StepBatch>> {
        Ok(None)
    }

    /// The loss of a micro-batch of a step. What other models say of it is computed here, before the forward pass of the model that
    /// trains, so that the two never keep activations at the same time.
    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a>;

    /// Judges a held-out batch; `model` is on a plain device.
    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut;
}

/// The model that an objective needs beside the one that trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Other<'a> {
    /// The run's own base with the adapter off.
    Base,
    /// Another one.
    Model {
        /// The key that names it.
        key: &'static str,
        /// Its folder.
        folder: &'a Path,
        /// The folder of an adapter on it.
        adapter: Option<&'a Path>,
        /// How its projections are held.
        quant: Option<Scheme>,
    },
}

/// What an objective's options mean.
pub trait ObjectiveKind {
    /// What is wrong with the options, as `key: message`.
    fn check(&self) -> Vec<String> {
        Vec::new()
    }

    /// What it learns from.
    fn examples(&self) -> Examples {
        Examples::Samples
    }

    /// The head that stands on a model in the place of that for language modelling, if it learns one.
    ///
    /// # Errors
    /// Why there can be none.
    fn head(&self, _own: &ModelConfig) -> std::result::Result<Option<HeadConfig>, String> {
        Ok(None)
    }

    /// Whether it is about tokens that are hidden from this model, an encoder.
    fn masks(&self, _own: &ModelConfig) -> bool {
        false
    }

    /// Whether it is about vectors of texts, which no head is for.
    fn embeds(&self) -> bool {
        false
    }

    /// What others need beside a result in `folder`; the sizes are those of the longest text, in tokens, and of a hidden state.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn write_beside(&self, _folder: &Path, _sizes: [usize; 2]) -> Result<()> {
        Ok(())
    }

    /// Default learning rate over that of the method.
    fn rate_factor(&self) -> f64 {
        1.0
    }

    /// The model that it needs beside the one that trains.
    fn other(&self) -> Option<Other<'_>> {
        None
    }

    /// Why it cannot work with these two: the model that trains, and the one beside it.
    fn unfit(&self, _own: &ModelConfig, _other: &ModelConfig) -> Vec<String> {
        Vec::new()
    }

    /// Shapes `[other width, own width]` of the maps of hidden states that train beside the model.
    fn projections(&self, _own: &ModelConfig, _other: &ModelConfig) -> Vec<[usize; 2]> {
        Vec::new()
    }

    /// Most tokens that the model writes after a prompt in a training step; 0 where it writes none.
    fn answer_tokens(&self) -> usize {
        0
    }

    /// The objective, ready to run.
    ///
    /// # Errors
    /// Models and files that it needs and that cannot be had.
    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>>;
}

macro_rules! objectives {
    ($( $(#[$doc:meta])* $name:literal => $variant:ident($config:ty), )+) => {
        /// Section `[objective]`: what is minimized, with its options.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "kind")]
        pub enum ObjectiveConfig {
            $( $(#[$doc])* #[serde(rename = $name)] $variant($config), )+
        }

        impl ObjectiveConfig {
            /// The values of `objective.kind`; the first is the default.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The value of `objective.kind`.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            /// The kinds that learn from such examples.
            pub fn learning_from(examples: Examples) -> Vec<&'static str> {
                let kinds = [$( ($name, <$config>::default().examples()) ),+];
                kinds.into_iter().filter(|(_, own)| *own == examples).map(|(name, _)| name).collect()
            }

            /// What the options mean.
            pub fn kind(&self) -> &dyn ObjectiveKind {
                match self { $( Self::$variant(config) => config, )+ }
            }
        }
    };
}

objectives! {
    /// Supervised: the mean negative log-likelihood, in nats, of the target tokens.
    "sft" => Sft(SftConfig),
    /// Distillation: the student learns a teacher's probabilities, and the targets.
    "distill" => Distill(DistillConfig),
    /// Direct preference optimization: chosen answers become likelier than rejected ones, measured against a reference.
    "dpo" => Dpo(DpoConfig),
    /// Identity preference optimization: as DPO, with a margin that is not exceeded.
    "ipo" => Ipo(IpoConfig),
    /// Odds ratio preference optimization: supervised fine-tuning and preferences in one, without a reference.
    "orpo" => Orpo(OrpoConfig),
    /// Simple preference optimization: mean log-probabilities and a margin, without a reference.
    "simpo" => Simpo(SimpoConfig),
    /// Kahneman-Tversky optimization: answers that are rated good or bad, one by one.
    "kto" => Kto(KtoConfig),
    /// Classification or regression by a head: of texts, or of the words in them.
    "classify" => Classify(ClassifyConfig),
    /// Masked language modelling: an encoder fills in hidden tokens.
    "mlm" => Mlm(MlmConfig),
    /// Vectors of texts: of all the texts in a forward pass, each is nearest to its own other one.
    "infonce" => Infonce(InfonceConfig),
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self::Sft(SftConfig::default())
    }
}
