//! `ft` and all programs of this package that a card is measured with, in one file, which travels where several are too large: it is
//! the one that the name says which it is started under. `benches/gpu/run.sh` makes the links.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let own = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&own)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    match name.as_str() {
        "ft" => ft_cli::run(std::env::args_os()),
        "step" => ft_bench::step::main(),
        "plan" => ft_bench::plan::main(),
        "logits" => ft_bench::logits::main(),
        "rates" => ft_bench::rates::main(),
        "agree" => ft_bench::agree::main(),
        "decode" => ft_bench::decode::main(),
        _ => {
            eprintln!(
                "{name}: start this file under the name of ft, step, plan, logits, rates, agree or decode, by a link"
            );
            ExitCode::from(2)
        }
    }
}
