//! Real tokens per second of padded, length-grouped and packed training on one data set, in one process that takes turns, as one JSON
//! line; and how many of the cells hold tokens.
//!
//! Other work on the machine is felt by all turns of a round alike, so the ratios within a round count; CPU seconds are given beside
//! those of the clock because they feel it less.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use ft_data::{Order, Sample};
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, OptimConfig};
use ft_peft::attach;
use ft_train::{Batches, MethodHook, Packing, Padding, Plan, RunConfig, TrainModel};
use serde_json::{Value, json};

/// Times the steps of a configuration's model, method and data, whose samples are packed or not.
#[derive(Parser, Debug)]
struct Args {
    /// Configuration file.
    config: PathBuf,
    /// `key=value` over it; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Samples of an unpacked step, and so many times `data.max_length` tokens at most of a packed one.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Rows of a step whose rows are filled from all samples.
    #[arg(long, default_value_t = 1)]
    rows: usize,
    /// Tokens that every turn learns from, about.
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// Rounds, after one that does not count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A way to batch, and how far it has come.
struct Way {
    name: &'static str,
    batches: Batches,
    order: Vec<Vec<usize>>,
    step: usize,
    /// Tokens per second of the clock, and of the CPU, of every round.
    rates: Vec<[f64; 2]>,
}

fn main() {
    let args = Args::parse();
    if let Err(why) = run(&args) {
        eprintln!("packing: {why}");
        std::process::exit(2)
    }
}

fn run(args: &Args) -> Result<(), String> {
    let text = |e: ft_train::Error| e.to_string();
    let device = ft_cli::open_device("cpu");
    let config = RunConfig::load(&args.config, &args.set).map_err(text)?;
    let plan = Plan::resolve(config, &device, "cpu").map_err(text)?;
    let folder = &plan.config.model.path;
    let mut model = Model::load(folder, LoadDtype::F32, &device.clone().autodiff()).map_err(|e| e.to_string())?;
    attach(&mut model, &plan.peft, 0).map_err(|e| e.to_string())?;
    let (mut train, mut hook) = (TrainModel::new(model), MethodHook::of(&plan.peft));
    let mut optim = Optim::new(&OptimConfig::default()).map_err(|e| e.to_string())?;
    let mut ways = ways(args, &plan);
    for round in 0..=args.rounds {
        for way in &mut ways {
            let (clock, cpu, mut tokens) = (Instant::now(), cpu_seconds(), 0);
            while tokens < args.tokens {
                let batch = way.batches.step_batch(&way.order[way.step % way.order.len()], way.step);
                let output = train
                    .step_gradients(&mut hook, &batch, Some(1.0), &|| true)
                    .map_err(text)?;
                let output = output.ok_or("a step that nobody stops ended early")?;
                train = TrainModel {
                    model: optim.step(1e-5, train.model, output.grads),
                    ..train
                };
                (way.step, tokens) = (way.step + 1, tokens + batch.tokens);
            }
            let rates = [clock.elapsed().as_secs_f64(), cpu_seconds() - cpu].map(|seconds| tokens as f64 / seconds);
            eprintln!(
                "{round} {:<8} {:.0} tokens/s, {:.0} per CPU second",
                way.name, rates[0], rates[1]
            );
            if round > 0 {
                way.rates.push(rates);
            }
        }
    }
    println!(
        "{}",
        json!({ "batch": args.batch, "rows": args.rows, "ways": report(&ways) })
    );
    Ok(())
}

fn ways(args: &Args, plan: &Plan) -> Vec<Way> {
    let samples = plan.train();
    // At random, and not by length.
    let drawn = Order::epoch(&vec![1; samples.len()], 1, 7, 0, true).concat();
    let drawn: Vec<Sample> = drawn.into_iter().map(|i| samples[i].clone()).collect();
    let length = plan.config.data.max_length;
    let pad = Padding {
        id: plan.tokenizer().padding(),
        multiple: 1,
    };
    let way = |name, grouped: bool, size, packing| {
        let samples = if grouped { samples.to_vec() } else { drawn.clone() };
        let batches = Batches::new(samples, [size, 1], grouped, false, 7, pad).packed(packing, 0);
        Way {
            name,
            order: batches.epoch(0),
            batches,
            step: 0,
            rates: Vec::new(),
        }
    };
    vec![
        way("padded", false, args.batch, Packing::Off),
        way("grouped", true, args.batch, Packing::Off),
        way("passes", false, args.batch, Packing::Passes(length)),
        way("rows", true, args.rows, Packing::Rows(length)),
    ]
}

/// Medians, and medians of the ratios to the first way within a round.
fn report(ways: &[Way]) -> Vec<Value> {
    let tokens: usize = ways[0].batches.samples().iter().map(Sample::tokens).sum();
    let way = |way: &Way| {
        let rate = |i: usize| median(way.rates.iter().map(|rates| rates[i]).collect());
        let ratio = |i: usize| {
            let rounds = way.rates.iter().zip(&ways[0].rates);
            median(rounds.map(|(own, first)| own[i] / first[i]).collect())
        };
        json!({
            "name": way.name, "filled": tokens as f64 / way.batches.cells_per_epoch(0) as f64,
            "tokens_per_s": rate(0), "x_padded": ratio(0), "tokens_per_cpu_s": rate(1), "x_padded_cpu": ratio(1),
        })
    };
    ways.iter().map(way).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// User and system time of the process; Linux counts it in ticks of 10 ms. Not a number elsewhere.
fn cpu_seconds() -> f64 {
    let ticks = || {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
        Some(ticks(11)? + ticks(12)?)
    };
    ticks().map_or(f64::NAN, |ticks| ticks / 100.0)
}
