//! `ft config`: checks, resolves and describes configuration files.

use std::path::PathBuf;

use clap::Subcommand;
use ft_train::RunConfig;
use serde_json::json;

use crate::args::SetArg;
use crate::failure::Failure;
use crate::output;

/// Check, show or describe configuration files
#[derive(clap::Args, Debug)]
pub struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Read files and report everything that is wrong with them
    Check {
        /// Configuration files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration as it is understood: every key and default, `extends` merged, paths resolved
    Show {
        /// Configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        set: SetArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of configuration files, for editors
    Schema,
}

impl Config {
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Check { files, set, json } => check(&files, &set.set, json),
            Action::Show { file, set, json } => {
                let config = RunConfig::load(&file, &set.set)?;
                if json {
                    output::json(&config)
                } else {
                    output::write(&config.to_toml(None))
                }
            }
            Action::Schema => output::json(&RunConfig::schema()),
        }
    }
}

/// All files are read, whatever is wrong with the first ones.
fn check(files: &[PathBuf], set: &[String], json: bool) -> Result<(), Failure> {
    let checked: Vec<_> = files
        .iter()
        .map(|file| (file, RunConfig::load(file, set).err()))
        .collect();
    if json {
        let object = |(file, error): &(&PathBuf, Option<ft_train::Error>)| json!({ "file": file, "ok": error.is_none(), "errors": error.as_ref().map(problems).unwrap_or_default() });
        output::json(&json!({ "files": checked.iter().map(object).collect::<Vec<_>>() }))?;
    } else {
        for (file, _) in checked.iter().filter(|(_, error)| error.is_none()) {
            output::write(&format!("{}: ok\n", file.display()))?;
        }
    }
    let errors: Vec<String> = checked
        .iter()
        .filter_map(|(_, error)| Some(error.as_ref()?.to_string()))
        .collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(errors.join("\n"))),
    }
}

/// One line per thing that is wrong.
fn problems(error: &ft_train::Error) -> Vec<String> {
    match error {
        ft_train::Error::Config(issues) => issues.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    }
}
