//! Everything after the last step.

use std::ops::Deref;

use ft_model::Model;
use ft_optim::load_trainable_tensors;
use ft_ranks::Ranks;

use crate::checkpoint::{self, Best, Checkpoints, Evaluation, TRAINABLE, TrainerState, read_tensors};
use crate::engine::method_hook::MethodHook;
use crate::engine::session::Session;
use crate::watch::Ending;
use crate::watch::completions::{Prompts, Shown};
use crate::watch::outcome::{Outcome, Score};
use crate::watch::speakers::Speakers;
use crate::{Plan, Result, watch};

/// The model of each task, on a plain device; one where there are no tasks.
pub(super) fn models(plan: &Plan, method: &MethodHook, model: &Model) -> Result<Vec<Model>> {
    let tasks = 0..plan.tasks.0.len().max(1);
    tasks.map(|task| method.model_of(model, Some(task))).collect()
}

/// The best weights, the answers, `final/` and the report.
pub(super) fn conclude(
    plan: &Plan,
    mut session: Session,
    model: Model,
    ending: Ending,
    prompts: &Prompts,
    before: Shown,
) -> Result<Outcome> {
    let mut outcome = Outcome::of(plan, &session.state, ending, session.saver.newest);
    outcome.continual = session.scores();
    outcome.before = Score::new(session.state.first_eval.as_ref(), &before, &plan.tasks);
    let first = session.ranks.is_first();
    let earlier = earlier(plan, &session.state).is_some();
    // Weights of an earlier step are read where the first rank has written them.
    if ending == Ending::Interrupted || (earlier && !first) {
        return Ok(outcome);
    }
    let model = best(plan, &session.state, &mut session.method, model)?;
    let models = models(plan, &session.method, &model)?;
    let (alone, ranks) = (Ranks::alone(), session.ranks.deref());
    let speakers = Speakers::new(if earlier { &alone } else { ranks }, &session.stop);
    let after = prompts.ask(&|task| models[task].clone(), &plan.tokenizer, speakers)?;
    if !first {
        return Ok(outcome);
    }
    outcome.after = Score::new(result(plan, &session.state), &after, &plan.tasks);
    outcome.take_answers(before, after);
    outcome.final_dir = Some(session.saver.finish(&model, &session.method, &plan.tasks)?);
    outcome.report = Some(watch::report::write(plan, &outcome)?);
    Ok(outcome)
}

/// The evaluation of the weights that [`best`] picks. The last step is always evaluated.
fn result<'s>(plan: &Plan, state: &'s TrainerState) -> Option<&'s Evaluation> {
    if plan.steps.load_best {
        return state.best.as_ref().map(|best| &best.evaluation);
    }
    state.last_eval.as_ref()
}

/// The best evaluation, where its weights are asked for and are not the last.
fn earlier<'s>(plan: &Plan, state: &'s TrainerState) -> Option<&'s Best> {
    let best = state.best.as_ref();
    best.filter(|best| plan.steps.load_best && best.step != state.step)
}

/// Its weights, or the last.
fn best(plan: &Plan, state: &TrainerState, method: &mut MethodHook, model: Model) -> Result<Model> {
    match earlier(plan, state) {
        None => Ok(model),
        Some(best) => {
            let path = Checkpoints::of(plan.out()).path(best.step);
            checkpoint::read_state(&path)?;
            let mut model = load_trainable_tensors(model, read_tensors(&path.join(TRAINABLE))?)?;
            method.load(&path, &mut model)?;
            Ok(model)
        }
    }
}
