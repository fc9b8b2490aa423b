//! A step that several processes take together.
//!
//! ```text
//! every rank    the whole step batch (samples are a function of seed and step) ─> its share of the forward passes ─> sums, counts
//! together      gradients, losses, figures added up over the ranks, in a fixed order ─> the step of one process, at every rank
//! ```
//!
//! What is summed is over units, and divided once by the units of the whole step, so that every target token weighs alike wherever it
//! was. Whatever follows (penalties, projections, clipping, the optimizer) every rank does for itself with the same bits.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use burn::train::TrainOutput;
use ft_optim::squares_of_each;
use ft_ranks::Ranks;

use crate::batches::deal::owners;
use crate::batches::{MicroBatch, StepBatch};
use crate::continual::vector::Vector;
use crate::engine::memory_limit::attempt;
use crate::engine::model::TrainModel;
use crate::objectives::{Figure, HeldOut};
use crate::watch::metrics::{StepOutput, Sum};
use crate::{Error, Result};

/// The forward passes of a step that are this rank's; all of them where there is no other.
pub(crate) fn share<'b>(batch: &'b StepBatch, ranks: &Ranks) -> Vec<&'b MicroBatch> {
    let cells: Vec<usize> = batch
        .micro_batches
        .iter()
        .map(|m| m.batch.rows * m.batch.width)
        .collect();
    let owned = batch.micro_batches.iter().zip(owners(&cells, ranks.size()));
    owned
        .filter(|(_, owner)| *owner == ranks.rank())
        .map(|(micro, _)| micro)
        .collect()
}

impl TrainModel {
    /// The gradients of a step over all ranks. Every rank gets the same ones, or the same failure where memory ran out at any of them.
    pub(super) fn gradients_together(&self, batch: &StepBatch) -> Result<Option<TrainOutput<StepOutput>>> {
        let local = attempt(|| {
            let own = share(batch, &self.ranks);
            let TrainOutput { grads, item } = self.passes(&own, batch);
            let item = item.read()?;
            let figures = item.figures()?;
            let own = Vector::of(&self.model, &grads);
            // Each is let go once it is read.
            drop(grads);
            Ok((self.ranks.ready(&self.model, own)?, item, figures))
        })?;
        let count = self.objective.unit().of(batch.totals());
        if self.ranks.any(local.is_none())? {
            return Err(Error::Device("out of memory at one of the ranks".into()));
        }
        let Some((own, item, figures)) = local else {
            return Ok(None);
        };
        let said = HeldOut {
            loss: item.mean_loss()? * item.count.max(1) as f64,
            count,
            nll: None,
            figures: item
                .figures
                .iter()
                .zip(figures)
                .map(|(figure, (name, mean))| (name, mean * figure.count.max(1) as f64, figure.count))
                .collect(),
            said: None,
        };
        let said = all_of(&self.ranks, &[said])?;
        if said.iter().any(|of| of[0].count != count) {
            let why = "ranks do not agree on what a step is made of: the processors differ in what the model answers; run on machines of one kind";
            return Err(Error::Training(why.into()));
        }
        let sum = self.ranks.sum(&self.model, own)?;
        let device = self.model.device().without_autodiff();
        let together = HeldOut::together(said.into_iter().flatten().collect());
        let figure = |(name, sum, count): (&'static str, f64, usize)| Figure {
            name,
            sum: Tensor::from_data(TensorData::new(vec![sum as f32], [1]), (&device, DType::F32)),
            count,
        };
        Ok(Some(TrainOutput {
            grads: sum.into_grads(&self.model),
            item: StepOutput {
                loss: Sum::Host(together.loss),
                count,
                figures: together.figures.into_iter().map(figure).collect(),
                grad_norm: None,
                tokens_per_s: 0.0,
            },
        }))
    }
}

/// The sum of squares of all gradients where each rank has those of its own parameters: added up in the order of the model, as one that has all
/// adds them up.
pub(crate) fn squares<M: Module>(ranks: &Ranks, module: &M, own: &GradientsParams) -> Result<f64> {
    let own = squares_of_each(module, own).map_err(Error::device)?;
    let bytes: Vec<u8> = own.iter().flat_map(|squares| squares.to_le_bytes()).collect();
    let mut each = vec![0.0; own.len()];
    for of_rank in ranks.all_gather(&bytes)? {
        let (numbers, _) = of_rank.as_chunks();
        let numbers = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes));
        each.iter_mut().zip(numbers).for_each(|(sum, own)| *sum += own);
    }
    Ok(each.into_iter().fold(0.0, |sum, squares| sum + squares))
}

/// What all ranks have judged, in their order.
pub(crate) fn all_of(ranks: &Ranks, own: &[HeldOut]) -> Result<Vec<Vec<HeldOut>>> {
    let written: Vec<_> = own.iter().map(HeldOut::to_bits).collect();
    let bytes = serde_json::to_vec(&written).unwrap_or_default();
    let read = |bytes: Vec<u8>| {
        let parts = serde_json::from_slice::<Vec<_>>(&bytes);
        let parts = parts.map_err(|e| Error::Training(format!("what a rank has sent cannot be read: {e}")))?;
        Ok(parts.into_iter().map(HeldOut::from_bits).collect())
    };
    ranks.all_gather(&bytes)?.into_iter().map(read).collect()
}

/// What all ranks have judged, added up part by part.
pub(crate) fn added(ranks: &Ranks, own: &[HeldOut]) -> Result<Vec<HeldOut>> {
    let mut sums = vec![HeldOut::default(); own.len()];
    for of_rank in all_of(ranks, own)? {
        sums.iter_mut().zip(of_rank).for_each(|(sum, part)| sum.add(part));
    }
    Ok(sums)
}
