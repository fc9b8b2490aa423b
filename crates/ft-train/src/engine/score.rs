//! A teacher's scores for all samples of a run, written to a file before it.

use std::path::Path;

use burn::module::Module;
use ft_data::{Batch, Sample};

use super::prepare::{given, load};
use crate::objectives::teacher_cache::{About, Writer, WrittenCache};
use crate::objectives::{DistillConfig, ObjectiveConfig, teacher_states};
use crate::{Error, Plan, Result};

/// Writes the `top_k` most probable tokens of the teacher of `plan` for every target token of its samples to `out`, which
/// `objective.cache` of later runs names.
///
/// # Errors
/// A plan without a teacher; files that cannot be read or written.
pub fn write_teacher_cache(plan: &Plan, top_k: usize, out: &Path) -> Result<WrittenCache> {
    let options = teacher_of(plan)?;
    let base = load(plan)?;
    let teacher = options.teacher(&given(plan, &base))?;
    let common = plan.model.vocab_size.min(teacher.config().vocab_size);
    let samples = [plan.batches.samples(), plan.valid.as_slice()];
    let about = About {
        top_k: top_k.clamp(1, common),
        vocabulary: common,
        ..options.about(samples, common)?
    };
    let (k, temperature) = (about.top_k, about.temperature);
    let draft = out.with_extension("writing");
    let mut file = Writer::create(&draft, about)?;
    let size = plan.config.train.batch_size.count();
    for group in samples.into_iter().flat_map(|samples| samples.chunks(size)) {
        let group: Vec<&Sample> = group.iter().collect();
        let batch = Batch::new(&group, plan.padding.id, plan.padding.multiple);
        let (hidden, head) = teacher_states(&teacher.valid(), &batch);
        let (ids, log_probs) = ft_kernels::teacher_topk(hidden, head, k, temperature, common);
        file.push(ids, log_probs)?;
    }
    let written = file.finish()?;
    std::fs::rename(&draft, out).map_err(|e| Error::io(out, e))?;
    Ok(WrittenCache {
        out: out.to_owned(),
        ..written
    })
}

/// The options that name the teacher of a plan.
pub(super) fn teacher_of(plan: &Plan) -> Result<&DistillConfig> {
    if plan.alignment.is_some() {
        let why = "objective.teacher: has another tokenizer, so that its scores and answers are of tokens that this model does not have";
        return Err(Error::Plan(vec![why.into()]));
    }
    if !plan.model.writes() {
        let why = "objective.teacher: scores and answers are of the next token, and this model predicts none; it asks the teacher as it trains";
        return Err(Error::Plan(vec![why.into()]));
    }
    match &*plan.config.objective {
        ObjectiveConfig::Distill(options) if options.teacher.is_some() && options.cache.is_none() => Ok(options),
        _ => {
            let why = "objective: needs kind = \"distill\" and a teacher, and no cache: there is nobody to be asked";
            Err(Error::Plan(vec![why.into()]))
        }
    }
}
