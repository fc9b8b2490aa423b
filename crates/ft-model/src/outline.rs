//! The tensors of a model without their values, for planning before anything is loaded.

use burn::tensor::{Device, Tensor};
use ft_peft::ModuleSpec;
use ft_quant::{Layout, Weight};

use crate::config::ModelConfig;
use crate::model::Model;
use crate::source::{Fill, Source};

/// Name and shape of one tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// As the checkpoint spells it.
    pub name: String,
    /// Dimensions in the checkpoint's layout.
    pub shape: Vec<usize>,
}

impl ModelConfig {
    /// Every tensor that a checkpoint of this configuration holds, in checkpoint order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.outline().1
    }

    /// The adaptable modules, as [`ft_peft::module_specs`] finds them in the loaded model.
    pub fn module_specs(&self) -> Vec<ModuleSpec> {
        ft_peft::module_specs(&mut self.outline().0)
    }

    /// The model without its weights: every tensor is one zero seen as a whole one.
    pub(crate) fn hollow(&self) -> Model {
        self.outline().0
    }

    fn outline(&self) -> (Model, Vec<TensorSpec>) {
        let mut outline = Outline {
            device: Device::flex(),
            specs: Vec::new(),
        };
        let model = Model::build(self.clone(), &mut outline);
        (model, outline.specs)
    }

    /// Number of parameters of the model.
    pub fn num_parameters(&self) -> usize {
        self.tensors()
            .iter()
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum()
    }
}

/// Records what is asked for and hands out one zero seen as a whole tensor.
struct Outline {
    device: Device,
    specs: Vec<TensorSpec>,
}

impl Outline {
    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        self.specs.push(TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
        });
        Tensor::<D>::zeros([1; D], &self.device).expand(shape)
    }
}

impl Source for Outline {
    fn matrix(&mut self, name: &str, shape: [usize; 2], _: Fill) -> Tensor<2> {
        self.tensor(name, shape)
    }

    fn vector(&mut self, name: &str, len: usize, _: Fill) -> Tensor<1> {
        self.tensor(name, [len])
    }

    fn joined(&mut self, _: &str, parts: [&str; 2], [rows, columns]: [usize; 2]) -> Weight {
        let part = parts.map(|path| self.tensor::<2>(&format!("{path}.weight"), [rows / 2, columns]));
        let [one, _] = part;
        Weight::new(one.narrow(0, 0, 1).expand([rows, columns]), Layout::OutIn)
    }
}
