//! The gradients of one micro-batch, with what the blocks keep for the backward pass held to a few blocks.
//!
//! ```text
//! forward   embed ─ block ─ block ─ ... ─ block ─ norm ─ head ─ loss      without a tape; segment inputs are kept
//! backward  1. norm, head, loss on a fresh leaf          gradient to the last block's output
//!           2. segment by segment, from the last:        computed again on a fresh leaf, then backward
//!           3. the first segment together with the embeddings
//! ```
//!
//! A segment is computed again from the same input with the same seed, so it is the same function, dropout included, short of
//! its output, which nobody reads again
//! (sublinear memory cost: Chen et al. 2016, arXiv:1604.06174). Every segment hands its gradients on before the next one
//! is computed; a tensor that several segments use (a tied head) is handed on by each, and the receiver adds them up. What the loss
//! says of hidden states between two blocks is known after the forward pass, and its gradient joins in the segment that they are in.

use std::ops::{ControlFlow, Range};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Gradients, Int, Tensor, TensorData};
use ft_data::Batch;
use ft_kernels::{Output, backward_from};
use ft_model::{Model, Rows};
use ft_peft::Pass;

use crate::config::Checkpointing;
use crate::engine::balance::Balance;

/// What is kept between forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivationPolicy {
    /// Which block inputs.
    pub checkpointing: Checkpointing,
    /// Whether they wait in host memory. On the CPU that is where they are.
    pub offload: bool,
}

/// A part of a backward pass.
pub struct Piece<'a> {
    /// Gradients of the parameters that this part of the model uses.
    pub grads: GradientsParams,
    /// The value of the loss, `[1]`, without autodiff.
    pub loss: &'a Tensor<1>,
    /// Blocks whose gradients are still to come, those of the embeddings with them; none after the last piece.
    pub before: Option<usize>,
}

/// A loss as sums `[1]`.
#[derive(Clone, Copy)]
pub struct Losses<'a> {
    /// Of the hidden states after the final norm, `[rows, width, hidden]`, and the sum over those between blocks, which it adds.
    pub last: &'a dyn Fn(&Model, Tensor<3>, Option<Tensor<1>>) -> Tensor<1>,
    /// How many blocks those are behind, ascending.
    pub after: &'a [usize],
    /// Of the one with this number among them, `[rows, width, hidden]`.
    pub inner: &'a dyn Fn(&Model, usize, Tensor<3>) -> Tensor<1>,
    /// Of the routers of experts.
    pub balance: Option<&'a Balance>,
}

impl Losses<'_> {
    /// The blocks `range` in turn, and the sum over what lies between them or behind the last. What nobody reads may be left out
    /// in the pass `output`.
    fn blocks(
        &self,
        model: &Model,
        range: Range<usize>,
        hidden: Tensor<3>,
        rows: &Rows,
        [pass, output]: [&Pass; 2],
    ) -> (Tensor<3>, Option<Tensor<1>>) {
        let (mut hidden, mut done, mut sum) = (hidden, range.start, None);
        let add = |sum: &mut Option<Tensor<1>>, own: Option<Tensor<1>>| {
            *sum = sum.take().into_iter().chain(own).reduce(|a, b| a + b);
        };
        let run = |range: Range<usize>, hidden, pass| {
            let forward = || model.blocks(range, hidden, rows, pass);
            match self.balance {
                None => (forward(), None),
                Some(balance) => balance.watch(forward),
            }
        };
        // The last block's output is given to `last`, after the norm.
        let inside = |after: usize| range.start < after && after <= range.end && after < model.num_blocks();
        for (number, after) in self
            .after
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, after)| inside(*after))
        {
            let balance;
            (hidden, balance) = run(done..after, hidden, pass);
            done = after;
            let own = (self.inner)(model, number, model.without_prompt(hidden.clone(), rows));
            add(&mut sum, balance);
            add(&mut sum, Some(own));
        }
        if done < range.end {
            let balance;
            (hidden, balance) = run(done..range.end, hidden, output);
            add(&mut sum, balance);
        }
        (hidden, sum)
    }
}

/// A forward and a backward pass: the model and the value of the loss `[1]`, without autodiff. `each` is handed the gradients, in one
/// piece or in several, and may change parameters that [nothing to come uses](Model::params_before) between two of them, or end the
/// pass early.
pub fn backward_through(
    model: Model,
    batch: &Batch,
    pass: &Pass,
    activations: ActivationPolicy,
    loss: Losses<'_>,
    mut each: impl FnMut(Model, Piece<'_>) -> ControlFlow<Model, Model>,
) -> (Model, Tensor<1>) {
    match activations.checkpointing {
        Checkpointing::Off => {
            let rows = layout(&model, batch);
            let start = model.embed(ids(&model, batch), &rows, pass);
            let (hidden, inner) = loss.blocks(&model, 0..model.num_blocks(), start, &rows, [pass; 2]);
            let value = (loss.last)(&model, model.norm(hidden, &rows), inner);
            let value = match loss.balance.and_then(Balance::whole) {
                None => value,
                Some(own) => value + own,
            };
            let grads = GradientsParams::from_grads(value.backward(), &model);
            let value = value.inner();
            let piece = Piece {
                grads,
                loss: &value,
                before: None,
            };
            (either(each(model, piece)), value)
        }
        Checkpointing::Every(blocks) => {
            let kept = Kept::new(&model, batch, pass, blocks, activations.offload, loss);
            kept.backward(model, pass, loss, each)
        }
    }
}

fn either<T>(flow: ControlFlow<T, T>) -> T {
    match flow {
        ControlFlow::Continue(value) | ControlFlow::Break(value) => value,
    }
}

/// How the batch's sequences lie in its rows.
fn layout(model: &Model, batch: &Batch) -> Rows {
    model.rows(batch.layout())
}

/// ids `[rows, width]` on the model's device.
fn ids(model: &Model, batch: &Batch) -> Tensor<2, Int> {
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    Tensor::from_data(ids, &model.device())
}

/// What the forward pass leaves for the backward pass.
struct Kept {
    rows: Rows,
    /// Input of the first block, with the tape of the embeddings.
    start: Tensor<3>,
    /// First block of each further segment with its input.
    segments: Vec<(usize, Activation)>,
    /// Output of the last block, without a tape.
    last: Tensor<3>,
    /// What the loss says of hidden states between blocks, without a tape.
    inner: Option<Tensor<1>>,
    /// And of routers.
    balance: Option<Tensor<1>>,
}

impl Kept {
    fn new(model: &Model, batch: &Batch, pass: &Pass, every: usize, offload: bool, loss: Losses<'_>) -> Self {
        let rows = layout(model, batch);
        let start = model.embed(ids(model, batch), &rows, pass);
        // Dropped at the end of this function: while it lives, weights cannot be written in place.
        let plain = model.valid();
        let blocks = plain.num_blocks();
        let mut segments = Vec::new();
        let (mut hidden, mut inner) = (start.clone().inner(), None);
        for first in (0..blocks).step_by(every) {
            if first > 0 {
                segments.push((first, Activation::keep(hidden.clone(), offload)));
            }
            let segment = first..blocks.min(first + every);
            let (output, own) = loss.blocks(&plain, segment, hidden, &rows, [pass; 2]);
            inner = inner.into_iter().chain(own).reduce(|a: Tensor<1>, b| a + b);
            hidden = output;
        }
        Self {
            rows,
            start,
            segments,
            last: hidden,
            inner,
            balance: loss.balance.and_then(Balance::whole),
        }
    }

    fn backward(
        self,
        mut model: Model,
        pass: &Pass,
        loss: Losses<'_>,
        mut each: impl FnMut(Model, Piece<'_>) -> ControlFlow<Model, Model>,
    ) -> (Model, Tensor<1>) {
        let again = pass.with_output(Output::Unread);
        let mut end = model.num_blocks();
        let leaf = leaf(self.last, model.trains_before(end));
        let inner = self.inner.map(Tensor::autodiff);
        let value = (loss.last)(&model, model.norm(leaf.clone(), &self.rows), inner);
        let value = match self.balance {
            None => value,
            Some(own) => value + own.autodiff(),
        };
        let mut grads = value.backward();
        let mut upstream = leaf.grad_remove(&mut grads);
        let value = value.inner();
        let piece = |grads, before| Piece {
            grads,
            loss: &value,
            before,
        };
        let grads = GradientsParams::from_module(&mut grads, &model);
        match each(model, piece(grads, upstream.is_some().then_some(end))) {
            ControlFlow::Continue(next) => model = next,
            ControlFlow::Break(model) => return (model, value),
        }
        for (first, input) in self.segments.into_iter().rev() {
            let Some(gradient) = upstream.take() else { break };
            let leaf = self::leaf(input.back(), model.trains_before(first));
            let output = loss.blocks(&model, first..end, leaf.clone(), &self.rows, [pass, &again]);
            let mut grads = backward_with(output, gradient);
            upstream = leaf.grad_remove(&mut grads);
            let grads = GradientsParams::from_module(&mut grads, &model);
            match each(model, piece(grads, upstream.is_some().then_some(first))) {
                ControlFlow::Continue(next) => model = next,
                ControlFlow::Break(model) => return (model, value),
            }
            end = first;
        }
        if let Some(gradient) = upstream {
            let output = loss.blocks(&model, 0..end, self.start, &self.rows, [pass, &again]);
            let grads = GradientsParams::from_grads(backward_with(output, gradient), &model);
            model = either(each(model, piece(grads, None)));
        }
        (model, value)
    }
}

/// The backward pass of a segment from the gradient of its output `[rows, width, hidden]`, and of what the loss says of it.
fn backward_with((output, inner): (Tensor<3>, Option<Tensor<1>>), gradient: Tensor<3>) -> Gradients {
    match inner {
        None => backward_from(output, gradient),
        // The gradient of the product to the output is what it is multiplied with.
        Some(inner) => {
            let product = (output * gradient.autodiff()).sum();
            (product.cast(FloatDType::F32) + inner).backward()
        }
    }
}

/// A value that a new tape starts from; without `tracked`, as a constant.
fn leaf(value: Tensor<3>, tracked: bool) -> Tensor<3> {
    match tracked {
        true => value.autodiff().require_grad(),
        false => value.autodiff(),
    }
}

/// A block input that waits for the backward pass, `[rows, width, hidden]`.
enum Activation {
    Device(Tensor<3>),
    Host(TensorData, Device),
}

impl Activation {
    fn keep(value: Tensor<3>, offload: bool) -> Self {
        match offload {
            false => Self::Device(value),
            true => {
                let device = value.device();
                Self::Host(value.into_data(), device)
            }
        }
    }

    fn back(self) -> Tensor<3> {
        match self {
            Self::Device(value) => value,
            Self::Host(data, device) => {
                let dtype = data.dtype();
                Tensor::from_data(data, (&device, dtype))
            }
        }
    }
}
