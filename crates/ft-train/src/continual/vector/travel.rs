//! A vector on its way between ranks: through host memory, or in lots that fit a message.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};
use ft_model::Model;
use ft_optim::{NamedParameter, named_parameters};

use super::{Vector, count};
use crate::{Error, Result};

impl Vector {
    /// The vector without parts.
    pub(crate) fn none(model: &Model) -> Self {
        Self(vec![None; named_parameters(model).len()])
    }

    /// All numbers, 0 for parts that are missing, and behind them a 1 for every part that is not. Parts are let go one by one.
    ///
    /// # Errors
    /// What went wrong on the device before.
    pub(crate) fn into_host(self, model: &Model) -> Result<Vec<f32>> {
        let there = self.there();
        let params = named_parameters(model);
        let mut numbers = Vec::with_capacity(params.iter().map(count).sum::<usize>() + params.len());
        for (param, part) in params.iter().zip(self.0) {
            match part {
                None => numbers.resize(numbers.len() + count(param), 0.0),
                Some(part) => {
                    let part = part.try_into_vec_as::<f32>().map_err(Error::device)?;
                    numbers.extend_from_slice(&part);
                }
            }
        }
        numbers.extend(there);
        Ok(numbers)
    }

    /// What [`into_host`](Self::into_host) has given, also summed over several vectors: what is missing in all of them is missing.
    ///
    /// # Errors
    /// Another number of numbers.
    pub(crate) fn from_host(model: &Model, mut numbers: Vec<f32>) -> Result<Self> {
        let params = named_parameters(model);
        let all = params.iter().map(count).sum::<usize>();
        if numbers.len() != all + params.len() {
            return Err(Error::Training("ranks do not train the same parameters".into()));
        }
        let there = numbers.split_off(all);
        Self::from_some(model, 0..params.len(), numbers, &there)
    }

    /// A 1 for every part that is there, in their order.
    pub(crate) fn there(&self) -> Vec<f32> {
        self.0
            .iter()
            .map(|part| if part.is_some() { 1.0 } else { 0.0 })
            .collect()
    }

    /// Zeros where a part is missing that is to be there.
    pub(crate) fn filled(self, model: &Model, there: &[bool]) -> Self {
        let device = model.device().without_autodiff();
        let params = named_parameters(model);
        let parts = self.0.into_iter().zip(&params).zip(there);
        let part = |((part, param), there): ((Option<_>, &NamedParameter), &bool)| {
            part.or_else(|| there.then(|| Tensor::zeros([count(param)], (&device, DType::F32))))
        };
        Self(parts.map(part).collect())
    }

    /// The vector once the device is known to have computed it: a number of each part is read.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub(crate) fn settled(self) -> Result<Self> {
        let firsts: Vec<_> = self
            .0
            .iter()
            .flatten()
            .map(|part| part.clone().narrow(0, 0, 1))
            .collect();
        if !firsts.is_empty() {
            Tensor::cat(firsts, 0).try_into_vec_as::<f32>().map_err(Error::device)?;
        }
        Ok(self)
    }

    /// `each` of about so many numbers at a time, however they lie in parts.
    pub(crate) fn in_lots(self, numbers: usize, each: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        let mut done = vec![None; self.0.len()];
        let (mut lot, mut held) = (Vec::new(), 0);
        let mut parts = self.0.into_iter().enumerate().peekable();
        while let Some((place, part)) = parts.next() {
            if let Some(part) = part {
                held += part.dims()[0];
                lot.push((place, part));
            }
            if held >= numbers || (parts.peek().is_none() && !lot.is_empty()) {
                let (places, parts): (Vec<_>, Vec<_>) = std::mem::take(&mut lot).into_iter().unzip();
                let sizes: Vec<usize> = parts.iter().map(|part| part.dims()[0]).collect();
                let mut rest = each(Tensor::cat(parts, 0)).split_with_sizes(sizes, 0).into_iter();
                places.into_iter().for_each(|place| done[place] = rest.next());
                held = 0;
            }
        }
        Self(done)
    }

    /// The parts; none where a gradient is missing.
    pub(crate) fn into_parts(self) -> Vec<Option<Tensor<1>>> {
        self.0
    }

    /// A vector of the parts at `places`, whose numbers these are one after the other; parts that are not `there`, and all others, are missing.
    ///
    /// # Errors
    /// Another number of numbers.
    pub(crate) fn from_some(model: &Model, places: Range<usize>, mut numbers: Vec<f32>, there: &[f32]) -> Result<Self> {
        let params = named_parameters(model);
        let device = model.device().without_autodiff();
        let mut parts = vec![None; params.len()];
        for place in places.rev() {
            let count = count(&params[place]);
            let start = numbers.len().checked_sub(count);
            let start = start.ok_or_else(|| Error::Training("ranks do not train the same parameters".into()))?;
            // From the last on, so that what was taken is given back.
            let own = numbers.split_off(start);
            numbers.shrink_to_fit();
            let tensor = || Tensor::from_data(TensorData::new(own, [count]), (&device, DType::F32));
            parts[place] = (there[place] > 0.0).then(tensor);
        }
        Ok(Self(parts))
    }

    /// The numbers of the parts that are there, one after the other, into `into`, which has room for just these.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub(crate) fn read_into(self, into: &mut [f32]) -> Result<()> {
        let mut at = 0;
        for part in self.0.into_iter().flatten() {
            let part = part.try_into_vec_as::<f32>().map_err(Error::device)?;
            into[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn lots_hold_whole_parts_and_leave_out_what_is_missing() {
        let device = Device::flex();
        let part = |from: usize, count: usize| {
            let numbers: Vec<f32> = (from..from + count).map(|n| n as f32).collect();
            Some(Tensor::<1>::from_data(TensorData::new(numbers, [count]), &device))
        };
        let vector = || Vector(vec![part(0, 3), None, part(3, 2), part(5, 7), None]);
        for numbers in [1, 4, 100] {
            let lots = std::cell::RefCell::new(Vec::new());
            let doubled = vector().in_lots(numbers, |lot| {
                lots.borrow_mut().push(lot.dims()[0]);
                lot.mul_scalar(2.0)
            });
            let expected = match numbers {
                1 => vec![3, 2, 7],
                4 => vec![5, 7],
                _ => vec![12],
            };
            assert_eq!(*lots.borrow(), expected);
            for (two, one) in doubled.0.into_iter().zip(vector().0) {
                let read = |part: Option<Tensor<1>>| part.map(|part| part.into_data().try_to_vec::<f32>().unwrap());
                assert_eq!(read(two), read(one.map(|part| part.mul_scalar(2.0))));
            }
        }
    }
}
