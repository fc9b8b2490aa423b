//! The modules in a model that an adapter can change. Each is empty in the plain model.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use ft_kernels::Output;
use ft_quant::{Layout, Leaf, Weight};

use crate::embedding_delta::EmbeddingDelta;
use crate::methods::bottleneck::Bottleneck;
use crate::methods::{Base, Delta, WeightDelta};
use crate::pass::Pass;
use crate::virtual_tokens::{Prefix, Prompt, VirtualTokens};

/// A linear layer, possibly changed by a [`Delta`].
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in]` (or `[in, out]`, see [`Layout`]).
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Leaf<1>>,
    /// The adapter in this module.
    pub delta: Option<Delta>,
    /// Whether it is a router of experts, which is adapted where it is named alone.
    #[module(skip)]
    pub routes: bool,
}

impl Projection {
    /// A plain frozen layer.
    pub fn new(weight: Tensor<2>, layout: Layout, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: Weight::new(weight, layout),
            bias: bias.map(Leaf::Frozen),
            delta: None,
            routes: false,
        }
    }

    /// x `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, pass: &Pass) -> Tensor<D> {
        let base = Base {
            weight: &self.weight,
            bias: self.bias.as_ref().map(Leaf::val),
        };
        match &self.delta {
            None => base.forward_for(x, pass.output),
            Some(delta) => delta.forward(x, &base, pass),
        }
    }

    /// Where the layer lies.
    pub(crate) fn device(&self) -> Device {
        self.weight.value.val().device()
    }

    /// Merges the delta into weight and bias and empties the slot.
    pub fn fold(&mut self) {
        if let Some(delta) = self.delta.take() {
            let dtype = self.weight.dtype();
            let (weight, bias) = delta.fold(self.weight.dense(), self.bias.as_ref().map(Leaf::val));
            self.weight.set_dense(constant(weight));
            self.bias = bias.map(|bias| Leaf::Frozen(constant(bias).cast(dtype)));
        }
    }
}

/// The same numbers without a tape, on the same device; `detach` leaves a leaf that requires a gradient.
pub(crate) fn constant<const D: usize>(value: Tensor<D>) -> Tensor<D> {
    match value.is_autodiff() {
        true => value.without_autodiff().autodiff(),
        false => value,
    }
}

/// A table of rows looked up by id, possibly changed by an [`EmbeddingDelta`].
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, hidden]`.
    pub weight: Leaf<2>,
    /// Type of what comes out, and of all that is computed from it; the table's own where nothing is said.
    #[module(skip)]
    pub compute: Option<FloatDType>,
    /// Factor of what is looked up.
    #[module(skip)]
    pub scale: Option<f64>,
    /// The adapter in this module.
    pub delta: Option<EmbeddingDelta>,
    /// Virtual tokens before what is looked up, in a model's input table.
    pub prompt: Option<Prompt>,
}

impl Embedding {
    /// A plain frozen table.
    pub fn new(weight: Tensor<2>) -> Self {
        Self {
            weight: Leaf::Frozen(weight),
            compute: None,
            scale: None,
            delta: None,
            prompt: None,
        }
    }

    /// Virtual tokens before the text.
    pub fn virtual_tokens(&self) -> usize {
        self.prompt.as_ref().map_or(0, Prompt::len)
    }

    /// Their embeddings `[n, hidden]`.
    pub fn prompt(&self, pass: &Pass) -> Option<Tensor<2>> {
        self.prompt.as_ref().map(|prompt| prompt.embeddings(pass))
    }

    /// ids `[batch, seq]` to `[batch, seq, hidden]`, with the noise of the pass.
    pub fn forward(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let flat = ids.reshape([batch * seq]);
        let rows = ft_kernels::embedding(self.weight.val(), flat.clone());
        let rows = match self.compute {
            None => rows,
            Some(dtype) => rows.cast(dtype),
        };
        let rows = match &self.delta {
            None => rows,
            Some(delta) => delta.lookup(rows, flat),
        };
        let rows = match self.scale {
            None => rows,
            Some(scale) => rows.mul_scalar(scale),
        };
        let hidden = rows.dims()[1];
        pass.noisy(rows.reshape([batch, seq, hidden]))
    }

    /// Merges the delta into the table and empties the slot.
    pub fn fold(&mut self) {
        if let Some(delta) = self.delta.take() {
            let table = self.weight.val();
            let dtype = table.dtype();
            self.weight.set(constant(delta.fold(table)).cast(dtype));
        }
    }
}

/// What stands before the keys and values of every layer.
#[derive(Module, Debug, Default)]
pub struct Prefixes {
    /// The adapter in this module.
    pub prefix: Option<Prefix>,
}

impl Prefixes {
    /// Virtual tokens before the text.
    pub fn virtual_tokens(&self) -> usize {
        self.prefix.as_ref().map_or(0, Prefix::len)
    }

    /// Their keys and values at a layer, `[n, 2 kv_heads head_dim]`.
    pub fn layer(&self, layer: usize) -> Option<Tensor<2>> {
        self.prefix.as_ref().map(|prefix| prefix.layer(layer))
    }
}

/// RMSNorm (no bias), or LayerNorm (with a bias, or centered without one).
#[derive(Module, Debug)]
pub struct Norm {
    /// `[hidden]`.
    pub weight: Leaf<1>,
    /// `[hidden]`; its presence makes this a LayerNorm.
    pub bias: Option<Leaf<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub eps: f64,
    /// Whether the factor of an RMSNorm is one more than the weight (Gemma).
    #[module(skip)]
    pub from_one: bool,
    /// Whether it is a LayerNorm though it has no bias.
    #[module(skip)]
    pub centered: bool,
}

impl Norm {
    /// x `[.., hidden]`, normalized over the last axis in f32.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.bias {
            None if self.centered => {
                let weight = self.weight.val();
                let none = Tensor::zeros(weight.dims(), (&weight.device(), weight.dtype()));
                ft_kernels::layer_norm(x, weight, none, self.eps)
            }
            None => ft_kernels::rms_norm(x, self.factor(), self.eps),
            Some(bias) => ft_kernels::layer_norm(x, self.weight.val(), bias.val(), self.eps),
        }
    }

    /// The residual stream `x`, with what a sub-layer adds to it, and its normalization.
    pub fn beside<const D: usize>(&self, x: Tensor<D>, added: Option<Tensor<D>>) -> (Tensor<D>, Tensor<D>) {
        if self.bias.is_none() && !self.centered && added.as_ref().is_none_or(|added| added.dtype() == x.dtype()) {
            return ft_kernels::residual_norm(x, added, self.factor(), self.eps);
        }
        let stream = match added {
            None => x,
            Some(added) => x + added,
        };
        (stream.clone(), self.forward(stream))
    }

    fn factor(&self) -> Tensor<1> {
        let weight = self.weight.val();
        match self.from_one {
            false => weight,
            true => weight.cast(FloatDType::F32).add_scalar(1.0),
        }
    }
}

/// Where the output of a sub-layer joins the residual stream, possibly changed by a [`Bottleneck`].
#[derive(Module, Debug, Default)]
pub struct Residual {
    /// The adapter in this module.
    pub adapter: Option<Bottleneck>,
}

impl Residual {
    /// Whether the output of the sub-layer is read, where what comes of the join is read or not: the gradients of a sum do not
    /// depend on its values, those of an adapter do.
    pub fn reads(&self, output: Output) -> Output {
        match &self.adapter {
            None => output,
            Some(_) => Output::Read,
        }
    }

    /// residual and output of a sub-layer `[.., hidden]` to the residual of the next one: their sum in the plain model.
    pub fn join<const D: usize>(&self, residual: Tensor<D>, output: Tensor<D>, pass: &Pass) -> Tensor<D> {
        match &self.adapter {
            None => residual + output,
            Some(adapter) => adapter.join(residual, output, pass),
        }
    }

    /// [`join`](Self::join) of a model that normalizes behind its sub-layers: to the normalized residual of the next one.
    pub fn join_behind<const D: usize>(
        &self,
        residual: Tensor<D>,
        output: Tensor<D>,
        norm: &Norm,
        pass: &Pass,
    ) -> Tensor<D> {
        norm.forward(match &self.adapter {
            None => residual + output,
            Some(adapter) => adapter.join_reading(residual, output, |sum| norm.forward(sum), pass),
        })
    }

    /// [`join`](Self::join), and its normalization for the next sub-layer beside it.
    pub fn join_normed<const D: usize>(
        &self,
        residual: Tensor<D>,
        output: Tensor<D>,
        norm: &Norm,
        pass: &Pass,
    ) -> (Tensor<D>, Tensor<D>) {
        match &self.adapter {
            None => norm.beside(residual, Some(output)),
            Some(adapter) => norm.beside(adapter.join(residual, output, pass), None),
        }
    }
}
