//! What a run would take with another method, storage or batch over the same data.

use ft_model::ModelConfig;
use ft_optim::OptimConfig;
use ft_peft::PeftConfig;
use ft_quant::Scheme;

use super::job::{self, Job};
use super::{DeviceTraits, Plan};
use crate::Result;
use crate::config::Checkpointing;
use crate::objectives::ObjectiveConfig;
use crate::plan::tasks::Kept;

/// What differs from the plan.
pub(crate) struct Variant<'a> {
    pub model: &'a ModelConfig,
    pub peft: &'a PeftConfig,
    pub quant: Option<Scheme>,
    pub optim: &'a OptimConfig,
    pub objective: &'a ObjectiveConfig,
    pub checkpointing: Checkpointing,
    /// Samples of a micro-batch.
    pub size: usize,
    /// Gradients of several passes are summed.
    pub accumulates: bool,
}

impl Plan {
    /// Numbers that train and bytes of the run; none where the model cannot take the method or the storage.
    pub(crate) fn variant(&self, variant: &Variant<'_>, device: &DeviceTraits) -> Result<Option<(usize, u64)>> {
        let Ok(attached) = job::preview(variant.model, variant.peft) else {
            return Ok(None);
        };
        let folder = &self.config.model.path;
        if let Some(scheme) = variant.quant
            && ft_model::check_quantizable(variant.model, scheme, folder).is_err()
        {
            return Ok(None);
        }
        let job = Job {
            device,
            model: variant.model,
            folder,
            peft: variant.peft,
            attached: &attached,
            projections: &[],
            optim: variant.optim,
            objective: variant.objective,
            dtype: self.dtype,
            compute: self.compute,
            quant: variant.quant,
            accumulates: variant.accumulates,
            kept: Kept::default(),
            checkpointing: variant.checkpointing,
            in_backward: false,
            runtime: if self.cpu { super::runtime() } else { 0 },
            batch: self.batches.largest(variant.size),
            alignment: None,
        };
        Ok(Some((attached.parameters, job::bytes(&job)?.total())))
    }
}
