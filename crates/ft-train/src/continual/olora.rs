//! Orthogonal low-rank adaptation (O-LoRA): every task has a fresh LoRA, which is held out of the subspaces of those before.
//!
//! ```text
//! y = x Wᵀ + s Σ_i x A_iᵀ B_iᵀ        i: the tasks so far; only A_t and B_t of the present one train
//! L = L_task + λ Σ_(i<t) Σ_jk |A_i A_tᵀ|_jk        summed over the adapted modules
//! ```
//!
//! Wang et al. 2023, arXiv:2310.14152, eq. 6 to 8. The paper squares the products, its code takes their absolute values, and so does this. The rows
//! of A_i span the directions that task i reads its input in. The result is one LoRA of all ranks together, which PEFT loads. The penalty is
//! no part of the loss that is logged.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use ft_model::Model;
use ft_peft::{Adaptable, Delta, ModuleSlot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Copies, Next, Setting, Strategy, StrategyKind, at_least_zero};

/// Options of orthogonal low-rank adaptation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OloraConfig {
    /// λ: weight of the penalty.
    pub lambda: f64,
}

impl Default for OloraConfig {
    fn default() -> Self {
        Self { lambda: 0.5 }
    }
}

impl StrategyKind for OloraConfig {
    fn check(&self) -> Vec<String> {
        at_least_zero("lambda", self.lambda).into_iter().collect()
    }

    fn next(&self) -> Option<Next> {
        Some(Next::Freeze)
    }

    fn copies(&self, _: usize) -> Copies {
        Copies {
            // The penalty's gradient to A, and the sum.
            in_step: 2,
            ..Copies::default()
        }
    }

    fn build(&self, _: Setting) -> Box<dyn Strategy> {
        Box::new(Olora {
            options: *self,
            overlap: None,
        })
    }
}

struct Olora {
    options: OloraConfig,
    /// Σ |A_i A_tᵀ| in the last step, `[1]`.
    overlap: Option<Tensor<1>>,
}

/// Σ |A_i A_tᵀ| over the modules that have adapters of earlier tasks, `[1]`, with a tape to A_t.
fn overlap(model: &Model) -> Option<Tensor<1>> {
    // The copy shares every tensor; a list of places needs a model of its own.
    let mut model = model.clone();
    let of = |slot: &ModuleSlot<'_>| {
        let ModuleSlot::Projection(slot) = slot else {
            return None;
        };
        let Some(Delta::Lora(lora)) = &slot.delta else {
            return None;
        };
        let earlier = lora.earlier.as_ref()?;
        Some(earlier.a.clone().matmul(lora.a.val().transpose()).abs().sum())
    };
    let modules = model.target_modules();
    modules
        .iter()
        .filter_map(|module| of(&module.slot))
        .reduce(|a, b| a + b)
}

impl Strategy for Olora {
    fn penalize(&mut self, model: &Model, grads: GradientsParams, count: usize) -> GradientsParams {
        if self.options.lambda == 0.0 {
            return grads;
        }
        let Some(overlap) = overlap(model) else { return grads };
        self.overlap = Some(overlap.clone().inner());
        let own = overlap.mul_scalar(self.options.lambda * count.max(1) as f64).backward();
        let mut both = GradientsAccumulator::new();
        both.accumulate(model, grads);
        both.accumulate(model, GradientsParams::from_grads(own, model));
        both.grads()
    }

    fn report(&self, line: &mut Map<String, Value>) {
        if let Some(overlap) = &self.overlap {
            line.insert("overlap".into(), f64::from(overlap.clone().into_scalar::<f32>()).into());
        }
    }
}
