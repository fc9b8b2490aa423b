//! What a method does to training beside its adapters.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::target_module::TargetModule;

/// A method's own part in the training loop. One step of a loop that has one:
///
/// ```text
/// forward, backward ─> penalty, backward ─> clip ─> observe ─> optimizer ─> moved
/// ```
pub trait TrainingHook: Send {
    /// What it adds to the step's mean loss, `[1]`, over the adapters in `modules`. It counts once per optimizer step, however
    /// many forward passes the step is made of, and it is no part of the loss that is reported.
    fn penalty(&mut self, modules: &mut [TargetModule<'_>]) -> Option<Tensor<1>>;

    /// Takes in the gradients that the optimizer is about to use.
    fn observe(&mut self, modules: &mut [TargetModule<'_>], grads: &GradientsParams);

    /// The optimizer has taken step number `step`, the first is 1.
    fn moved(&mut self, modules: &mut [TargetModule<'_>], step: usize);

    /// Its numbers for the run's log. May wait for the device.
    fn report(&self) -> Map<String, Value>;

    /// All that a resumed run needs to go on as if it had never stopped, by name.
    fn state(&self) -> Vec<(String, TensorData)>;

    /// Puts back what [`state`](Self::state) gave, into itself and into the adapters in `modules`.
    ///
    /// # Errors
    /// The first tensor that does not fit these adapters.
    fn load_state(&mut self, modules: &mut [TargetModule<'_>], state: Vec<(String, TensorData)>) -> Result<()>;
}
