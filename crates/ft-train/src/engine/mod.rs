//! The run itself: from a plan to the last step, and everything that happens in a step.
//!
//! ```text
//! fit ── Session inside burn-train's loop (strategy) ── step: gradients (backward), penalty, clipping, checks, optimizer
//!                                                   └── save, resume
//! ```

mod agree;
mod backward;
mod balance;
mod cards;
mod clock;
mod conclude;
mod devices;
mod early_stopping;
mod evaluated;
mod fit;
mod gradient_check;
mod in_backward;
mod loss_scaling;
mod memory_limit;
mod method_hook;
mod model;
mod non_finite;
pub(crate) mod over_ranks;
mod prepare;
mod resume;
mod save;
mod score;
mod session;
mod shards;
mod step;
mod step_by_task;
mod strategy;
mod task_adapters;
mod task_end;
mod teacher_answers;
mod together;
mod unread;

pub use backward::{ActivationPolicy, Piece};
pub use devices::{Named, fit_on};
pub use fit::{Event, FitOptions, Progress, fit};
pub use in_backward::Complete;
pub use method_hook::MethodHook;
pub use model::TrainModel;
pub(crate) use non_finite::rows_of;
pub use resume::Resume;
pub use score::write_teacher_cache;
pub use teacher_answers::write_teacher_answers;
pub use together::Together;
pub(crate) use together::sum_of;
