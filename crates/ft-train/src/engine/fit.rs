//! From a plan to a finished run.
//!
//! ```text
//! Plan ─> model, adapter ─> (resume) ─> answers before ─> burn-train: StepStrategy ─> best weights ─> answers after
//!                                                                └─> metrics.jsonl, checkpoints/     └─> final/, report
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::lr_scheduler::constant::ConstantLr;
use burn::optim::AdamWConfig;
use burn::tensor::FloatDType;
use burn::train::metric::LearningRateMetric;
use burn::train::renderer::MetricsRenderer;
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use ft_model::Model;
use ft_optim::{LossScale, Optim};
use ft_ranks::Ranks;

use crate::batches::{EvalLoader, StepLoader};
use crate::checkpoint::lock::RunLock;
use crate::checkpoint::{self, TrainerState};
use crate::engine::agree::{self, Told};
use crate::engine::backward::ActivationPolicy;
use crate::engine::cards::Cards;
use crate::engine::clock::Clock;
use crate::engine::conclude::{conclude, models};
use crate::engine::early_stopping::{PatientStopping, SharedPatience};
use crate::engine::gradient_check::GradientCheck;
use crate::engine::memory_limit::Memory;
use crate::engine::method_hook::MethodHook;
use crate::engine::model::TrainModel;
use crate::engine::non_finite::Guard;
use crate::engine::prepare::{adapt, given, load};
use crate::engine::resume::{self, Resume};
use crate::engine::save::Saver;
use crate::engine::session::Session;
use crate::engine::strategy::StepStrategy;
use crate::engine::task_adapters::TaskAdapters;
use crate::engine::task_end::OverTasks;
use crate::engine::together::Together;
use crate::engine::unread::Unread;
use crate::objectives::{Objective, ObjectiveConfig};
use crate::tasks::BestBy;
use crate::watch::Ending;
use crate::watch::completions::{CompletionsFile, Prompts, Shown};
use crate::watch::history::{Done, EventHistory};
use crate::watch::metrics::{Loss, MeanMetric, Norm, Throughput};
use crate::watch::outcome::Outcome;
use crate::watch::renderer::{ProgressRenderer, Silent, Style};
use crate::watch::run_log::RunLog;
use crate::watch::speakers::Speakers;
use crate::watch::stop::Stop;
use crate::watch::task_metrics::TaskMetrics;
use crate::{Error, Plan, Result};

/// How a run is watched and steered.
pub struct FitOptions {
    /// Raise it to stop: a checkpoint is written within one step, and [`fit`] returns.
    pub stop: Arc<AtomicBool>,
    /// burn-train's own way to stop; hand the same one to its full-screen renderer.
    pub interrupter: Interrupter,
    /// What shows progress.
    pub progress: Progress,
    /// Go on from a checkpoint of the run folder.
    pub resume: Option<Resume>,
    /// The processes that take the run together: all are given the same plan, and the first writes.
    pub ranks: Ranks,
    /// Told about warnings, evaluations and checkpoints.
    pub on_event: Box<dyn FnMut(&Event) + Send>,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            stop: Arc::default(),
            interrupter: Interrupter::new(),
            progress: Progress::Silent,
            resume: None,
            ranks: Ranks::alone(),
            on_event: Box::new(|_| {}),
        }
    }
}

/// What shows progress.
pub enum Progress {
    /// Nothing.
    Silent,
    /// Plain lines, or one line drawn over, written to this.
    Text(Style, Box<dyn Write + Send + Sync>),
    /// Any of burn-train's renderers, such as its full-screen one.
    Renderer(Box<dyn MetricsRenderer>),
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Allowed, but probably not meant.
    Warning(String),
    /// Worth knowing.
    Note(String),
    /// The run goes on from here.
    Resumed {
        /// Steps done.
        step: usize,
        /// The checkpoint.
        path: PathBuf,
    },
    /// Sample answers of the untrained model are there.
    Answered(Shown),
    /// The held-out samples were evaluated.
    Evaluated {
        /// Steps done.
        step: usize,
        /// Mean negative log-likelihood per learned token.
        loss: f64,
    },
    /// A task has ended where tasks come one after the other.
    TaskEnded {
        /// Steps done.
        step: usize,
        /// Its number.
        task: usize,
        /// The names of all tasks.
        names: Vec<String>,
        /// The loss of each.
        losses: Vec<f64>,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: usize,
        /// The checkpoint.
        path: PathBuf,
    },
}

/// Runs a plan to its end, or until someone stops it.
///
/// # Errors
/// Files that cannot be read or written, a checkpoint that does not fit, a loss that is no number, tensors that receive no
/// gradient. What was saved before an error stays usable.
pub fn fit(plan: Plan, options: FitOptions) -> Result<Outcome> {
    let out = plan.out().to_owned();
    run(plan, options, None).map_err(|error| agree::with_last(error, &out))
}

/// This rank's part of a run; all of it where there is no other. Ranks that are cards of one process may add up on them.
pub(super) fn run(mut plan: Plan, options: FitOptions, cards: Option<Cards>) -> Result<Outcome> {
    let FitOptions {
        stop: flag,
        interrupter,
        progress,
        resume,
        ranks,
        on_event,
    } = options;
    plan.deal_out(&ranks)?;
    let told = Told::default();
    let mut on_event = told.beside(&ranks, on_event);
    plan.warnings.iter().for_each(|w| on_event(&Event::Warning(w.clone())));
    plan.notes().into_iter().for_each(|note| on_event(&Event::Note(note)));
    agree::compare(&plan, &ranks, &mut on_event)?;
    told.clear();
    let cards = cards.map(|cards| Ok::<_, Error>(cards.work(&ranks)?.then_some(cards)));
    let cards = match cards.transpose()? {
        Some(None) => {
            on_event(&Event::Warning(
                "NCCL does not add up on these cards: sums go through host memory".into(),
            ));
            None
        }
        cards => cards.flatten(),
    };
    let first = ranks.is_first();
    let _lock = first.then(|| RunLock::take(plan.out())).transpose()?;
    let from = agree::resume(&plan, resume, &ranks, &mut on_event)?;
    let base = load(&plan)?;
    let given = given(&plan, &base);
    let objective = plan.config.objective.kind().build(&given)?;
    let model = adapt(&plan, base)?;
    let optim = Optim::new(&plan.config.optim)?;
    let mut method = MethodHook::of(&plan.peft)
        .with(OverTasks::strategy(&plan))
        .followed(OverTasks::succession(&plan))
        .beside(TaskAdapters::of(&plan, &model)?);
    let (mut model, mut optim, state) = match &from {
        Some((path, state)) => {
            let sharing = (plan.config.train.shard_optimizer && !ranks.is_alone()).then_some(&ranks);
            resume::restore(model, optim, &mut method, path, state, sharing)?
        }
        None => (model, optim, start(&plan)),
    };
    let rates = ft_peft::rates(&mut model, &plan.peft, plan.steps.base_lr);
    method.task_adapters().into_iter().for_each(|own| own.set_rates(&rates));
    optim.set_rates(rates);
    let state = with_loss_scale(&plan, state, &model)?;
    if first {
        write_config(&plan)?;
    }

    let prompts = Prompts::of(&plan);
    let stop = Stop::new(flag, interrupter.clone(), &ranks);
    let speakers = Speakers::new(&ranks, &stop);
    let before = before(
        &plan,
        &models(&plan, &method, &model)?,
        &prompts,
        from.is_some(),
        speakers,
    )?;
    on_event(&Event::Answered(before.clone()));

    let done = from.as_ref().map(|(_, state)| Done {
        step: state.step,
        evaluated: state.evaluated,
    });
    let saver = Saver::new(&plan, done.map(|done| done.step));
    if first && plan.config.train.dump_batches.is_some() && from.is_none() {
        saver.initial(&model)?;
    }
    let patience = SharedPatience::new(state.patience);
    let check = (plan.config.train.check_gradients && from.is_none())
        .then(|| GradientCheck::new(plan.peft.method().tokens(), model.is_tied()));
    let check = match method.task_adapters() {
        Some(adapters) => {
            adapters.check = check;
            None
        }
        None => check,
    };
    let scatters = plan.scatters() && method.is_plain();
    let together = Together::from(ranks).on(cards).scattering(scatters);
    let progress = if first { progress } else { Progress::Silent };
    let renderer = renderer(progress, &plan, state.step);
    let session = Session {
        steps: plan.steps.clone(),
        log: match first {
            true => RunLog::open(&plan, done)?,
            false => RunLog::none(),
        },
        check,
        answers: answers(&plan, &prompts, done, first)?,
        guard: Guard::new(&plan),
        clock: Clock::after(state.seconds),
        in_backward: plan.config.train.optimizer_in_backward,
        cheap_reads: plan.cpu,
        unread: Unread::default(),
        grad_norm: None,
        patience: patience.clone(),
        stop,
        batches: plan.batches.clone(),
        tasks: plan.tasks.clone(),
        over_tasks: OverTasks::of(&plan),
        task_metrics: TaskMetrics::of(&plan),
        best_by: BestBy::of(&plan.config.train.best_by, &plan.tasks),
        memory: Memory::new(&plan),
        ranks: together,
        shard_optimizer: plan.config.train.shard_optimizer,
        told,
        state,
        optim,
        method,
        saver,
        on_event,
    };
    let (session, model, ending) = train(&plan, session, model, objective, patience, interrupter, renderer)?;
    conclude(&plan, session, model, ending, &prompts, before)
}

fn start(plan: &Plan) -> TrainerState {
    TrainerState::start(
        plan.config.train.seed,
        plan.config.to_toml(None),
        resume::fingerprints(plan),
        &plan.provenance,
    )
}

/// Activations in f16 need a scaled loss; a resumed run goes on with its scale.
fn with_loss_scale(plan: &Plan, state: TrainerState, model: &Model) -> Result<TrainerState> {
    let needed = model.compute() == FloatDType::F16;
    if needed && plan.config.train.optimizer_in_backward {
        return Err(Error::Plan(vec![
            "train.optimizer_in_backward: this device computes in f16, and a step whose gradients leave f16 could not be left \
             out; set model.compute = \"f32\""
                .into(),
        ]));
    }
    let first = || LossScale::new(plan.config.train.loss_scale).unwrap_or_default();
    Ok(TrainerState {
        loss_scale: needed.then(|| state.loss_scale.unwrap_or_else(first)),
        ..state
    })
}

fn write_config(plan: &Plan) -> Result<()> {
    let text = plan.config.to_toml(Some(&plan.provenance));
    checkpoint::write_file(&plan.out().join("config.toml"), text.as_bytes())
}

/// Answers of the model as it was before the first step; a resumed run reads them back.
fn before(plan: &Plan, models: &[Model], prompts: &Prompts, resumed: bool, speakers: Speakers<'_>) -> Result<Shown> {
    let path = plan.out().join("before.json");
    if resumed {
        let bytes = std::fs::read(&path).unwrap_or_default();
        return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
    }
    let shown = prompts.ask(&|task| models[task].clone(), &plan.tokenizer, speakers)?;
    // Answers cut short by a stop are not worth keeping: the run starts over.
    if !speakers.stopped() && speakers.write() {
        let text = serde_json::to_vec_pretty(&shown).unwrap_or_default();
        checkpoint::write_file(&path, &text)?;
    }
    Ok(shown)
}

/// What writes the answers of every evaluation, where they are wanted.
fn answers(plan: &Plan, prompts: &Prompts, done: Option<Done>, first: bool) -> Result<Option<CompletionsFile>> {
    let wanted = plan.config.eval.samples_each && plan.config.eval.samples > 0 && plan.steps.evaluates;
    wanted
        .then(|| CompletionsFile::open(plan.out(), prompts, plan.tokenizer(), done, first))
        .transpose()
}

fn renderer(progress: Progress, plan: &Plan, done: usize) -> Box<dyn MetricsRenderer> {
    match progress {
        Progress::Silent => Box::new(Silent),
        Progress::Renderer(renderer) => renderer,
        Progress::Text(style, out) => {
            let renderer = ProgressRenderer::new(out, style).with_steps(done, plan.steps.total, plan.steps.log_every);
            let likelihood = matches!(*plan.config.objective, ObjectiveConfig::Sft(_));
            Box::new(renderer.without_perplexity(!likelihood))
        }
    }
}

fn train(
    plan: &Plan,
    session: Session,
    model: Model,
    objective: Arc<dyn Objective>,
    patience: SharedPatience,
    interrupter: Interrupter,
    renderer: Box<dyn MetricsRenderer>,
) -> Result<(Session, Model, Ending)> {
    let steps = &plan.steps;
    let batches = StepLoader::new(plan.batches.clone(), session.step(), steps.total);
    let eval_size = plan
        .config
        .eval
        .batch_size
        .unwrap_or(plan.config.train.batch_size.count());
    let held_out = EvalLoader::new(
        &plan.valid,
        &plan.tasks.held_out(plan.valid.len()),
        eval_size,
        plan.padding,
    );
    let ranks = session.ranks.clone();
    let strategy = Arc::new(StepStrategy::new(session));
    let mut training = SupervisedTraining::<TrainModel>::new(plan.out(), Arc::new(batches), Arc::new(held_out))
        .metric_train_numeric(MeanMetric::<Loss>::default())
        .metric_valid_numeric(MeanMetric::<Loss>::default())
        .metric_train_numeric(LearningRateMetric::new())
        .metric_train_numeric(MeanMetric::<Norm>::default())
        .metric_train_numeric(MeanMetric::<Throughput>::default())
        .with_metric_logger(EventHistory::default())
        .with_application_logger(None)
        .with_interrupter(interrupter)
        .num_epochs(steps.total.div_ceil(steps.eval_every))
        .renderer(renderer)
        .with_training_strategy(TrainingStrategy::Custom(strategy.clone()));
    if let Some(rule) = steps.early_stopping {
        training = training.early_stopping(PatientStopping::new(rule, patience));
    }
    // The learner's own optimizer and schedule are never asked: the session has ours.
    let activations = ActivationPolicy {
        checkpointing: plan.config.train.checkpointing,
        offload: plan.config.train.offload_activations,
    };
    let learner = Learner::new(
        TrainModel {
            model,
            activations,
            objective,
            ranks,
        },
        AdamWConfig::new().init(),
        ConstantLr::new(0.0),
    );
    let result = training.launch(learner);
    let (session, ending) = strategy.finish()?;
    Ok((session, result.model.model, ending))
}
