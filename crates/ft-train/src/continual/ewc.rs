//! Elastic weight consolidation: what mattered to earlier tasks is held where it was.
//!
//! ```text
//! L = L_task + Σ_k λ/2 Σ_i F_k,i (θ_i - θ*_k,i)²        k: earlier tasks, θ*_k: the values after task k
//! ```
//!
//! Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3. F is estimated after a task from single samples (see `fisher`), per target token, so
//! that λ = 1 is Laplace's approximation of what the earlier task's own loss would be, token for token; practice takes more. The
//! quadratics of several tasks sum to one around their weighted mean, so that two copies of what trains are kept, whatever the number of
//! tasks. Adapters go on from task to task; F and θ* are of them.

use std::collections::HashMap;

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use ft_model::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::vector::Vector;
use super::{Copies, FisherKind, Now, Setting, Strategy, StrategyKind, at_least_one, at_least_zero, fisher};
use crate::Result;

/// Options of elastic weight consolidation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EwcConfig {
    /// λ: weight of the penalty.
    pub lambda: f64,
    /// Whose answers the Fisher information is of.
    pub fisher: FisherKind,
    /// Samples of a task that it is estimated from, one by one.
    pub fisher_samples: usize,
}

impl Default for EwcConfig {
    fn default() -> Self {
        Self {
            lambda: 100.0,
            fisher: FisherKind::default(),
            fisher_samples: 200,
        }
    }
}

impl StrategyKind for EwcConfig {
    fn check(&self) -> Vec<String> {
        let wrong = at_least_zero("lambda", self.lambda).into_iter();
        wrong
            .chain(at_least_one("fisher_samples", self.fisher_samples))
            .collect()
    }

    fn needs_likelihood(&self) -> bool {
        true
    }

    fn copies(&self, _: usize) -> Copies {
        COPIES
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Consolidation::new(*self, None, setting))
    }
}

/// F and θ*; the gradient of the penalty, and the sum with that of the step.
pub(super) const COPIES: Copies = Copies {
    kept: 2,
    in_step: 2,
    teaches: false,
};

/// The penalty of EWC, also with one anchor and a Fisher information that fades.
pub(super) struct Consolidation {
    options: EwcConfig,
    /// What of the Fisher information of earlier tasks stays when a task ends; the anchor is then the last task's.
    gamma: Option<f64>,
    setting: Setting,
    /// F and θ*, once a task has ended.
    held: Option<Held>,
    /// The penalty in the last step, `[1]`.
    penalty: Option<Tensor<1>>,
}

struct Held {
    fisher: Vector,
    anchor: Vector,
}

impl Consolidation {
    pub fn new(options: EwcConfig, gamma: Option<f64>, setting: Setting) -> Self {
        Self {
            options,
            gamma,
            setting,
            held: None,
            penalty: None,
        }
    }
}

impl Held {
    /// With the information `new` of a task whose weights are `values`.
    fn and(self, new: Vector, values: Vector, gamma: Option<f64>) -> Self {
        let Some(gamma) = gamma else {
            // Σ F_k (θ - θ*_k)² is (Σ F_k) (θ - mean)² and a constant, the mean weighted by F.
            let fisher = self.fisher.plus(&new, 1.0);
            let share = new.map2(&fisher, |new, all| new / all.clamp_min(f64::from(f32::MIN_POSITIVE)));
            let way = values.plus(&self.anchor, -1.0);
            let anchor = self.anchor.plus(&share.map2(&way, |share, way| share * way), 1.0);
            return Self { fisher, anchor };
        };
        Self {
            fisher: new.plus(&self.fisher, gamma),
            anchor: values,
        }
    }
}

impl Strategy for Consolidation {
    fn penalize(&mut self, model: &Model, grads: GradientsParams, count: usize) -> GradientsParams {
        let Some(Held { fisher, anchor }) = &self.held else {
            return grads;
        };
        let way = Vector::values(model).plus(anchor, -1.0);
        let pull = way.clone().map2(fisher, |way, fisher| fisher * way);
        let energy = pull.clone().map2(&way, |pull, way| pull * way).total();
        self.penalty = energy.map(|energy| energy.mul_scalar(self.options.lambda / 2.0));
        let factor = self.options.lambda * count.max(1) as f64;
        Vector::of(model, &grads).plus(&pull, factor).into_grads(model)
    }

    fn end_task(&mut self, task: usize, now: &Now<'_>) -> Result<bool> {
        let rows = self.setting.memory(self.options.fisher_samples, task);
        let Some(fisher) = fisher::estimate(&rows, self.options.fisher, &self.setting, now)? else {
            return Ok(false);
        };
        let values = Vector::values(now.model).copied();
        self.held = Some(match self.held.take() {
            None => Held { fisher, anchor: values },
            Some(held) => held.and(fisher, values, self.gamma),
        });
        Ok(true)
    }

    fn report(&self, line: &mut Map<String, Value>) {
        if let Some(penalty) = &self.penalty {
            line.insert("penalty".into(), f64::from(penalty.clone().into_scalar::<f32>()).into());
        }
    }

    fn state(&self, model: &Model) -> Vec<(String, TensorData)> {
        self.held.as_ref().map_or(Vec::new(), |held| {
            let parts = [held.fisher.saved("fisher", model), held.anchor.saved("anchor", model)];
            parts.concat()
        })
    }

    fn load_state(&mut self, model: &Model, tensors: Vec<(String, TensorData)>) -> std::result::Result<(), String> {
        if tensors.is_empty() {
            return Ok(());
        }
        let mut tensors: HashMap<String, TensorData> = tensors.into_iter().collect();
        self.held = Some(Held {
            fisher: Vector::load("fisher", model, &mut tensors)?,
            anchor: Vector::load("anchor", model, &mut tensors)?,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn vector(values: &[f32]) -> Vector {
        Vector::from(vec![Tensor::from_floats(values, &Device::flex())])
    }

    /// The gradient of the summed quadratics is that of one quadratic each.
    #[test]
    fn quadratics_of_several_tasks_are_one_around_their_weighted_mean() {
        let tasks = [
            ([1.0f32, 0.0, 2.0], [0.5f32, 1.0, -1.0]),
            ([3.0, 0.0, 0.0], [1.5, 2.0, 4.0]),
            ([0.5, 2.0, 1.0], [0.0, -1.0, 3.0]),
        ];
        let mut held = Held {
            fisher: vector(&tasks[0].0),
            anchor: vector(&tasks[0].1),
        };
        for (fisher, values) in &tasks[1..] {
            held = held.and(vector(fisher), vector(values), None);
        }
        let theta = [0.3f32, -0.7, 1.1];
        let way = vector(&theta).plus(&held.anchor, -1.0);
        let found = way.map2(&held.fisher, |way, fisher| way * fisher);
        for i in 0..3 {
            let expected: f32 = tasks.iter().map(|(f, a)| f[i] * (theta[i] - a[i])).sum();
            let mut unit = [0.0f32; 3];
            unit[i] = 1.0;
            assert!((found.dot(&vector(&unit)) - f64::from(expected)).abs() < 1e-5);
        }
    }

    #[test]
    fn online_the_information_fades_and_the_anchor_moves() {
        let held = Held {
            fisher: vector(&[1.0, 2.0]),
            anchor: vector(&[5.0, 5.0]),
        };
        let held = held.and(vector(&[0.5, 0.0]), vector(&[1.0, 2.0]), Some(0.5));
        assert_eq!(held.fisher.dot(&vector(&[1.0, 10.0])), 1.0 + 10.0);
        assert_eq!(held.anchor.dot(&vector(&[1.0, 10.0])), 21.0);
    }
}
