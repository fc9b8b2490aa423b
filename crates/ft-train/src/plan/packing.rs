//! Whether samples share rows, and what that comes to.

use ft_data::Pack;
use serde::Serialize;

use crate::batches::{Batches, Packing};
use crate::config::RunConfig;
use crate::objectives::ObjectiveConfig;

/// What `data.pack` means for a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackingSummary {
    /// How samples share rows.
    #[serde(flatten)]
    pub packing: Packing,
    /// Why.
    pub why: String,
    /// Share of an epoch's cells that hold tokens, the virtual ones of prompts among them; the rest is padding.
    pub filled: f64,
    /// The same where every sequence has a row of its own.
    pub filled_unpacked: f64,
    /// Samples of an optimizer step, on average.
    pub samples_per_step: f64,
}

/// Share of its cells that packing must spare to be chosen for samples that are short.
const WORTH: f64 = 0.02;

/// Why these samples cannot share rows.
fn hindrance(config: &RunConfig) -> Option<&'static str> {
    let noise = matches!(&*config.objective, ObjectiveConfig::Sft(sft) if sft.neftune_alpha > 0.0);
    noise.then_some("the noise of objective.neftune_alpha depends on the length of the row that a sample stands in")
}

/// What stands in the way of `data.pack = true`.
pub(super) fn refusal(config: &RunConfig) -> Option<String> {
    let tasks = (!config.task.is_empty()).then_some("rows that are filled from all samples know no [[task]] tables");
    let why = hindrance(config).or(tasks).filter(|_| config.data.pack == Pack::On)?;
    Some(format!("data.pack: {why}; leave one of them out"))
}

/// The samples as they share rows, with `prompt` columns before each of their sequences.
pub(super) fn packed(config: &RunConfig, batches: Batches, prompt: usize) -> (Batches, PackingSummary) {
    let length = config.data.max_length;
    let off = |why: &str| (Packing::Off, why.to_owned());
    let (packing, why) = match (config.data.pack, hindrance(config)) {
        (Pack::Off, _) => off("data.pack = false"),
        (Pack::On, _) => (Packing::Rows(length), "data.pack = true".to_owned()),
        (Pack::Auto, Some(why)) => off(why),
        (Pack::Auto, None) => worth(&batches, prompt, length),
    };
    let columns = batches.columns_per_epoch(prompt);
    let share = |batches: &Batches| columns as f64 / batches.cells_per_epoch(prompt).max(1) as f64;
    let filled_unpacked = share(&batches);
    let batches = batches.packed(packing, prompt);
    let summary = PackingSummary {
        packing,
        why,
        filled: share(&batches),
        filled_unpacked,
        samples_per_step: batches.samples().len() as f64 / batches.steps_per_epoch().max(1) as f64,
    };
    (batches, summary)
}

/// Columns of every sample.
fn columns(batches: &Batches, prompt: usize) -> impl Iterator<Item = usize> {
    batches
        .samples()
        .iter()
        .map(move |sample| sample.tokens() + prompt * sample.rows())
}

/// Packing where at least two samples fit a row, and rows of their own would waste cells.
fn worth(batches: &Batches, prompt: usize, length: usize) -> (Packing, String) {
    let mean = columns(batches, prompt).sum::<usize>() / batches.samples().len().max(1);
    if 2 * mean > length {
        let why = format!("samples of {mean} tokens on average are not short against data.max_length = {length}");
        return (Packing::Off, why);
    }
    let (own, shared) = (batches.cells_per_epoch(prompt), batches.cells_sharing(length, prompt));
    let spared = 1.0 - shared as f64 / own.max(1) as f64;
    match spared >= WORTH {
        true => (
            Packing::Passes(length),
            format!("it spares {:.0} % of the cells", 100.0 * spared),
        ),
        false => (
            Packing::Off,
            format!(
                "batches of similar lengths leave it {:.1} % of the cells to spare",
                100.0 * spared
            ),
        ),
    }
}

impl std::fmt::Display for PackingSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [filled, unpacked] = [self.filled, self.filled_unpacked].map(|share| format!("{:.1} %", 100.0 * share));
        match self.packing {
            Packing::Off => write!(f, "off ({}): {filled} of the cells hold tokens", self.why),
            Packing::Passes(length) => write!(
                f,
                "the samples of a forward pass share rows of at most {length} ({}): {filled} of the cells hold tokens, {unpacked} without",
                self.why
            ),
            Packing::Rows(length) => write!(
                f,
                "rows of {length} ({}): {filled} of the cells hold tokens, {unpacked} without; a step learns from about {:.0} samples",
                self.why, self.samples_per_step
            ),
        }
    }
}
