//! The gated feed-forward network.

use burn::module::Module;
use burn::tensor::Tensor;
use ft_kernels::Output;
use ft_peft::{Pass, Projection, TargetModule};

use super::{optional_projections, split};
use crate::block::Activation;
use crate::config::ModelConfig;
use crate::source::{Source, linear};

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    gate_proj: Option<Projection>,
    up_proj: Option<Projection>,
    /// In the place of the two.
    gate_up_proj: Option<Projection>,
    down_proj: Projection,
}

impl Mlp {
    pub fn build(at: &str, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let fused = config.block.fused;
        let part = |name: &str, rows: usize, there: bool, source: &mut _| {
            there.then(|| linear(&format!("{at}.{name}"), [rows, hidden], bias, source))
        };
        Self {
            gate_proj: part("gate_proj", inner, !fused, source),
            up_proj: part("up_proj", inner, !fused, source),
            gate_up_proj: part("gate_up_proj", 2 * inner, fused, source),
            down_proj: linear(&format!("{at}.down_proj"), [hidden, inner], bias, source),
        }
    }

    pub fn forward(&self, x: Tensor<3>, config: &ModelConfig, pass: &Pass, output: Output) -> Tensor<3> {
        let [gate, up] = match &self.gate_up_proj {
            Some(fused) => split(fused.forward(x, pass), [config.intermediate_size; 2]),
            None => [&self.gate_proj, &self.up_proj].map(|part| {
                let part = part.as_ref().expect("two matrices where there is not one");
                part.forward(x.clone(), pass)
            }),
        };
        let inner = match config.block.activation {
            Activation::Silu => ft_kernels::swiglu(gate, up),
            Activation::GeluTanh => ft_kernels::gelu_tanh(gate) * up,
        };
        self.down_proj.forward(inner, &pass.with_output(output))
    }

    pub fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let parts = [
            ("gate_proj", &mut self.gate_proj),
            ("up_proj", &mut self.up_proj),
            ("gate_up_proj", &mut self.gate_up_proj),
        ];
        modules.extend(optional_projections(at, parts));
        modules.push(TargetModule::projection(format!("{at}.down_proj"), &mut self.down_proj));
    }
}
