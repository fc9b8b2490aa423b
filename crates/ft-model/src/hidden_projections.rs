//! Learned maps from a model's hidden states to the width of another model's, for distillation between models of different widths
//! (TinyBERT: Jiao et al. 2020, arXiv:1909.10351, eq. 8). They train with the model and belong to the run: what is saved of the model
//! does not hold them.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use rand_distr::{Distribution, Uniform};

use crate::model::Model;

impl Model {
    /// The same with a map of every shape `[other width, own width]`, uniform in ±1/√own as PyTorch starts a linear layer.
    ///
    /// # Panics
    /// If a width is 0.
    pub fn with_hidden_projections(mut self, shapes: &[[usize; 2]], seed: u64) -> Self {
        let device = self.device();
        let start = |(number, shape): (usize, &[usize; 2])| {
            let bound = (shape[1] as f32).sqrt().recip();
            let uniform = Uniform::new_inclusive(-bound, bound).expect("a width above 0");
            let mut rng = ft_seed::stream(seed, &format!("hidden projection {number}"));
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| uniform.sample(&mut rng)).collect();
            Param::from_tensor(Tensor::from_data(TensorData::new(values, *shape), &device))
        };
        self.hidden_projections = shapes.iter().enumerate().map(start).collect();
        self
    }

    /// Hidden states `[n, own width]` through the map with this number, `[n, other width]`; as they are in a model without maps.
    pub fn project_hidden(&self, number: usize, hidden: Tensor<2>) -> Tensor<2> {
        match self.hidden_projections.get(number) {
            Some(map) => ft_kernels::linear(hidden, map.val()),
            None => hidden,
        }
    }
}
