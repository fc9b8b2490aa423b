//! AdamW in f32 whose moments rest in host memory (Dettmers et al., "QLoRA", 2023, section 3: paged optimizers).
//!
//! The arithmetic is that of [`AdamW`], to the bit. [`Optim`](crate::Optim) brings the moments of a parameter to the device
//! for its update, those of the next one meanwhile, and takes them back; on the CPU there is nothing to move.

use std::sync::Arc;

use burn::optim::{DynOptimizer, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};

use super::{AdamW, AdamWConfig, AdamWState, Rule, StateTensor};
use crate::error::Problems;
use crate::groups::Group;
use crate::together::ManyRule;

/// `kind = "paged_adamw_32bit"`: the keys of `adamw`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PagedAdamWConfig(pub AdamWConfig);

/// A derived schema would refer to that of `adamw`, and a tagged enum cannot add its tag to a reference.
impl schemars::JsonSchema for PagedAdamWConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PagedAdamWConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        AdamWConfig::json_schema(generator)
    }
}

impl Rule for PagedAdamWConfig {
    fn lr(&self) -> f64 {
        self.0.lr
    }

    fn clip(&self) -> f64 {
        self.0.clip
    }

    fn check(&self, problems: &mut Problems) {
        self.0.check(problems);
        problems.unless(cfg!(feature = "flex"), "kind", || {
            "keeps states in host memory, which needs the CPU backend; build with the feature `flex`, or use \"adamw\"".into()
        });
    }

    fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        Arc::new(PagedAdamW(self.0.rule(group)))
    }

    fn many(&self, group: Group) -> Option<ManyRule> {
        self.0.many(group)
    }

    fn state(&self, group: Group, shape: &[usize]) -> Vec<StateTensor> {
        self.0.state(group, shape)
    }
}

/// The update rule: [`AdamW`] on a state that may lie elsewhere than the parameter.
#[derive(Debug, Clone)]
pub struct PagedAdamW(pub AdamW);

impl Optimizer for PagedAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let state = state.map(|state| AdamW::to_device(state, &param.device()));
        self.0.step(lr, param, grad, state)
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}
