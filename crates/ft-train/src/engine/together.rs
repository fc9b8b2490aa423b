//! How ranks add up what their models hold.
//!
//! ```text
//! host       read back, summed by `ft-ranks`, written again     any devices, any number of machines
//! cards      summed where it lies, by NCCL                      CUDA cards of one process
//! scattered  as host, and every rank keeps its own parameters   gradients, where ranks share the optimizer
//! ```

use std::ops::Deref;

use ft_model::Model;
use ft_ranks::Ranks;

use crate::Result;
use crate::continual::vector::Vector;
use crate::engine::cards::Cards;
use crate::engine::shards::Shards;

/// The ranks of a run, and how they add up.
#[derive(Clone, Debug, Default)]
pub struct Together {
    ranks: Ranks,
    cards: Option<Cards>,
    /// Whether each keeps the gradients of its own parameters alone.
    scatters: bool,
}

impl Deref for Together {
    type Target = Ranks;

    fn deref(&self) -> &Ranks {
        &self.ranks
    }
}

impl From<Ranks> for Together {
    fn from(ranks: Ranks) -> Self {
        Self {
            ranks,
            ..Self::default()
        }
    }
}

/// A rank's part of a sum, as it is handed in.
pub(crate) enum Part {
    Host(Vec<f32>),
    Device(Vector),
}

impl Together {
    /// The same, summed on these cards.
    pub(crate) fn on(self, cards: Option<Cards>) -> Self {
        Self { cards, ..self }
    }

    /// The same, each rank with the gradients of its own parameters alone where `scatters`.
    pub(crate) fn scattering(self, scatters: bool) -> Self {
        Self {
            scatters: scatters && !self.ranks.is_alone(),
            ..self
        }
    }

    /// Whether each rank keeps the gradients of its own parameters alone.
    pub(crate) fn scatters(&self) -> bool {
        self.scatters
    }

    /// All that can go wrong on the device before others wait for this rank.
    ///
    /// # Errors
    /// What did, here or in the passes that lead to `own`.
    pub(crate) fn ready(&self, model: &Model, own: Vector) -> Result<Part> {
        match self.cards.is_some() || self.scatters {
            false => own.into_host(model).map(Part::Host),
            true => own.settled().map(Part::Device),
        }
    }

    /// The sum over the ranks of what each has made [`ready`](Self::ready).
    ///
    /// # Errors
    /// A rank that ends or says nothing; models that do not train the same.
    pub(crate) fn sum(&self, model: &Model, own: Part) -> Result<Vector> {
        match own {
            Part::Host(mut numbers) => {
                self.ranks.sum(&mut numbers)?;
                Vector::from_host(model, numbers)
            }
            Part::Device(own) => match &self.cards {
                Some(cards) if !self.scatters => cards.sum(model, own, &self.ranks),
                _ => Shards::of(model, &self.ranks).scattered(model, own, &self.ranks),
            },
        }
    }
}

/// The sum of a vector over the ranks; one that has none adds nothing.
pub(crate) fn sum_of(ranks: &Together, model: &Model, own: Option<Vector>) -> Result<Vector> {
    let own = own.unwrap_or_else(|| Vector::none(model));
    if ranks.is_alone() {
        return Ok(own);
    }
    let whole = ranks.clone().scattering(false);
    whole.sum(model, whole.ready(model, own)?)
}
