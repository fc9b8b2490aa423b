//! Laws over the whole crate, and the small modules that its tests share.

mod eight_bit;
mod grads;
mod groups;
mod laws;
mod params;
mod resume;
mod step;
#[cfg(feature = "vulkan")]
mod together;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;

use crate::trainable_tensors;

/// The two parameters of the golden runs: `weight` [4, 3] decays, `norm.weight` [5] does not.
#[derive(Module, Debug)]
pub(crate) struct Pair {
    pub weight: Param<Tensor<2>>,
    pub norm: Norm,
}

#[derive(Module, Debug)]
pub(crate) struct Norm {
    pub weight: Param<Tensor<1>>,
}

impl Pair {
    pub fn new(values: &Value, device: &Device, dtype: DType) -> Self {
        let (weight, norm) = tensors(values, device, dtype);
        Self {
            weight: Param::from_tensor(weight),
            norm: Norm {
                weight: Param::from_tensor(norm),
            },
        }
    }

    pub fn grads(&self, values: &Value) -> GradientsParams {
        self.grads_on(values, &Device::flex())
    }

    pub fn grads_on(&self, values: &Value, device: &Device) -> GradientsParams {
        let (weight, norm) = tensors(values, device, self.weight.dtype());
        let mut grads = GradientsParams::new();
        grads.register(self.weight.id, weight);
        grads.register(self.norm.weight.id, norm);
        grads
    }
}

fn tensors(values: &Value, device: &Device, dtype: DType) -> (Tensor<2>, Tensor<1>) {
    let weight = TensorData::new(floats(&values["weight"]), [4, 3]).convert_dtype(dtype);
    let norm = TensorData::new(floats(&values["norm"]), [5]).convert_dtype(dtype);
    (
        Tensor::from_data(weight, (device, dtype)),
        Tensor::from_data(norm, (device, dtype)),
    )
}

/// The first Vulkan device of the machine.
#[cfg(feature = "vulkan")]
pub(crate) fn card() -> Device {
    let devices = Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec();
    let first = devices.into_iter().next();
    first.expect("a Vulkan device; Mesa's lavapipe is one in software")
}

pub(crate) fn floats(values: &Value) -> Vec<f32> {
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect()
}

/// Every trainable tensor as bytes.
pub(crate) fn bits<M: Module>(module: &M) -> Vec<Vec<u8>> {
    trainable_tensors(module)
        .into_iter()
        .map(|(_, data)| data.bytes().to_vec())
        .collect()
}

/// A model with every kind of container: lists, options, enums, constants, a frozen and a tied parameter.
#[derive(Module, Debug)]
pub(crate) struct Net {
    pub embed: Param<Tensor<2>>,
    pub layers: Vec<Layer>,
    pub norm: Norm,
    pub frozen: Param<Tensor<1>>,
    pub head: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
pub(crate) struct Layer {
    pub proj: Matrix,
    pub delta: Option<Delta>,
    pub pair: (Norm, Norm),
}

#[derive(Module, Debug)]
pub(crate) enum Matrix {
    Frozen(Tensor<2>),
    Trained(Param<Tensor<2>>),
}

#[derive(Module, Debug)]
pub(crate) enum Delta {
    Lora(Lora),
}

#[derive(Module, Debug)]
pub(crate) struct Lora {
    pub a: Param<Tensor<2>>,
    pub b: Param<Tensor<2>>,
}

impl Net {
    /// Values follow from `seed` alone; parameter ids never repeat.
    pub fn new(seed: u64, device: &Device) -> Self {
        let mut values = Values(seed);
        let embed = Param::from_tensor(values.matrix([6, 4], device));
        let layers = (0..2).map(|index| Layer::new(index, &mut values, device)).collect();
        let norm = Norm {
            weight: Param::from_tensor(values.vector(4, device)),
        };
        let frozen = Param::from_tensor(values.vector(4, device)).set_require_grad(false);
        Self {
            head: embed.clone(),
            embed,
            layers,
            norm,
            frozen,
        }
    }

    /// A scalar loss in which every trainable parameter takes part.
    pub fn loss(&self, seed: u64, device: &Device) -> Tensor<1> {
        let x: Tensor<2> = Values(seed).matrix([3, 6], device);
        let mut h = x.matmul(self.embed.val());
        for layer in &self.layers {
            h = layer.forward(h);
        }
        let h = h * self.norm.weight.val().unsqueeze() + self.frozen.val().unsqueeze();
        h.matmul(self.head.val().transpose()).square().sum()
    }

    pub fn grads(&self, seed: u64, device: &Device) -> GradientsParams {
        GradientsParams::from_grads(self.loss(seed, device).backward(), self)
    }
}

impl Layer {
    fn new(index: usize, values: &mut Values, device: &Device) -> Self {
        let proj = values.matrix([4, 4], device);
        let norm = |values: &mut Values| Norm {
            weight: Param::from_tensor(values.vector(4, device)),
        };
        let mut matrix = |dims| Param::from_tensor(values.matrix(dims, device));
        let delta = (index == 0).then(|| {
            Delta::Lora(Lora {
                a: matrix([4, 2]),
                b: matrix([2, 4]),
            })
        });
        let proj = if index == 0 {
            Matrix::Frozen(proj)
        } else {
            Matrix::Trained(Param::from_tensor(proj))
        };
        Self {
            proj,
            delta,
            pair: (norm(values), norm(values)),
        }
    }

    fn forward(&self, h: Tensor<2>) -> Tensor<2> {
        let weight = match &self.proj {
            Matrix::Frozen(weight) => weight.clone(),
            Matrix::Trained(weight) => weight.val(),
        };
        let mut out = h.clone().matmul(weight);
        if let Some(Delta::Lora(lora)) = &self.delta {
            out = out + h.matmul(lora.a.val()).matmul(lora.b.val());
        }
        out * self.pair.0.weight.val().unsqueeze() + self.pair.1.weight.val().unsqueeze()
    }
}

/// Small deterministic numbers without a random crate.
pub(crate) struct Values(pub u64);

impl Values {
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    pub fn list(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    pub fn matrix(&mut self, dims: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.list(dims[0] * dims[1]), dims), device)
    }

    pub fn vector(&mut self, len: usize, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.list(len), [len]), device)
    }
}
