//! Learning rates of single parameters.

use std::collections::HashMap;

use burn::module::ParamId;

use crate::methods::{ParamMut, PeftConfig};
use crate::target_module::{Adaptable, ModuleSlot};

/// What a trainable tensor is, for its learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A tensor of an adapter of an embedding table.
    Embedding,
    /// A matrix of an adapter, by its name in PEFT's file after the layer's path.
    Matrix(&'static str),
    /// A vector of any kind, the base's own biases and norms included.
    Vector,
}

/// The parameters of `model` whose learning rate is not `lr`, with its share of `lr`.
pub fn rates(model: &mut impl Adaptable, config: &PeftConfig, lr: f64) -> HashMap<ParamId, f64> {
    let mut rates = HashMap::new();
    let mut put = |part: Part, id: ParamId| {
        let rate = config.method().rate(part, lr);
        if rate != lr {
            rates.insert(id, if lr > 0.0 { rate / lr } else { 0.0 });
        }
    };
    for mut module in model.target_modules() {
        let is_lookup =
            matches!(&module.slot, ModuleSlot::Embedding(slot) if slot.delta.as_ref().is_some_and(|d| !d.moves_head()));
        for (name, param) in module.params() {
            match param {
                ParamMut::Vector(param) => put(Part::Vector, param.id),
                ParamMut::Matrix(param) if is_lookup => put(Part::Embedding, param.id),
                ParamMut::Matrix(param) => put(Part::Matrix(name), param.id),
            }
        }
        module.own_vectors().into_iter().for_each(|id| put(Part::Vector, id));
    }
    rates
}
