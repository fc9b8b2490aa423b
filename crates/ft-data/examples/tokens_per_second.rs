//! How fast a file becomes samples, and what is in it.
//!
//! ```text
//! cargo run -p ft-data --example tokens_per_second -- TOKENIZER_DIR FILE [prompt='Facts: {mr}\n' completion='{ref}']
//! ```

use std::path::Path;
use std::time::Instant;

use ft_data::{DataConfig, Preview, Tokenizer, load_samples};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tokens_per_second TOKENIZER_DIR FILE [FIELD=TEXT]..".into());
    };
    let mut config = DataConfig::new(file.as_str());
    for pair in arguments {
        let (field, text) = pair.split_once('=').ok_or("expected FIELD=TEXT")?;
        config.map.insert(field.into(), text.replace("\\n", "\n"));
    }
    let start = Instant::now();
    let tokenizer = Tokenizer::from_dir(Path::new(&folder))?;
    println!(
        "tokenizer loaded in {:.3} s: {tokenizer:?}",
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    let data = load_samples(file.as_str(), &config, &tokenizer)?;
    let seconds = start.elapsed().as_secs_f64();
    let statistics = &data.statistics;
    println!(
        "{} as {}: {seconds:.2} s, {:.0} tokens/s",
        file,
        data.format.as_str(),
        statistics.tokens as f64 / seconds
    );
    println!("{statistics:#?}\n{}", statistics.warnings().join("\n"));
    for (learned, text) in Preview::new(&data.samples[0], &tokenizer).runs() {
        println!("{} {text:?}", if learned { "learned" } else { "context" });
    }
    Ok(())
}
