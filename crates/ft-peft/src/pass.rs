//! One forward pass: whether it trains, with which random masks, and what of it is read.

use burn::tensor::{FloatDType, Tensor};
use ft_kernels::Output;

/// What a forward pass needs to know beside its inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Seed of this pass's dropout masks; `None` (evaluation, generation) drops nothing.
    pub dropout_seed: Option<u64>,
    /// NEFTune's α: token embeddings of a training pass get noise uniform in ±α/√(seq · hidden). 0 adds none.
    pub noise_alpha: f64,
    /// Whether the output of the projection that is given this pass is read.
    pub output: Output,
}

impl Pass {
    /// A training pass: dropout masks are a pure function of `seed` and the module they act on.
    pub fn train(seed: u64) -> Self {
        Self {
            dropout_seed: Some(seed),
            noise_alpha: 0.0,
            output: Output::Read,
        }
    }

    /// The same pass with NEFTune's noise (Jain et al. 2023, arXiv:2310.05914).
    pub fn with_noise(self, alpha: f64) -> Self {
        Self {
            noise_alpha: alpha,
            ..self
        }
    }

    /// The same pass for a projection whose output is read or not. Only the values may differ for it, not the gradients.
    pub fn with_output(self, output: Output) -> Self {
        Self { output, ..self }
    }

    /// x with the share `p` dropped by the mask that `salt` names, in a training pass.
    pub(crate) fn dropped<const D: usize>(&self, x: Tensor<D>, p: f64, salt: u64) -> Tensor<D> {
        match self.dropout_seed {
            None => x,
            Some(seed) => ft_kernels::dropout(x, p, ft_seed::salted(seed, salt)),
        }
    }

    /// Embeddings `[batch, seq, hidden]` with the noise of this pass.
    pub(crate) fn noisy(&self, embeddings: Tensor<3>) -> Tensor<3> {
        let Some(seed) = self.dropout_seed.filter(|_| self.noise_alpha != 0.0) else {
            return embeddings;
        };
        let [_, seq, hidden] = embeddings.dims();
        let seed = ft_seed::sub_seed(seed, "neftune");
        let noise = ft_kernels::uniform(embeddings.dims(), seed, &embeddings.device());
        let noise = noise.mul_scalar(self.noise_alpha / ((seq * hidden) as f64).sqrt());
        let dtype: FloatDType = embeddings.dtype().into();
        embeddings + noise.cast(dtype)
    }

    /// Evaluation and generation: nothing is dropped.
    pub fn eval() -> Self {
        Self::default()
    }
}
