//! Optimizer states that ranks share (ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, section 5): each holds those of its own parameters,
//! takes the step of these, and is told the values of the others.
//!
//! ```text
//! stage 1    every rank gets the sums of all gradients
//! stage 2    each gets those of its own parameters alone, and all of them their common norm
//! ```
//!
//! Parameters are dealt out whole, neighbours together, so that every rank has about as many numbers; rank k - 1 those around the k-th part of a sum,
//! which it is the first to have. Checkpoints hold all states, as those of one process do.

use std::collections::HashSet;
use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use ft_model::Model;
use ft_optim::{NamedParameter, named_parameters};
use ft_ranks::{Ranks, Scattered};

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
        let counts: Vec<usize> = params.iter().map(count).collect();
        let owners = owners(&counts, ranks.size());
        let mut parts = vec![0..0; ranks.size()];
        let mut start = 0;
        for (count, owner) in counts.iter().zip(&owners) {
            if parts[*owner].is_empty() {
                parts[*owner].start = start;
            }
            start += count;
            parts[*owner].end = start;
        }
        Self { params, parts, owners }
    }

    /// Numbers of all parameters.
    fn numbers(&self) -> usize {
        self.params.iter().map(count).sum()
    }

    /// The places of a rank's parameters.
    fn places(&self, rank: usize) -> Range<usize> {
        let first = self.owners.iter().position(|owner| *owner == rank);
        let count = self.owners.iter().filter(|owner| **owner == rank).count();
        first.map_or(0..0, |first| first..first + count)
    }

    /// The sum of the gradients of all ranks, of which this one keeps its own parameters'.
    ///
    /// # Errors
    /// A rank that ends or says nothing; what went wrong on the device.
    pub fn scattered(&self, model: &Model, own: Vector, ranks: &Ranks) -> Result<Vector> {
        let mut there = own.there();
        ranks.sum(&mut there)?;
        let part = self.parts[ranks.rank()].clone();
        let mut held = Held::new(&self.params, own, part);
        // As many as `Vector::into_host` gives, whose sums these are.
        let count = self.numbers() + self.params.len();
        ranks.scatter(count, &self.parts, ft_ranks::ROUND, &mut held)?;
        let sums = held.sums()?;
        Vector::from_some(model, self.places(ranks.rank()), sums, &there)
    }

    /// The model with every parameter as its rank has it.
    fn exchanged(&self, mut model: Model, ranks: &Ranks) -> Result<Model> {
        let (rank, size) = (ranks.rank(), ranks.size());
        let lots: Vec<Vec<Range<usize>>> = (0..size).map(|rank| self.lots(rank, ft_ranks::ROUND / size)).collect();
        let turns = lots.iter().map(Vec::len).max().unwrap_or(0);
        for turn in 0..turns {
            let places: Vec<Range<usize>> = lots
                .iter()
                .map(|lots| lots.get(turn).cloned().unwrap_or(0..0))
                .collect();
            let mut parts = Vec::with_capacity(size);
            let mut end = 0;
            for places in &places {
                let numbers: usize = self.params[places.clone()].iter().map(count).sum();
                parts.push(end..end + numbers);
                end += numbers;
            }
            let mut numbers = vec![0.0; end];
            let values = Vector::values_at(&model, places[rank].clone());
            values.read_into(&mut numbers[parts[rank].clone()])?;
            ranks.share(&mut numbers, &parts)?;
            for (of, (places, part)) in places.into_iter().zip(parts).enumerate() {
                if of != rank && !places.is_empty() {
                    let there = vec![1.0; self.params.len()];
                    let values = Vector::from_some(&model, places, numbers[part].to_vec(), &there)?;
                    model = values.put_back(model);
                }
            }
        }
        Ok(model)
    }

    /// The places of a rank's parameters in lots of about so many numbers.
    fn lots(&self, rank: usize, numbers: usize) -> Vec<Range<usize>> {
        let (mut lots, mut held) = (Vec::new(), 0);
        let all = self.places(rank);
        let mut start = all.start;
        for place in all.clone() {
            held += count(&self.params[place]);
            if held >= numbers || place + 1 == all.end {
                lots.push(start..place + 1);
                (start, held) = (place + 1, 0);
            }
        }
        lots
    }

    /// The parameters that are a rank's.
    pub fn ids(&self, rank: usize) -> HashSet<ParamId> {
        self.own(rank).map(|param| param.id).collect()
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

fn count(param: &NamedParameter) -> usize {
    param.shape.iter().product()
}

/// A rank for each of the parameters that have so many numbers: the one before the number of the part that the middle of each lies in.
fn owners(counts: &[usize], ranks: usize) -> Vec<usize> {
    let all = counts.iter().sum::<usize>().max(1);
    let mut before = 0;
    let owner = |count: &usize| {
        let middle = before + count / 2;
        before += count;
        let part = ((middle as u128 * ranks as u128 / all as u128) as usize).min(ranks - 1);
        (part + ranks - 1) % ranks
    };
    counts.iter().map(owner).collect()
}

/// This rank's gradients while they are summed, and the sums that it keeps.
struct Held {
    /// Where each parameter's numbers begin; where the last end.
    starts: Vec<usize>,
    /// Let go when all of it is read.
    parts: Vec<Option<Tensor<1>>>,
    unread: Vec<usize>,
    kept: Range<usize>,
    sums: Vec<f32>,
    failed: Option<Error>,
}

impl Held {
    fn new(params: &[NamedParameter], own: Vector, kept: Range<usize>) -> Self {
        let unread: Vec<usize> = params.iter().map(count).collect();
        let mut starts = vec![0];
        unread
            .iter()
            .for_each(|count| starts.push(starts[starts.len() - 1] + count));
        Self {
            starts,
            parts: own.into_parts(),
            unread,
            sums: vec![0.0; kept.len()],
            kept,
            failed: None,
        }
    }

    fn sums(self) -> Result<Vec<f32>> {
        match self.failed {
            None => Ok(self.sums),
            Some(error) => Err(error),
        }
    }
}

impl Scattered for Held {
    fn read(&mut self, range: Range<usize>, into: &mut [f32]) {
        into.fill(0.0);
        let mut place = self
            .starts
            .partition_point(|start| *start <= range.start)
            .saturating_sub(1);
        while place < self.parts.len() && self.starts[place] < range.end {
            let start = self.starts[place];
            let from = range.start.max(start);
            let numbers = range.end.min(self.starts[place + 1]).saturating_sub(from);
            if let Some(part) = self.parts[place].as_ref().filter(|_| numbers > 0) {
                match part.clone().narrow(0, from - start, numbers).try_into_vec_as::<f32>() {
                    Ok(own) => into[from - range.start..][..numbers].copy_from_slice(&own),
                    Err(error) => self.failed = Some(Error::device(error)),
                }
            }
            self.unread[place] -= numbers;
            if self.unread[place] == 0 {
                self.parts[place] = None;
            }
            place += 1;
        }
    }

    fn keep(&mut self, range: Range<usize>, sums: &[f32]) {
        let at = range.start - self.kept.start;
        self.sums[at..at + sums.len()].copy_from_slice(sums);
    }
}

struct Own<'a> {
    wanted: HashSet<ParamId>,
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
            wanted: shards.ids(rank),
            from: &mut grads,
            own: GradientsParams::new(),
        };
        model.visit(&mut split);
        let own = split.own;
        drop(grads);
        let model = self.optim.step(lr, model, own);
        shards.exchanged(model, &self.ranks)
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
        assert_eq!(owners(&[10, 10, 10, 10], 2), [1, 1, 0, 0]);
        assert_eq!(owners(&[100, 1, 1, 1], 2), [1, 0, 0, 0]);
        assert_eq!(owners(&[1, 1, 100], 3), [2, 2, 0]);
        assert_eq!(owners(&[5], 4), [0]);
        assert!(owners(&[], 4).is_empty());
        let many = vec![7; 1000];
        let of = owners(&many, 16);
        assert_eq!((of[0], of[999]), (15, 14));
        assert!((0..16).all(|rank| of.iter().filter(|owner| **owner == rank).count().abs_diff(62) <= 1));
    }
}
