//! Virtual tokens: learned columns that stand before the text, as inputs (prompts) or as keys and values (prefixes).
//!
//! ```text
//! Prompt   embeddings [n, hidden]          before the embedded text: n more columns go through every layer
//! Prefix   keys and values [n, 2 L d]      before every layer's own keys and values: no column more
//! ```

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use crate::methods::p_tuning::{Lstm, Mlp};
use crate::methods::prefix_tuning::PrefixMlp;
use crate::pass::Pass;
use crate::target_module::AnyTensor;
use ft_quant::Leaf;
use ft_seed::stream;

/// What the tables and encoders of virtual tokens have in common.
pub trait VirtualTokens {
    /// PEFT's `prompt_embeddings`, `[num_virtual_tokens, width]`.
    fn embeddings(&self, pass: &Pass) -> Tensor<2>;

    /// Whether an encoder makes the embeddings, so that a file of them alone cannot be trained on.
    fn is_encoded(&self) -> bool;

    /// Every trainable tensor by its name in PEFT's prompt encoder, in one piece however it is held.
    fn state(&self) -> Vec<(String, AnyTensor)>;

    /// Puts tensors of the names and shapes of [`state`](Self::state) back.
    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor);
}

/// Virtual tokens at the input.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per model")]
pub enum Prompt {
    /// The embeddings themselves; frozen where an encoder that made them is not known.
    Table(PromptTable),
    /// See [`crate::methods::p_tuning`].
    Mlp(Mlp),
    /// See [`crate::methods::p_tuning`].
    Lstm(Lstm),
}

/// Embeddings of virtual tokens.
#[derive(Module, Debug)]
pub struct PromptTable {
    /// `[num_virtual_tokens, hidden]`.
    pub embedding: Leaf<2>,
}

impl Prompt {
    fn parts(&self) -> &dyn VirtualTokens {
        match self {
            Prompt::Table(table) => table,
            Prompt::Mlp(encoder) => encoder,
            Prompt::Lstm(encoder) => encoder,
        }
    }

    fn parts_mut(&mut self) -> &mut dyn VirtualTokens {
        match self {
            Prompt::Table(table) => table,
            Prompt::Mlp(encoder) => encoder,
            Prompt::Lstm(encoder) => encoder,
        }
    }

    /// Number of virtual tokens.
    pub fn len(&self) -> usize {
        match self {
            Prompt::Table(table) => table.embedding.dims()[0],
            Prompt::Mlp(encoder) => encoder.embedding.dims()[0],
            Prompt::Lstm(encoder) => encoder.embedding.dims()[0],
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl VirtualTokens for Prompt {
    fn embeddings(&self, pass: &Pass) -> Tensor<2> {
        self.parts().embeddings(pass)
    }

    fn is_encoded(&self) -> bool {
        self.parts().is_encoded()
    }

    fn state(&self) -> Vec<(String, AnyTensor)> {
        self.parts().state()
    }

    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        self.parts_mut().load_state(tensor);
    }
}

impl VirtualTokens for PromptTable {
    fn embeddings(&self, _: &Pass) -> Tensor<2> {
        self.embedding.val()
    }

    fn is_encoded(&self) -> bool {
        false
    }

    fn state(&self) -> Vec<(String, AnyTensor)> {
        vec![(EMBEDDING.into(), AnyTensor::Matrix(self.embedding.val()))]
    }

    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        self.embedding.set(tensor(EMBEDDING).into_matrix());
    }
}

/// Keys and values of virtual tokens, for every layer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per model")]
pub enum Prefix {
    /// Keys and values themselves; frozen where a projection that made them is not known.
    Table(PrefixTable),
    /// See [`crate::methods::prefix_tuning`].
    Mlp(PrefixMlp),
}

/// Keys and values of virtual tokens.
#[derive(Module, Debug)]
pub struct PrefixTable {
    /// Of each layer, `[num_virtual_tokens, 2 kv_heads head_dim]`: its keys, then its values.
    pub layers: Vec<Leaf<2>>,
}

impl PrefixTable {
    /// A frozen table from PEFT's `prompt_embeddings` `[n, 2 L d]`.
    pub(crate) fn frozen(embeddings: Tensor<2>, layers: usize) -> Self {
        let layers = embeddings.chunk(layers, 1).into_iter().map(Leaf::Frozen);
        Self {
            layers: layers.collect(),
        }
    }
}

impl Prefix {
    /// Keys and values of a layer, `[n, 2 kv_heads head_dim]`. Every layer's come out of the parameters on their own, so
    /// that a block can be computed again without the others.
    pub fn layer(&self, layer: usize) -> Tensor<2> {
        match self {
            Prefix::Table(table) => table.layers[layer].val(),
            Prefix::Mlp(encoder) => encoder.layer(layer),
        }
    }

    /// Number of virtual tokens.
    pub fn len(&self) -> usize {
        match self {
            Prefix::Table(table) => table.layers.first().map_or(0, |layer| layer.dims()[0]),
            Prefix::Mlp(encoder) => encoder.embedding.dims()[0],
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn num_layers(&self) -> usize {
        match self {
            Prefix::Table(table) => table.layers.len(),
            Prefix::Mlp(encoder) => encoder.up.len(),
        }
    }
}

impl VirtualTokens for Prefix {
    fn embeddings(&self, _: &Pass) -> Tensor<2> {
        Tensor::cat((0..self.num_layers()).map(|i| self.layer(i)).collect(), 1)
    }

    fn is_encoded(&self) -> bool {
        matches!(self, Prefix::Mlp(_))
    }

    fn state(&self) -> Vec<(String, AnyTensor)> {
        match self {
            Prefix::Table(_) => vec![(EMBEDDING.into(), AnyTensor::Matrix(self.embeddings(&Pass::eval())))],
            Prefix::Mlp(encoder) => encoder.state(),
        }
    }

    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        match self {
            Prefix::Mlp(encoder) => encoder.load_state(tensor),
            Prefix::Table(table) => {
                let parts = tensor(EMBEDDING).into_matrix().chunk(table.layers.len(), 1);
                table
                    .layers
                    .iter_mut()
                    .zip(parts)
                    .for_each(|(leaf, part)| leaf.set(part));
            }
        }
    }
}

/// Name of the first tensor of every one of PEFT's prompt encoders.
pub(crate) const EMBEDDING: &str = "embedding.weight";

/// A linear layer of an encoder.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// Weight and bias uniform in ±1/√in, as PyTorch starts them.
    pub(crate) fn start(shape: [usize; 2], seed: u64, name: &str, device: &Device) -> Self {
        let bound = 1.0 / (shape[1] as f32).sqrt();
        Self {
            weight: Param::from_tensor(uniform(shape, bound, seed, &format!("{name}.weight"), device)),
            bias: Param::from_tensor(uniform([shape[0]], bound, seed, &format!("{name}.bias"), device)),
        }
    }

    /// x `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ft_kernels::linear(x, self.weight.val()) + self.bias.val().unsqueeze()
    }

    /// All zeros.
    pub(crate) fn zeros(shape: [usize; 2], device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::zeros(shape, device)),
            bias: Param::from_tensor(Tensor::zeros([shape[0]], device)),
        }
    }

    /// Numbers in a layer of this shape.
    pub(crate) fn count([out, inner]: [usize; 2]) -> usize {
        out * inner + out
    }

    pub(crate) fn state(&self, name: &str) -> [(String, AnyTensor); 2] {
        [
            (format!("{name}.weight"), AnyTensor::Matrix(self.weight.val())),
            (format!("{name}.bias"), AnyTensor::Vector(self.bias.val())),
        ]
    }

    pub(crate) fn load_state(&mut self, name: &str, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        replace(&mut self.weight, tensor(&format!("{name}.weight")).into_matrix());
        replace(&mut self.bias, tensor(&format!("{name}.bias")).into_vector());
    }
}

/// Puts a value into a parameter, which keeps its id.
pub(crate) fn replace<const D: usize>(param: &mut Param<Tensor<D>>, value: Tensor<D>) {
    *param = Param::initialized(param.id, value.detach()).set_require_grad(true);
}

/// Uniform in ±bound.
pub(crate) fn uniform<const D: usize>(
    shape: [usize; D],
    bound: f32,
    seed: u64,
    name: &str,
    device: &Device,
) -> Tensor<D> {
    let mut rng = stream(seed, name);
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-bound..bound)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// N(0, 1), as PyTorch starts embedding tables.
pub(crate) fn normal(shape: [usize; 2], seed: u64, name: &str, device: &Device) -> Tensor<2> {
    let mut rng = stream(seed, name);
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| StandardNormal.sample(&mut rng))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
