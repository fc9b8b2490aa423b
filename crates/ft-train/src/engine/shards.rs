//! Optimizer states that ranks share (ZeRO stage 1: Rajbhandari et al. 2020, arXiv:1910.02054, section 5): each holds those of its own parameters,
//! takes the step of these, and is told the values of the others.
//!
//! Parameters are dealt out whole, neighbours together, so that every rank has about as many numbers. Checkpoints hold all states, as those of one
//! process do.

use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use ft_model::Model;
use ft_optim::{NamedParameter, named_parameters};
use ft_ranks::Ranks;

use crate::checkpoint::{tensors_from_bytes, tensors_to_bytes};
use crate::continual::vector::Vector;
use crate::engine::session::Session;
use crate::{Error, Result};

/// Which parameters of a model are whose.
pub(crate) struct Shards {
    params: Vec<NamedParameter>,
    /// The numbers of each rank among all that train.
    parts: Vec<Range<usize>>,
    /// The rank of each parameter.
    owners: Vec<usize>,
}

impl Shards {
    pub fn of(model: &Model, ranks: &Ranks) -> Self {
        let params = named_parameters(model);
        let counts: Vec<usize> = params.iter().map(|param| param.shape.iter().product()).collect();
        let owners = owners(&counts, ranks.size());
        let mut parts = vec![0..0; ranks.size()];
        let (mut start, mut owner) = (0, 0);
        for (count, of) in counts.iter().zip(&owners) {
            while owner < *of {
                owner += 1;
                parts[owner] = start..start;
            }
            start += count;
            parts[owner].end = start;
        }
        parts[owner + 1..].fill(start..start);
        Self { params, parts, owners }
    }

    fn own(&self, rank: usize) -> impl Iterator<Item = &NamedParameter> {
        let owned = self.params.iter().zip(&self.owners);
        owned.filter(move |(_, owner)| **owner == rank).map(|(param, _)| param)
    }

    /// The rank that has the state of this name.
    fn owner_of(&self, name: &str) -> Option<usize> {
        let of = |param: &NamedParameter| {
            name.strip_prefix(param.path.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        };
        // The longest: one path may begin another.
        let found = self.params.iter().zip(&self.owners).filter(|(param, _)| of(param));
        found.max_by_key(|(param, _)| param.path.len()).map(|(_, owner)| *owner)
    }

    /// What a rank takes back of saved states: of others' parameters that they were never updated here.
    pub fn taken(&self, rank: usize, saved: Vec<(String, TensorData)>) -> Vec<(String, TensorData)> {
        let take = |(name, data): (String, TensorData)| match self.owner_of(&name) {
            Some(owner) if owner != rank => {
                let none = || TensorData::new(vec![0i64], [0usize; 0]);
                name.ends_with(".step").then(|| (name, none()))
            }
            _ => Some((name, data)),
        };
        saved.into_iter().filter_map(take).collect()
    }
}

/// A rank for each of the parameters that have so many numbers: where the middle of each lies among all of them.
fn owners(counts: &[usize], ranks: usize) -> Vec<usize> {
    let all = counts.iter().sum::<usize>().max(1);
    let mut before = 0;
    let owner = |count: &usize| {
        let middle = before + count / 2;
        before += count;
        ((middle as u128 * ranks as u128 / all as u128) as usize).min(ranks - 1)
    };
    counts.iter().map(owner).collect()
}

struct Own<'a> {
    wanted: std::collections::HashSet<burn::module::ParamId>,
    from: &'a mut GradientsParams,
    own: GradientsParams,
}

impl ModuleVisitor for Own<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.wanted.contains(&param.id)
            && let Some(grad) = self.from.remove::<D>(param.id)
        {
            self.own.register(param.id, grad);
        }
    }
}

impl Session {
    /// The model after the optimizer's step: each rank takes that of its own parameters where they share the states.
    pub(crate) fn optimize(&mut self, lr: f64, model: Model, mut grads: GradientsParams) -> Result<Model> {
        if !self.shards_optimizer() {
            return Ok(self.optim.step(lr, model, grads));
        }
        let (shards, rank) = (Shards::of(&model, &self.ranks), self.ranks.rank());
        let mut split = Own {
            wanted: shards.own(rank).map(|param| param.id).collect(),
            from: &mut grads,
            own: GradientsParams::new(),
        };
        model.visit(&mut split);
        let own = split.own;
        let model = self.optim.step(lr, model, own);
        let mut numbers = Vector::values(&model).to_host(&model)?;
        let all = shards.parts.last().map_or(0, |part| part.end);
        self.ranks.share(&mut numbers[..all], &shards.parts)?;
        Ok(Vector::from_host(&model, numbers)?.put_back(model))
    }

    fn shards_optimizer(&self) -> bool {
        self.shard_optimizer && !self.ranks.is_alone()
    }

    /// The states of all ranks, at the first of them; none where each has all.
    pub(crate) fn gathered_optimizer(&self, model: &Model) -> Result<Option<Vec<(String, TensorData)>>> {
        if !self.shards_optimizer() {
            return Ok(None);
        }
        let (shards, rank) = (Shards::of(model, &self.ranks), self.ranks.rank());
        let own = self.optim.state_dict(model).into_iter();
        let own: Vec<_> = own.filter(|(name, _)| shards.owner_of(name) == Some(rank)).collect();
        let Some(all) = self.ranks.gather(&tensors_to_bytes(&own)?)? else {
            return Ok(None);
        };
        let read = |bytes: Vec<u8>| {
            tensors_from_bytes(&bytes)
                .map_err(|why| Error::Training(format!("what a rank has sent cannot be read: {why}")))
        };
        let parts: Vec<Vec<_>> = all.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Some(parts.concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_about_as_many_numbers() {
        assert_eq!(owners(&[10, 10, 10, 10], 2), [0, 0, 1, 1]);
        assert_eq!(owners(&[100, 1, 1, 1], 2), [0, 1, 1, 1]);
        assert_eq!(owners(&[1, 1, 100], 3), [0, 0, 1]);
        assert_eq!(owners(&[5], 4), [1]);
        assert!(owners(&[], 4).is_empty());
        let many = vec![7; 1000];
        let of = owners(&many, 16);
        assert!(of.is_sorted());
        assert!((0..16).all(|rank| of.iter().filter(|owner| **owner == rank).count().abs_diff(62) <= 1));
    }
}
