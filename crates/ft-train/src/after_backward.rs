//! One optimizer step after the backward pass, which is how steps are taken where nothing else is asked for.

use burn::optim::GradientsParams;

use crate::Result;
use crate::feed::Window;
use crate::metrics::{StepOutput, Sum};
use crate::model::TrainModel;
use crate::room::Tried;
use crate::session::{Session, Stepped};

impl Session {
    /// One optimizer step with all gradients at hand.
    pub(crate) fn step_after_backward(
        &mut self,
        slot: &mut Option<TrainModel>,
        window: &Window,
        lr: f64,
    ) -> Result<Option<Stepped>> {
        let Some((window, tried)) = self.fitting(slot.as_ref(), window)? else {
            return Ok(None);
        };
        let Tried {
            output,
            grads,
            overflows,
            bad,
        } = tried;
        self.dump(&window, lr)?;
        let output = match bad {
            _ if overflows => self.left_out(output),
            Some(bad) => self.skip(bad, &window, output)?,
            None => {
                self.accept(slot.as_ref(), &output, &grads, &window)?;
                *slot = slot.take().map(|train| TrainModel {
                    model: self.optim.step(lr, train.model, grads),
                    ..train
                });
                output
            }
        };
        Ok(Some(Stepped {
            window,
            output,
            overflows,
        }))
    }

    /// Takes note of a step that is about to be taken.
    fn accept(
        &mut self,
        model: Option<&TrainModel>,
        output: &StepOutput,
        grads: &GradientsParams,
        window: &Window,
    ) -> Result<()> {
        if let Some(model) = model {
            if let Some(check) = &mut self.check {
                check.look(&model.model, grads);
            }
            self.method.observe(model, grads);
        }
        self.grad_norm = output.grad_norm.clone();
        match &output.nll {
            Sum::Device(nll) => self.count_loss(nll, window),
            Sum::Host(_) => Ok(()),
        }
    }
}
