//! A random start, for pretraining and tests.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use ft_quant::{Encoded, Layout, Packed, Scheme, Weight};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::model::HEAD;
use crate::source::{Fill, Source};

/// Draws every tensor from one seeded stream, in build order, on the host: the same on every device.
pub(crate) struct Random<'a> {
    rng: ChaCha8Rng,
    /// Of matrices.
    deviation: f32,
    device: &'a Device,
    /// How projections are held.
    quant: Option<Scheme>,
}

impl<'a> Random<'a> {
    pub fn new(seed: u64, deviation: f32, device: &'a Device) -> Self {
        Self {
            rng: ft_seed::stream(seed, "weights"),
            deviation,
            device,
            quant: None,
        }
    }

    /// Quantizes projections once they are drawn; the output head stays as it is.
    pub fn quantized(self, quant: Option<Scheme>) -> Self {
        Self { quant, ..self }
    }

    fn fill<const D: usize>(&mut self, shape: [usize; D], fill: Fill) -> Tensor<D> {
        match fill {
            Fill::Ones => Tensor::ones(shape, self.device),
            Fill::Zeros => Tensor::zeros(shape, self.device),
            Fill::Normal => {
                let normal = Normal::new(0.0, self.deviation).expect("a finite deviation");
                let values: Vec<f32> = (0..shape.iter().product())
                    .map(|_| normal.sample(&mut self.rng))
                    .collect();
                Tensor::from_data(TensorData::new(values, shape), self.device)
            }
        }
    }
}

impl Source for Random<'_> {
    fn matrix(&mut self, _: &str, shape: [usize; 2], fill: Fill) -> Tensor<2> {
        self.fill(shape, fill)
    }

    fn vector(&mut self, _: &str, len: usize, fill: Fill) -> Tensor<1> {
        self.fill([len], fill)
    }

    fn weight(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> Weight {
        let value = self.fill(shape, Fill::Normal);
        let weight = Weight::new(value, layout);
        match self.quant.filter(|_| path != HEAD) {
            None => weight,
            Some(scheme) => {
                let dense = weight.dense().into_data().try_into_vec::<f32>().expect("drawn in f32");
                let encoded = Encoded::encode(&dense, weight.dims(), scheme).expect("a sound scheme and finite values");
                Weight::packed(Packed::new(&encoded, layout, FloatDType::F32, self.device), layout)
            }
        }
    }
}
