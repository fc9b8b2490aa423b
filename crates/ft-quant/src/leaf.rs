use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};

/// One tensor of a checkpoint.
#[derive(Module, Debug)]
pub enum Leaf<const D: usize> {
    /// A constant: no parameter, no gradient, no optimizer state.
    Frozen(Tensor<D>),
    /// Trained, in f32 whatever the checkpoint's type: small updates vanish in bf16.
    Trained(Param<Tensor<D>>),
}

impl<const D: usize> Leaf<D> {
    /// The tensor, attached to the tape when it trains.
    pub fn val(&self) -> Tensor<D> {
        match self {
            Leaf::Frozen(tensor) => tensor.clone(),
            Leaf::Trained(param) => param.val(),
        }
    }

    /// Dimensions.
    pub fn dims(&self) -> [usize; D] {
        match self {
            Leaf::Frozen(tensor) => tensor.dims(),
            Leaf::Trained(param) => param.val().dims(),
        }
    }

    /// Whether this tensor trains.
    pub fn is_trained(&self) -> bool {
        matches!(self, Leaf::Trained(_))
    }

    /// Makes the tensor a trainable f32 parameter with its present value.
    pub fn train(&mut self) {
        if let Leaf::Frozen(tensor) = self {
            let value = tensor.clone().cast(FloatDType::F32);
            *self = Leaf::Trained(Param::from_tensor(value));
        }
    }

    /// Makes the tensor a constant with its present value.
    pub fn freeze(&mut self) {
        if let Leaf::Trained(param) = self {
            *self = Leaf::Frozen(param.val().detach());
        }
    }

    /// Replaces the value, keeping whether and under which parameter id it trains.
    pub fn set(&mut self, value: Tensor<D>) {
        match self {
            Leaf::Frozen(tensor) => *tensor = value,
            Leaf::Trained(param) => {
                let value = value.cast(FloatDType::F32).detach();
                *param = Param::initialized(param.id, value).set_require_grad(true);
            }
        }
    }
}
