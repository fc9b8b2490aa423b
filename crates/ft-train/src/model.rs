//! The model as burn-train sees it: one training step is one whole optimizer step's worth of forward and backward passes.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Int, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use ft_data::Batch;
use ft_model::{Model, Rows};
use ft_peft::Pass;

use crate::feed::Window;
use crate::metrics::{StepOutput, Sum};

/// A language model that burn-train can train.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The model itself.
    pub model: Model,
}

/// Sum of the negative log-likelihood in nats over the learned tokens of a batch, `[1]`. The head runs on the positions
/// that predict a learned token, and on no others.
pub fn nll_sum(model: &Model, batch: &Batch, pass: &Pass) -> Tensor<1> {
    let device = model.device();
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let hidden = model.forward(Tensor::<2, Int>::from_data(ids, &device), &Rows::Right, None, pass);
    let [rows, width, size] = hidden.dims();
    let count = batch.targets.len();
    let positions = TensorData::new(batch.positions.clone(), [count]);
    let targets = TensorData::new(batch.targets.clone(), [count]);
    let picked = hidden
        .reshape([rows * width, size])
        .select(0, Tensor::<1, Int>::from_data(positions, &device));
    model.nll_sum(picked, Tensor::<1, Int>::from_data(targets, &device))
}

impl TrainStep for TrainModel {
    type Input = Window;
    type Output = StepOutput;

    /// Gradients of the summed loss of a window; the strategy divides them by its learned tokens once.
    fn step(&self, window: Window) -> TrainOutput<StepOutput> {
        let mut gradients = GradientsAccumulator::new();
        let mut total: Option<Tensor<1>> = None;
        for micro in &window.micro {
            let nll = nll_sum(&self.model, &micro.batch, &Pass::train(micro.dropout_seed));
            let sum = nll.clone().inner();
            total = Some(match total {
                Some(total) => total + sum,
                None => sum,
            });
            gradients.accumulate(self, GradientsParams::from_grads(nll.backward(), self));
        }
        let nll = total.unwrap_or_else(|| Tensor::zeros([1], &self.model.device().inner()));
        let item = StepOutput {
            nll: Sum::Device(Box::new(nll)),
            tokens: window.learned,
            grad_norm: None,
            tokens_per_s: 0.0,
        };
        TrainOutput {
            grads: gradients.grads(),
            item,
        }
    }
}

impl InferenceStep for TrainModel {
    type Input = Batch;
    type Output = StepOutput;

    /// A batch that the model answers with NaN comes out as NaN: the run's own check names it.
    fn step(&self, batch: Batch) -> StepOutput {
        let tokens = batch.learned();
        let nll = ft_eval::evaluate(&self.model, [batch]).map_or(f64::NAN, |e| e.nll_sum);
        StepOutput {
            nll: Sum::Host(nll),
            tokens,
            grad_norm: None,
            tokens_per_s: 0.0,
        }
    }
}
