//! Where a model's tensors come from while it is built: a checkpoint, a random start, or only their shapes.

use burn::tensor::Tensor;
use ft_peft::{Norm, Projection};
use ft_quant::{Layout, Leaf, Weight};

/// What a tensor holds before any training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Normal with mean 0 and the configuration's standard deviation.
    Normal,
    /// Ones.
    Ones,
    /// Zeros.
    Zeros,
    /// Logarithms of numbers evenly between 0.01 and 16 (Mamba 2's `A_log`).
    LogUniform,
}

/// Hands out the tensors of a checkpoint by name.
pub(crate) trait Source {
    fn matrix(&mut self, name: &str, shape: [usize; 2], fill: Fill) -> Tensor<2>;
    fn vector(&mut self, name: &str, len: usize, fill: Fill) -> Tensor<1>;

    /// The matrix of a projection, `path.weight`, `shape` in its `layout`.
    fn weight(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> Weight {
        Weight::new(self.matrix(&format!("{path}.weight"), shape, Fill::Normal), layout)
    }

    /// The matrices `parts` as the parts of one, `whole`, `shape` `[out, in]`.
    fn joined(&mut self, whole: &str, _parts: [&str; 2], shape: [usize; 2]) -> Weight {
        self.weight(whole, shape, Layout::OutIn)
    }
}

/// `path.weight` `[out, in]` and `path.bias` `[out]`.
pub(crate) fn linear(path: &str, shape: [usize; 2], bias: bool, source: &mut impl Source) -> Projection {
    let weight = source.weight(path, shape, Layout::OutIn);
    let bias = bias.then(|| source.vector(&format!("{path}.bias"), shape[0], Fill::Zeros));
    projection(weight, bias)
}

/// `path.weight` `[in, out]` and `path.bias` `[out]`.
pub(crate) fn conv1d(path: &str, shape: [usize; 2], source: &mut impl Source) -> Projection {
    let weight = source.weight(path, shape, Layout::InOut);
    let bias = source.vector(&format!("{path}.bias"), shape[1], Fill::Zeros);
    projection(weight, Some(bias))
}

pub(crate) fn projection(weight: Weight, bias: Option<Tensor<1>>) -> Projection {
    Projection {
        weight,
        bias: bias.map(Leaf::Frozen),
        delta: None,
        routes: false,
    }
}

/// `path.weight`.
pub(crate) fn rms_norm(path: &str, len: usize, eps: f64, source: &mut impl Source) -> Norm {
    let weight = source.vector(&format!("{path}.weight"), len, Fill::Ones);
    Norm {
        weight: Leaf::Frozen(weight),
        bias: None,
        eps,
        from_one: false,
        centered: false,
    }
}

/// The same, whose weight counts from one.
pub(crate) fn rms_norm_from_one(path: &str, len: usize, eps: f64, source: &mut impl Source) -> Norm {
    let weight = source.vector(&format!("{path}.weight"), len, Fill::Zeros);
    Norm {
        weight: Leaf::Frozen(weight),
        bias: None,
        eps,
        from_one: true,
        centered: false,
    }
}

/// `path.weight` and `path.bias`.
pub(crate) fn layer_norm(path: &str, len: usize, eps: f64, source: &mut impl Source) -> Norm {
    let bias = source.vector(&format!("{path}.bias"), len, Fill::Zeros);
    Norm {
        bias: Some(Leaf::Frozen(bias)),
        ..rms_norm(path, len, eps, source)
    }
}

/// `path.weight`; the mean is taken out, and nothing is added.
pub(crate) fn centered_norm(path: &str, len: usize, eps: f64, source: &mut impl Source) -> Norm {
    Norm {
        centered: true,
        ..rms_norm(path, len, eps, source)
    }
}
