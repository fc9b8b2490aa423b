//! The sections that belong to this crate. Every default stands on its field and nowhere else.

use std::path::PathBuf;

use ft_quant::Scheme;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchSize, Checkpointing};

/// Section `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Folder in Hugging Face layout: `config.json`, safetensors, `tokenizer.json`.
    pub path: PathBuf,
    /// Type the frozen weights are held in; `auto` is f32 on the CPU and the checkpoint's own type elsewhere. What
    /// trains is always f32. `bf16` and `f16` take half the memory on the CPU too, which computes in f32 all the same.
    #[serde(default)]
    pub dtype: Dtype,
    /// Type of the activations, which frozen weights are widened or rounded to where they are multiplied; `auto` is f32 on
    /// the CPU, and elsewhere the type of the frozen weights, or f16 where the device has no bf16. Norms, softmax, adapters
    /// and the loss are computed in f32 always. With f16, the loss is scaled so that small gradients do not vanish.
    #[serde(default)]
    pub compute: Dtype,
    /// Hold the frozen projections in 4 or 8 bits (QLoRA): quantized while they are read. Nothing where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<Scheme>,
    /// Start from random weights drawn from `train.seed`, not from those in `path`, which then needs only its
    /// `config.json` and tokenizer. For pretraining, with `peft.method = "full"`.
    #[serde(default)]
    pub init: bool,
    /// Weight of the loss that keeps experts equally busy (`router_aux_loss_coef`); 0 is none. Left out, the one of `config.json`, where that
    /// has `output_router_logits` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_aux_loss_coef: Option<f64>,
    /// Folder of the tokenizer, where it is not the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

/// Type of the frozen weights, or of the activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Chosen for the device.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, the exponent of f32.
    Bf16,
    /// 16 bits, IEEE half.
    F16,
}

/// Section `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Run folder; `runs/<name of the configuration file>` where it is not given.
    pub out: PathBuf,
    /// Samples in one forward pass, or rows with `data.pack = true`; `"auto"` for the largest number that fits, while an optimizer
    /// step keeps 8 times `accumulation` of them.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: BatchSize,
    /// Memory that the run may take (`"8GB"`), for the plan and for `batch_size = "auto"`; what the machine has left
    /// where it is not given. On the CPU, a step that takes more halves the micro-batch of the next ones (on Linux), as
    /// running out does on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Forward passes in one optimizer step. The step weighs every learned token alike, so `batch_size` 8 with
    /// `accumulation` 4 takes the same steps as 32 with 1.
    #[serde(default = "defaults::accumulation")]
    pub accumulation: usize,
    /// Keep only the input of every so many blocks for the backward pass and compute the blocks again there: less memory,
    /// about a third more time. `"off"` keeps everything.
    #[serde(default)]
    pub checkpointing: Checkpointing,
    /// With `checkpointing`: keep those inputs in host memory. On the CPU they are there anyway.
    #[serde(default)]
    pub offload_activations: bool,
    /// Take the step with the largest micro-batch (rows times longest sample) of the first epoch first, so that memory runs out
    /// at once or not at all. With `data.shuffle = false` the order of the file is kept, and `ft plan` tells which step it is.
    #[serde(default = "defaults::longest_first")]
    pub longest_first: bool,
    /// Update every tensor as soon as the backward pass has its gradient, which then goes: with `checkpointing`, the gradients
    /// of one segment are there at a time. Takes the same steps, and needs `optim.clip = 0` and `accumulation = 1`. A gradient
    /// that is NaN or infinite where the loss was not stops the run.
    #[serde(default)]
    pub optimizer_in_backward: bool,
    /// Optimizer steps; excludes `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Passes over the training samples, 1 where neither `steps` nor `epochs` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// The one seed; every random stream (init, data order, dropout, sampling) is derived from it by name.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
    /// Steps between two lines of `metrics.jsonl`.
    #[serde(default = "defaults::log_every")]
    pub log_every: usize,
    /// Steps between two evaluations on `data.valid`; once per epoch where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<usize>,
    /// First scale of the loss where activations are in f16, a power of two; it then moves by itself.
    #[serde(default = "defaults::loss_scale")]
    pub loss_scale: f64,
    /// Steps between two checkpoints; those of `eval_every` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_every: Option<usize>,
    /// Checkpoints that stay, the newest ones; the best is kept besides.
    #[serde(default = "defaults::keep")]
    pub keep: usize,
    /// Of several processes (`mpirun ft train`) or devices (`--device cuda:all`), each holds the optimizer's states of its part of what trains (ZeRO
    /// stage 1), takes the step of that part, and is told the new values of the others. With full fine-tuning and no strategy against forgetting, each
    /// keeps the gradients of its part alone, too (stage 2). The same steps; a checkpoint holds all states. Nothing where there is one.
    #[serde(default)]
    pub shard_optimizer: bool,
    /// Seconds that one process of several (`mpirun ft train`) waits for another before it ends the run: what hangs or has died is named, with the newest
    /// checkpoint. Must be longer than the first takes to write a checkpoint or sample answers.
    #[serde(default = "defaults::timeout")]
    pub timeout: u64,
    /// Write the weights of the best evaluation to `final/`, not the last ones. Every evaluation that improves is then
    /// saved as a checkpoint.
    #[serde(default)]
    pub load_best: bool,
    /// What `load_best` and `early_stopping` go by where there are tasks: `"micro"`, the mean over all held-out units; `"macro"`, the
    /// mean over the tasks' means; or the name of a task. All of them are losses. Metrics of tasks, which are to become large, go by the names
    /// that they have in the log: `"bleu/TASK"`, `"bleu_micro"`, `"bleu_macro"`.
    #[serde(default = "defaults::best_by")]
    pub best_by: String,
    /// Stop when evaluations no longer improve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Start in spite of what is only an opinion of the checks, which then warns: room on the disk that looks too small, samples
    /// that never teach to stop.
    #[serde(default)]
    pub force: bool,
    /// Folder of TensorBoard's event file, in the run folder; `""` writes none.
    #[serde(default = "defaults::tensorboard")]
    pub tensorboard: PathBuf,
    /// A step whose loss or gradient is NaN or infinite is skipped, and its samples are written to `bad_steps/` in the run
    /// folder; so many in a row stop the run. 0 looks at the loss only where it is logged, and stops at once; so does a GPU then that
    /// runs out of memory.
    #[serde(default = "defaults::max_bad_steps")]
    pub max_bad_steps: usize,
    /// Check in the first steps that every trainable tensor receives a finite, non-zero gradient.
    #[serde(default = "defaults::check_gradients")]
    pub check_gradients: bool,
    /// Write what every optimizer step was fed to this file in the run folder (JSON lines), and the weights before the first
    /// step to `initial/`, to replay the run elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_batches: Option<PathBuf>,
}

/// Section `[train.early_stopping]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations in a row that may fail to improve before the run stops.
    #[serde(default = "defaults::patience")]
    pub patience: usize,
    /// An improvement must lower the loss by more than this.
    #[serde(default)]
    pub threshold: f64,
}

/// Section `[eval]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Samples in one forward pass; `train.batch_size` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Evaluate on so many samples only, spread evenly over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// Evaluate before the first step too.
    pub at_start: bool,
    /// Held-out prompts answered before and after the run, for the report, spread evenly; 0 turns it off.
    pub samples: usize,
    /// Answer them at every evaluation too.
    pub samples_each: bool,
    /// A file of general text, as in `data.train`: its perplexity is measured before and after a run over tasks, to tell what the
    /// model has lost beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub general: Option<PathBuf>,
    /// Names of metrics that need generated answers, measured before and after the run: `exact_match`, `bleu`, `rougeL` and others.
    pub metrics: Vec<String>,
    /// Held-out prompts answered for `metrics`, spread evenly; all where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_answers: Option<usize>,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            batch_size: None,
            max_samples: None,
            at_start: true,
            samples: 3,
            samples_each: true,
            general: None,
            metrics: Vec::new(),
            max_answers: None,
        }
    }
}

mod defaults {
    pub fn batch_size() -> super::BatchSize {
        super::BatchSize::Count(super::BatchSize::USUAL)
    }
    pub fn accumulation() -> usize {
        1
    }
    pub fn longest_first() -> bool {
        true
    }
    pub fn seed() -> u64 {
        42
    }
    pub fn log_every() -> usize {
        10
    }
    pub fn loss_scale() -> f64 {
        ft_optim::LossScale::default().scale
    }
    pub fn keep() -> usize {
        2
    }
    pub fn timeout() -> u64 {
        600
    }
    pub fn best_by() -> String {
        crate::config::tasks::RESERVED[0].into()
    }
    pub fn tensorboard() -> std::path::PathBuf {
        "tb".into()
    }
    pub fn max_bad_steps() -> usize {
        5
    }
    pub fn patience() -> usize {
        3
    }
    pub fn check_gradients() -> bool {
        true
    }
}
