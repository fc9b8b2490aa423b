//! LoRA in a projection.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use super::Start;
use super::low_rank::LowRank;
use super::stack::Earlier;
use crate::methods::common::f32;
use crate::methods::{Base, ParamMut, WeightDelta};
use crate::pass::Pass;

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub b: Param<Tensor<2>>,
    /// `[out]`, added to B's output before scaling.
    pub bias: Option<Param<Tensor<1>>>,
    /// A and B at the start, where the base was changed to make room for them (PiSSA, OLoRA).
    pub start: Option<Start>,
    /// Adapters before this one that stay in use, see [`stack`](crate::stack).
    pub earlier: Option<Earlier>,
    /// s.
    #[module(skip)]
    pub scale: f64,
    /// Share of the input that is dropped.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    #[module(skip)]
    pub salt: u64,
}

impl WeightDelta for Lora {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let Some(earlier) = &self.earlier else {
            return self.low_rank().forward(x, base, pass);
        };
        let y = self.low_rank().forward(x.clone(), base, pass);
        let dtype = y.dtype();
        y + earlier.branch(x, self.scale).cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let Earlier { a, b } = self.concatenated();
        let delta = b.matmul(a);
        let own = self
            .bias
            .as_ref()
            .map(|bias| bias.val().detach().mul_scalar(self.scale));
        let bias = match (bias.map(f32), own) {
            (Some(bias), Some(own)) => Some(bias + own),
            (bias, own) => bias.or(own),
        };
        (f32(weight) + delta.mul_scalar(self.scale), bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let bias = self.bias.as_mut().map(|bias| ("lora_B.bias", ParamMut::Vector(bias)));
        let matrices = [
            ("lora_A.weight", ParamMut::Matrix(&mut self.a)),
            ("lora_B.weight", ParamMut::Matrix(&mut self.b)),
        ];
        matrices.into_iter().chain(bias).collect()
    }

    /// The plain LoRA that means the same over the unchanged base: with a `start`, `s(BA - B₀A₀)` written as one product
    /// of rank 2r; with adapters before it, all of them concatenated.
    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let Earlier { a, b } = self.concatenated();
        let (a, b) = match &self.start {
            None => (a, b),
            Some(start) => (
                Tensor::cat(vec![a.without_autodiff(), start.a.clone().without_autodiff()], 0),
                Tensor::cat(vec![b.without_autodiff(), start.b.clone().without_autodiff().neg()], 1),
            ),
        };
        let bias = self.bias.as_ref().map(|bias| ("lora_B.bias", bias.val().into_data()));
        [("lora_A.weight", a.into_data()), ("lora_B.weight", b.into_data())]
            .into_iter()
            .chain(bias)
            .collect()
    }
}

impl Lora {
    pub(super) fn low_rank(&self) -> LowRank {
        LowRank {
            a: self.a.val(),
            b: self.b.val(),
            bias: self.bias.as_ref().map(Param::val),
            scale: self.scale,
            dropout: self.dropout,
            salt: self.salt,
        }
    }
}
