//! One optimizer step inside the backward pass (LOMO: Lv et al. 2023, arXiv:2306.09782): a parameter is updated as soon as its
//! gradient is complete, which then goes, so that the gradients of one segment are alive at a time.
//!
//! It takes the step that is taken after the backward pass, bit by bit: no block is computed again with a weight that has moved,
//! since the pass goes from the last block to the first. What that rules out is whatever needs all gradients at once: clipping
//! by their common norm, accumulation, leaving a step out when only a late gradient turns out to be no number, and taking it
//! again when memory runs out.

use std::collections::HashSet;
use std::ops::ControlFlow;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use ft_model::Model;
use ft_optim::{GradNorm, scale_and_clip};

use crate::batches::StepBatch;
use crate::engine::model::TrainModel;
use crate::engine::non_finite::Bad;
use crate::engine::session::{Session, Stepped};
use crate::watch::metrics::StepOutput;
use crate::{Error, Result};

/// Holds gradients back until no later piece of the backward pass can add to them, as the embeddings add to a tied head.
pub struct Complete {
    /// Multiplies every gradient.
    factor: f64,
    held: GradientsAccumulator<Model>,
    norms: Vec<GradNorm>,
}

impl Complete {
    /// For gradients that are multiplied by `factor`.
    pub fn new(factor: f64) -> Self {
        Self {
            factor,
            held: GradientsAccumulator::new(),
            norms: Vec::new(),
        }
    }

    /// What is complete with the gradients of a piece that leaves the blocks before `before` to come, and its norm.
    pub fn with(
        &mut self,
        model: &Model,
        grads: GradientsParams,
        before: Option<usize>,
    ) -> (GradientsParams, GradNorm) {
        self.held.accumulate(model, grads);
        let mut split = Split {
            later: before.map_or_else(HashSet::new, |block| model.params_before(block)),
            all: self.held.grads(),
            ready: GradientsParams::new(),
        };
        model.visit(&mut split);
        self.held.accumulate(model, split.all);
        let (ready, norm) = scale_and_clip(model, split.ready, self.factor, None);
        self.norms.push(norm.clone());
        (ready, norm)
    }

    /// The norm of all gradients so far together.
    pub fn norm(self) -> GradNorm {
        GradNorm::joined(self.norms)
    }
}

struct Split {
    later: HashSet<ParamId>,
    all: GradientsParams,
    ready: GradientsParams,
}

impl ModuleVisitor for Split {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.later.contains(&param.id) {
            return;
        }
        if let Some(grad) = self.all.remove::<D>(param.id) {
            self.ready.register(param.id, grad);
        }
    }
}

/// Why a step ended before its last piece.
enum Ended {
    /// Before anything was changed.
    Bad(Bad),
    /// The run ends with it.
    Failed(Error),
}

impl Session {
    /// One optimizer step inside the backward pass.
    pub(crate) fn step_in_backward(
        &mut self,
        slot: &mut Option<TrainModel>,
        batch: &StepBatch,
        lr: f64,
    ) -> Result<Stepped> {
        self.memory.begin();
        self.log.dump(self.state.step, lr, batch)?;
        let train = slot.take().ok_or_else(|| Error::Training("no model to train".into()))?;
        let (mut complete, mut moved, mut ended) = (None, false, None);
        let (train, output) = train.in_pieces(batch, |model, piece, output| {
            // The objective may have written a batch of its own.
            let mean = || Complete::new(1.0 / output.count.max(1) as f64);
            let (grads, norm) = complete
                .get_or_insert_with(mean)
                .with(&model, piece.grads, piece.before);
            let output = StepOutput {
                grad_norm: Some(norm),
                ..output.clone()
            };
            match self.accept_piece(&model, &grads, &output, batch, &mut moved) {
                Ok(()) => ControlFlow::Continue(self.optim.step(lr, model, grads)),
                Err(why) => {
                    ended = Some(why);
                    ControlFlow::Break(model)
                }
            }
        })?;
        *slot = Some(train);
        let output = StepOutput {
            grad_norm: complete.map(Complete::norm),
            ..output
        };
        let output = match ended {
            None => {
                self.grad_norm = output.grad_norm.clone();
                output
            }
            Some(Ended::Bad(bad)) => self.skip(bad, batch, output)?,
            Some(Ended::Failed(error)) => return Err(error),
        };
        Ok(Stepped {
            batch: batch.clone(),
            output,
            overflows: false,
        })
    }

    /// Looks at gradients that are about to be used, and takes note of them.
    fn accept_piece(
        &mut self,
        model: &Model,
        grads: &GradientsParams,
        output: &StepOutput,
        batch: &StepBatch,
        moved: &mut bool,
    ) -> std::result::Result<(), Ended> {
        let judged = self
            .guard
            .as_ref()
            .map(|guard| guard.judge(output))
            .transpose()
            .map_err(Ended::Failed)?;
        if let Some(bad) = judged.flatten() {
            return Err(match moved {
                true => Ended::Failed(self.half_done(bad)),
                false => Ended::Bad(bad),
            });
        }
        if !*moved && !grads.is_empty() {
            self.count_loss(output).map_err(Ended::Failed)?;
            *moved = true;
        }
        if let Some(check) = &mut self.check {
            check.look(model, grads, batch, None);
        }
        Ok(())
    }

    fn half_done(&self, bad: Bad) -> Error {
        Error::HalfDone {
            step: self.state.step + 1,
            grad_norm: bad.grad_norm,
            last: self.saver.last(),
        }
    }
}
