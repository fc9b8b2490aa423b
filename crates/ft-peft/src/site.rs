//! What a model shows to the adapters: its adaptable places, by checkpoint path.

use burn::tensor::Tensor;
use ft_quant::Leaf;

use crate::slots::{Embedding, Norm, Projection};

/// A model whose places can be adapted. Written once per architecture.
pub trait Adaptable {
    /// Every place, in checkpoint order, each path once.
    fn sites(&mut self) -> Vec<Site<'_>>;

    /// Path of the output head, whether or not it is tied (`lm_head`).
    fn head_path(&self) -> &str;

    /// Gives the output head a weight of its own when it is tied to the input embeddings.
    fn untie_head(&mut self);
}

/// One adaptable place.
pub struct Site<'a> {
    /// As the checkpoint spells it, without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The place itself.
    pub place: Place<'a>,
}

/// The kinds of place.
pub enum Place<'a> {
    /// A linear layer.
    Projection(&'a mut Projection),
    /// An embedding table.
    Embedding(&'a mut Embedding),
    /// A normalization.
    Norm(&'a mut Norm),
}

impl<'a> Site<'a> {
    /// A linear layer at `path`.
    pub fn projection(path: impl Into<String>, slot: &'a mut Projection) -> Self {
        Self {
            path: path.into(),
            place: Place::Projection(slot),
        }
    }

    /// An embedding table at `path`.
    pub fn embedding(path: impl Into<String>, slot: &'a mut Embedding) -> Self {
        Self {
            path: path.into(),
            place: Place::Embedding(slot),
        }
    }

    /// A normalization at `path`.
    pub fn norm(path: impl Into<String>, slot: &'a mut Norm) -> Self {
        Self {
            path: path.into(),
            place: Place::Norm(slot),
        }
    }

    /// The bias, where there is one.
    pub fn bias(&mut self) -> Option<&mut Leaf<1>> {
        match &mut self.place {
            Place::Projection(p) => p.bias.as_mut(),
            Place::Norm(n) => n.bias.as_mut(),
            Place::Embedding(_) => None,
        }
    }

    /// Makes every tensor of this place trainable.
    pub fn train(&mut self) {
        match &mut self.place {
            Place::Projection(p) => p.weight.value.train(),
            Place::Embedding(e) => e.weight.train(),
            Place::Norm(n) => n.weight.train(),
        }
        if let Some(bias) = self.bias() {
            bias.train();
        }
    }

    /// Makes every checkpoint tensor of this place a constant.
    pub fn freeze(&mut self) {
        match &mut self.place {
            Place::Projection(p) => p.weight.value.freeze(),
            Place::Embedding(e) => e.weight.freeze(),
            Place::Norm(n) => n.weight.freeze(),
        }
        if let Some(bias) = self.bias() {
            bias.freeze();
        }
    }

    /// Empties the slot.
    pub fn clear(&mut self) {
        match &mut self.place {
            Place::Projection(p) => p.delta = None,
            Place::Embedding(e) => e.delta = None,
            Place::Norm(_) => {}
        }
    }

    /// Whether a checkpoint tensor of this place trains.
    pub fn is_trained(&mut self) -> bool {
        let weight = match &self.place {
            Place::Projection(p) => p.weight.value.is_trained(),
            Place::Embedding(e) => e.weight.is_trained(),
            Place::Norm(n) => n.weight.is_trained(),
        };
        weight || self.bias().is_some_and(|b| b.is_trained())
    }

    /// Replaces the weight of a projection or table, in the checkpoint's layout.
    pub fn set_matrix(&mut self, value: Tensor<2>) {
        match &mut self.place {
            Place::Projection(p) => p.weight.value.set(value),
            Place::Embedding(e) => e.weight.set(value),
            Place::Norm(_) => unreachable!("a norm has no matrix"),
        }
    }

    /// Replaces the bias, or the weight of a norm.
    pub fn set_vector(&mut self, leaf: &str, value: Tensor<1>) {
        match &mut self.place {
            Place::Norm(n) if leaf == "weight" => n.weight.set(value),
            _ => self.bias().expect("named by `tensors`").set(value),
        }
    }

    /// Checkpoint tensors of this place as (name after the path, value), in the checkpoint's layout.
    pub fn tensors(&mut self) -> Vec<(&'static str, AnyTensor)> {
        let weight = match &self.place {
            Place::Projection(p) => AnyTensor::Matrix(p.weight.value.val()),
            Place::Embedding(e) => AnyTensor::Matrix(e.weight.val()),
            Place::Norm(n) => AnyTensor::Vector(n.weight.val()),
        };
        let bias = self.bias().map(|b| ("bias", AnyTensor::Vector(b.val())));
        std::iter::once(("weight", weight)).chain(bias).collect()
    }
}

/// A checkpoint tensor of either rank.
#[derive(Clone, Debug)]
pub enum AnyTensor {
    /// Rank 1.
    Vector(Tensor<1>),
    /// Rank 2.
    Matrix(Tensor<2>),
}

impl AnyTensor {
    /// Dimensions.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            AnyTensor::Vector(t) => t.dims().to_vec(),
            AnyTensor::Matrix(t) => t.dims().to_vec(),
        }
    }

    /// The values, read back from the device.
    pub fn into_data(self) -> burn::tensor::TensorData {
        match self {
            AnyTensor::Vector(t) => t.into_data(),
            AnyTensor::Matrix(t) => t.into_data(),
        }
    }
}
