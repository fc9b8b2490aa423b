//! DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv:2402.09353, eq. 5; the norm is a constant in the
//! backward pass, section 4.3). It is [LoRA](super::lora) with `dora = true`.
//!
//! ```text
//! V = W + s B A      n = ‖V‖ of each row, detached      y = b + m/n ∘ (x Vᵀ)      m [out], at the start n
//! ```
//!
//! With dropout the first product sees the whole input: `y = b + x Wᵀ + (m/n - 1) ∘ (drop(x) Wᵀ) + m/n ∘ s · drop(x) Aᵀ Bᵀ`.
//! `V` is never built: `n² = ‖W‖² + 2s B·(W Aᵀ) + s² B·(B A Aᵀ)`, row by row, where ‖W‖² is kept from the start.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use ft_kernels::Output;

use super::common::{Cached, f32, scaled};
use super::lora::Lora;
use super::{Base, ParamMut, WeightDelta};
use crate::pass::Pass;
use crate::slots::Projection;

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Dora {
    /// The direction's change.
    pub lora: Lora,
    /// m `[out]`.
    pub magnitude: Param<Tensor<1>>,
    /// ‖W‖² of each row of the base, `[out]`.
    pub base_squares: Tensor<1>,
    /// m/n, while nothing trains.
    cached: Cached,
}

impl Dora {
    /// Starts where the base is: m is the norm of each row.
    pub(super) fn new(lora: Lora, slot: &Projection) -> Self {
        let base_squares = squares(f32(slot.weight.dense().detach()));
        let norms = norms(&lora, &base_squares, slot.weight.project(lora.a.val().detach()));
        Self {
            lora,
            magnitude: Param::from_tensor(norms.detach()),
            base_squares,
            cached: Cached::default(),
        }
    }

    /// m/n `[out]`; the same tensor again where nothing can have changed it.
    fn gain(&self, base: &Base<'_>) -> Tensor<1> {
        if self.magnitude.val().device().is_autodiff() {
            return self.ratio(base);
        }
        self.cached.get(|| self.ratio(base))
    }

    fn ratio(&self, base: &Base<'_>) -> Tensor<1> {
        // [r, out]
        let product = base.weight.project(self.lora.a.val().detach());
        self.magnitude.val() / norms(&self.lora, &self.base_squares, product)
    }
}

/// Sum of squares of each row.
fn squares(matrix: Tensor<2>) -> Tensor<1> {
    matrix.powi_scalar(2).sum_dim(1).squeeze_dim(1)
}

/// n `[out]`, a constant; `product` is A Wᵀ `[r, out]`.
fn norms(lora: &Lora, base_squares: &Tensor<1>, product: Tensor<2>) -> Tensor<1> {
    let (a, b) = (lora.a.val().detach(), lora.b.val().detach());
    let gram = a.clone().matmul(a.transpose()); // [r, r]
    let mixed =
        product.transpose().mul_scalar(2.0 * lora.scale) + b.clone().matmul(gram).mul_scalar(lora.scale.powi(2));
    let change = (mixed * b).sum_dim(1).squeeze_dim(1);
    (base_squares.clone() + change).sqrt()
}

impl WeightDelta for Dora {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let gain = self.gain(base);
        let bare = Base {
            weight: base.weight,
            bias: None,
        };
        match pass.dropout_seed {
            Some(seed) if self.lora.dropout > 0.0 => {
                let dropped = ft_kernels::dropout(x.clone(), self.lora.dropout, ft_seed::salted(seed, self.lora.salt));
                let whole = base.forward(x);
                let direction = self.lora.forward(dropped.clone(), &bare, &Pass::eval());
                whole + scaled(direction, gain) - bare.forward(dropped)
            }
            _ => {
                let pass = pass.with_output(Output::Read); // the magnitude's gradient is made of it
                base.add_bias(scaled(self.lora.forward(x, &bare, &pass), gain))
            }
        }
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let (direction, bias) = self.lora.fold(weight, bias);
        let norms = squares(direction.clone()).sqrt();
        let gain = self.magnitude.val().detach() / norms;
        (direction * gain.unsqueeze_dim(1), bias)
    }

    fn is_additive(&self) -> bool {
        false
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        self.cached = Cached::default();
        let mut params = self.lora.params();
        params.push(("lora_magnitude_vector", ParamMut::Vector(&mut self.magnitude)));
        params
    }

    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let mut tensors = self.lora.export();
        tensors.push(("lora_magnitude_vector", self.magnitude.val().into_data()));
        tensors
    }
}
