use std::path::{Path, PathBuf};

use crate::config::Issue;

/// What can stop a run before, while or after it trains.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration; every issue at once.
    #[error("{}", lines(.0))]
    Config(Vec<Issue>),
    /// The plan does not add up; every finding at once.
    #[error("the run cannot start:\n  {}", .0.join("\n  "))]
    Plan(Vec<String>),
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A checkpoint that cannot be used.
    #[error("{}: {why}", path.display())]
    Checkpoint {
        /// The checkpoint's folder, or the run folder where there is none.
        path: PathBuf,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The configuration differs from the one the checkpoint was made with, in keys that decide what a resume means.
    #[error("{}: the configuration has changed since this checkpoint was written:\n  {}\nGive the old values back, or start a new run with another train.out", path.display(), changes.join("\n  "))]
    Changed {
        /// The checkpoint's folder.
        path: PathBuf,
        /// `key: old -> new`.
        changes: Vec<String>,
    },
    /// The run folder already holds a run.
    #[error("{}: holds a run already; continue it with --resume, or choose another train.out", .0.display())]
    Occupied(PathBuf),
    /// The loss became NaN or infinite.
    #[error(
        "step {step}: the loss is {loss}; the last good checkpoint is {last}. A lower optim.lr, a longer schedule.warmup or optim.clip usually helps"
    )]
    Diverged {
        /// Optimizer step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
        /// The newest checkpoint, or `none`.
        last: String,
    },
    /// Another process runs in the run folder.
    #[error("{}: {} is running here; wait for it, stop it, or choose another train.out", folder.display(),
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The run folder.
        folder: PathBuf,
        /// The process, where the system tells.
        pid: Option<u32>,
    },
    /// A checkpoint that there is no room for.
    #[error("{}: the disk is full: a checkpoint takes {}, {} are free. The checkpoints before it are whole: make room, then go on with --resume", path.display(),
        crate::memory::human(*needed), available.map_or("not enough".to_owned(), crate::memory::human))]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// Bytes of a checkpoint.
        needed: u64,
        /// Bytes that are free, where the system tells.
        available: Option<u64>,
        /// What the system said.
        source: Box<Error>,
    },
    /// Steps whose loss or gradient was no number, too many of them in a row.
    #[error(
        "step {step}: {count} step(s) in a row were skipped because the loss or the gradient is no number (here: loss {loss}, \
         gradient norm {grad_norm}); their samples are in {}, the newest checkpoint is {last}. A lower optim.lr, a longer \
         schedule.warmup or optim.clip usually helps; if the same samples fail every time, leave them out", folder.display()
    )]
    NotFinite {
        /// Optimizer step, from 1.
        step: usize,
        /// Steps in a row.
        count: usize,
        /// The loss.
        loss: f64,
        /// Norm of the gradient.
        grad_norm: f64,
        /// Where the samples are.
        folder: PathBuf,
        /// The newest checkpoint, or `none`.
        last: String,
    },
    /// A gradient that is no number, found when others of the same step had been used already.
    #[error(
        "step {step}: a gradient is no number (norm {grad_norm}) where the loss was one, and train.optimizer_in_backward has \
         already used the gradients before it, so the step cannot be left out; go on with --resume from the newest checkpoint, \
         {last}. A lower optim.lr or a longer schedule.warmup usually helps"
    )]
    HalfDone {
        /// Optimizer step, from 1.
        step: usize,
        /// Norm of the gradient.
        grad_norm: f64,
        /// The newest checkpoint, or `none`.
        last: String,
    },
    /// Activations in f16 whose gradients overflow whatever the loss is scaled by.
    #[error(
        "step {step}: gradients leave f16 even where the loss is not scaled; set model.compute = \"bf16\" or \"f32\", or lower optim.lr"
    )]
    Overflow {
        /// Optimizer step, from 1.
        step: usize,
    },
    /// Memory that does not hold the smallest step there is, or a checkpoint beside what there is.
    #[error(
        "step {step}: out of memory at {rows} x {width} tokens in a forward pass, and no smaller step is possible; lower data.max_length{}; the newest \
         checkpoint is {last}", memory_advice.iter().map(|change| format!(", or set {change}")).collect::<String>()
    )]
    OutOfMemory {
        /// Optimizer step, from 1.
        step: usize,
        /// Samples in a forward pass.
        rows: usize,
        /// Tokens of the longest one.
        width: usize,
        /// Settings that take less.
        memory_advice: Vec<String>,
        /// The newest checkpoint, or `none`.
        last: String,
    },
    /// What a device reports when a number is read back from it.
    #[error("the device failed: {0}")]
    Device(String),
    /// Tensors that should train but receive nothing, or nonsense.
    #[error("after {steps} step(s), these trainable tensors received no usable gradient:\n  {}\nLeave them out (peft.targets, peft.exclude), or set train.check_gradients = false", tensors.join("\n  "))]
    Gradients {
        /// Steps looked at.
        steps: usize,
        /// `path: what it received`.
        tensors: Vec<String>,
    },
    /// Something burn-train reported.
    #[error("training stopped: {0}")]
    Training(String),
    /// Another process of the run, and what is left of it.
    #[error(
        "{lost}; the newest checkpoint is {last}; go on with --resume, with as many ranks as you like. Ranks that only need longer (a large checkpoint, many \
             answers) need a larger train.timeout"
    )]
    Rank {
        /// What happened.
        lost: ft_ranks::Lost,
        /// The newest checkpoint, or `none`.
        last: String,
    },
    /// One of several devices of this process.
    #[error("{device}: {error}")]
    OnDevice {
        /// Such as `cuda:1`.
        device: String,
        /// What it ran into.
        error: Box<Error>,
    },
    /// What ranks of one run do not have in common; every difference at once.
    #[error("the ranks do not belong to one run:\n  {}", .0.join("\n  "))]
    Ranks(Vec<String>),
    /// From the tokenizer or the data files.
    #[error(transparent)]
    Data(#[from] ft_data::Error),
    /// From the model's files.
    #[error(transparent)]
    Model(#[from] ft_model::Error),
    /// From the adapter or its configuration.
    #[error(transparent)]
    Peft(#[from] ft_peft::Error),
    /// From the optimizer's configuration or state.
    #[error(transparent)]
    Optim(#[from] ft_optim::Error),
    /// From generation.
    #[error(transparent)]
    Infer(#[from] ft_infer::Error),
    /// From evaluation.
    #[error(transparent)]
    Eval(#[from] ft_eval::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<ft_ranks::Lost> for Error {
    fn from(lost: ft_ranks::Lost) -> Self {
        Error::Rank {
            lost,
            last: "none".into(),
        }
    }
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn device(error: burn::tensor::TensorReadError) -> Self {
        Error::Device(error.to_string())
    }

    pub(crate) fn config(issue: Issue) -> Self {
        Error::Config(vec![issue])
    }

    pub(crate) fn checkpoint(path: &Path, why: impl Into<String>) -> Self {
        Error::Checkpoint {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

fn lines(issues: &[Issue]) -> String {
    issues.iter().map(Issue::to_string).collect::<Vec<_>>().join("\n")
}
