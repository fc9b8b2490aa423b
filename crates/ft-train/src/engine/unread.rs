//! Losses that are still on the device: reading one waits for everything before it, so that they are read together, when a line of the log
//! or a checkpoint needs them.

use burn::tensor::Tensor;

use crate::checkpoint::Pending;
use crate::objectives::Figure;
use crate::watch::metrics::{StepOutput, Sum};
use crate::{Error, Result};

/// The losses of the steps since the last reading.
#[derive(Default)]
pub struct Unread(Vec<StepLoss>);

struct StepLoss {
    step: usize,
    loss: Sum,
    count: usize,
    figures: Vec<Figure>,
}

impl StepLoss {
    /// What of loss and figures is on the device, `[1]` each.
    fn sums(&self) -> impl Iterator<Item = Tensor<1>> {
        let loss = match &self.loss {
            Sum::Host(_) => None,
            Sum::Device(loss) => Some(Tensor::clone(loss)),
        };
        let figures = self.figures.iter().map(|figure| figure.sum.clone());
        loss.into_iter().chain(figures)
    }
}

impl Unread {
    /// Takes in what `step` comes to.
    pub fn push(&mut self, step: usize, output: &StepOutput) {
        self.0.push(StepLoss {
            step,
            loss: output.loss.clone(),
            count: output.count,
            figures: output.figures.clone(),
        });
    }

    /// Reads them into `pending`.
    ///
    /// # Errors
    /// The first that is no number, with `last` as the newest checkpoint.
    pub fn read(&mut self, pending: &mut Pending, last: String) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let unread = std::mem::take(&mut self.0);
        let sums: Vec<Tensor<1>> = unread.iter().flat_map(StepLoss::sums).collect();
        let sums: Vec<f32> = match sums.is_empty() {
            true => Vec::new(),
            false => Tensor::cat(sums, 0).try_into_vec_as::<f32>().map_err(Error::device)?,
        };
        let mut sums = sums.into_iter().map(f64::from);
        for StepLoss {
            step,
            loss,
            count,
            figures,
        } in unread
        {
            let sum = match loss {
                Sum::Host(sum) => sum,
                Sum::Device(_) => sums.next().unwrap_or(f64::NAN),
            };
            if !sum.is_finite() {
                let loss = sum / count as f64;
                return Err(Error::Diverged { step, loss, last });
            }
            pending.loss.0 += sum;
            pending.count += count as u64;
            for (figure, sum) in figures.iter().zip(&mut sums) {
                pending.add(figure.name, sum, figure.count);
            }
        }
        Ok(())
    }
}
