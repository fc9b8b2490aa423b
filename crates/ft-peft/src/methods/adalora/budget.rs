//! When how many triplets are left, which ones, and the penalty.
//!
//! ```text
//! importance    i = |p · ∂p| after every step      ī ← β₁ ī + (1 - β₁) i      ū ← β₂ ū + (1 - β₂) |i - ī|
//! of a triplet  s(Eᵢ) + mean s(Aᵢ) + mean s(Bᵢ)      s = ī ū for every number
//! budget        b(t) = target + (init - target) (1 - (t - tinit)/(T - tfinal - tinit))³, summed over the modules
//! ```
//!
//! Every `deltaT` steps, and once at T - tfinal, E becomes 0 for all but the b(t) most important triplets of all modules
//! together. In between they train on and may grow again; after T - tfinal the choice is final. A module may be left without
//! any. With `init_r = target_r` nothing is ever taken away.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use serde_json::{Map, Value, json};

use super::{AdaLora, AdaLoraConfig, indices};
use crate::error::{Error, Result};
use crate::methods::Delta;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::training_hook::TrainingHook;

/// The matrices of a module, in this order everywhere here.
const NAMES: [&str; 3] = ["lora_A", "lora_B", "lora_E"];
const IMPORTANCE: &str = "exp_avg_ipt";
const UNCERTAINTY: &str = "exp_avg_unc";
const PATTERN: &str = "rank_pattern";

/// Running means of one matrix, of its shape.
#[derive(Clone, Debug)]
struct Means {
    importance: Tensor<2>,
    uncertainty: Tensor<2>,
}

/// The budget of one run.
pub struct Budget {
    config: AdaLoraConfig,
    /// By module, until the choice is final.
    means: BTreeMap<String, [Means; 3]>,
    /// By module, between `observe` and `moved`.
    grads: BTreeMap<String, [Tensor<2>; 3]>,
    /// By module: triplets that are left.
    kept: BTreeMap<String, Vec<bool>>,
    /// The last penalty, weighted, `[1]`.
    penalty: Option<Tensor<1>>,
}

impl Budget {
    /// The budget that `config` describes, before the first step.
    pub(super) fn new(config: &AdaLoraConfig) -> Self {
        Self {
            config: config.clone(),
            means: BTreeMap::new(),
            grads: BTreeMap::new(),
            kept: config.rank_pattern.clone().unwrap_or_default(),
            penalty: None,
        }
    }

    /// Whether the adapter came with its choice made.
    fn is_spent(&self) -> bool {
        self.config.rank_pattern.is_some()
    }

    /// The last step with a decision.
    fn last(&self) -> usize {
        self.config.total_step.saturating_sub(self.config.tfinal)
    }

    /// Triplets left of those of so many modules after step `step`, and whether it is time to choose them.
    fn at(&self, step: usize, specs: usize) -> (usize, bool) {
        let AdaLoraConfig {
            init_r,
            target_r,
            tinit,
            delta_t,
            ..
        } = self.config;
        let (init, target) = (init_r * specs, target_r * specs);
        if step <= tinit {
            return (init, false);
        }
        let left = 1.0 - (step - tinit) as f64 / (self.last() - tinit) as f64;
        let budget = ((init - target) as f64 * left.powi(3) + target as f64) as usize;
        (budget, step.is_multiple_of(delta_t) || step == self.last())
    }

    /// Takes the last step's importances into the means.
    fn weigh(&mut self, path: &str, delta: &AdaLora) {
        let Some(grads) = self.grads.remove(path) else { return };
        let AdaLoraConfig { beta1, beta2, .. } = self.config;
        let params = [&delta.a, &delta.b, &delta.e];
        let before = self.means.remove(path);
        let mut means = params.into_iter().zip(grads).enumerate().map(|(i, (param, grad))| {
            let now = (param.val().detach().without_autodiff() * grad).abs();
            let old = before.as_ref().map(|means| means[i].clone());
            let old = old.unwrap_or_else(|| Means {
                importance: now.zeros_like(),
                uncertainty: now.zeros_like(),
            });
            let importance = old.importance.mul_scalar(beta1) + now.clone().mul_scalar(1.0 - beta1);
            let distance = (now - importance.clone()).abs();
            let uncertainty = old.uncertainty.mul_scalar(beta2) + distance.mul_scalar(1.0 - beta2);
            Means {
                importance,
                uncertainty,
            }
        });
        let means = std::array::from_fn(|_| means.next().expect("one for each matrix"));
        self.means.insert(path.into(), means);
    }

    /// The importance of every triplet by module.
    fn scores(&self) -> BTreeMap<String, Vec<f32>> {
        let score = |means: &Means| means.importance.clone() * means.uncertainty.clone();
        let of = |[a, b, e]: &[Means; 3]| {
            let a = score(a).mean_dim(1).squeeze_dim::<1>(1);
            let b = score(b).mean_dim(0).squeeze_dim::<1>(0);
            let all = score(e).squeeze_dim::<1>(1) + (a + b);
            all.into_data().convert::<f32>().try_into_vec().expect("just converted")
        };
        self.means
            .iter()
            .map(|(path, means)| (path.clone(), of(means)))
            .collect()
    }

    /// Leaves the `budget` most important triplets.
    fn choose(&mut self, budget: usize) {
        let scores = self.scores();
        let mut sorted: Vec<f32> = scores.values().flatten().copied().collect();
        let gone = sorted.len().saturating_sub(budget);
        // With `init_r = target_r` there is no threshold to find.
        if gone == 0 {
            self.kept = scores
                .into_iter()
                .map(|(path, all)| (path, vec![true; all.len()]))
                .collect();
            return;
        }
        sorted.sort_by(f32::total_cmp);
        let threshold = sorted[gone - 1];
        let kept = |all: Vec<f32>| all.into_iter().map(|score| score > threshold).collect();
        self.kept = scores.into_iter().map(|(path, all)| (path, kept(all))).collect();
    }

    /// Puts the choice into the adapters.
    fn mask(&self, modules: &mut [TargetModule<'_>]) {
        for (path, delta) in adapters(modules) {
            if let Some(kept) = self.kept.get(&path) {
                delta.kept = Some(kept.clone());
                silence(&mut delta.e, kept);
            }
        }
    }
}

/// The adapters in these modules, by path.
fn adapters<'a>(modules: &'a mut [TargetModule<'_>]) -> impl Iterator<Item = (String, &'a mut AdaLora)> {
    modules.iter_mut().filter_map(|module| match &mut module.slot {
        ModuleSlot::Projection(slot) => match &mut slot.delta {
            Some(Delta::AdaLora(delta)) => Some((module.path.clone(), delta)),
            _ => None,
        },
        _ => None,
    })
}

/// 0 for all but the kept ones.
fn silence(e: &mut Param<Tensor<2>>, kept: &[bool]) {
    let value = e.val().detach();
    let gone: Vec<bool> = kept.iter().map(|kept| !kept).collect();
    let gone = TensorData::new(gone, value.dims());
    let gone = Tensor::<2, Bool>::from_data(gone, &value.device());
    let trains = e.is_require_grad();
    *e = Param::initialized(e.id, value.mask_fill(gone, 0.0).detach()).set_require_grad(trains);
}

/// `‖P Pᵀ - I‖` for P `[r, n]`.
fn skew(p: Tensor<2>) -> Tensor<1> {
    let (rank, device) = (p.dims()[0], p.device());
    let apart = p.clone().matmul(p.transpose()) - Tensor::eye(rank, &device);
    apart.powi_scalar(2).sum().sqrt()
}

impl TrainingHook for Budget {
    fn penalty(&mut self, modules: &mut [TargetModule<'_>]) -> Option<Tensor<1>> {
        if self.config.orth_reg_weight == 0.0 {
            return None;
        }
        let spent = self.is_spent();
        let mut skews = Vec::new();
        for (_, delta) in adapters(modules) {
            let (mut a, mut b) = (delta.a.val(), delta.b.val().transpose());
            // Triplets that a file left out are zeros here and have no direction.
            if let Some(kept) = delta.kept.as_ref().filter(|_| spent) {
                let rows = indices(kept);
                if rows.is_empty() {
                    continue;
                }
                let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &a.device());
                (a, b) = (a.select(0, rows.clone()), b.select(0, rows));
            }
            skews.extend([skew(a), skew(b)]);
        }
        let mean = (!skews.is_empty()).then(|| Tensor::cat(skews, 0).mean())?;
        let penalty = mean.mul_scalar(self.config.orth_reg_weight);
        self.penalty = Some(penalty.clone().detach().without_autodiff());
        Some(penalty)
    }

    fn observe(&mut self, modules: &mut [TargetModule<'_>], grads: &GradientsParams) {
        for (path, delta) in adapters(modules) {
            let grad = |param: &Param<Tensor<2>>| grads.get::<2>(param.id);
            if let (Some(a), Some(b), Some(e)) = (grad(&delta.a), grad(&delta.b), grad(&delta.e)) {
                self.grads.insert(path, [a, b, e]);
            }
        }
    }

    fn moved(&mut self, modules: &mut [TargetModule<'_>], step: usize) {
        if self.is_spent() || step > self.last() {
            self.grads.clear();
            return self.mask(modules);
        }
        let mut specs = 0;
        for (path, delta) in adapters(modules) {
            specs += 1;
            if step < self.last() {
                self.weigh(&path, delta);
            }
        }
        self.grads.clear();
        let (budget, due) = self.at(step, specs);
        if due && !self.means.is_empty() {
            self.choose(budget);
            self.mask(modules);
        }
        if step == self.last() {
            self.means.clear();
        }
    }

    /// `orth_loss`, what the penalty added to the loss, and the modules by the number of their triplets.
    fn report(&self) -> Map<String, Value> {
        let mut report = Map::new();
        if let Some(penalty) = &self.penalty {
            let penalty = f64::from(penalty.clone().into_scalar::<f32>());
            report.insert("orth_loss".into(), json!(penalty));
        }
        if !self.kept.is_empty() {
            let ranks = self.kept.values().map(|kept| kept.iter().filter(|kept| **kept).count());
            let mut histogram: BTreeMap<usize, usize> = BTreeMap::new();
            ranks.clone().for_each(|rank| *histogram.entry(rank).or_default() += 1);
            report.insert("rank_total".into(), json!(ranks.sum::<usize>()));
            report.insert("rank_histogram".into(), json!(histogram));
        }
        report
    }

    fn state(&self) -> Vec<(String, TensorData)> {
        let means = self.means.iter().flat_map(|(path, means)| {
            NAMES.into_iter().zip(means).flat_map(move |(name, means)| {
                let at = format!("{path}.{name}");
                [
                    (format!("{at}.{IMPORTANCE}"), means.importance.to_data()),
                    (format!("{at}.{UNCERTAINTY}"), means.uncertainty.to_data()),
                ]
            })
        });
        let kept = self.kept.iter().map(|(path, kept)| {
            let bytes: Vec<u8> = kept.iter().map(|kept| u8::from(*kept)).collect();
            (format!("{path}.{PATTERN}"), TensorData::new(bytes, [kept.len()]))
        });
        means.chain(kept).collect()
    }

    fn load_state(&mut self, modules: &mut [TargetModule<'_>], state: Vec<(String, TensorData)>) -> Result<()> {
        let mut state: BTreeMap<String, TensorData> = state.into_iter().collect();
        (self.means, self.kept) = (BTreeMap::new(), BTreeMap::new());
        for (path, delta) in adapters(modules) {
            let shapes = [&delta.a, &delta.b, &delta.e].map(|param| param.val().dims());
            let device = delta.a.val().device().without_autodiff();
            let mut matrix = |name: String, shape: [usize; 2]| match state.remove(&name) {
                Some(data) if data.shape().to_vec() == shape && data.dtype() == DType::F32 => {
                    Ok(Some(Tensor::<2>::from_data(data, &device)))
                }
                Some(_) => Err(misfit(&name)),
                None => Ok(None),
            };
            let mut all = Vec::new();
            for (name, shape) in NAMES.into_iter().zip(shapes) {
                let importance = matrix(format!("{path}.{name}.{IMPORTANCE}"), shape)?;
                let uncertainty = matrix(format!("{path}.{name}.{UNCERTAINTY}"), shape)?;
                let both = importance.zip(uncertainty);
                all.extend(both.map(|(importance, uncertainty)| Means {
                    importance,
                    uncertainty,
                }));
            }
            if let Ok(means) = <[Means; 3]>::try_from(all) {
                self.means.insert(path.clone(), means);
            }
            let name = format!("{path}.{PATTERN}");
            delta.kept = match state.remove(&name) {
                None => None,
                Some(data) => match data.as_slice::<u8>() {
                    Ok(bytes) if bytes.len() == self.config.init_r => {
                        Some(bytes.iter().map(|byte| *byte != 0).collect())
                    }
                    _ => return Err(misfit(&name)),
                },
            };
            self.kept.extend(delta.kept.clone().map(|kept| (path, kept)));
        }
        match state.into_keys().next() {
            Some(stranger) => Err(misfit(&stranger)),
            None => Ok(()),
        }
    }
}

fn misfit(name: &str) -> Error {
    Error::Config {
        key: name.into(),
        why: "the saved state of AdaLoRA does not fit these adapters".into(),
    }
}
