//! Greedy decoding of a random model of given dimensions: tokens per second for one stream and for several, as JSON lines.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ft_infer::GenerationConfig;
use ft_model::{Model, ModelConfig};
use ft_quant::Scheme;
use serde_json::json;

use crate::shapes::Dims;
use crate::step::{Dtype, scheme};

/// Times generation: one JSON line for every number of streams.
#[derive(Parser, Clone, Debug)]
struct Args {
    #[command(flatten)]
    dims: Dims,
    /// Streams that go on together.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    streams: Vec<usize>,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Tokens that are generated for each.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// As in `step`.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// As in `step`.
    #[arg(long, value_name = "KIND", value_parser = scheme)]
    quant: Option<Scheme>,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let device = ft_cli::open_device(&args.device);
    let length = args.prompt + args.tokens;
    let config = ModelConfig::from_json(&args.dims.config(length).to_string(), "flags".as_ref());
    let config = config.expect("a shape of the table");
    let model = Model::drawn(&config, args.dtype.float(), args.quant, &device).computing_in(args.dtype.float());
    for &streams in &args.streams {
        // The first round compiles and chooses kernels.
        let rounds = [0, 1].map(|round| time(&args, &model, streams, round));
        let [_, (first, rest)] = match rounds {
            [Ok(warm), Ok(timed)] => [warm, timed],
            [Err(why), _] | [_, Err(why)] => {
                eprintln!("decode: {why}");
                return ExitCode::FAILURE;
            }
        };
        let result = json!({
            "streams": streams, "tokens_per_s": (streams * (args.tokens - 1)) as f64 / rest,
            "first_token_s": first, "prompt": args.prompt, "tokens": args.tokens, "shape": args.dims.shape,
            "dtype": args.dtype.name(), "quant": args.quant, "device": args.device,
        });
        println!("{result}");
    }
    ExitCode::SUCCESS
}

/// Seconds to the first token of the last stream, and from there to the last one.
fn time(args: &Args, model: &Model, streams: usize, round: usize) -> Result<(f64, f64), String> {
    let id = |stream: usize, i: usize| ((i * 31 + stream * 17 + round * 7) % (args.dims.vocab() - 2) + 2) as u32;
    let prompts: Vec<Vec<u32>> = (0..streams)
        .map(|stream| (0..args.prompt).map(|i| id(stream, i)).collect())
        .collect();
    let config = GenerationConfig {
        batch_size: streams,
        ignore_eos: true,
        ..GenerationConfig::greedy(args.tokens, [1])
    };
    let (start, mut seen, mut first) = (Instant::now(), 0, 0.0);
    let mut count = |_| {
        seen += 1;
        if seen == streams {
            first = start.elapsed().as_secs_f64();
        }
        ControlFlow::Continue(())
    };
    ft_infer::generate(model, &prompts, &config, &mut count).map_err(|e| e.to_string())?;
    Ok((first, start.elapsed().as_secs_f64() - first))
}
