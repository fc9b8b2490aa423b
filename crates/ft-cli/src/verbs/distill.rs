//! `ft distill`: what distillation needs beside `ft train`: a smaller student, and a teacher's scores.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Subcommand;
use ft_data::Tokenizer;
use ft_model::{LoadDtype, Model};
use serde_json::json;

use crate::args::{DeviceArg, SetArg};
use crate::failure::{Context, Failure};
use crate::{configs, device, locate, output};

/// Make a smaller student, or a teacher's scores for later runs
#[derive(clap::Args, Debug)]
pub struct Distill {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Init(Init),
    Cache(Cache),
    Answers(Answers),
}

impl Distill {
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Init(init) => init.run(),
            What::Cache(cache) => cache.run(),
            What::Answers(answers) => answers.run(),
        }
    }
}

/// Write a student that has some of a model's layers, width kept
#[derive(clap::Args, Debug)]
struct Init {
    /// Model folder, GGUF file or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// The layers to keep, from 0, in this order: 0,2,4
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    layers: Vec<usize>,
    /// Write a BERT as a DistilBERT
    #[arg(long = "as", value_name = "FAMILY")]
    family: Option<Family>,
    /// Folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Families that a student can have in the place of its teacher's.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Family {
    #[value(name = "distilbert")]
    DistilBert,
}

impl Init {
    fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let folder = locate::checkpoint(&self.model)?;
        let tokenizer = Tokenizer::from_dir(&folder)?;
        // Copying is work for the CPU, whatever else there is.
        let model = Model::load(&folder, LoadDtype::Auto, &Device::flex())?;
        let (layers, before) = (model.config().num_hidden_layers, model.config().num_parameters());
        let student = model.keep_layers(&self.layers)?;
        let student = match self.family {
            None => student,
            Some(Family::DistilBert) => student.into_distilbert()?,
        };
        let draft = output::draft(&self.out);
        if let Err(failure) = super::quantize::write(&student, &tokenizer, &folder, &draft) {
            // What failed is not left lying about; the first failure is the one to report.
            let _ = std::fs::remove_dir_all(&draft);
            return Err(failure);
        }
        std::fs::rename(&draft, &self.out).context(self.out.display())?;
        let after = student.config().num_parameters();
        if self.json {
            return output::json(&json!({
                "out": self.out,
                "layers": self.layers,
                "parameters_before": before,
                "parameters": after,
            }));
        }
        output::write(&format!(
            "{} of {layers} layers in {}: {} parameters, {} before\n",
            self.layers.len(),
            self.out.display(),
            output::count(after as u64),
            output::count(before as u64),
        ))
    }
}

/// Write the scores of a configuration's teacher to a file that later runs train from (objective.cache)
#[derive(clap::Args, Debug)]
struct Cache {
    /// Configuration with objective.kind = "distill"
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    set: SetArg,
    /// Most probable tokens that are kept for each target token; the rest counts as one
    #[arg(long, value_name = "K", default_value_t = 64)]
    top_k: usize,
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

impl Cache {
    fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let config = configs::load(&self.config, &self.set.set)?;
        let picked = device::pick(self.device.device)?;
        let plan = ft_train::Plan::resolve(config, &picked.device, &picked.name)?;
        let written = ft_train::write_teacher_cache(&plan, self.top_k, &self.out)?;
        if self.json {
            return output::json(&written);
        }
        output::write(&format!(
            "{} target tokens, {} scores each, in {}: {:.1} MiB\n",
            output::count(written.tokens as u64),
            written.top_k,
            self.out.display(),
            written.bytes as f64 / f64::from(1 << 20),
        ))
    }
}

/// Write what a configuration's teacher answers to its training prompts, as data to learn from (sequence-level distillation)
#[derive(clap::Args, Debug)]
struct Answers {
    /// Configuration with objective.kind = "distill"
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    set: SetArg,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

impl Answers {
    fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        if self.out.extension().is_none_or(|extension| extension != "jsonl") {
            return Err(Failure::wrong_use(format!(
                "--out {}: name it .jsonl, by which data.train knows what it is",
                self.out.display()
            )));
        }
        let config = configs::load(&self.config, &self.set.set)?;
        let picked = device::pick(self.device.device)?;
        let plan = ft_train::Plan::resolve(config, &picked.device, &picked.name)?;
        let written = ft_train::write_teacher_answers(&plan, &self.out)?;
        if self.json {
            return output::json(&written);
        }
        let cut = match written.cut {
            0 => String::new(),
            cut => format!("; {cut} were cut (generate.max_new_tokens)"),
        };
        output::write(&format!(
            "{} answers, {} tokens, in {}{cut}\n",
            output::count(written.answers as u64),
            output::count(written.tokens as u64),
            self.out.display(),
        ))
    }
}
