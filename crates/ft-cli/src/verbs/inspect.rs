//! `ft inspect`: what a model, an adapter, a run or a configuration is, without loading weights onto a device.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::inspect::{adapter, checkpoint, run};
use crate::{configs, device, locate, output};

/// Show what a model, an adapter, a run or a configuration is
#[derive(clap::Args, Debug)]
pub struct Inspect {
    /// Model, adapter or run folder, GGUF file, embedded:tiny, or a configuration file
    #[arg(value_name = "MODEL|ADAPTER|RUN|CONFIG")]
    what: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        let path = PathBuf::from(&self.what);
        if path.is_file() && !ft_gguf::is_gguf(&path) {
            return self.config(&path);
        }
        if path.join("config.toml").is_file() {
            let run = run::Run::read(&path)?;
            return self.show("run", &path, &run, &run.page());
        }
        if ft_peft::adapter::is_adapter(&path) {
            let adapter = adapter::Adapter::read(&path)?;
            return self.show("adapter", &path, &adapter, &adapter.page());
        }
        let folder = locate::locate(&self.what, None)?.checkpoint;
        let model = checkpoint::Model::read(&folder)?;
        self.show("model", &folder, &model, &model.page())
    }

    fn config(&self, file: &Path) -> Result<(), Failure> {
        if file.extension().is_none_or(|e| e != "toml") {
            let why = "it is neither a folder nor a GGUF file (.gguf) nor a configuration (.toml)";
            return Err(Failure::new(format!("cannot inspect `{}`: {why}", file.display())));
        }
        let config = configs::load(file, &[])?;
        let picked = device::pick(device::DeviceChoice::Cpu)?;
        let summary = ft_train::Plan::resolve(config, &picked.device, &picked.name)?.summary();
        self.show("config", file, &summary, &summary.to_string())
    }

    fn show(&self, kind: &str, path: &Path, what: &impl Serialize, page: &str) -> Result<(), Failure> {
        if !self.json {
            return output::write(page);
        }
        let mut object = json!({ "kind": kind, "path": path });
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, serde_json::to_value(what)?) {
            object.extend(fields);
        }
        output::json(&object)
    }
}
