//! LoRA adapters side by side in one module, each for some rows of a batch (PEFT's `adapter_names`).

use std::sync::{Arc, RwLock};

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, s};

use super::Lora;
use crate::methods::common::f32;
use crate::methods::{Base, ParamMut, WeightDelta};
use crate::pass::Pass;

/// Which adapter each row of the running batch takes; `None` is the base. Shared by all modules of a model: whoever forms the
/// batches sets it before each forward pass.
#[derive(Clone, Debug, Default)]
pub struct RowChoice(Arc<RwLock<Vec<Option<usize>>>>);

impl RowChoice {
    /// Sets the adapters of the rows of the next batch.
    pub fn set(&self, rows: Vec<Option<usize>>) {
        *self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = rows;
    }

    /// The rows that take this adapter, ascending.
    fn of(&self, adapter: usize, batch: usize) -> Vec<i32> {
        let rows = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert_eq!(rows.len(), batch, "every row of the batch has a choice");
        let taking = (0..).zip(rows.iter()).filter(|(_, choice)| **choice == Some(adapter));
        taking.map(|(row, _)| row).collect()
    }
}

/// The adapters of a projection.
#[derive(Module, Debug)]
pub struct Mixed {
    loras: Vec<Lora>,
    /// Number of each in the set; an adapter need not act here.
    #[module(skip)]
    numbers: Vec<usize>,
    #[module(skip)]
    rows: RowChoice,
}

impl Mixed {
    /// One adapter, or none, for each of the set.
    pub(crate) fn new(loras: Vec<Option<Lora>>, rows: RowChoice) -> Self {
        let here = loras
            .into_iter()
            .enumerate()
            .filter_map(|(number, lora)| Some((number, lora?)));
        let (numbers, loras) = here.unzip();
        Self { loras, numbers, rows }
    }
}

impl WeightDelta for Mixed {
    /// x `[batch, seq, in]` to `[batch, seq, out]`.
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, _: &Pass) -> Tensor<D> {
        let (batch, device) = (x.dims()[0], x.device());
        let mut y = base.forward(x.clone());
        for (lora, number) in self.loras.iter().zip(&self.numbers) {
            let rows = self.rows.of(*number, batch);
            if rows.is_empty() {
                continue;
            }
            let branch = |x: Tensor<D>| lora.low_rank().branch(f32(x)).cast(y.dtype());
            let (first, count) = (rows[0] as usize, rows.len());
            y = match (rows[count - 1] as usize + 1 - first == count, count == batch) {
                (true, true) => {
                    let part = branch(x.clone());
                    y + part
                }
                // Side by side: added where they lie, not gathered.
                (true, false) => {
                    let part = branch(x.clone().narrow(0, first, count));
                    let sum = y.clone().narrow(0, first, count) + part;
                    y.slice_assign(s![first..first + count], sum)
                }
                (false, _) => {
                    let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &device);
                    let part = branch(x.clone().select(0, rows.clone()));
                    y.select_assign(0, rows, part, IndexingUpdateOp::Add)
                }
            };
        }
        y
    }

    fn fold(&self, _: Tensor<2>, _: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        unreachable!("refused by `mergeable`")
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        Vec::new()
    }
}
