//! What a run asks of the experts of its model.

use ft_model::ModelConfig;
use ft_peft::PeftConfig;

use crate::config::RunConfig;
use crate::{Error, Result};

/// The model with the weight of the loss that keeps its experts equally busy.
pub(super) fn placed(config: &RunConfig, mut model: ModelConfig, peft: &PeftConfig) -> Result<ModelConfig> {
    const KEY: &str = "model.router_aux_loss_coef";
    let refused = |why: &str| Err(Error::Plan(vec![format!("{KEY}: {why}")]));
    let typed = config.model.router_aux_loss_coef;
    if !peft.method().target_parameters().is_empty() {
        model = model.with_fused_experts()?;
    }
    let Some(experts) = &mut model.block.experts else {
        return match typed {
            None => Ok(model),
            Some(_) => refused("this model has no experts; leave it out"),
        };
    };
    if let Some(typed) = typed {
        if !(typed.is_finite() && typed >= 0.0) {
            return refused("must be a number of at least 0");
        }
        experts.balance = typed;
    }
    if experts.balance > 0.0 && peft.method().virtual_tokens() > 0 {
        return refused(
            "virtual tokens are no tokens whose experts could be counted; set it to 0, or take another peft.method",
        );
    }
    Ok(model)
}
