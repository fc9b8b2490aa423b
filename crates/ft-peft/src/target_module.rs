//! What a model shows to the adapters: its adaptable modules, by checkpoint path.

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use ft_quant::Leaf;

use crate::embedding_delta::EmbeddingDelta;
use crate::methods::{ParamMut, WeightDelta};
use crate::slots::{Embedding, Norm, Prefixes, Projection, Residual};
use crate::virtual_tokens::VirtualTokens;

/// A model whose modules can be adapted. Written once per architecture.
pub trait Adaptable {
    /// Every module, in checkpoint order, each path once; the input embeddings are the first table.
    fn target_modules(&mut self) -> Vec<TargetModule<'_>>;

    /// Path of the output head, whether or not it is tied (`lm_head`).
    fn head_path(&self) -> &str;

    /// Gives the output head a weight of its own when it is tied to the input embeddings.
    fn untie_head(&mut self);

    /// The head that stands in the place of the output head, if one does.
    fn task_head(&self) -> Option<TaskHead> {
        None
    }

    /// Whether it predicts the next token of a text.
    fn writes(&self) -> bool {
        true
    }

    /// Whether sub-layers end with a normalization of the residual stream.
    fn normalizes_behind(&self) -> bool {
        false
    }

    /// `model_type` and class (`llama`, `LlamaForCausalLM`), for adapter files that name them.
    fn architecture(&self) -> (&str, &str) {
        ("", "")
    }
}

/// A head beside the language model: it trains with every method, and is saved with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHead {
    /// PEFT's `task_type`: `SEQ_CLS`, `TOKEN_CLS`.
    pub task: &'static str,
    /// Its modules, as PEFT names them in `modules_to_save`: what is named, and what is below.
    pub modules: &'static [&'static str],
}

impl TaskHead {
    /// Whether a module is a part of it.
    pub fn holds(&self, path: &str) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with('.');
        let modules = self.modules.iter();
        modules.filter_map(|module| path.strip_prefix(*module)).any(below)
    }
}

/// One adaptable module.
pub struct TargetModule<'a> {
    /// As the checkpoint spells it, without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The module itself.
    pub slot: ModuleSlot<'a>,
}

/// The kinds of module.
pub enum ModuleSlot<'a> {
    /// A linear layer.
    Projection(&'a mut Projection),
    /// An embedding table.
    Embedding(&'a mut Embedding),
    /// A normalization.
    Norm(&'a mut Norm),
    /// A bias whose matrix is another module's: that of a head tied to the embedding table.
    Bias(&'a mut Leaf<1>),
    /// Another vector of the checkpoint.
    Vector {
        /// Its name behind the path: `sinks`.
        name: &'static str,
        /// The vector itself.
        vector: &'a mut Leaf<1>,
    },
    /// Where the output of a sub-layer joins the residual stream.
    Residual {
        /// The module itself, which holds no tensor of the checkpoint.
        slot: &'a mut Residual,
        /// Width of the stream.
        hidden: usize,
        /// Where the layer lies.
        device: Device,
    },
    /// The attention of all layers.
    Attention {
        /// The module itself, which holds no tensor of the checkpoint.
        slot: &'a mut Prefixes,
        /// Its sizes.
        shape: AttentionShape,
        /// Where it is computed.
        device: Device,
    },
}

/// Sizes of a model's attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionShape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Numbers in the keys of one position of one layer.
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl<'a> TargetModule<'a> {
    /// A linear layer at `path`.
    pub fn projection(path: impl Into<String>, slot: &'a mut Projection) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Projection(slot),
        }
    }

    /// An embedding table at `path`.
    pub fn embedding(path: impl Into<String>, slot: &'a mut Embedding) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Embedding(slot),
        }
    }

    /// A normalization at `path`.
    pub fn norm(path: impl Into<String>, slot: &'a mut Norm) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Norm(slot),
        }
    }

    /// A bias alone, `path.bias`.
    pub fn bias_alone(path: impl Into<String>, bias: &'a mut Leaf<1>) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Bias(bias),
        }
    }

    /// A vector that is no bias, `path.name`.
    pub fn vector(path: impl Into<String>, name: &'static str, vector: &'a mut Leaf<1>) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Vector { name, vector },
        }
    }

    /// Where the output of a sub-layer joins the residual stream, `hidden` wide; `path` as AdapterHub calls the module.
    pub fn residual(path: impl Into<String>, slot: &'a mut Residual, hidden: usize, device: Device) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Residual { slot, hidden, device },
        }
    }

    /// The attention of all layers; `path` is that of the list of layers.
    pub fn attention(path: impl Into<String>, slot: &'a mut Prefixes, shape: AttentionShape, device: Device) -> Self {
        Self {
            path: path.into(),
            slot: ModuleSlot::Attention { slot, shape, device },
        }
    }

    /// The bias, where there is one.
    pub fn bias(&mut self) -> Option<&mut Leaf<1>> {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.bias.as_mut(),
            ModuleSlot::Norm(n) => n.bias.as_mut(),
            ModuleSlot::Bias(bias) => Some(bias),
            ModuleSlot::Embedding(_)
            | ModuleSlot::Vector { .. }
            | ModuleSlot::Residual { .. }
            | ModuleSlot::Attention { .. } => None,
        }
    }

    /// Makes every tensor of this module trainable.
    pub fn train(&mut self) {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.weight.value.train(),
            ModuleSlot::Embedding(e) => e.weight.train(),
            ModuleSlot::Norm(n) => n.weight.train(),
            ModuleSlot::Vector { vector, .. } => vector.train(),
            ModuleSlot::Bias(_) | ModuleSlot::Residual { .. } | ModuleSlot::Attention { .. } => {}
        }
        if let Some(bias) = self.bias() {
            bias.train();
        }
    }

    /// Makes every checkpoint tensor of this module a constant.
    pub fn freeze(&mut self) {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.weight.value.freeze(),
            ModuleSlot::Embedding(e) => e.weight.freeze(),
            ModuleSlot::Norm(n) => n.weight.freeze(),
            ModuleSlot::Vector { vector, .. } => vector.freeze(),
            ModuleSlot::Bias(_) | ModuleSlot::Residual { .. } | ModuleSlot::Attention { .. } => {}
        }
        if let Some(bias) = self.bias() {
            bias.freeze();
        }
    }

    /// Empties the slot.
    pub fn clear(&mut self) {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.delta = None,
            ModuleSlot::Embedding(e) => (e.delta, e.prompt) = (None, None),
            ModuleSlot::Residual { slot, .. } => slot.adapter = None,
            ModuleSlot::Attention { slot, .. } => slot.prefix = None,
            ModuleSlot::Norm(_) | ModuleSlot::Bias(_) | ModuleSlot::Vector { .. } => {}
        }
    }

    /// Whether a checkpoint tensor of this module trains.
    pub fn is_trained(&mut self) -> bool {
        let weight = match &self.slot {
            ModuleSlot::Projection(p) => p.weight.value.is_trained(),
            ModuleSlot::Embedding(e) => e.weight.is_trained(),
            ModuleSlot::Norm(n) => n.weight.is_trained(),
            ModuleSlot::Vector { vector, .. } => vector.is_trained(),
            ModuleSlot::Bias(_) | ModuleSlot::Residual { .. } | ModuleSlot::Attention { .. } => false,
        };
        weight || self.bias().is_some_and(|b| b.is_trained())
    }

    /// The parameters among the checkpoint's own vectors.
    pub(crate) fn own_vectors(&mut self) -> Vec<ParamId> {
        let id = |leaf: &Leaf<1>| match leaf {
            Leaf::Trained(param) => Some(param.id),
            Leaf::Frozen(_) => None,
        };
        let weight = match &self.slot {
            ModuleSlot::Norm(norm) => id(&norm.weight),
            ModuleSlot::Vector { vector, .. } => id(vector),
            _ => None,
        };
        weight
            .into_iter()
            .chain(self.bias().and_then(|bias| id(bias)))
            .collect()
    }

    /// Replaces the weight of a projection or table, in the checkpoint's layout.
    pub fn set_matrix(&mut self, value: Tensor<2>) {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.weight.value.set(value),
            ModuleSlot::Embedding(e) => e.weight.set(value),
            ModuleSlot::Norm(_)
            | ModuleSlot::Bias(_)
            | ModuleSlot::Vector { .. }
            | ModuleSlot::Residual { .. }
            | ModuleSlot::Attention { .. } => {
                unreachable!("no matrix here")
            }
        }
    }

    /// Replaces the bias, or the weight of a norm.
    pub fn set_vector(&mut self, leaf: &str, value: Tensor<1>) {
        match &mut self.slot {
            ModuleSlot::Norm(n) if leaf == "weight" => n.weight.set(value),
            ModuleSlot::Vector { vector, .. } => vector.set(value),
            _ => self.bias().expect("named by `tensors`").set(value),
        }
    }

    /// Checkpoint tensors of this module as (name after the path, value), in the checkpoint's layout.
    pub fn tensors(&mut self) -> Vec<(&'static str, AnyTensor)> {
        let weight = match &self.slot {
            ModuleSlot::Projection(p) => Some(("weight", AnyTensor::Matrix(p.weight.value.val()))),
            ModuleSlot::Embedding(e) => Some(("weight", AnyTensor::Matrix(e.weight.val()))),
            ModuleSlot::Norm(n) => Some(("weight", AnyTensor::Vector(n.weight.val()))),
            ModuleSlot::Vector { name, vector } => Some((*name, AnyTensor::Vector(vector.val()))),
            ModuleSlot::Bias(_) | ModuleSlot::Residual { .. } | ModuleSlot::Attention { .. } => None,
        };
        let bias = self.bias().map(|b| ("bias", AnyTensor::Vector(b.val())));
        weight.into_iter().chain(bias).collect()
    }

    /// The trainable tensors of the adapter in this module, by their names in its file after the path.
    pub fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        match &mut self.slot {
            ModuleSlot::Projection(p) => p.delta.iter_mut().flat_map(WeightDelta::params).collect(),
            ModuleSlot::Embedding(e) => e.delta.iter_mut().flat_map(EmbeddingDelta::params).collect(),
            ModuleSlot::Residual { slot, .. } => slot.adapter.iter_mut().flat_map(|a| a.params()).collect(),
            ModuleSlot::Norm(_) | ModuleSlot::Bias(_) | ModuleSlot::Vector { .. } | ModuleSlot::Attention { .. } => {
                Vec::new()
            }
        }
    }

    /// The virtual tokens in this module.
    pub fn virtual_tokens(&mut self) -> Option<&mut dyn VirtualTokens> {
        match &mut self.slot {
            ModuleSlot::Embedding(e) => e.prompt.as_mut().map(|prompt| prompt as _),
            ModuleSlot::Attention { slot, .. } => slot.prefix.as_mut().map(|prefix| prefix as _),
            ModuleSlot::Projection(_)
            | ModuleSlot::Norm(_)
            | ModuleSlot::Bias(_)
            | ModuleSlot::Vector { .. }
            | ModuleSlot::Residual { .. } => None,
        }
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

    /// The tensor, of rank 2.
    pub(crate) fn into_matrix(self) -> Tensor<2> {
        match self {
            AnyTensor::Matrix(t) => t,
            AnyTensor::Vector(t) => unreachable!("a matrix is expected, not {:?}", t.dims()),
        }
    }

    /// The tensor, of rank 1.
    pub(crate) fn into_vector(self) -> Tensor<1> {
        match self {
            AnyTensor::Vector(t) => t,
            AnyTensor::Matrix(t) => unreachable!("a vector is expected, not {:?}", t.dims()),
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
