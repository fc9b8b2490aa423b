//! The `ft` command: fine-tune, evaluate, generate, merge and inspect language models.
//!
//! ```text
//!  arguments -> Cli -> one verb (src/verbs/, one file each) -> stdout: data, one JSON object with --json
//!                       |   |                                  stderr: progress, logs, errors
//!                       |   device: the only place that picks one
//!                       model: folder | run folder | embedded:tiny -> weights, tokenizer, adapter
//! ```
//!
//! This is the only crate that prints, reads the environment or picks a device. Exit codes: 0 done, 1 failed, 2 wrong
//! use, 130 and 143 when stopped by SIGINT or SIGTERM.
//!
//! ```
//! use std::process::ExitCode;
//! assert_eq!(ft_cli::run(["ft", "--version"]), ExitCode::SUCCESS);
//! assert_eq!(ft_cli::run(["ft", "no-such-verb"]), ExitCode::from(2));
//! ```

mod allocator;
mod args;
mod authors;
mod cli;
mod configs;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod embedded;
mod failure;
mod hub;
mod inspect;
mod locate;
mod logging;
mod model;
mod modelfile;
mod output;
mod questions;
mod ranks;
mod screen;
mod signals;
mod verbs;
mod weights;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser;
use cli::Cli;
use failure::Failure;

/// Runs the program with these arguments (the first one is the program's name) and says how the process should end.
pub fn run<I>(args: I) -> ExitCode
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are asked for: stdout, 0. Anything else is wrong use: stderr, 2.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    allocator::keep_memory();
    ft_kernels::keep_tuned(&embedded::cache().join("kernels"));
    logging::start(cli.verbose, cli.quiet);
    failure::report_panics_in_one_line();
    match std::panic::catch_unwind(AssertUnwindSafe(move || cli.run())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(_) => ExitCode::FAILURE, // the hook has said why
    }
}

/// The device that a `--device` value names, with the allocator set as every verb sets it: for the benchmarks, so that
/// they measure what `ft` does. Exits like `ft` on a device that is not there.
pub fn open_device(choice: &str) -> burn::tensor::Device {
    allocator::keep_memory();
    ft_kernels::keep_tuned(&embedded::cache().join("kernels"));
    let picked = choice.parse().map_err(Failure::wrong_use).and_then(device::pick);
    match picked {
        Ok(picked) => picked.device,
        Err(failure) => {
            failure.report();
            std::process::exit(2)
        }
    }
}
