//! The models of a plan, before they run.

use ft_model::Model;

use crate::objectives::Given;
use crate::{Plan, Result};

/// What objectives are made from.
pub(super) fn given<'a>(plan: &'a Plan, base: &'a Model) -> Given<'a> {
    let given = Given::new(base, plan.dtype, plan.config.train.seed, &plan.generation);
    let given = given.over(plan.batches.samples(), &plan.valid, &plan.tasks);
    given.reading(&plan.tokenizer)
}

/// The base model on the training device.
pub(super) fn load(plan: &Plan) -> Result<Model> {
    let device = plan.device.clone().autodiff();
    let model = match plan.config.model.init {
        true => Model::init(&plan.model, ft_data::sub_seed(plan.config.train.seed, "model"), &device),
        false => {
            let seed = ft_data::sub_seed(plan.config.train.seed, "head");
            let section = &plan.config.model;
            let config = plan.model.clone();
            Model::load_configured(config, &section.path, plan.dtype, section.quant, Some(seed), &device)?
        }
    };
    let compute = plan.compute.unwrap_or_else(|| model.suited_compute(plan.cpu));
    Ok(model.computing_in(compute))
}

/// The model with the starting values of the adapter and of what the objective trains beside.
pub(super) fn adapt(plan: &Plan, mut model: Model) -> Result<Model> {
    let seed = ft_data::sub_seed(plan.config.train.seed, "init");
    match plan.config.peft.from() {
        Some(folder) => {
            ft_peft::adapter::load(folder, &mut model)?;
        }
        None => {
            ft_peft::attach(&mut model, &plan.peft, seed)?;
        }
    }
    Ok(model.with_hidden_projections(&plan.projections, seed))
}
