//! How fast a file becomes samples, and what is in it; with `--cache`, how fast it is there again.
//!
//! ```text
//! cargo run -p ft-data --example tokens_per_second -- TOKENIZER_DIR FILE [prompt='Facts: {mr}\n' completion='{ref}'] [--cache FOLDER]
//! ```

use std::path::{Path, PathBuf};
use std::time::Instant;

use ft_data::{Cache, DataConfig, Dataset, Preview, Tokenizer, load_samples};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tokens_per_second TOKENIZER_DIR FILE [FIELD=TEXT].. [--cache FOLDER]".into());
    };
    let mut config = DataConfig::new(file.as_str());
    config.cache = Cache::Off;
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            Some((field, text)) => {
                config.map.insert(field.into(), text.replace("\\n", "\n"));
            }
            None if argument == "--cache" => {
                let folder = arguments.next().ok_or("--cache FOLDER")?;
                config.cache = Cache::Folder(PathBuf::from(folder));
            }
            None => return Err("expected FIELD=TEXT".into()),
        }
    }
    let start = Instant::now();
    let tokenizer = Tokenizer::from_dir(Path::new(&folder))?;
    println!(
        "tokenizer loaded in {:.3} s: {tokenizer:?}",
        start.elapsed().as_secs_f64()
    );

    let load = || -> ft_data::Result<(Dataset, f64, f64)> {
        let (start, before) = (Instant::now(), cpu_seconds());
        let data = load_samples(file.as_str(), &config, &tokenizer)?;
        Ok((data, start.elapsed().as_secs_f64(), cpu_seconds() - before))
    };
    let (data, seconds, cpu) = load()?;
    let statistics = &data.statistics;
    println!(
        "{file} as {}: {seconds:.3} s, {cpu:.2} CPU s, {} tokens, {:.0} tokens/s",
        data.format.as_str(),
        statistics.tokens,
        statistics.tokens as f64 / seconds
    );
    if let Some(cached) = &data.cached {
        let (_, seconds, cpu) = load()?;
        println!("cache {cached}; read again in {seconds:.3} s, {cpu:.2} CPU s");
    }
    println!("{statistics:#?}\n{}", data.warnings().join("\n"));
    for (learned, text) in Preview::new(&data.samples[0], &tokenizer).runs() {
        println!("{} {text:?}", if learned { "learned" } else { "context" });
    }
    Ok(())
}

/// CPU time of this process so far, where Linux tells (in clock ticks of 10 ms); else 0.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
