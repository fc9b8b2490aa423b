//! The low-rank product beside a frozen layer that LoRA and its relatives compute.

use burn::tensor::Tensor;

use crate::methods::Base;
use crate::methods::common::f32;
use crate::pass::Pass;

/// `s · drop(x) Aᵀ Bᵀ`.
pub(in crate::methods) struct LowRank {
    /// `[r, in]`.
    pub a: Tensor<2>,
    /// `[out, r]`.
    pub b: Tensor<2>,
    /// `[out]`, added to B's output before scaling.
    pub bias: Option<Tensor<1>>,
    /// s.
    pub scale: f64,
    /// Share of the input that is dropped.
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    pub salt: u64,
}

impl LowRank {
    /// x `[.., in]` to `[.., out]`, the base included.
    pub fn forward<const D: usize>(self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        // A bias of its own takes the long way.
        if self.bias.is_none() {
            let seed = pass.dropout_seed.filter(|_| self.dropout > 0.0);
            let dropout = seed.map(|seed| (self.dropout, ft_seed::salted(seed, self.salt)));
            return base.add_bias(base.weight.lora(x, self.a, self.b, self.scale, dropout, pass.output));
        }
        let branch = pass.dropped(f32(x.clone()), self.dropout, self.salt);
        let y = base.forward_for(x, pass.output);
        let dtype = y.dtype();
        y + self.branch(branch).cast(dtype)
    }

    /// `s · (x Aᵀ Bᵀ + bias)` in f32.
    pub fn branch<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let down = ft_kernels::linear(x, self.a).mul_scalar(self.scale);
        let up = ft_kernels::linear(down, self.b);
        match self.bias {
            None => up,
            Some(bias) => up + bias.mul_scalar(self.scale).unsqueeze(),
        }
    }
}
