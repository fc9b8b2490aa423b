//! `ft plan`: everything that is decided before a run.

use std::path::{Path, PathBuf};

use ft_train::plan::{Network, Over};
use ft_train::{DeviceTraits, Error, PlanSummary, Ranks};

use crate::args::{DeviceArg, SetArg};
use crate::failure::Failure;
use crate::ranks::Started;
use crate::{configs, device, embedded, output};

/// Show everything that is decided before a run: what trains, steps, memory by part
#[derive(clap::Args, Debug)]
pub struct Plan {
    /// Configuration file; what `ft train` does without one where none is given
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    set: SetArg,
    /// A device that this machine or this build need not have; with --memory, whether the run fits there
    #[arg(long = "for", value_name = "DEVICE", value_parser = DeviceTraits::NAMES, conflicts_with = "device")]
    elsewhere: Option<String>,
    /// Memory that the run may take, such as 8GB; what the machine has left where it is not given
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Plan for 1, 2, 4, .. up to so many processes that mpirun starts (at most 1024)
    #[arg(long, value_name = "N")]
    ranks: Option<usize>,
    /// With --ranks: bytes per second between two processes, such as 25GB/s [default: 10 Gbit/s; measured where mpirun starts `ft plan`]
    #[arg(long, value_name = "RATE", requires = "ranks")]
    bandwidth: Option<String>,
    /// With --ranks: time of an empty message, such as 5us [default: 50us, or measured]
    #[arg(long, value_name = "TIME", requires = "ranks")]
    latency: Option<String>,
    /// With --ranks: tokens per second of one process, for the efficiency; what a run of one process in train.out has logged where it is not given
    #[arg(long, value_name = "RATE", requires = "ranks")]
    tokens_per_s: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

impl Plan {
    pub fn run(self) -> Result<(), Failure> {
        let started = Started::find()?;
        match self.plan(&started.ranks()) {
            Ok(()) => {
                started.finish();
                Ok(())
            }
            Err(failure) => Err(started.fail(failure)),
        }
    }

    fn plan(self, here: &Ranks) -> Result<(), Failure> {
        let mut sets = self.set.set;
        sets.extend(self.memory.map(|size| format!("train.memory={size}")));
        let config = match &self.config {
            Some(file) => configs::load(file, &sets)?,
            None => embedded::quickstart(&sets)?,
        };
        let picked = device::pick(self.device.device)?;
        let out = config.train.out.clone();
        let usual = Network::between(here)?;
        if !here.is_first() {
            return Ok(());
        }
        let network = Network::new(self.bandwidth.as_deref(), self.latency.as_deref(), usual)?;
        let over = self.ranks.map(|ranks| Over {
            ranks,
            network,
            rate: self.tokens_per_s.or_else(|| rate_of(&out)),
        });
        let summary = match self.elsewhere.as_deref().and_then(DeviceTraits::named) {
            Some(traits) => PlanSummary::elsewhere(config, &traits, &picked.device, over)?,
            None => PlanSummary::of_ranks(config, &picked.device, &picked.name, over)?,
        };
        match self.json {
            true => output::json(&summary)?,
            false => output::write(&summary.to_string())?,
        }
        match summary.refusals.is_empty() {
            true => Ok(()),
            false => Err(Error::Plan(summary.refusals).into()),
        }
    }
}

/// Tokens per second of the newest run in a folder that one process took: the middle of what it has logged.
fn rate_of(out: &Path) -> Option<f64> {
    let lines = ft_train::read_metrics(&out.join("metrics.jsonl"));
    let mut rates: Vec<f64> = lines.iter().filter_map(|line| line["tokens_per_s"].as_f64()).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}
