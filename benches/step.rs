//! One training step of a Llama of given dimensions: tokens per second, peak memory and the share of the machine's own
//! matrix-product rate, as one JSON line. The counterpart of `torch_step.py`, with the same flags and the same work: random
//! weights, labels are the input ids, so every position but the last is learned.

use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor, activation};
use clap::{Parser, ValueEnum};
use ft_data::{Batch, Sample};
use ft_model::{Model, ModelConfig};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{PeftConfig, attach};
use ft_quant::{Kind, Scheme};
use ft_train::config::Checkpointing;
use ft_train::objectives::{HeldOut, LossFn, Objective, SftConfig, Unit};
use ft_train::{ActivationPolicy, MethodHook, MicroBatch, StepBatch, TrainModel};
use serde_json::{Map, Value, json};

/// Times one training step of any method. The defaults are SmolLM2-135M's dimensions.
#[derive(Parser, Clone, Debug)]
struct Args {
    #[arg(long, default_value_t = 576)]
    hidden: usize,
    #[arg(long, default_value_t = 30)]
    layers: usize,
    #[arg(long, default_value_t = 9)]
    heads: usize,
    #[arg(long, default_value_t = 3)]
    kv_heads: usize,
    #[arg(long, default_value_t = 1536)]
    ffn: usize,
    #[arg(long, default_value_t = 49152)]
    vocab: usize,
    /// Rows of a batch.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// What trains: a value of `peft.method`, with that method's default options.
    #[arg(long, default_value = "lora")]
    method: String,
    /// An option of the method, `rank=16`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// `off`, or the number of blocks that are computed again together in the backward pass.
    #[arg(long, default_value = "off", value_parser = checkpointing)]
    checkpointing: Checkpointing,
    /// How the loss is computed.
    #[arg(long, value_enum, default_value_t = Loss::Chunked)]
    loss: Loss,
    /// Hold the frozen projections in codes, `nf4`, `fp4` or `int8`, with `+double` for double quantization.
    #[arg(long, value_name = "KIND", value_parser = scheme)]
    quant: Option<Scheme>,
    /// Steps that are timed; the median counts.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Steps before those.
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads on the CPU; all cores when 0.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// How the loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// As in training: never all logits at once.
    Chunked,
    /// Logits of every position, as a reference.
    Dense,
}

fn main() {
    let args = Args::parse();
    if args.threads > 0 {
        // SAFETY: first thing in the process, before any other thread reads the environment.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", args.threads.to_string()) };
    }
    let device = ft_cli::open_device(&args.device);
    let method = method(&args).unwrap_or_else(|why| refuse(&why));
    let built = build(&args, &method, &device.clone().autodiff());
    let (model, weights, trainable) = built.unwrap_or_else(|why| refuse(&why));
    let (mut train, mut hook) = (train_model(&args, model), MethodHook::of(&method));
    let at_start = ft_train::memory::now(&device);
    let mut optim = Optim::new(&OptimConfig::default()).expect("the defaults are sound");
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    for step in 0..args.warmup + args.steps {
        let batch = batch(&args, step);
        let start = Instant::now();
        (train, loss) = take_step(train, &mut hook, &mut optim, batch);
        device.sync().expect("the device finishes its work");
        seconds.push(start.elapsed().as_secs_f64());
        eprintln!("{:.3} s, loss {loss:.4}", seconds[step]);
    }
    let peak = ft_train::memory::peak(); // before the rate is measured
    let step = median(&mut seconds[args.warmup..]);
    let rate = gemm_gflops(&args, &device);
    let result = json!({
        "tokens_per_s": (args.batch * args.seq) as f64 / step,
        "step_s": step,
        "peak_rss_bytes": peak,
        "start_rss_bytes": at_start,
        "weights_bytes": 4 * weights,
        "device_bytes": device.memory_pool_usage().map(|usage| usage.bytes_reserved),
        "gemm_gflops": rate,
        "gemm_share": gflop_per_step(&args) / step / rate,
        "loss": loss,
        "trainable": trainable,
        "quant": args.quant, "method": args.method, "options": args.options, "checkpointing": args.checkpointing.to_string(),
        "loss_kind": format!("{:?}", args.loss).to_lowercase(),
        "batch": args.batch, "seq": args.seq, "hidden": args.hidden, "layers": args.layers, "vocab": args.vocab,
        "device": args.device,
    });
    println!("{result}");
}

/// Ends with one line and the status of a wrong argument.
fn refuse(why: &str) -> ! {
    eprintln!("step: {why}");
    std::process::exit(2)
}

fn build(args: &Args, method: &PeftConfig, device: &Device) -> Result<(Model, usize, usize), String> {
    let config = json!({
        "model_type": "llama", "vocab_size": args.vocab, "hidden_size": args.hidden, "intermediate_size": args.ffn,
        "num_hidden_layers": args.layers, "num_attention_heads": args.heads, "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": args.seq.max(2048), "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&config.to_string(), "flags".as_ref()).map_err(|e| e.to_string())?;
    let mut model = Model::init_quantized(&config, 0, args.quant, device);
    attach(&mut model, method, 0).map_err(|e| e.to_string())?;
    let trainable = model.num_params();
    Ok((model, config.num_parameters(), trainable))
}

/// As a configuration spells it.
fn checkpointing(text: &str) -> Result<Checkpointing, String> {
    let value = text.parse::<u64>().map_or_else(|_| text.into(), Value::from);
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn scheme(text: &str) -> Result<Scheme, String> {
    let (kind, double) = text.strip_suffix("+double").map_or((text, false), |kind| (kind, true));
    let kinds = [Kind::Nf4, Kind::Fp4, Kind::Int8];
    let kind = kinds.into_iter().find(|k| k.name() == kind);
    let kind = kind.ok_or("one of nf4, fp4, int8, with or without +double")?;
    let scheme = Scheme {
        double,
        ..Scheme::new(kind)
    };
    scheme.check().map(|()| scheme).map_err(|e| e.to_string())
}

fn method(args: &Args) -> Result<PeftConfig, String> {
    let mut options = Map::from_iter([("method".to_owned(), Value::from(args.method.as_str()))]);
    for option in &args.options {
        let (key, value) = option.split_once('=').ok_or(format!("--set {option}: KEY=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        options.insert(key.into(), value);
    }
    serde_json::from_value(options.into()).map_err(|e| format!("--method {}: {e}", args.method))
}

/// Ids that change from step to step; every position but the last of a row is learned.
fn batch(args: &Args, step: usize) -> Batch {
    let count = args.batch * args.seq;
    let id = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(step * 40_503) >> 7) % args.vocab;
    let row = |r: usize| {
        let ids = (r * args.seq..(r + 1) * args.seq).map(|i| id(i + step * count) as u32);
        Sample::new(ids.collect(), vec![true; args.seq])
    };
    let rows: Vec<Sample> = (0..args.batch).map(row).collect();
    Batch::new(&rows.iter().collect::<Vec<_>>(), 0, 1)
}

/// The model as `ft train` trains it.
fn train_model(args: &Args, model: Model) -> TrainModel {
    let objective: Arc<dyn Objective> = match args.loss {
        Loss::Chunked => Arc::new(SftConfig::default()),
        Loss::Dense => Arc::new(Dense),
    };
    TrainModel {
        model,
        activations: ActivationPolicy {
            checkpointing: args.checkpointing,
            offload: false,
        },
        objective,
    }
}

/// One step as `ft train` takes it, and its mean loss.
fn take_step(train: TrainModel, hook: &mut MethodHook, optim: &mut Optim, batch: Batch) -> (TrainModel, f64) {
    let micro = MicroBatch { batch, dropout_seed: 0 };
    let batch = StepBatch::new(0, vec![micro]);
    let output = train.step_gradients(hook, &batch, None, &|| true);
    let output = output.expect("the device computes").expect("nobody stops it");
    let train = TrainModel {
        model: optim.step(1e-4, train.model, output.grads),
        ..train
    };
    (train, output.item.mean_loss().expect("the device computes"))
}

/// The loss from the logits of every position, `[batch, seq, vocab]`.
#[derive(Debug)]
struct Dense;

impl Objective for Dense {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|model, hidden| {
            let (batch, device) = (&micro.batch, hidden.device());
            let list = |values: &[i32]| Tensor::<1, Int>::from_ints(values, &device);
            let logits = model.logits(hidden).reshape([(batch.rows * batch.width) as i32, -1]);
            let logits = logits.select(0, list(&batch.positions));
            let picked = activation::log_softmax(logits, 1).gather(1, list(&batch.targets).unsqueeze_dim(1));
            ft_train::objectives::Loss {
                sum: picked.sum().neg(),
                figures: Vec::new(),
            }
        })
    }

    fn held_out(&self, _: &Model, _: &Batch) -> HeldOut {
        unreachable!("a benchmark holds nothing out")
    }
}

/// Matrix products of the step: forward and input gradients (x 2), weight gradients too when everything trains (x 3).
fn gflop_per_step(args: &Args) -> f64 {
    let head_dim = args.hidden / args.heads;
    let attention = 2 * args.hidden * args.hidden + 2 * args.hidden * args.kv_heads * head_dim;
    let weights = args.layers * (attention + 3 * args.hidden * args.ffn) + args.vocab * args.hidden;
    let passes = if args.method == "full" { 3 } else { 2 };
    (2 * weights * args.batch * args.seq * passes) as f64 / 1e9
}

/// Rate of the product `[batch * seq, hidden] x [hidden, ffn]`, the best of several runs.
fn gemm_gflops(args: &Args, device: &Device) -> f64 {
    let (m, k, n) = (args.batch * args.seq, args.hidden, args.ffn);
    let x = Tensor::<2>::random([m, k], Distribution::Default, device);
    let w = Tensor::<2>::random([n, k], Distribution::Default, device);
    let mut best = 0.0f64;
    for _ in 0..10 {
        device.sync().expect("the device finishes its work");
        let start = Instant::now();
        for _ in 0..10 {
            let _ = ft_kernels::linear(x.clone(), w.clone());
        }
        device.sync().expect("the device finishes its work");
        best = best.max((10 * 2 * m * k * n) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
