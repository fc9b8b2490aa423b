//! `ft advise`: which technique for a model, its data, the memory there is and the goal.

use std::path::{Path, PathBuf};

use ft_train::advise::{Goal, Question, Trouble, advise, troubles};
use ft_train::{DeviceTraits, RunConfig};
use serde_json::json;

use crate::args::{DeviceArg, SetArg};
use crate::failure::{Context, Failure};
use crate::{device, locate, output};

/// Rank the techniques for a model, its data, the memory and the goal, and write a configuration that runs; or say what is wrong with a
/// run
#[derive(clap::Args, Debug)]
pub struct Advise {
    /// Model folder or embedded:tiny, of which config.json and the tokenizer are enough; or the folder of a run
    #[arg(value_name = "MODEL")]
    model: String,
    /// File of training examples; given several times, each is a task
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Memory of the device, such as 24GB: of a graphics card where --for says nothing else
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// A device that this machine or this build need not have
    #[arg(long = "for", value_name = "DEVICE", value_parser = DeviceTraits::NAMES, conflicts_with = "device")]
    elsewhere: Option<String>,
    /// Tasks that the model is to learn
    #[arg(long, value_name = "N", default_value_t = 1)]
    tasks: usize,
    /// What matters most
    #[arg(long, value_name = "GOAL", value_parser = Goal::ALL.map(|(name, _)| name))]
    goal: Option<String>,
    /// File to write the configuration to; it must not exist
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    set: SetArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

impl Advise {
    pub fn run(self) -> Result<(), Failure> {
        let run = Path::new(&self.model);
        if run.join("metrics.jsonl").is_file() {
            return look(run, self.json);
        }
        if self.data.is_empty() {
            return Err(Failure::wrong_use(
                "--data: missing; give the training examples, since lengths and numbers decide (a run folder needs none)",
            ));
        }
        self.out.as_deref().map_or(Ok(()), output::must_not_exist)?;
        let config = RunConfig::parse("advise".as_ref(), self.configuration()?, &self.set.set)?;
        let picked = device::pick(self.device.device)?;
        let elsewhere = self.elsewhere.as_deref().or(self.memory.as_ref().map(|_| "cuda"));
        let traits = match elsewhere
            .filter(|_| self.device.device == device::DeviceChoice::Auto)
            .and_then(DeviceTraits::named)
        {
            Some(traits) => traits,
            None => DeviceTraits::of(&picked.device, &picked.name),
        };
        let goal = Goal::ALL.iter().find(|(name, _)| Some(*name) == self.goal.as_deref());
        let question = Question {
            goal: goal.map(|(_, goal)| *goal),
            tasks: self.tasks,
        };
        let advised = advise(config, &traits, &picked.device, &question)?;
        if let Some(out) = &self.out {
            std::fs::write(out, &advised.config).context(out.display())?;
        }
        match (self.json, &self.out) {
            (true, _) => output::json(&advised),
            (false, Some(out)) => output::write(&format!("{advised}\nft train {}\n", out.display())),
            (false, None) => output::write(&format!("{advised}\n{}", advised.config)),
        }
    }

    /// The model and the data; the method is none that counts.
    fn configuration(&self) -> Result<String, Failure> {
        let quoted = |path: &Path| -> Result<String, Failure> {
            let path = std::path::absolute(path).context(path.display())?;
            // A string of JSON is one of TOML.
            Ok(serde_json::to_string(&path.to_string_lossy())?)
        };
        let model = locate::checkpoint(&self.model)?;
        let mut text = format!("[model]\npath = {}\n[train]\nbatch_size = 16\n", quoted(&model)?);
        if let Some(memory) = &self.memory {
            text += &format!("memory = {}\n", serde_json::to_string(memory)?);
        }
        match self.data.as_slice() {
            [one] => text += &format!("[data]\ntrain = {}\n", quoted(one)?),
            several => {
                text += "[data]\nvalid_split = 0.05\n";
                for (number, file) in several.iter().enumerate() {
                    text += &format!("[[task]]\nname = \"task{}\"\ntrain = {}\n", number + 1, quoted(file)?);
                }
            }
        }
        Ok(text)
    }
}

/// Says what is wrong with a run.
fn look(run: &Path, json: bool) -> Result<(), Failure> {
    let found = troubles(run)?;
    if json {
        return output::json(&json!({ "run": run, "troubles": found }));
    }
    let mut text = match found.is_empty() {
        true => "Nothing stands out.\n".to_owned(),
        false => String::new(),
    };
    for Trouble {
        trouble,
        evidence,
        changes,
    } in found
    {
        text += &format!("{trouble}: {evidence}\n");
        changes.iter().for_each(|change| text += &format!("    {change}\n"));
    }
    output::write(&text)
}
