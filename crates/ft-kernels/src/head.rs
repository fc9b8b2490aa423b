use burn::tensor::Tensor;

/// What stands in front of the vocabulary: logits are the product of hidden states `[n, d]` with its matrix, bounded where it says so.
#[derive(Debug, Clone)]
pub struct Head {
    /// `[vocab, d]`.
    pub weight: Tensor<2>,
    /// Bounds the logits softly, `cap · tanh(logit / cap)` (Gemma 2).
    pub cap: Option<f64>,
}

impl From<Tensor<2>> for Head {
    fn from(weight: Tensor<2>) -> Self {
        Self { weight, cap: None }
    }
}

impl Head {
    /// `[vocab, d]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }
}

/// Logits bounded softly, where there is a cap.
pub fn soft_cap<const D: usize>(logits: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        None => logits,
        Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
    }
}
