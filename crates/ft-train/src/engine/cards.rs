//! Sums between the CUDA cards of one process, which never leave them: NCCL, as Burn reaches it. The library is opened by the first sum.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ft_model::Model;
use ft_ranks::Ranks;

use crate::Result;
use crate::continual::vector::Vector;

/// The cards of all ranks, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Cards(Arc<[Device]>);

/// Numbers that go in one sum: many small tensors in one, and no large copy.
const AT_ONCE: usize = 1 << 24;

impl Cards {
    /// The same at every rank.
    pub fn new(devices: impl IntoIterator<Item = Device>) -> Self {
        Self(devices.into_iter().collect())
    }

    /// The sum of a vector over the cards; what is missing at all of them is missing.
    pub fn sum(&self, model: &Model, own: Vector, ranks: &Ranks) -> Result<Vector> {
        let mut there = own.there();
        ranks.sum(&mut there)?;
        let there: Vec<bool> = there.into_iter().map(|count| count > 0.0).collect();
        Ok(own
            .filled(model, &there)
            .in_lots(AT_ONCE, |numbers| self.all_reduce(numbers)))
    }

    fn all_reduce(&self, numbers: Tensor<1>) -> Tensor<1> {
        all_reduce(numbers, ReduceOperation::Sum, self.0.to_vec()).resolve()
    }

    /// Whether a sum comes out right, found by all ranks together before the first step.
    pub fn work(&self, ranks: &Ranks) -> Result<bool> {
        let (own, device) = (ranks.rank() as f32 + 1.0, &self.0[ranks.rank()]);
        let expected = (ranks.size() * (ranks.size() + 1) / 2) as f32;
        let right = || {
            let numbers = TensorData::new(vec![own; 1000], [1000]);
            let sum = self.all_reduce(Tensor::from_data(numbers, (device, DType::F32)));
            let sum = sum.try_into_vec_as::<f32>();
            sum.is_ok_and(|sum| sum.len() == 1000 && sum.iter().all(|number| *number == expected))
        };
        let right = catch_unwind(AssertUnwindSafe(right)).unwrap_or(false);
        Ok(!ranks.any(!right)?)
    }
}
