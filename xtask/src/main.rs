//! Project chores: `cargo xtask <command>`. One file per command, one line per command in `COMMANDS`.
//!
//! No dependency but `serde_json` (for `cargo metadata`), so that the first build of a fresh clone reaches the
//! checks quickly.

mod base;
mod bench;
mod check_gpu;
mod ci;
mod fuzz;
mod golden;
mod guide;
mod shell;
mod soak;
mod tidy;

use std::process::ExitCode;

/// What a command returns: nothing, or the sentence that says why it failed.
type Outcome = Result<(), String>;

struct Command {
    name: &'static str,
    usage: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "ci",
        usage: "[STEP..]  fmt, tidy, clippy, test, parquet, mpi, examples: what must pass before a merge",
        run: ci::run,
    },
    Command {
        name: "tidy",
        usage: "          crate arrows, registries, paths in Markdown, file sizes",
        run: tidy::run,
    },
    Command {
        name: "check-gpu",
        usage: "[BACKEND..]  cargo check with cuda and vulkan",
        run: check_gpu::run,
    },
    Command {
        name: "bench",
        usage: "[METHOD..]  the technique comparison table; `bench step [--python PYTHON]`: one step beside torch + PEFT; \
                `bench distill`: a student taught with and without its teacher; `bench continual`: what is forgotten; `bench augment`: whether augmentation helps",
        run: bench::run,
    },
    Command {
        name: "golden",
        usage: "[--python PYTHON] [--run [NAME..]] [-- ARGS..]  list or rerun fixture generators",
        run: golden::run,
    },
    Command {
        name: "guide",
        usage: "         write docs/guide from the sources and the measured figures",
        run: guide::run,
    },
    Command {
        name: "soak",
        usage: "[ROUNDS]  kill a run with SIGKILL that often (50) and resume it: the weights must be those of the run left alone",
        run: soak::run,
    },
    Command {
        name: "fuzz",
        usage: "[CASES] [TARGET]  mutated files of every kind that is read (100000): an error in words, never a panic, abort or hang",
        run: fuzz::run,
    },
    Command {
        name: "base",
        usage: "[ARGS..]  rebuild the embedded base model",
        run: base::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "-h" | "--help" | "help") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        eprint!("xtask: no command `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask {name}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let lines: String = COMMANDS
        .iter()
        .map(|c| format!("  {:<10} {}\n", c.name, c.usage))
        .collect();
    format!("cargo xtask COMMAND\n\n{lines}")
}
