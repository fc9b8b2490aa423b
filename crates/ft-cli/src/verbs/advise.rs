//! `ft advise`: which technique for a model, its data, the memory there is and the goal.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use ft_train::advise::{Goal, Question, Trouble, advise, troubles};
use ft_train::{DeviceTraits, RunConfig};
use serde_json::json;

use crate::args::{DeviceArg, SetArg};
use crate::failure::{Context, Failure};
use crate::{device, locate, output, questions};

/// Rank the techniques for a model, its data, the memory and the goal, and write a configuration that runs; or say what is wrong with a
/// run. On a terminal and without --data it asks
#[derive(clap::Args, Debug)]
pub struct Advise {
    /// Model folder, GGUF file or embedded:tiny, of which config.json and the tokenizer are enough; or the folder of a run
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
    /// Speed of the device's matrix products in 10^12 operations a second, for the time of an epoch; of a device that is here it is measured
    #[arg(long, value_name = "N", value_parser = positive)]
    tflops: Option<f64>,
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
    pub fn run(mut self) -> Result<(), Failure> {
        let run = Path::new(&self.model);
        if run.join("metrics.jsonl").is_file() {
            return look(run, self.json);
        }
        if self.data.is_empty() && !self.json && questions::somebody() {
            self.ask(&mut std::io::stdin().lock(), &mut std::io::stderr())?;
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
        let measured = || (traits.name() == picked.name).then(|| product_rate(&picked.device));
        let goal = Goal::ALL.iter().find(|(name, _)| Some(*name) == self.goal.as_deref());
        let question = Question {
            goal: goal.map(|(_, goal)| *goal),
            tasks: self.tasks,
            product_rate: self.tflops.map(|tera| tera * 1e12).or_else(measured),
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

    /// What was not said.
    fn ask(&mut self, input: &mut impl BufRead, output: &mut impl Write) -> Result<(), Failure> {
        let file = |text: &str| match Path::new(text).exists() {
            true => Ok(PathBuf::from(text)),
            false => Err(format!("`{text}`: no such file or folder")),
        };
        self.data = vec![questions::ask(
            input,
            output,
            "Training examples, a file or folder",
            file,
        )?];
        if self.memory.is_none() && self.elsewhere.is_none() {
            let size = |text: &str| match text {
                "" => Ok(None),
                text if text.starts_with(|c: char| c.is_ascii_digit()) => Ok(Some(text.to_owned())),
                text => Err(format!("`{text}` is no size; one is 24GB")),
            };
            let question = "Memory of the graphics card, such as 24GB (empty: this machine as it is)";
            self.memory = questions::ask(input, output, question, size)?;
        }
        let number = |text: &str| match text {
            "" => Ok(1),
            text => text.parse().map_err(|_| format!("`{text}` is no number")),
        };
        self.tasks = questions::ask(input, output, "Tasks that the model is to learn (empty: 1)", number)?;
        if self.goal.is_none() {
            let names = Goal::ALL.map(|(name, _)| name);
            let goal = |text: &str| match names.contains(&text) {
                _ if text.is_empty() => Ok(None),
                true => Ok(Some(text.to_owned())),
                false => Err(format!("`{text}` is none of them")),
            };
            let question = format!("What matters most: {} (empty: nothing in particular)", names.join(", "));
            self.goal = questions::ask(input, output, &question, goal)?;
        }
        Ok(())
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

/// Operations per second of a square product in f32, the best of four.
fn product_rate(device: &Device) -> f64 {
    const SIDE: usize = 1024;
    let matrix = Tensor::<2>::ones([SIDE, SIDE], device);
    let seconds = |_| {
        let start = Instant::now();
        let _ = matrix.clone().matmul(matrix.clone()).sum().into_data();
        start.elapsed().as_secs_f64()
    };
    let least = (0..4).map(seconds).fold(f64::INFINITY, f64::min);
    2.0 * (SIDE as f64).powi(3) / least
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "a number above 0 is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        advise: Advise,
    }

    #[test]
    fn what_was_not_said_is_asked() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let mut advise = Typed::parse_from(["advise", "embedded:tiny"]).advise;
        let mut shown = Vec::new();
        let typed = format!("nowhere.jsonl\n{here}\nmuch\n24GB\n\nfame\nmemory\n");
        advise.ask(&mut typed.as_bytes(), &mut shown).unwrap();
        assert_eq!(advise.data, [PathBuf::from(here)]);
        assert_eq!((advise.memory.as_deref(), advise.tasks), (Some("24GB"), 1));
        assert_eq!(advise.goal.as_deref(), Some("memory"));
        let shown = String::from_utf8(shown).unwrap();
        for wrong in ["nowhere.jsonl", "`much` is no size", "`fame` is none"] {
            assert!(shown.contains(wrong), "{shown}");
        }
        let mut said = Typed::parse_from(["advise", "m", "--memory", "8GB", "--goal", "speed", "--tasks", "2"]).advise;
        said.ask(&mut format!("{here}\n3\n").as_bytes(), &mut Vec::new())
            .unwrap();
        assert_eq!((said.memory.as_deref(), said.tasks), (Some("8GB"), 3));
    }
}
