//! What the command line looks like: a verb, and the options that go with every verb.

use clap::{ArgAction, Parser};

use crate::failure::Failure;
use crate::verbs::Verb;

/// Where the help lists the options that every verb takes.
const EVERYWHERE: &str = "With every verb";

/// Fine-tune language models, from one binary and without Python.
#[derive(Parser, Debug)]
#[command(name = "ft", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
MODEL is a folder in Hugging Face layout, a GGUF file, a run folder, an id of the Hub (owner/name
or owner/name@revision), or `embedded:tiny`. Data sets of the Hub are hf://datasets/owner/name.
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

    /// Forbid the network: models and data sets of the Hub must be in its cache
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    offline: bool,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), Failure> {
        if self.offline {
            crate::hub::forbid();
        }
        self.verb.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../../README.md");

    /// The lines between ``` fences of this language.
    fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
        let blocks = text.split("```").skip(1).step_by(2);
        blocks
            .filter_map(|b| b.strip_prefix(language)?.strip_prefix('\n'))
            .flat_map(str::lines)
            .collect()
    }

    #[test]
    fn every_command_of_the_readme_is_understood() {
        let lines = fenced(README, "").into_iter().filter(|l| l.starts_with("ft "));
        let commands: Vec<&str> = lines.map(|l| l.split('#').next().unwrap_or(l).trim()).collect();
        assert!(commands.len() > 8, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn the_configuration_of_the_readme_is_one() {
        let text = fenced(README, "toml").join("\n");
        let config = ft_train::RunConfig::parse("README.md".as_ref(), text, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.optim.lr(), 5e-4);
    }
}
