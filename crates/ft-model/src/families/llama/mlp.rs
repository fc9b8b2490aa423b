//! The gated feed-forward network.

use burn::module::Module;
use burn::tensor::Tensor;
use ft_peft::{Pass, Projection, TargetModule};

use super::experts::Experts;
use super::{optional_projections, split};
use crate::block::{Activation, MlpNames};
use crate::config::ModelConfig;
use crate::source::{Source, conv1d, linear, projection};

/// One for every token, or experts.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per layer
pub(crate) enum FeedForward {
    Dense(Mlp),
    Sparse(Experts),
}

impl FeedForward {
    pub fn build(index: usize, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (block, hidden) = (&config.block, config.hidden_size);
        match block.sparse(index) {
            Some(own) => {
                let at = format!("model.layers.{index}.{}", own.stored().0);
                Self::Sparse(Experts::build(&at, own, config, source))
            }
            None => {
                let at = format!("model.layers.{index}.{}", block.feed_forward(index));
                let (names, fused) = block.dense();
                let form = [config.mlp_bias, fused];
                Self::Dense(Mlp::build(&at, config.intermediate_size, names, form, hidden, source))
            }
        }
    }

    pub fn forward(&self, x: Tensor<3>, index: usize, config: &ModelConfig, pass: &Pass) -> Tensor<3> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, config.block.activation, pass),
            Self::Sparse(experts) => experts.forward(x, index, config, pass),
        }
    }

    pub fn target_modules<'a>(&'a mut self, index: usize, config: &ModelConfig, modules: &mut Vec<TargetModule<'a>>) {
        let at = format!("model.layers.{index}.{}", config.block.feed_forward(index));
        match self {
            Self::Dense(mlp) => mlp.target_modules(&at, config.block.dense().0, modules),
            Self::Sparse(experts) => experts.target_modules(&at, config.block.experts(), modules),
        }
    }
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    gate_proj: Option<Projection>,
    up_proj: Option<Projection>,
    /// In the place of the two.
    gate_up_proj: Option<Projection>,
    down_proj: Projection,
}

impl Mlp {
    /// `inner` wide inside; with biases or without, gate and up in one matrix or in two.
    pub fn build(
        at: &str,
        inner: usize,
        names: &MlpNames,
        [bias, fused]: [bool; 2],
        hidden: usize,
        source: &mut impl Source,
    ) -> Self {
        let part = |name: &str, rows: usize, there: bool, source: &mut _| {
            there.then(|| linear(&format!("{at}.{name}"), [rows, hidden], bias, source))
        };
        Self {
            gate_proj: part(names.gate, inner, !fused, source),
            up_proj: part(names.up, inner, !fused, source),
            gate_up_proj: fused.then(|| gate_up(at, inner, names, bias, hidden, source)),
            down_proj: linear(&format!("{at}.{}", names.down), [hidden, inner], bias, source),
        }
    }

    /// One of a stack, whose matrices are `[in, out]`, with biases, gates and ups in one.
    pub fn of_stack(at: &str, inner: usize, names: &MlpNames, hidden: usize, source: &mut impl Source) -> Self {
        Self {
            gate_proj: None,
            up_proj: None,
            gate_up_proj: Some(conv1d(&format!("{at}.{}", names.gate_up), [hidden, 2 * inner], source)),
            down_proj: conv1d(&format!("{at}.{}", names.down), [inner, hidden], source),
        }
    }

    pub fn forward(&self, x: Tensor<3>, activation: Activation, pass: &Pass) -> Tensor<3> {
        let output = pass.output;
        let pass = &pass.with_output(ft_kernels::Output::Read);
        if let (Activation::Clamped(clamp), Some(both)) = (activation, &self.gate_up_proj) {
            let inner = ft_kernels::clamped_swiglu(both.forward(x, pass), clamp);
            return self.down_proj.forward(inner, &pass.with_output(output));
        }
        let [gate, up] = match &self.gate_up_proj {
            Some(fused) => {
                let both = fused.forward(x, pass);
                let [_, _, width] = both.dims();
                split(both, [width / 2; 2])
            }
            None => [&self.gate_proj, &self.up_proj].map(|part| {
                let part = part.as_ref().expect("two matrices where there is not one");
                part.forward(x.clone(), pass)
            }),
        };
        let inner = match activation {
            Activation::Silu => ft_kernels::swiglu(gate, up),
            Activation::GeluTanh => ft_kernels::gelu_tanh(gate) * up,
            Activation::Clamped(_) => unreachable!("its gates and ups are one matrix"),
        };
        self.down_proj.forward(inner, &pass.with_output(output))
    }

    pub fn target_modules<'a>(&'a mut self, at: &str, names: &MlpNames, modules: &mut Vec<TargetModule<'a>>) {
        let parts = [
            (names.gate, &mut self.gate_proj),
            (names.up, &mut self.up_proj),
            (names.gate_up, &mut self.gate_up_proj),
        ];
        modules.extend(optional_projections(at, parts));
        modules.push(TargetModule::projection(
            format!("{at}.{}", names.down),
            &mut self.down_proj,
        ));
    }
}

/// Gate and up in one matrix; of a family whose checkpoints have two, made of them.
fn gate_up(
    at: &str,
    inner: usize,
    names: &MlpNames,
    bias: bool,
    hidden: usize,
    source: &mut impl Source,
) -> Projection {
    let (whole, shape) = (format!("{at}.{}", names.gate_up), [2 * inner, hidden]);
    if !names.joins {
        return linear(&whole, shape, bias, source);
    }
    let parts = [names.gate, names.up].map(|name| format!("{at}.{name}"));
    projection(source.joined(&whole, parts.each_ref().map(String::as_str), shape), None)
}
