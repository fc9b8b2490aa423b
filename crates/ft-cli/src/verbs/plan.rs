//! `ft plan`: everything that is decided before a run.

use std::path::PathBuf;

use ft_train::{DeviceTraits, Error, PlanSummary};

use crate::args::{DeviceArg, SetArg};
use crate::failure::Failure;
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
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

impl Plan {
    pub fn run(self) -> Result<(), Failure> {
        let mut sets = self.set.set;
        sets.extend(self.memory.map(|size| format!("train.memory={size}")));
        let config = match &self.config {
            Some(file) => configs::load(file, &sets)?,
            None => embedded::quickstart(&sets)?,
        };
        let picked = device::pick(self.device.device)?;
        let summary = match self.elsewhere.as_deref().and_then(DeviceTraits::named) {
            Some(traits) => PlanSummary::elsewhere(config, &traits, &picked.device)?,
            None => PlanSummary::of(config, &picked.device, &picked.name)?,
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
