//! Options that several verbs take.

use std::path::PathBuf;
use std::str::FromStr;

use crate::device::{DeviceChoice, DevicesChoice};

/// `--device`, for the verbs that compute.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct DeviceArg {
    /// auto, cpu, cuda[:N], vulkan[:N], wgpu[:N] or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// `--device`, for the verb that may take several.
#[derive(clap::Args, Debug, Clone)]
pub struct DevicesArg {
    /// auto, cpu, cuda[:N], vulkan[:N], wgpu[:N] or metal; several take each step together: cuda:0,cuda:1 or cuda:all
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DevicesChoice,
}

/// An adapter of `--adapter`, for the verbs that take several: `NAME=PATH`, or a path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdapter {
    /// What it is called.
    pub name: String,
    /// Folder in PEFT layout, or of a run that ended in one.
    pub path: PathBuf,
}

/// The name of an adapter that was given none; PEFT's.
pub const UNNAMED: &str = "default";

impl FromStr for NamedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = |name: &str| name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        match text.split_once('=') {
            Some(("off", _)) => Err("`off` means no adapter, and cannot be a name".into()),
            Some((name, path)) if !name.is_empty() && word(name) => Ok(Self {
                name: name.into(),
                path: path.into(),
            }),
            _ => Ok(Self {
                name: UNNAMED.into(),
                path: text.into(),
            }),
        }
    }
}

/// `--set`, for the verbs that read a configuration.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct SetArg {
    /// Change one key of the configuration, e.g. --set optim.lr=1e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
