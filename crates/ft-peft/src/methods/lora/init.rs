//! Starting values of LoRA's A and B.

use burn::linalg::qr;
use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor, s};

use super::{Init, Lora, LoraConfig, LoraEmbedding};
use crate::slots::{Embedding, Projection};
use crate::stream::{kaiming, normal};
use crate::svd::{Svd, svd};

/// The constants `A₀ [r, in]` and `B₀ [out, r]` whose scaled product was taken out of the base weight.
#[derive(Module, Debug)]
pub struct Start {
    /// `[r, in]`.
    pub a: Tensor<2>,
    /// `[out, r]`.
    pub b: Tensor<2>,
}

/// Fills the slot of the projection at `path`. With [`Init::Pissa`] and [`Init::Olora`] the base weight gives up what the
/// adapter starts with.
pub(crate) fn projection(config: &LoraConfig, path: &str, seed: u64, slot: &Projection) -> (Lora, Option<Tensor<2>>) {
    let [out, inner] = slot.weight.dims();
    let (rank, scale) = (config.rank_at(path), config.scale_at(path));
    let device = slot.device();
    let (a, b, start) = match config.init {
        Init::Kaiming => (kaiming([rank, inner], seed, path, &device), None, None),
        Init::Gaussian => (
            normal([rank, inner], 1.0 / rank as f64, seed, path, &device),
            None,
            None,
        ),
        Init::Pissa | Init::Olora => {
            let weight = slot.weight.dense().detach().without_autodiff().cast(FloatDType::F32);
            let (a, b) = if config.init == Init::Pissa {
                principal(weight, rank, scale)
            } else {
                columns(weight, rank)
            };
            let start = Start {
                a: a.clone(),
                b: b.clone(),
            };
            (on(a, &device), Some(on(b, &device)), Some(start))
        }
    };
    let residual = start.as_ref().map(|start| {
        let taken = start.b.clone().matmul(start.a.clone()).mul_scalar(scale);
        slot.weight.dense().detach().without_autodiff().cast(FloatDType::F32) - taken
    });
    let lora = Lora {
        a: Param::from_tensor(a),
        b: Param::from_tensor(b.unwrap_or_else(|| Tensor::zeros([out, rank], &device))),
        bias: config
            .lora_bias
            .then(|| Param::from_tensor(Tensor::zeros([out], &device))),
        start,
        earlier: None,
        scale,
        dropout: config.dropout,
        salt: ft_seed::salt(path),
    };
    (lora, residual)
}

/// Fills the slot of the embedding table at `path`: A zero, B standard normal, as PEFT does.
pub(crate) fn embedding(config: &LoraConfig, path: &str, seed: u64, slot: &Embedding) -> LoraEmbedding {
    let [rows, hidden] = slot.weight.dims();
    let rank = config.rank_at(path);
    let device = slot.weight.val().device();
    LoraEmbedding {
        a: Param::from_tensor(Tensor::zeros([rank, rows], &device)),
        b: Param::from_tensor(normal([hidden, rank], 1.0, seed, path, &device)),
        scale: config.scale_at(path),
    }
}

fn on(tensor: Tensor<2>, device: &Device) -> Tensor<2> {
    Tensor::from_data(tensor.into_data(), device)
}

/// PiSSA, eq. 2 and 3: A = √(S/s) Vᵀ and B = U √(S/s) of the first `rank` singular triplets.
fn principal(weight: Tensor<2>, rank: usize, scale: f64) -> (Tensor<2>, Tensor<2>) {
    let Svd { u, s: values, vt } = svd(weight);
    let root = values.slice(s![0..rank]).div_scalar(scale).sqrt();
    let a = root.clone().unsqueeze_dim::<2>(1) * vt.slice(s![0..rank, ..]);
    let b = u.slice(s![.., 0..rank]) * root.unsqueeze_dim::<2>(0);
    (a, b)
}

/// OLoRA, algorithm 1: B = the first `rank` columns of Q, A = the first `rank` rows of R.
fn columns(weight: Tensor<2>, rank: usize) -> (Tensor<2>, Tensor<2>) {
    let (q, r) = qr(weight, true);
    (r.slice(s![0..rank, ..]), q.slice(s![.., 0..rank]))
}
