//! Adapters one behind the other: those of before are constants in use, and a fresh one trains beside them.
//!
//! ```text
//! y = x Wᵀ + s Σ_i x A_iᵀ B_iᵀ + s · drop(x) Aᵀ Bᵀ        one LoRA whose A and B are all of them, concatenated, with the same s
//! ```

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Lora, LoraConfig};
use crate::attach::{Attached, Choice, ModuleSpec, attach};
use crate::error::Result;
use crate::methods::common::{f32, invalid};
use crate::methods::{Delta, PeftConfig};
use crate::slots::constant;
use crate::target_module::{Adaptable, ModuleSlot};
use crate::targets::Kind;

/// The adapters before the one that trains, concatenated: constants.
#[derive(Module, Debug)]
pub struct Earlier {
    /// `[R, in]`.
    pub a: Tensor<2>,
    /// `[out, R]`.
    pub b: Tensor<2>,
}

impl Earlier {
    /// `s · x Aᵀ Bᵀ` in f32.
    pub(super) fn branch<const D: usize>(&self, x: Tensor<D>, scale: f64) -> Tensor<D> {
        let down = ft_kernels::linear(f32(x), self.a.clone()).mul_scalar(scale);
        ft_kernels::linear(down, self.b.clone())
    }
}

impl Lora {
    /// All adapters here with the one that trains as the last, as constants.
    pub(super) fn concatenated(&self) -> Earlier {
        let (a, b) = (constant(self.a.val()), constant(self.b.val()));
        match &self.earlier {
            None => Earlier { a, b },
            Some(earlier) => Earlier {
                a: Tensor::cat(vec![earlier.a.clone(), a], 0),
                b: Tensor::cat(vec![earlier.b.clone(), b], 1),
            },
        }
    }

    /// Adapters here, the one that trains included.
    pub(crate) fn stacked(&self) -> usize {
        let [rank, _] = self.a.dims();
        self.earlier
            .as_ref()
            .map_or(0, |earlier| earlier.a.dims()[0] / rank.max(1))
            + 1
    }
}

/// Whether adapters of this method can stand one behind the other and be written as one LoRA.
///
/// # Errors
/// Another method, and options whose sum is no LoRA: the error names them.
pub fn stackable(config: &PeftConfig, specs: &[ModuleSpec], choice: &Choice) -> Result<()> {
    let PeftConfig::Lora(lora) = config else {
        return Err(invalid(
            "method",
            format!("\"{}\" does not stack; take \"lora\"", config.name()),
        ));
    };
    let LoraConfig { dora, lora_bias, .. } = lora;
    let own = |paths: &[String]| !paths.is_empty();
    let table = |spec: &&ModuleSpec| spec.kind == Kind::Embedding && choice.adapted.contains(&spec.path);
    let wrong = match () {
        () if *dora => (
            "dora",
            "magnitudes of several adapters are no magnitude of their sum".into(),
        ),
        () if *lora_bias => ("lora_bias", "only A and B stack".into()),
        () if lora.moves_base() => ("init", "moves the base, which earlier adapters were trained on".into()),
        () if own(&choice.whole) => (
            "modules_to_save",
            "trains the base itself, which earlier adapters were trained on".into(),
        ),
        () if own(&choice.biases) => (
            "bias",
            "trains the base itself, which earlier adapters were trained on".into(),
        ),
        () if own(&choice.rows) => (
            "trainable_token_indices",
            "trains the base itself, which earlier adapters were trained on".into(),
        ),
        () => match specs.iter().find(table) {
            Some(spec) => (
                "targets",
                format!("{} is an embedding table, whose adapters do not stack", spec.path),
            ),
            None => return Ok(()),
        },
    };
    Err(invalid(wrong.0, wrong.1))
}

/// Makes every adapter of a [`stackable`] method a constant that stays in use, and attaches a fresh one beside it, whose starting values
/// depend on `seed` and each module's path alone.
///
/// # Errors
/// What [`attach`] refuses.
pub fn stack(model: &mut impl Adaptable, config: &PeftConfig, seed: u64) -> Result<Attached> {
    let mut earlier = HashMap::new();
    for module in model.target_modules() {
        if let ModuleSlot::Projection(slot) = &module.slot
            && let Some(Delta::Lora(lora)) = &slot.delta
        {
            earlier.insert(module.path.clone(), lora.concatenated());
        }
    }
    let attached = attach(model, config, seed)?;
    for module in model.target_modules() {
        if let ModuleSlot::Projection(slot) = module.slot
            && let Some(Delta::Lora(lora)) = &mut slot.delta
        {
            lora.earlier = earlier.remove(&module.path);
        }
    }
    Ok(attached)
}
