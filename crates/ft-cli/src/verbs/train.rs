//! `ft train`: fine-tunes a model, or shows a whole fine-tuning when nothing is given.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use burn::train::Interrupter;
use ft_train::{
    BeforeAfter, Ending, Event, FitOptions, Named, Outcome, Plan, Progress, Resume, RunConfig, Score, Style, fit,
    fit_on,
};

use crate::args::{DevicesArg, SetArg};
use crate::failure::Failure;
use crate::ranks::{self, Started};
use crate::screen::Screen;
use crate::signals::Stop;
use crate::{configs, device, embedded, logging, output};

/// Fine-tune a model; without CONFIG, a tiny one on bundled data, to see it work
#[derive(clap::Args, Debug)]
pub struct Train {
    /// Configuration file
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    set: SetArg,
    /// Go on from a checkpoint of the run folder, the newest when none is named
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// Start in spite of what is only an opinion of the checks (train.force)
    #[arg(long)]
    force: bool,
    /// Show progress in a line or in lines, never on the full screen
    #[arg(long)]
    plain: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DevicesArg,
}

impl Train {
    pub fn run(self) -> Result<(), Failure> {
        // Before anything that takes time: a signal must never find the default behaviour once work has begun.
        let stop = Stop::listen()?;
        let started = Started::find()?;
        // A process that panics must not wait for the others to end MPI.
        let done = catch_unwind(AssertUnwindSafe(|| self.untangled().train(&stop, &started)));
        let done = done.unwrap_or_else(|panic| match started.ranks().is_alone() {
            true => resume_unwind(panic),
            false => Err(Ended::Failed(Failure::new("a bug, told above"))),
        });
        match done {
            Ok(()) => {
                started.finish();
                Ok(())
            }
            Err(Ended::Asked(failure)) => {
                started.finish();
                Err(failure)
            }
            Err(Ended::Failed(failure)) => Err(started.fail(failure)),
        }
    }

    fn train(self, stop: &Stop, started: &Started) -> Result<(), Ended> {
        let mut this = self;
        if this.force {
            this.set.set.push("train.force=true".into());
        }
        let resume = this
            .resume
            .clone()
            .map(|from| from.map_or(Resume::Latest, Resume::From));
        let config = this.load()?;
        let devices: Vec<Named> = this.devices(started)?;
        let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
        let mut plan = Plan::resolve(config, &devices[0].1, &names.join(","))?;
        plan.provenance.commit = option_env!("FT_COMMIT").map(str::to_owned);
        let ranks = started.ranks();
        let first = ranks.is_first();
        ranks::settle(&ranks, plan.config.train.timeout, stop.clone(), plan.out().to_owned());
        let interrupter = Interrupter::new();
        let (screen, progress) = match first {
            true => this.progress(&interrupter),
            false => (None, Progress::Silent),
        };
        let options = FitOptions {
            stop: stop.flag(),
            progress,
            interrupter,
            resume,
            ranks,
            on_event: Box::new(tell),
        };
        let outcome = match devices.len() {
            1 => fit(plan, options),
            _ => fit_on(plan, &devices, sum_on_cards(&names), options),
        };
        drop(screen);
        let outcome = outcome?;
        if !first {
            return Ok(());
        }
        if this.json {
            output::json(&outcome)?;
        } else {
            output::write(&page(&outcome))?;
        }
        if this.config.is_none() && outcome.final_dir.is_some() {
            note(&format!(
                "next: ft generate {} --prompt \"...\"; or a configuration of your own",
                outcome.out.display()
            ));
        }
        match outcome.ending {
            Ending::Interrupted => Err(Ended::Asked(Self::interrupted(&outcome, stop.signal()))),
            Ending::Finished | Ending::EarlyStopped => Ok(()),
        }
    }

    /// The devices of this process; where it is one of several, its own.
    fn devices(&self, started: &Started) -> Result<Vec<Named>, Failure> {
        let choice = &self.device.device;
        let picked = match (started.local(), choice.one()) {
            (None, _) => device::pick_all(choice)?,
            (Some(local), Some(choice)) => vec![device::pick_local(choice, local)?],
            (Some(_), None) => {
                return Err(Failure::wrong_use(
                    "--device names several devices for one process, and a launcher has started several processes: give each of them one, \
                     such as `--device cuda`",
                ));
            }
        };
        Ok(picked.into_iter().map(|picked| (picked.name, picked.device)).collect())
    }

    /// `--resume run.toml` means the configuration: a checkpoint is a folder.
    fn untangled(mut self) -> Self {
        let taken = |p: &PathBuf| p.extension().is_some_and(|e| e == "toml");
        if self.config.is_none()
            && let Some(named) = &mut self.resume
            && named.as_ref().is_some_and(taken)
        {
            self.config = named.take();
        }
        self
    }

    fn load(&self) -> Result<RunConfig, Failure> {
        match &self.config {
            Some(file) => configs::load(file, &self.set.set),
            None if self.resume.is_some() => Err(Failure::wrong_use(
                "--resume needs the CONFIG of the run (a run folder holds its config.toml)",
            )),
            None => {
                note("no CONFIG: a tiny built-in model learns to answer questions about made-up people and things");
                embedded::quickstart(&self.set.set)
            }
        }
    }

    fn progress(&self, interrupter: &Interrupter) -> (Option<Screen>, Progress) {
        if logging::quiet() {
            return (None, Progress::Silent);
        }
        if !self.plain && !self.json && Screen::possible() {
            let (screen, view) = Screen::open(interrupter.clone());
            return (Some(screen), Progress::Renderer(view));
        }
        let terminal = std::io::stderr().is_terminal();
        let style = if terminal { Style::Bar } else { Style::Lines };
        (None, Progress::Text(style, Box::new(std::io::stderr())))
    }

    fn interrupted(outcome: &Outcome, signal: Option<usize>) -> Failure {
        // The run's own copy of the configuration holds what --set changed.
        let config = outcome.out.join("config.toml");
        let message = match &outcome.checkpoint {
            Some(checkpoint) => format!(
                "stopped after step {}, saved in {}; go on with `ft train {} --resume`",
                outcome.steps,
                output::path(checkpoint),
                output::path(&config)
            ),
            None => "stopped before the first step; nothing was saved".to_string(),
        };
        match signal {
            Some(signal) => Failure::stopped(signal, message),
            None => Failure::new(message),
        }
    }
}

/// Whether these devices can add up among themselves.
fn sum_on_cards(names: &[&str]) -> bool {
    #[cfg(feature = "cuda")]
    if names.iter().all(|name| name.starts_with("cuda")) {
        return crate::cuda::sums();
    }
    let _ = names;
    false
}

/// Why a run has no result.
enum Ended {
    /// Someone asked it to stop.
    Asked(Failure),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What the run has to say beside its progress.
fn tell(event: &Event) {
    match event {
        Event::Warning(text) => tracing::warn!("{text}"),
        Event::Note(text) => note(text),
        Event::Resumed { step, path } => note(&format!("resumed after step {step} from {}", output::path(path))),
        Event::TaskEnded {
            step,
            task,
            names,
            losses,
        } => {
            let each = names.iter().zip(losses).map(|(name, loss)| format!("{name} {loss:.4}"));
            let each: Vec<String> = each.collect();
            note(&format!(
                "after step {step} task {} ends; losses: {}",
                names[*task],
                each.join(", ")
            ));
        }
        Event::Saved { step, path } => tracing::info!("saved step {step} in {}", output::path(path)),
        // The renderer shows it.
        Event::Evaluated { .. } | Event::Answered(_) => {}
    }
}

fn note(text: &str) {
    if logging::quiet() {
        return;
    }
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(logging::Stderr, "{text}");
}

fn page(outcome: &Outcome) -> String {
    let mut page = scores(outcome.before.as_ref(), outcome.after.as_ref());
    page += &outcome
        .continual
        .as_ref()
        .map_or(String::new(), |scores| super::continual::matrix(scores) + "\n");
    page += &outcome.samples.iter().map(answers).collect::<String>();
    page += &format!(
        "{} steps, {} tokens, {:.1} s of training, {} parameters trained\n",
        outcome.steps,
        output::count(outcome.tokens),
        outcome.seconds,
        output::count(outcome.trainable as u64)
    );
    let memory = ft_train::memory::compared(outcome.peak_memory_bytes, outcome.planned_memory_bytes);
    page += &format!("memory: {memory}\n");
    if let Some(size) = outcome.micro_batch {
        page += &format!("memory ran out: {size} samples in a forward pass at the end\n");
    }
    let places = [("result", &outcome.final_dir), ("report", &outcome.report)];
    page + &places
        .iter()
        .filter_map(|(name, path)| Some(line(name, path.as_deref()?)))
        .collect::<String>()
}

fn line(name: &str, path: &Path) -> String {
    format!("{name}: {}\n", output::path(path))
}

/// Held-out numbers before and after, metric by metric.
fn scores(before: Option<&Score>, after: Option<&Score>) -> String {
    let Some(after) = after else { return String::new() };
    let value = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.4}"));
    let row = |name: &str, pick: &dyn Fn(&Score) -> Option<f64>| {
        vec![name.to_string(), value(before.and_then(pick)), value(pick(after))]
    };
    let mut rows = vec![vec!["held out".to_string(), "before".into(), "after".into()]];
    rows.push(row("loss", &|s| Some(s.loss)));
    rows.push(row("perplexity", &|s| s.perplexity));
    rows.extend(
        after
            .tasks
            .keys()
            .map(|name| row(&format!("loss, {name}"), &|s| s.tasks.get(name).copied())),
    );
    rows.extend(
        after
            .metrics
            .keys()
            .map(|name| row(name, &|s| s.metrics.get(name).copied())),
    );
    output::table(&rows, &[false, true, true]) + "\n"
}

fn answers(sample: &BeforeAfter) -> String {
    let indented = |text: &str| text.trim().replace('\n', "\n            ");
    format!(
        "  prompt    {}\n  expected  {}\n  before    {}\n  after     {}\n\n",
        indented(&sample.prompt),
        indented(&sample.expected),
        indented(&sample.before),
        indented(&sample.after)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn scores_stand_side_by_side() {
        let score = |loss: f64, em: f64| Score {
            loss,
            perplexity: Some(loss.exp()),
            tasks: BTreeMap::new(),
            metrics: BTreeMap::from([("exact_match".to_string(), em)]),
        };
        let text = scores(Some(&score(2.0, 0.0)), Some(&score(0.5, 0.9)));
        let last = text.trim().lines().last().unwrap();
        assert_eq!(
            last.split_whitespace().collect::<Vec<_>>(),
            ["exact_match", "0.0000", "0.9000"]
        );
        assert!(scores(None, Some(&score(0.5, 0.9))).contains('-'));
        assert!(scores(None, None).is_empty());
    }
}
