//! A random start, for pretraining and tests, and random weights to measure with.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Distribution as OnDevice, FloatDType, Tensor, TensorData};
use ft_quant::{Encoded, Layout, Packed, Scheme, Weight};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

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
                let values = self.values(shape.iter().product());
                Tensor::from_data(TensorData::new(values, shape), self.device)
            }
            Fill::LogUniform => {
                let uniform = Uniform::new(0.01f32, 16.0).expect("a range");
                let count = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|_| uniform.sample(&mut self.rng).ln()).collect();
                Tensor::from_data(TensorData::new(values, shape), self.device)
            }
        }
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        let normal = Normal::new(0.0, self.deviation).expect("a finite deviation");
        (0..count).map(|_| normal.sample(&mut self.rng)).collect()
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

/// Weights to measure with, drawn on the device in the type they are held in: they take no time and no memory of the host, and are
/// others on every device. Matrices in codes are one for each shape, which is copied there.
pub(crate) struct Drawn<'a> {
    deviation: f32,
    dtype: DType,
    device: &'a Device,
    quant: Option<Scheme>,
    packed: HashMap<[usize; 2], Packed>,
}

impl<'a> Drawn<'a> {
    pub fn new(deviation: f32, dtype: DType, quant: Option<Scheme>, device: &'a Device) -> Self {
        Self {
            deviation,
            dtype,
            device,
            quant,
            packed: HashMap::new(),
        }
    }

    fn fill<const D: usize>(&self, shape: [usize; D], fill: Fill) -> Tensor<D> {
        let options = (self.device, self.dtype);
        match fill {
            Fill::Ones => Tensor::ones(shape, options),
            Fill::Zeros => Tensor::zeros(shape, options),
            Fill::Normal => Tensor::random(shape, OnDevice::Normal(0.0, self.deviation.into()), options),
            Fill::LogUniform => Tensor::random(shape, OnDevice::Uniform(0.01, 16.0), options).log(),
        }
    }
}

impl Source for Drawn<'_> {
    fn matrix(&mut self, _: &str, shape: [usize; 2], fill: Fill) -> Tensor<2> {
        self.fill(shape, fill)
    }

    fn vector(&mut self, _: &str, len: usize, fill: Fill) -> Tensor<1> {
        self.fill([len], fill)
    }

    fn weight(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> Weight {
        let Some(scheme) = self.quant.filter(|_| path != HEAD) else {
            return Weight::new(self.fill(shape, Fill::Normal), layout);
        };
        let (dtype, device) = (self.dtype.into(), self.device);
        let first = !self.packed.contains_key(&shape);
        let packed = self.packed.entry(shape).or_insert_with(|| {
            let values = Random::new(0, self.deviation, device).values(shape.iter().product());
            let dims = match layout {
                Layout::OutIn => shape,
                Layout::InOut => [shape[1], shape[0]],
            };
            let encoded = Encoded::encode(&values, dims, scheme).expect("a sound scheme and finite values");
            Packed::new(&encoded, layout, dtype, device)
        });
        let own = if first { packed.clone() } else { packed.copied() };
        Weight::packed(own, layout)
    }
}
