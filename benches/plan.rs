//! What `ft plan` says of a run's memory beside what the run took: one process per configuration, on random weights.
//! Prints a Markdown table, and fails where a plan is off by more than a tenth.
//!
//! ```text
//! cargo run -p ft-bench --bin plan                  # every configuration
//! cargo run -p ft-bench --bin plan -- --only full   # those whose name holds a word
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use burn::tensor::Device;
use clap::Parser;
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_train::memory::human;
use ft_train::{FitOptions, Plan, RunConfig, fit};
use serde_json::json;

use crate::words;

#[derive(Parser, Debug)]
struct Args {
    /// Configurations whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Runs this configuration and prints one JSON line: what the program starts itself with.
    #[arg(long)]
    run: Option<PathBuf>,
    /// A setting of that configuration.
    #[arg(long = "set")]
    sets: Vec<String>,
}

/// Dimensions of a base: layers, hidden, heads, key heads, ffn, vocabulary.
type Dims = [usize; 6];
/// minimind2-small's dimensions, 26 M parameters.
const SMALL: Dims = [8, 512, 8, 2, 1408, 6400];
/// SmolLM2-135M's.
const LARGE: Dims = [30, 576, 9, 3, 1536, 49152];

/// Base, samples of a micro-batch, tokens of one, settings; `@` stands for the folder of the bases.
const CASES: &[(&str, usize, usize, &str)] = &[
    ("26M", 4, 512, "peft.method=lora"),
    ("26M", 1, 512, "peft.method=lora"),
    ("26M", 8, 256, "peft.method=lora"),
    ("26M", 4, 512, "peft.method=lora train.checkpointing=1"),
    ("26M", 4, 512, "peft.method=lora train.checkpointing=2"),
    ("26M", 4, 512, "peft.method=lora train.accumulation=2"),
    ("26M", 4, 512, "peft.method=lora peft.dropout=0.1"),
    ("26M", 4, 512, "peft.method=lora peft.targets=['q_proj','v_proj']"),
    ("26M", 4, 512, "peft.method=lora peft.dora=true"),
    ("26M", 4, 512, "peft.method=lora peft.dora=true train.checkpointing=1"),
    (
        "26M",
        4,
        512,
        "peft.method=lora peft.modules_to_save=['lm_head','embed_tokens']",
    ),
    ("26M", 4, 512, "peft.method=lora model.quant.kind=nf4"),
    (
        "26M",
        4,
        512,
        "peft.method=lora model.quant.kind=nf4 train.checkpointing=1",
    ),
    ("26M", 4, 512, "peft.method=lora model.quant.kind=int8"),
    ("26M", 4, 512, "peft.method=full"),
    ("26M", 1, 256, "peft.method=full"),
    ("26M", 4, 512, "peft.method=full train.checkpointing=1"),
    (
        "26M",
        4,
        512,
        "peft.method=full train.checkpointing=1 optim.clip=0 train.optimizer_in_backward=true",
    ),
    ("26M", 4, 512, "peft.method=full train.accumulation=2"),
    ("26M", 4, 512, "peft.method=full peft.layers=[6,7]"),
    ("26M", 4, 512, "peft.method=ia3"),
    ("26M", 4, 512, "peft.method=ia3 model.quant.kind=nf4"),
    ("26M", 4, 512, "peft.method=ln_tuning"),
    ("26M", 4, 512, "peft.method=loha"),
    ("26M", 4, 512, "peft.method=lokr"),
    ("26M", 4, 512, "peft.method=oft"),
    ("26M", 4, 512, "peft.method=vera"),
    ("26M", 4, 512, "peft.method=vera train.checkpointing=1"),
    ("26M", 4, 512, "peft.method=pfeiffer"),
    ("26M", 4, 512, "peft.method=houlsby train.checkpointing=2"),
    ("135M", 1, 512, "peft.method=lora"),
    ("135M", 1, 512, "peft.method=lora train.checkpointing=1"),
    (
        "135M",
        1,
        512,
        "peft.method=lora train.checkpointing=4 model.quant.kind=nf4",
    ),
    ("135M", 1, 512, "peft.method=full"),
    ("135M", 1, 512, "peft.method=full train.checkpointing=1"),
    (
        "135M",
        1,
        512,
        "peft.method=full train.checkpointing=1 optim.clip=0 train.optimizer_in_backward=true",
    ),
    (
        "135M",
        1,
        512,
        "peft.method=full train.checkpointing=1 optim.kind=lion optim.clip=0 train.optimizer_in_backward=true",
    ),
    ("26M", 4, 512, "peft.method=lora continual.strategy=ewc"),
    ("26M", 4, 512, "peft.method=lora continual.strategy=lwf"),
    ("26M", 4, 512, "peft.method=lora continual.strategy=olora"),
    ("26M", 4, 512, "peft.method=lora continual.strategy=adapters"),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=base",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@26M train.checkpointing=1",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=full objective.kind=distill objective.teacher=@135M",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@135M objective.teacher_quant=nf4",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@26M objective.hidden_layers=[[2,2],[4,4],[8,8]]",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=full objective.kind=distill objective.teacher=@26M objective.hidden_layers=[[4,8]] train.checkpointing=1",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@135M objective.hidden_layers=[[4,15],[8,30]]",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@26M objective.divergence=uld",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=full objective.kind=distill objective.teacher=@135M objective.divergence=uld train.checkpointing=1",
    ),
    ("26M", 2, 512, "peft.method=lora objective.kind=dpo"),
    (
        "26M",
        2,
        512,
        "peft.method=lora objective.kind=dpo train.checkpointing=1",
    ),
    ("26M", 2, 512, "peft.method=full objective.kind=dpo"),
    (
        "26M",
        2,
        512,
        "peft.method=lora objective.kind=ipo objective.reference=@135M",
    ),
    ("26M", 2, 512, "peft.method=lora objective.kind=orpo"),
    (
        "26M",
        2,
        512,
        "peft.method=lora objective.kind=simpo model.quant.kind=nf4",
    ),
    ("26M", 2, 512, "peft.method=lora objective.kind=kto"),
    ("135M", 1, 512, "peft.method=lora objective.kind=dpo"),
    (
        "135M",
        1,
        512,
        "peft.method=lora objective.kind=distill objective.teacher=@135M train.checkpointing=2",
    ),
    (
        "26M",
        4,
        512,
        "peft.method=lora continual.strategy=replay continual.between_tasks=fold",
    ),
    ("26M", 1, 512, "peft.method=full continual.strategy=sequential"),
    ("26M", 1, 512, "peft.method=full continual.strategy=ewc"),
    ("26M", 1, 512, "peft.method=full continual.strategy=online_ewc"),
    (
        "26M",
        1,
        512,
        "peft.method=full continual.strategy=gem continual.memories=4",
    ),
    ("26M", 1, 512, "peft.method=full continual.strategy=agem"),
    ("26M", 1, 512, "peft.method=full continual.strategy=der"),
    ("26M", 1, 512, "peft.method=full continual.strategy=lwf"),
    ("26M", 4, 512, "peft.method=full continual.strategy=ewc"),
    (
        "26M",
        4,
        512,
        "peft.method=full continual.strategy=gem continual.memories=8",
    ),
    ("135M", 1, 512, "peft.method=full continual.strategy=ewc"),
];

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(config) = &args.run {
        return one(config, &args);
    }
    let dir = std::env::temp_dir().join(format!("ft-plan-{}", std::process::id()));
    for (name, dims) in [("26M", SMALL), ("135M", LARGE)] {
        let named = |case: &(&str, usize, usize, &str)| case.0 == name || case.3.contains(&format!("@{name}"));
        if CASES.iter().any(|case| named(case) && case.3.contains(&args.only)) {
            base(&dir.join(name), dims);
        }
    }
    println!("| base | batch | settings | planned | measured | planned / measured |\n|---|---|---|---|---|---|");
    let mut worst = 0.0f64;
    for (number, case) in CASES.iter().filter(|case| case.3.contains(&args.only)).enumerate() {
        let (base, rows, width, sets) = case;
        let [planned, measured] = measure(&dir, number, case, &args.device);
        let ratio = planned as f64 / measured as f64;
        worst = worst.max((ratio - 1.0).abs());
        let (planned, measured) = (human(planned), human(measured));
        println!("| {base} | {rows} x {width} | {sets} | {planned} | {measured} | {ratio:.3} |");
    }
    let _ = fs::remove_dir_all(&dir);
    println!("\nLargest error: {:.1} %", 100.0 * worst);
    if worst > 0.1 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Plans and runs a configuration in this process.
fn one(config: &Path, args: &Args) -> ExitCode {
    let device = ft_cli::open_device(&args.device);
    let config = RunConfig::load(config, &args.sets).unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::resolve(config, &device, &args.device).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{:?}", plan.bytes);
    let outcome = fit(plan, FitOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    println!("{}", json!([outcome.planned_memory_bytes, outcome.peak_memory_bytes]));
    ExitCode::SUCCESS
}

/// Planned and measured bytes of a case, from a process of its own.
fn measure(dir: &Path, number: usize, case: &(&str, usize, usize, &str), device: &str) -> [u64; 2] {
    let (base, rows, width, sets) = case;
    let pairs = ["dpo", "ipo", "orpo", "simpo", "kto"]
        .iter()
        .any(|kind| sets.contains(&format!("kind={kind}")));
    words::data(&dir.join("train.jsonl"), 4 * rows, *width, pairs);
    words::data(&dir.join("valid.jsonl"), *rows, *width, pairs);
    let config = dir.join("run.toml");
    let format = if pairs { "preference" } else { "prompt-completion" };
    // Three tasks of two steps each.
    let task = |name| format!("[[task]]\nname = '{name}'\ntrain = 'train.jsonl'\nvalid = 'valid.jsonl'\n");
    let (from, steps, tasks) = match sets.contains("continual.") {
        true => ("", 6, ["a", "b", "c"].map(task).concat()),
        false => ("train = 'train.jsonl'\n", 2, String::new()),
    };
    let text = format!(
        "[model]\npath = '{base}'\n[data]\n{from}format = '{format}'\nmax_length = {width}\n[train]\nout = '{}'\n\
         batch_size = {rows}\nsteps = {steps}\n[eval]\nsamples = 0\n{tasks}",
        dir.join(format!("run-{number}")).display()
    );
    fs::write(&config, text).expect("a temporary folder can be written");
    let mut command = Command::new(std::env::args_os().next().expect("a program knows its name"));
    command.arg("--run").arg(&config).args(["--device", device]);
    for set in sets.split(' ') {
        command.args(["--set", &set.replace('@', &format!("{}/", dir.display()))]);
    }
    let output = command.output().expect("this program can be started again");
    let last = String::from_utf8_lossy(&output.stdout);
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(last.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{sets}: {e}"))
}

/// A random checkpoint with a tokenizer of words.
fn base(dir: &Path, dims: Dims) {
    let [layers, hidden, heads, kv, ffn, vocab] = dims;
    let config = json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "max_position_embeddings": 2048, "tie_word_embeddings": true, "eos_token_id": 1,
    });
    fs::create_dir_all(dir).expect("a temporary folder can be made");
    let config = ModelConfig::from_json(&config.to_string(), dir).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::init(&config, 0, &Device::flex());
    model.save(dir, LoadDtype::Bf16).unwrap_or_else(|e| panic!("{e}"));
    words::tokenizer(dir);
}
