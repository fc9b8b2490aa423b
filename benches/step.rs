//! One training step of a Llama of given dimensions: tokens per second, peak memory, what `ft plan` says of it, and the share of the
//! machine's own matrix-product rate, as one JSON line. The counterpart of `torch_step.py`, with the same flags and the same work:
//! random weights, labels are the input ids, so every position but the last is learned.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, activation};
use clap::{Parser, ValueEnum};
use ft_data::{Batch, Sample};
use ft_model::{Model, ModelConfig};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{PeftConfig, attach};
use ft_quant::{Kind, Scheme};
use ft_train::config::Checkpointing;
use ft_train::objectives::{HeldOut, LossFn, Objective, SftConfig, Unit};
use ft_train::{ActivationPolicy, MethodHook, MicroBatch, Ranks, StepBatch, TrainModel};
use serde_json::{Map, Value, json};

use crate::shapes::Dims;
use crate::{planned, rates};

/// Times one training step of any method.
#[derive(Parser, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    pub dims: Dims,
    /// Rows of a batch.
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Sequences that share a row.
    #[arg(long, default_value_t = 1)]
    packed: usize,
    /// What trains: a value of `peft.method`, with that method's default options.
    #[arg(long, default_value = "lora")]
    pub method: String,
    /// An option of the method, `rank=16`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// `off`, or the number of blocks that are computed again together in the backward pass.
    #[arg(long, default_value = "off", value_parser = checkpointing)]
    pub checkpointing: Checkpointing,
    /// How the loss is computed.
    #[arg(long, value_enum, default_value_t = Loss::Chunked)]
    loss: Loss,
    /// Hold the frozen projections in codes, `nf4`, `fp4` or `int8`, with `+double` for double quantization.
    #[arg(long, value_name = "KIND", value_parser = scheme)]
    pub quant: Option<Scheme>,
    /// Type of the frozen weights and of the activations.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Draw the weights on the device: nothing of a large model lies in the memory of the host, but no two devices have the same.
    #[arg(long)]
    drawn: bool,
    /// The optimizer: a value of `optim.kind`, with its default options.
    #[arg(long, default_value = "adamw")]
    pub optim: String,
    /// Norm that gradients are clipped to, as in training.
    #[arg(long)]
    clip: Option<f64>,
    /// Steps that are timed; the median counts.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Steps before those.
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// A file that gets a line before and after every step: for the trace of `xtask/null-cuda`, which writes to the same one.
    #[arg(long)]
    marks: Option<PathBuf>,
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

/// Numbers in which weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
}

impl Dtype {
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// As a configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.threads > 0 {
        // SAFETY: first thing in the process, before any other thread reads the environment.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", args.threads.to_string()) };
    }
    match measure(&args) {
        Ok(result) => println!("{result}"),
        Err(why) => {
            eprintln!("step: {why}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn measure(args: &Args) -> Result<Value, String> {
    let device = ft_cli::open_device(&args.device);
    let method = method(args)?;
    let planned = planned::of(args)?;
    let (model, weights, trainable) = build(args, &method, &device.clone().autodiff())?;
    let (mut train, mut hook) = (train_model(args, model), MethodHook::of(&method));
    let at_start = ft_train::memory::now(&device);
    let mut optim = Optim::new(&optimizer(args)?).map_err(|e| e.to_string())?;
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    for step in 0..args.warmup + args.steps {
        let batch = batch(args, step);
        mark(args, "begin")?;
        let start = Instant::now();
        let taken = take_step(train, &mut hook, &mut optim, batch, args.clip);
        device.sync().map_err(|e| e.to_string())?;
        seconds.push(start.elapsed().as_secs_f64());
        mark(args, "end")?;
        train = taken.0;
        loss = taken.1()?;
        eprintln!("{:.3} s, loss {loss:.4}", seconds[step]);
    }
    let peak = ft_train::memory::peak(); // before the rate is measured
    let pool = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let first = seconds[0];
    let step = median(&mut seconds[args.warmup..]);
    let size = [args.batch * args.seq, args.dims.hidden(), args.dims.ffn()];
    let rate = rates::product(size, args.dtype.float(), &device);
    Ok(json!({
        "tokens_per_s": (args.batch * args.seq) as f64 / step,
        "step_s": step,
        "first_step_s": first,
        "peak_rss_bytes": peak,
        "start_rss_bytes": at_start,
        "weights_bytes": 4 * weights,
        "device_bytes": pool,
        "planned_bytes": planned.total(),
        "gemm_gflops": rate,
        "gemm_share": gflop_per_step(args) / step / rate,
        "loss": loss,
        "trainable": trainable,
        "quant": args.quant, "method": args.method, "options": args.options, "checkpointing": args.checkpointing.to_string(),
        "loss_kind": format!("{:?}", args.loss).to_lowercase(), "dtype": args.dtype.name(), "optim": args.optim,
        "batch": args.batch, "seq": args.seq, "packed": args.packed, "shape": args.dims.shape,
        "hidden": args.dims.hidden(), "layers": args.dims.layers(), "vocab": args.dims.vocab(),
        "device": args.device,
    }))
}

/// Says in the file of `--marks` that a step begins or has ended.
fn mark(args: &Args, what: &str) -> Result<(), String> {
    let Some(path) = &args.marks else { return Ok(()) };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{{\"op\":\"mark\",\"step\":\"{what}\"}}\n");
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.map_err(|e| format!("--marks {}: {e}", path.display()))
}

/// The model with what trains, its parameters, and the numbers that train.
pub fn build(args: &Args, method: &PeftConfig, device: &Device) -> Result<(Model, usize, usize), String> {
    let config = args.dims.config(args.seq).to_string();
    let mut config = ModelConfig::from_json(&config, "flags".as_ref()).map_err(|e| e.to_string())?;
    if !method.method().target_parameters().is_empty() {
        config = config.with_fused_experts().map_err(|e| e.to_string())?;
    }
    let dtype = args.dtype.float();
    let model = match (args.drawn, dtype) {
        (true, dtype) => Model::drawn(&config, dtype, args.quant, device),
        (false, FloatDType::F32) => Model::init_quantized(&config, 0, args.quant, device),
        (false, _) => return Err("--dtype: weights other than f32 need --drawn".into()),
    };
    let mut model = model.computing_in(dtype);
    attach(&mut model, method, 0).map_err(|e| e.to_string())?;
    let trainable = model.num_params();
    Ok((model, config.num_parameters(), trainable))
}

pub fn optimizer(args: &Args) -> Result<OptimConfig, String> {
    serde_json::from_value(json!({ "kind": args.optim })).map_err(|e| format!("--optim {}: {e}", args.optim))
}

/// As a configuration spells it.
fn checkpointing(text: &str) -> Result<Checkpointing, String> {
    let value = text.parse::<u64>().map_or_else(|_| text.into(), Value::from);
    serde_json::from_value(value).map_err(|e| e.to_string())
}

pub fn scheme(text: &str) -> Result<Scheme, String> {
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

/// The method that the flags name.
pub fn method(args: &Args) -> Result<PeftConfig, String> {
    let mut options = Map::from_iter([("method".to_owned(), Value::from(args.method.as_str()))]);
    for option in &args.options {
        let (key, value) = option.split_once('=').ok_or(format!("--set {option}: KEY=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        options.insert(key.into(), value);
    }
    serde_json::from_value(options.into()).map_err(|e| format!("--method {}: {e}", args.method))
}

/// Ids that change from step to step; every position but the last of a sequence is learned.
pub fn batch(args: &Args, step: usize) -> Batch {
    let count = args.batch * args.seq;
    let id = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(step * 40_503) >> 7) % args.dims.vocab();
    let width = args.seq / args.packed.max(1);
    let sequence = |r: usize| {
        let ids = (r * width..(r + 1) * width).map(|i| id(i + step * count) as u32);
        Sample::new(ids.collect(), vec![true; width])
    };
    let sequences: Vec<Sample> = (0..count / width).map(sequence).collect();
    let sequences: Vec<&Sample> = sequences.iter().collect();
    match args.packed {
        0 | 1 => Batch::new(&sequences, 0, 1),
        each => Batch::packed(&sequences.chunks(each).map(<[_]>::to_vec).collect::<Vec<_>>(), 0, 1),
    }
}

/// The model as `ft train` trains it.
pub fn train_model(args: &Args, model: Model) -> TrainModel {
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
        ranks: Ranks::alone().into(),
    }
}

/// One step as `ft train` takes it; its mean loss is read when it is asked for.
pub fn take_step(
    train: TrainModel,
    hook: &mut MethodHook,
    optim: &mut Optim,
    batch: Batch,
    clip: Option<f64>,
) -> (TrainModel, impl FnOnce() -> Result<f64, String>) {
    let micro = MicroBatch { batch, dropout_seed: 0 };
    let batch = StepBatch::new(0, vec![micro]);
    let output = train.step_gradients(hook, &batch, clip, &|| true);
    let output = output.expect("the device computes").expect("nobody stops it");
    let train = TrainModel {
        model: optim.step(1e-4, train.model, output.grads),
        ..train
    };
    (train, move || output.item.mean_loss().map_err(|e| e.to_string()))
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
    let passes = if args.method == "full" { 3 } else { 2 };
    (2 * args.dims.product_weights() * args.batch * args.seq * passes) as f64 / 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
