//! What the command line looks like: the options that every verb takes, and the verb.

use clap::{ArgAction, Parser};

use crate::device::DeviceChoice;
use crate::failure::Failure;
use crate::verbs::Verb;

/// Where the help lists the options that every verb takes.
const EVERYWHERE: &str = "With every verb";

/// Fine-tune language models, from one binary and without Python.
#[derive(Parser, Debug)]
#[command(name = "ft", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
MODEL is a folder in Hugging Face layout, a run folder, or `embedded:tiny`.
Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use.

With no data and no model at hand, `ft train` shows a whole fine-tuning in about a minute.")]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Say more on stderr (-vv: everything); FT_LOG holds finer filters
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = ArgAction::Count)]
    pub verbose: u8,

    /// Say only errors on stderr
    #[arg(short, long, global = true, help_heading = EVERYWHERE, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Forbid the network (nothing uses it today: a Hub id must already be a folder)
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    offline: bool,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), Failure> {
        self.verb.run()
    }
}

/// `--device`, for the verbs that compute.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct DeviceArg {
    /// auto, cpu, cuda[:N], vulkan[:N], wgpu[:N] or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// `--set`, for the verbs that read a configuration.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct SetArg {
    /// Change one key of the configuration, e.g. --set optim.lr=1e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
