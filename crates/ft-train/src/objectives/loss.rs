//! What an objective makes of a forward pass.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;
use ft_model::Model;

use super::HeldOut;

/// What a forward pass comes to.
pub struct Loss {
    /// Sum over the units, `[1]`, with its tape.
    pub sum: Tensor<1>,
    /// What else is worth logging.
    pub figures: Vec<Figure>,
}

impl Loss {
    /// Of a held-out batch with `count` units; the negative log-likelihood stays open.
    pub(crate) fn held_out(self, count: usize) -> HeldOut {
        HeldOut {
            loss: read(self.sum),
            count,
            nll: None,
            said: None,
            figures: self
                .figures
                .into_iter()
                .map(|f| (f.name, read(f.sum), f.count))
                .collect(),
        }
    }
}

pub(super) fn read(sum: Tensor<1>) -> f64 {
    f64::from(sum.into_scalar::<f32>())
}

/// A named figure of the log: a sum and what it is a mean over.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its key in `metrics.jsonl`.
    pub name: &'static str,
    /// The sum, `[1]`, without autodiff.
    pub sum: Tensor<1>,
    /// The count.
    pub count: usize,
}

impl Figure {
    /// Adds it to the one of its name among `all`.
    pub(crate) fn join(self, all: &mut Vec<Figure>) {
        match all.iter_mut().find(|own| own.name == self.name) {
            Some(total) => {
                total.sum = total.sum.clone() + self.sum;
                total.count += self.count;
            }
            None => all.push(self),
        }
    }
}

/// The name of a figure that another rank has written: the same few names come with every step, and each is kept once.
pub(super) fn known(name: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = name.leak();
    names.insert(name);
    name
}

/// The loss of a micro-batch as a function of hidden states `[rows, width, hidden]`.
pub struct LossFn<'a> {
    last: Box<Last<'a>>,
    layers: Option<LayerLoss<'a>>,
}

/// Of the hidden states after the final norm, and of what the layers before came to.
type Last<'a> = dyn Fn(&Model, Tensor<3>, Option<Tensor<1>>) -> Loss + 'a;

/// Of the number of a layer among those that count, and its hidden states.
type Between<'a> = dyn Fn(&Model, usize, Tensor<3>) -> Tensor<1> + 'a;

/// What a loss adds for hidden states between two blocks.
pub struct LayerLoss<'a> {
    /// How many blocks each of them is behind, ascending.
    pub after: Vec<usize>,
    /// The sum for the one with this number among them, `[1]`, from hidden states `[rows, width, hidden]` of the model without virtual
    /// tokens.
    pub sum: Box<Between<'a>>,
}

impl<'a> LossFn<'a> {
    /// Of the hidden states after the final norm.
    pub fn new(last: impl Fn(&Model, Tensor<3>) -> Loss + 'a) -> Self {
        Self {
            last: Box::new(move |model, hidden, _| last(model, hidden)),
            layers: None,
        }
    }

    /// Of hidden states between blocks too. `last` is also given the sum over `layers`, and adds it to its own.
    pub fn over_layers(
        layers: LayerLoss<'a>,
        last: impl Fn(&Model, Tensor<3>, Option<Tensor<1>>) -> Loss + 'a,
    ) -> Self {
        Self {
            last: Box::new(last),
            layers: Some(layers),
        }
    }

    /// The same, made into something else by `more`, which is given the hidden states after the final norm too.
    pub fn then(self, more: impl Fn(&Model, Tensor<3>, Loss) -> Loss + 'a) -> Self {
        let last = self.last;
        Self {
            last: Box::new(move |model, hidden, layers| {
                let loss = last(model, hidden.clone(), layers);
                more(model, hidden, loss)
            }),
            layers: self.layers,
        }
    }

    /// The loss from the hidden states after the final norm and the sum over the layers before, where there are some.
    pub fn loss(&self, model: &Model, hidden: Tensor<3>, layers: Option<Tensor<1>>) -> Loss {
        (self.last)(model, hidden, layers)
    }

    /// What it adds for hidden states between blocks.
    pub fn layers(&self) -> Option<&LayerLoss<'a>> {
        self.layers.as_ref()
    }
}
