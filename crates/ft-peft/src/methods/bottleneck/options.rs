use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand_distr::{Distribution, Normal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::methods::common::{invalid, positive};
use crate::stream::kaiming;
use ft_seed::stream;

/// Width of the model over that of the bottleneck.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ReductionFactor {
    /// In every layer.
    All(f64),
    /// By layer number, `default` for the other layers.
    ByLayer(BTreeMap<String, f64>),
}

impl ReductionFactor {
    /// The factor of a layer.
    pub fn at(&self, layer: Option<usize>) -> Option<f64> {
        match self {
            ReductionFactor::All(factor) => Some(*factor),
            ReductionFactor::ByLayer(map) => {
                let own = layer.and_then(|layer| map.get(&layer.to_string()));
                own.or_else(|| map.get("default")).copied()
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            ReductionFactor::All(factor) => reduction("reduction_factor", *factor),
            ReductionFactor::ByLayer(map) => map.iter().try_for_each(|(layer, factor)| {
                let key = format!("reduction_factor.{layer}");
                if layer != "default" && layer.parse::<usize>().is_err() {
                    return Err(invalid(&key, "is neither a layer number nor \"default\""));
                }
                reduction(&key, *factor)
            }),
        }
    }
}

/// A factor that leaves the bottleneck a width in range.
fn reduction(key: &str, factor: f64) -> Result<()> {
    const WIDEST: f64 = 1024.0;
    positive(key, factor)?;
    if factor < 1.0 / WIDEST {
        let why = format!("must be at least 1/{WIDEST}: the bottleneck is hidden / reduction_factor wide");
        return Err(invalid(key, why));
    }
    Ok(())
}

/// The activation inside a bottleneck, by transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// max(x, 0)
    Relu,
    /// x where positive, else x / 100
    #[serde(rename = "leakyrelu")]
    LeakyRelu,
    /// x · sigmoid(x), also called `silu`
    #[serde(alias = "silu")]
    Swish,
    /// x · Φ(x)
    Gelu,
    /// The tanh approximation of GELU, also called `gelu_pytorch_tanh`
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// tanh(x)
    Tanh,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
}

impl NonLinearity {
    pub(super) fn kernel(self) -> ft_kernels::NonLinearity {
        match self {
            NonLinearity::Relu => ft_kernels::NonLinearity::Relu,
            NonLinearity::LeakyRelu => ft_kernels::NonLinearity::LeakyRelu,
            NonLinearity::Swish => ft_kernels::NonLinearity::Silu,
            NonLinearity::Gelu => ft_kernels::NonLinearity::Gelu,
            NonLinearity::GeluNew => ft_kernels::NonLinearity::GeluTanh,
            NonLinearity::Tanh => ft_kernels::NonLinearity::Tanh,
            NonLinearity::Sigmoid => ft_kernels::NonLinearity::Sigmoid,
        }
    }
}

/// Starting values of a bottleneck; biases start at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitWeights {
    /// Both matrices normal with deviation 0.02: the adapted model starts near the base.
    Bert,
    /// The first matrix uniform in ±1/√hidden, the second zero: the adapted model starts as the base.
    MamAdapter,
    /// Both matrices normal with deviation 0.01, cut off at two deviations.
    Houlsby,
}

impl InitWeights {
    /// The matrices `[width, hidden]` and `[hidden, width]`.
    pub(super) fn start(self, [width, hidden]: [usize; 2], seed: u64, path: &str, device: &Device) -> [Tensor<2>; 2] {
        let (down, up) = (format!("{path}.adapter_down"), format!("{path}.adapter_up"));
        match self {
            InitWeights::MamAdapter => [
                kaiming([width, hidden], seed, &down, device),
                Tensor::zeros([hidden, width], device),
            ],
            InitWeights::Bert => [
                normal([width, hidden], 0.02, f32::INFINITY, seed, &down, device),
                normal([hidden, width], 0.02, f32::INFINITY, seed, &up, device),
            ],
            InitWeights::Houlsby => [
                normal([width, hidden], 0.01, 0.02, seed, &down, device),
                normal([hidden, width], 0.01, 0.02, seed, &up, device),
            ],
        }
    }
}

/// Normal values, drawn again while they are beyond `bound`.
fn normal(shape: [usize; 2], deviation: f32, bound: f32, seed: u64, name: &str, device: &Device) -> Tensor<2> {
    let mut rng = stream(seed, name);
    let normal = Normal::new(0.0, deviation).expect("a positive deviation");
    let draws = std::iter::repeat_with(|| normal.sample(&mut rng)).filter(|x: &f32| x.abs() <= bound);
    let values: Vec<f32> = draws.take(shape[0] * shape[1]).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
