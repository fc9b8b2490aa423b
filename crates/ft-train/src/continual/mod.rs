//! Tasks one after the other without forgetting: one file per strategy, one line per strategy in the list here.
//!
//! ```text
//! a step        mix in rows ─> gradients ─> add a penalty's ─> change the whole vector ─> mean, clipping ─> optimizer
//! a task ends   every task is evaluated (a row of R) ─> the strategy takes note ─> checkpoint
//! ```
//!
//! A strategy sees the trainable parameters alone: whatever they are (an adapter's, or the model's), and however the rest is held,
//! it is the same strategy. What it can derive from (seed, step) it does not keep; what it keeps goes into every checkpoint.

mod adapters;
mod agem;
mod der;
mod dual;
mod ewc;
mod fisher;
mod gem;
mod joint;
mod lwf;
mod memory;
mod olora;
mod online_ewc;
mod replay;
pub mod scores;
mod sequential;
mod succession;
pub(crate) mod vector;

use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::TensorData;
use ft_model::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use adapters::AdaptersConfig;
pub use agem::AgemConfig;
pub use der::DerConfig;
pub use ewc::EwcConfig;
pub use fisher::FisherKind;
pub use gem::GemConfig;
pub use joint::JointConfig;
pub use lwf::LwfConfig;
pub use olora::OloraConfig;
pub use online_ewc::OnlineEwcConfig;
pub use replay::ReplayConfig;
pub use sequential::SequentialConfig;
pub use succession::{BetweenTasks, Next, Succession};

use crate::Result;
use crate::batches::{Batches, StepBatch};
use crate::engine::Together;
use crate::objectives::{Figure, Objective};

/// What a strategy is made from, beside its options.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The training samples, with the phases that the tasks are.
    pub batches: Arc<Batches>,
    /// The run's seed.
    pub seed: u64,
}

/// Gradients of a loss that is summed over `count` units.
pub struct Summed {
    /// Of every parameter that the loss depends on.
    pub grads: GradientsParams,
    /// Units.
    pub count: usize,
    /// What else the loss tells.
    pub figures: Vec<Figure>,
}

/// The gradients of a batch at the present weights; none where someone asked to stop.
pub type Gradients<'a> = dyn Fn(&StepBatch) -> Result<Option<Summed>> + 'a;

/// The same of another objective than the run's.
pub type GradientsOf<'a> = dyn Fn(Arc<dyn Objective>, &StepBatch) -> Result<Option<Summed>> + 'a;

/// The model at one moment.
pub struct Now<'a> {
    /// With its present weights.
    pub model: &'a Model,
    /// Of the run's objective, summed over its units.
    pub gradients: &'a Gradients<'a>,
    /// Of any objective, summed over its units.
    pub of: &'a GradientsOf<'a>,
    /// The same, of this process alone where several take the run together: each must hand in other batches.
    pub alone: &'a GradientsOf<'a>,
    /// These processes.
    pub ranks: &'a Together,
    /// False where someone asked to stop; asked between two forward passes.
    pub go_on: &'a dyn Fn() -> bool,
}

/// A strategy in a run. Nothing is done where a method is left as it is here.
pub trait Strategy: Send {
    /// Numbers of the training samples that are fed beside those of step `step`, which feeds `samples` of its own.
    fn mix(&mut self, _step: usize, _samples: usize) -> Vec<usize> {
        Vec::new()
    }

    /// The objective of the steps to come, made of the run's; the run's own where there is none. Evaluations stay with the run's.
    fn objective(&self, _of_run: &Arc<dyn Objective>) -> Option<Arc<dyn Objective>> {
        None
    }

    /// Adds the gradient of a penalty to that of a loss that is summed over `count` units, so that it counts once in the mean.
    fn penalize(&mut self, _model: &Model, grads: GradientsParams, _count: usize) -> GradientsParams {
        grads
    }

    /// Changes the gradient of all that trains, before it is clipped: `of_step` is that of `batch`. None where someone asked to stop.
    ///
    /// # Errors
    /// What goes wrong in the forward passes that this takes.
    fn project(&mut self, of_step: Summed, _batch: &StepBatch, _now: &Now<'_>) -> Result<Option<GradientsParams>> {
        Ok(Some(of_step.grads))
    }

    /// Task `task` has ended, and another follows. False where someone asked to stop before it was done: nothing has changed then.
    ///
    /// # Errors
    /// What goes wrong in the forward passes that this takes.
    fn end_task(&mut self, _task: usize, _now: &Now<'_>) -> Result<bool> {
        Ok(true)
    }

    /// Numbers for the log.
    fn report(&self, _line: &mut Map<String, Value>) {}

    /// What a checkpoint must hold; names are unique.
    fn state(&self, _model: &Model) -> Vec<(String, TensorData)> {
        Vec::new()
    }

    /// Takes it back.
    ///
    /// # Errors
    /// What is missing or misshapen.
    fn load_state(&mut self, _model: &Model, _tensors: Vec<(String, TensorData)>) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// Copies of all trainable numbers that a strategy holds, in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// From the end of the first task on, in every checkpoint too.
    pub kept: usize,
    /// Besides, while a step is taken. Where it [adds passes](StrategyKind::adds_passes), the step's own gradient and that of the pass that
    /// runs are counted already.
    pub in_step: usize,
    /// The model as it was, which these copies are of, is asked before every forward pass.
    pub teaches: bool,
}

/// What a strategy's options mean.
pub trait StrategyKind {
    /// What is wrong with the options, as `key: message`.
    fn check(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether all tasks are learned at once.
    fn is_joint(&self) -> bool {
        false
    }

    /// Whether a step is more than the gradients of its own samples: it cannot be taken inside the backward pass then.
    fn needs_whole_steps(&self) -> bool {
        true
    }

    /// Whether samples of pairs or ratings cannot be taken, because likelihoods of answers are.
    fn needs_likelihood(&self) -> bool {
        false
    }

    /// Whether a step has more forward passes than its own samples take.
    fn adds_passes(&self) -> bool {
        false
    }

    /// The memory it takes, with so many tasks.
    fn copies(&self, _tasks: usize) -> Copies {
        Copies::default()
    }

    /// What becomes of the adapter between two tasks, where that is a part of the strategy.
    fn next(&self) -> Option<Next> {
        None
    }

    /// Whether probabilities of the whole vocabulary are compared.
    fn distills(&self) -> bool {
        false
    }

    /// Bytes that it keeps of the samples that earlier tasks have fed: so many, with so many target tokens each on average.
    fn remembers(&self, _samples: usize, _tokens: f64) -> u64 {
        0
    }

    /// The strategy before the first step.
    fn build(&self, setting: Setting) -> Box<dyn Strategy>;
}

macro_rules! strategies {
    ($( $(#[$doc:meta])* $name:literal => $variant:ident($config:ty), )+) => {
        /// How tasks are learned one after the other, with its options.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "strategy")]
        pub enum StrategyConfig {
            $( $(#[$doc])* #[serde(rename = $name)] $variant($config), )+
        }

        impl StrategyConfig {
            /// The values of `continual.strategy`.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The value of `continual.strategy`.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            /// What the options mean.
            pub fn kind(&self) -> &dyn StrategyKind {
                match self { $( Self::$variant(config) => config, )+ }
            }
        }
    };
}

strategies! {
    /// One task after the other with nothing done against forgetting: the floor.
    "sequential" => Sequential(SequentialConfig),
    /// All tasks at once, as a mixture: the ceiling.
    "joint" => Joint(JointConfig),
    /// Samples of earlier tasks are fed again.
    "replay" => Replay(ReplayConfig),
    /// Elastic weight consolidation: what mattered to earlier tasks is held where it was.
    "ewc" => Ewc(EwcConfig),
    /// Elastic weight consolidation with one anchor and a Fisher information that fades.
    "online_ewc" => OnlineEwc(OnlineEwcConfig),
    /// Gradient episodic memory: no step may raise the loss on the memory of any earlier task.
    "gem" => Gem(GemConfig),
    /// Averaged gradient episodic memory: no step may raise the loss on samples of all memories together.
    "agem" => Agem(AgemConfig),
    /// Dark experience replay: samples of earlier tasks are fed again, with what the model said of them then.
    "der" => Der(DerConfig),
    /// Learning without forgetting: on the new task's samples, the model learns from itself as it was before.
    "lwf" => Lwf(LwfConfig),
    /// Orthogonal low-rank adaptation: a fresh LoRA for each task, held out of the subspaces of those before, which stay in use.
    "olora" => Olora(OloraConfig),
    /// An adapter for each task, over one base: nothing is shared, and nothing is forgotten.
    "adapters" => Adapters(AdaptersConfig),
}

/// `key: message` for a number that must be finite and at least 0.
fn at_least_zero(key: &str, value: f64) -> Option<String> {
    let wrong = !value.is_finite() || value < 0.0;
    wrong.then(|| format!("continual.{key}: must be a number of at least 0"))
}

/// `key: message` for a count of 0.
fn at_least_one(key: &str, value: usize) -> Option<String> {
    (value == 0).then(|| format!("continual.{key}: must be at least 1"))
}
