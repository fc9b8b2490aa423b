//! Optimizers with PyTorch's formulas, parameter groups, learning-rate schedules and global-norm clipping.
//!
//! ```text
//!  Gradients of a window ── scale_and_clip ──> GradientsParams, GradNorm
//!                                                    │
//!  Schedule::lr(base, step, total) ── lr ──>  Optim::step(lr, module, grads) ──> module
//!                                                    │
//!                                             state_dict / load_state_dict, by parameter path
//! ```
//!
//! * [`OptimConfig`], [`Schedule`]: the sections `[optim]` and `[schedule]` of a run's configuration.
//! * [`Optim`]: the driver; its rules ([`AdamW`], [`AdamW8bit`], [`Adafactor`], [`Lion`], [`Sgd`], [`Muon`], [`PagedAdamW`])
//!   are plain Burn optimizers and work in Burn's drivers, too.
//! * [`named_parameters`], [`trainable_tensors`], [`load_trainable_tensors`]: what trains, by path.
//! * [`scale_grads`], [`clip_grad_norm`], [`scale_and_clip`]: all gradients at once, without waiting for the device.
//!
//! ```
//! use burn::module::{Module, Param};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use ft_optim::{Optim, OptimConfig, Schedule, scale_and_clip};
//!
//! #[derive(Module, Debug)]
//! struct Line {
//!     slope: Param<Tensor<1>>,
//! }
//!
//! let device = Device::flex().autodiff();
//! let mut model = Line { slope: Param::from_tensor(Tensor::from_floats([0.0], &device)) };
//! let (config, schedule) = (OptimConfig::default(), Schedule::default());
//! let mut optim = Optim::new(&config)?;
//! for step in 0..100 {
//!     let loss = (model.slope.val() - 3.0).square(); // lowest at 3
//!     let grads = GradientsParams::from_grads(loss.backward(), &model);
//!     let (grads, norm) = scale_and_clip(&model, grads, 1.0, config.clip());
//!     assert!(norm.value() > 0.0);
//!     model = optim.step(schedule.lr(0.1, step, 100), model, grads);
//! }
//! assert!((model.slope.val().into_scalar::<f32>() - 3.0).abs() < 0.1);
//!
//! let saved = optim.state_dict(&model);
//! assert_eq!(saved[0].0, "slope.exp_avg");
//! # Ok::<(), ft_optim::Error>(())
//! ```

mod dynamic_map;
mod error;
mod grads;
mod groups;
#[cfg(feature = "flex")]
mod host;
mod loss_scale;
mod optim;
mod optimizers;
mod paging;
mod params;
mod registry;
mod saved;
pub mod schedule;
mod together;

#[cfg(test)]
mod tests;

pub use error::{Error, Mismatch, Problem, Result};
pub use grads::{GradNorm, clip_grad_norm, scale_and_clip, scale_and_clip_by, scale_grads, squares_of_each};
pub use groups::{Group, decays, embedding, hidden};
pub use loss_scale::LossScale;
pub use optim::Optim;
pub use optimizers::{
    Adafactor, AdafactorConfig, AdamW, AdamW8bit, AdamW8bitConfig, AdamWConfig, AdamWState, AdjustLr, Lion, LionConfig,
    Muon, MuonConfig, OptimConfig, PagedAdamW, PagedAdamWConfig, Sgd, SgdConfig, StateTensor,
};
pub use params::{NamedParameter, load_trainable_tensors, named_parameters, saved_tensors, trainable_tensors};
pub use saved::SavedTensor;
pub use schedule::{Schedule, Span};
