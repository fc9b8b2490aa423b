//! Looks at the first gradients: every trainable tensor must receive one that is finite and not zero.
//!
//! LoRA starts with B = 0, so A's first gradient is zero by design, and stays so until a step with a learning rate above
//! zero has moved B (with warmup, the first rate is 0). The check therefore goes on until one gradient has been seen
//! after such a step, and a tensor passes if any of its gradients was good.
//!
//! Rows of an embedding table that train alone learn from the input side only where their tokens stand. Over a head of its own
//! their gradient may therefore be zero while no batch holds one of them; over a tied head it never is.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};
use ft_data::Batch;
use ft_optim::{NamedParameter, named_parameters};
use ft_peft::methods::trainable_tokens::Token;

use crate::batches::StepBatch;
use crate::{Error, Result};

/// What a tensor has received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Received {
    Good,
    Zero,
    Nothing,
    NotFinite,
}

/// The state of the check.
#[derive(Debug, Default)]
pub struct GradientCheck {
    /// Tokens whose rows train alone, where the head has a matrix of its own.
    rows: HashSet<i32>,
    received: BTreeMap<String, Received>,
    /// A step above learning rate zero has been taken.
    moved: bool,
    /// A gradient was seen after it.
    seen_after: bool,
}

impl GradientCheck {
    /// For a model in which the rows of these tokens train alone. They are looked at in any case where the head is tied to the
    /// table.
    pub fn new(tokens: &[Token], tied: bool) -> Self {
        let id = |token: &Token| match token {
            Token::Id(id) if !tied => Some(*id as i32),
            _ => None,
        };
        Self {
            rows: tokens.iter().filter_map(id).collect(),
            ..Self::default()
        }
    }

    /// Whether rows that train alone may have learned nothing from `batch`: none of them was looked up where it matters.
    fn rows_rest(&self, batch: &StepBatch) -> bool {
        let matters = |batch: &Batch| {
            // Nothing that stands behind the last position of a sequence that predicts a target has a gradient.
            let mut last = vec![0; batch.sequences()];
            for (at, of) in batch.positions.iter().zip(&batch.sequence_of) {
                last[*of as usize] = *at as usize + 1;
            }
            let reached = batch.starts.iter().zip(last).filter(|(start, end)| *start < end);
            let mut ids = reached.flat_map(|(start, end)| &batch.ids[*start..end]);
            ids.any(|id| self.rows.contains(id))
        };
        !self.rows.is_empty() && !batch.micro_batches.iter().any(|micro| matters(&micro.batch))
    }

    /// Takes in the gradients of one step: of all that trains, or of what is in `own`, where other ranks have those of the rest.
    pub fn look<M: Module>(
        &mut self,
        module: &M,
        grads: &GradientsParams,
        batch: &StepBatch,
        own: Option<&HashSet<ParamId>>,
    ) {
        let rows_rest = self.rows_rest(batch);
        let mut sums = Sums {
            grads,
            ids: Vec::new(),
            sums: Vec::new(),
        };
        module.visit(&mut sums);
        let values = read(sums.sums);
        let values: BTreeMap<ParamId, f32> = sums.ids.into_iter().zip(values).collect();
        let of_others = |param: &NamedParameter| own.is_some_and(|own| !own.contains(&param.id));
        for param in named_parameters(module).into_iter().filter(|param| !of_others(param)) {
            let now = match values.get(&param.id) {
                None => Received::Nothing,
                Some(sum) if !sum.is_finite() => Received::NotFinite,
                Some(0.0) if rows_rest && param.path.ends_with("trainable_tokens_delta") => Received::Good,
                Some(0.0) => Received::Zero,
                Some(_) => Received::Good,
            };
            let before = self.received.entry(param.path).or_insert(now);
            *before = match (*before, now) {
                (Received::NotFinite, _) | (_, Received::NotFinite) => Received::NotFinite,
                (a, b) => a.min(b),
            };
        }
        self.seen_after = self.moved;
    }

    /// Notes that a step was taken at this learning rate; true when enough has been seen.
    pub fn step_taken(&mut self, lr: f64) -> bool {
        self.moved |= lr > 0.0;
        self.seen_after || self.received.values().all(|r| *r == Received::Good)
    }

    /// Fails with the tensors that no good gradient has reached.
    pub fn verdict(&self, steps: usize) -> Result<()> {
        let bad = self.received.iter().filter_map(|(path, received)| {
            let what = match received {
                Received::Good => return None,
                Received::Zero => "zeros",
                Received::Nothing => "nothing: the loss does not depend on it",
                Received::NotFinite => "NaN or infinity",
            };
            Some(format!("{path}: {what}"))
        });
        let tensors: Vec<String> = bad.collect();
        if tensors.is_empty() {
            Ok(())
        } else {
            Err(Error::Gradients { steps, tensors })
        }
    }
}

/// One number per gradient, read from the device in one go.
fn read(sums: Vec<Tensor<1>>) -> Vec<f32> {
    if sums.is_empty() {
        return Vec::new();
    }
    Tensor::cat(sums, 0)
        .into_data()
        .convert::<f32>()
        .try_to_vec()
        .unwrap_or_default()
}

struct Sums<'a> {
    grads: &'a GradientsParams,
    ids: Vec<ParamId>,
    /// Sum of magnitudes of each gradient, `[1]`: NaN and infinity survive it, and only zeros add up to zero.
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Sums<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.ids.push(param.id);
            self.sums.push(grad.cast(FloatDType::F32).abs().sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    use crate::batches::MicroBatch;

    #[derive(Module, Debug)]
    struct Pair {
        a: Param<Tensor<1>>,
        b: Param<Tensor<1>>,
        idle: Param<Tensor<1>>,
    }

    fn pair(b: f32) -> Pair {
        let device = Device::flex().autodiff();
        let param = |x: f32| Param::from_tensor(Tensor::<1>::from_floats([x], &device));
        Pair {
            a: param(2.0),
            b: param(b),
            idle: param(1.0),
        }
    }

    fn grads(m: &Pair, scale: f32) -> GradientsParams {
        GradientsParams::from_grads((m.a.val() * m.b.val() * scale).backward(), m)
    }

    /// A step over the ids 5 6 7, whose last token is the only target.
    fn step() -> StepBatch {
        let sample = ft_data::Sample::new(vec![5, 6, 7], vec![false, false, true]);
        let micro = MicroBatch {
            batch: Batch::new(&[&sample], 0, 1),
            dropout_seed: 0,
        };
        StepBatch::new(0, vec![micro])
    }

    #[derive(Module, Debug)]
    struct Rows {
        trainable_tokens_delta: Param<Tensor<1>>,
    }

    /// Of rows whose gradient is zero for two steps.
    fn verdict(tokens: &[u32], tied: bool) -> Result<()> {
        let tokens: Vec<Token> = tokens.iter().map(|id| Token::Id(*id)).collect();
        let mut check = GradientCheck::new(&tokens, tied);
        let device = Device::flex().autodiff();
        let rows = Rows {
            trainable_tokens_delta: Param::from_tensor(Tensor::<1>::from_floats([1.0], &device)),
        };
        for _ in 0..2 {
            let loss = rows.trainable_tokens_delta.val() * 0.0;
            check.look(
                &rows,
                &GradientsParams::from_grads(loss.backward(), &rows),
                &step(),
                None,
            );
            check.step_taken(0.1);
        }
        check.verdict(2)
    }

    #[test]
    fn rows_may_rest_only_where_no_batch_looks_them_up_and_the_head_is_not_tied() {
        assert!(verdict(&[9], false).is_ok());
        assert!(verdict(&[7], false).is_ok(), "the last token predicts nothing");
        for (tokens, tied) in [(&[6, 9], false), (&[9, 7], true)] {
            let error = verdict(tokens, tied).unwrap_err().to_string();
            assert!(error.contains("trainable_tokens_delta: zeros"), "{error}");
        }
    }

    #[test]
    fn zero_at_first_is_fine_for_lora_and_nothing_at_all_is_named() {
        let mut check = GradientCheck::default();
        let first = pair(0.0);
        check.look(&first, &grads(&first, 1.0), &step(), None);
        assert!(!check.step_taken(0.0), "warmup starts at rate 0: nothing has moved yet");
        check.look(&first, &grads(&first, 1.0), &step(), None);
        assert!(!check.step_taken(0.1));
        let second = pair(0.5);
        check.look(&second, &grads(&second, 1.0), &step(), None);
        assert!(check.step_taken(0.1));
        let error = check.verdict(3).unwrap_err().to_string();
        assert!(error.contains("idle: nothing") && !error.contains("a: "), "{error}");
    }

    #[test]
    fn a_gradient_that_is_no_number_is_named() {
        let mut check = GradientCheck::default();
        let m = pair(0.5);
        check.look(&m, &grads(&m, f32::INFINITY), &step(), None);
        check.step_taken(0.1);
        check.look(&m, &grads(&m, 1.0), &step(), None);
        let error = check.verdict(2).unwrap_err().to_string();
        assert!(error.contains("a: NaN or infinity"), "{error}");
    }
}
