use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::NonLinearity;
use crate::methods::ParamMut;
use crate::methods::common::f32;
use crate::pass::Pass;

/// What an adapter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The output of the sub-layer with the residual added, normalized where the model does so behind its sub-layers.
    Sum,
    /// The output of the sub-layer.
    Output,
    /// The residual stream before the sub-layer.
    Residual,
}

/// The adapter of a residual module.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// `[width, hidden]`.
    pub down: Param<Tensor<2>>,
    /// `[width]`.
    pub down_bias: Param<Tensor<1>>,
    /// `[hidden, width]`.
    pub up: Param<Tensor<2>>,
    /// `[hidden]`.
    pub up_bias: Param<Tensor<1>>,
    /// Its input.
    #[module(skip)]
    pub reads: Reads,
    /// a.
    #[module(skip)]
    pub non_linearity: NonLinearity,
    /// s.
    #[module(skip)]
    pub scale: f64,
    /// Share of the output that is dropped.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    #[module(skip)]
    pub salt: u64,
}

impl Bottleneck {
    /// An adapter with the matrices `[width, hidden]` and `[hidden, width]`, biases zero.
    pub fn new([down, up]: [Tensor<2>; 2], reads: Reads, non_linearity: NonLinearity, scale: f64) -> Self {
        let device = down.device();
        let [width, hidden] = down.dims();
        Self {
            down: Param::from_tensor(down),
            down_bias: Param::from_tensor(Tensor::zeros([width], &device)),
            up: Param::from_tensor(up),
            up_bias: Param::from_tensor(Tensor::zeros([hidden], &device)),
            reads,
            non_linearity,
            scale,
            dropout: 0.0,
            salt: 0,
        }
    }

    /// The same with dropout on its output.
    pub fn dropping(self, dropout: f64, salt: u64) -> Self {
        Self { dropout, salt, ..self }
    }

    /// residual and output of a sub-layer `[.., hidden]` to the residual of the next one.
    pub fn join<const D: usize>(&self, residual: Tensor<D>, output: Tensor<D>, pass: &Pass) -> Tensor<D> {
        self.join_reading(residual, output, |sum| sum, pass)
    }

    /// [`join`](Self::join), where an adapter that reads the sum reads `of_sum` of it.
    pub fn join_reading<const D: usize>(
        &self,
        residual: Tensor<D>,
        output: Tensor<D>,
        of_sum: impl FnOnce(Tensor<D>) -> Tensor<D>,
        pass: &Pass,
    ) -> Tensor<D> {
        let own = match self.reads {
            Reads::Sum => None,
            Reads::Output => Some(output.clone()),
            Reads::Residual => Some(residual.clone()),
        };
        let sum = residual + output;
        let dtype = sum.dtype();
        let sum = f32(sum);
        let read = own.map_or_else(|| f32(of_sum(sum.clone())), f32);
        let seed = pass.dropout_seed.filter(|_| self.dropout > 0.0);
        let joined = ft_kernels::bottleneck(
            read,
            sum,
            [self.down.val(), self.up.val()],
            [self.down_bias.val(), self.up_bias.val()],
            self.non_linearity.kernel(),
            self.scale,
            seed.map(|seed| (self.dropout, ft_seed::salted(seed, self.salt))),
        );
        joined.cast(dtype)
    }

    /// The trainable tensors, by their names in AdapterHub's file.
    pub fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("adapter_down.0.weight", ParamMut::Matrix(&mut self.down)),
            ("adapter_down.0.bias", ParamMut::Vector(&mut self.down_bias)),
            ("adapter_up.weight", ParamMut::Matrix(&mut self.up)),
            ("adapter_up.bias", ParamMut::Vector(&mut self.up_bias)),
        ]
    }
}
