//! What objectives with a second model cost beside plain fine-tuning: one process, all of them in turn, on random weights.
//!
//! ```text
//! distillation   against  the teacher's forward pass + a plain step on the same rows
//! DPO            against  the reference's forward pass + a plain step on twice the rows
//! ```
//!
//! Forward passes include the head. `cargo run -p ft-bench --bin objectives -- --method full`

use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use clap::Parser;
use ft_data::{Batch, Sample, Span, Taught};
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{PeftConfig, attach};
use ft_train::config::Checkpointing;
use ft_train::objectives::{Given, Objective, ObjectiveConfig, SftConfig};
use ft_train::{ActivationPolicy, MethodHook, MicroBatch, Ranks, StepBatch, TrainModel};
use serde_json::{Value, json};

/// Times steps of each kind. The defaults are minimind2-small's dimensions.
#[derive(Parser, Clone, Debug)]
struct Args {
    #[arg(long, default_value_t = 512)]
    hidden: usize,
    #[arg(long, default_value_t = 8)]
    layers: usize,
    #[arg(long, default_value_t = 8)]
    heads: usize,
    #[arg(long, default_value_t = 2)]
    kv_heads: usize,
    #[arg(long, default_value_t = 1408)]
    ffn: usize,
    #[arg(long, default_value_t = 6400)]
    vocab: usize,
    /// Rows of a batch, or pairs.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// What trains: a value of `peft.method`, with that method's default options.
    #[arg(long, default_value = "lora")]
    method: String,
    /// Rounds that are timed; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Compute every block again in the backward pass.
    #[arg(long)]
    checkpointing: bool,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Something that is timed: a step of an objective on a batch, or the forward pass of a model that does not train.
enum Run {
    Step(Box<Trainer>, Batch),
    Forward(Box<Model>, Batch),
}

struct Trainer {
    train: Option<TrainModel>,
    hook: MethodHook,
    optim: Optim,
}

fn main() {
    let args = Args::parse();
    let device = ft_cli::open_device(&args.device);
    let base = Model::init(&config(&args), 0, &device.clone().autodiff());
    let step = |objective: Value, batch: Batch| Run::Step(Box::new(trainer(&args, &base, objective)), batch);
    let forward = |batch: Batch| Run::Forward(Box::new(base.valid()), batch);
    let rows = batch(&args, args.batch, Rows::Plain);
    let taught = batch(&args, args.batch, Rows::Taught);
    let pairs = batch(&args, args.batch, Rows::Pairs);
    let twice = batch(&args, 2 * args.batch, Rows::Plain);
    let runs = [
        step(json!({"kind": "sft"}), rows.clone()),
        forward(rows.clone()),
        step(json!({"kind": "distill", "teacher": "base"}), rows.clone()),
        step(json!({"kind": "distill", "teacher": "base", "beta": 0.5}), rows),
        step(
            json!({"kind": "distill", "teacher": "base", "divergence": "uld"}),
            taught,
        ),
        step(json!({"kind": "sft"}), twice.clone()),
        forward(twice),
        step(json!({"kind": "dpo"}), pairs),
    ];
    let [plain, teacher, distill, jsd, uld, plain2, reference, dpo] = medians(runs, &args, &device);
    let result = json!({
        "plain_s": plain, "teacher_s": teacher, "distill_s": distill, "jsd_s": jsd, "uld_s": uld,
        "plain_twice_s": plain2, "reference_s": reference, "dpo_s": dpo,
        "distill_less_teacher_over_plain": (distill - teacher) / plain,
        "jsd_less_teacher_over_plain": (jsd - teacher) / plain,
        "uld_less_teacher_over_plain": (uld - teacher) / plain,
        "dpo_less_reference_over_plain_twice": (dpo - reference) / plain2,
        "method": args.method, "batch": args.batch, "seq": args.seq, "hidden": args.hidden, "layers": args.layers,
        "vocab": args.vocab, "checkpointing": args.checkpointing, "device": args.device,
    });
    println!("{result}");
}

/// Seconds of each, taken in turn; the first round warms up.
fn medians<const N: usize>(mut runs: [Run; N], args: &Args, device: &Device) -> [f64; N] {
    let mut seconds = [const { Vec::new() }; N];
    for round in 0..=args.rounds {
        for (run, seconds) in runs.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            run.once();
            device.sync().expect("the device finishes its work");
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}

impl Run {
    fn once(&mut self) {
        match self {
            Run::Forward(model, batch) => {
                SftConfig::default().held_out(model, batch);
            }
            Run::Step(trainer, batch) => {
                let Trainer { train, hook, optim } = &mut **trainer;
                let micro = MicroBatch {
                    batch: batch.clone(),
                    dropout_seed: 0,
                };
                let own = train.take().expect("given back below");
                let step = own.step_gradients(hook, &StepBatch::new(0, vec![micro]), None, &|| true);
                let output = step.expect("the device computes").expect("nobody stops it");
                *train = Some(TrainModel {
                    model: optim.step(1e-5, own.model, output.grads),
                    ..own
                });
            }
        }
    }
}

fn trainer(args: &Args, base: &Model, objective: Value) -> Trainer {
    let objective: ObjectiveConfig = serde_json::from_value(objective).expect("options of an objective");
    let given = Given::new(base, LoadDtype::F32, 0, &Default::default());
    let objective: Arc<dyn Objective> = objective.kind().build(&given).unwrap_or_else(|e| panic!("{e}"));
    let method: PeftConfig =
        serde_json::from_value(json!({"method": args.method})).unwrap_or_else(|e| panic!("--method: {e}"));
    let mut model = base.clone();
    attach(&mut model, &method, 0).unwrap_or_else(|e| panic!("{e}"));
    let checkpointing = match args.checkpointing {
        true => Checkpointing::Every(1),
        false => Checkpointing::Off,
    };
    Trainer {
        train: Some(TrainModel {
            model,
            activations: ActivationPolicy {
                checkpointing,
                offload: false,
            },
            objective,
            ranks: Ranks::alone().into(),
        }),
        hook: MethodHook::of(&method),
        optim: Optim::new(&OptimConfig::default()).expect("the defaults are sound"),
    }
}

fn config(args: &Args) -> ModelConfig {
    let config = json!({
        "model_type": "llama", "vocab_size": args.vocab, "hidden_size": args.hidden, "intermediate_size": args.ffn,
        "num_hidden_layers": args.layers, "num_attention_heads": args.heads, "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": args.seq.max(2048), "tie_word_embeddings": true,
    });
    ModelConfig::from_json(&config.to_string(), "flags".as_ref()).unwrap_or_else(|e| panic!("{e}"))
}

/// What a row is.
#[derive(Clone, Copy)]
enum Rows {
    Plain,
    /// A chosen and a rejected one.
    Pairs,
    /// With what a teacher of another tokenizer reads: the same, every token a span.
    Taught,
}

/// Rows of which every position but the last is learned.
fn batch(args: &Args, samples: usize, rows: Rows) -> Batch {
    let row = |number: usize| {
        let id = |i: usize| ((number * args.seq + i).wrapping_mul(2_654_435_761) >> 7) % args.vocab;
        Sample::new((0..args.seq).map(|i| id(i) as u32).collect(), vec![true; args.seq])
    };
    let taught = |sample: Sample| {
        let targets = 0..sample.target_tokens() as u32;
        let span = |at| Span {
            student: at..at + 1,
            teacher: at..at + 1,
        };
        let spans = targets.map(span).collect();
        sample.clone().taught(Taught { sample, spans })
    };
    let sample = |number: usize| match rows {
        Rows::Plain => row(number),
        Rows::Pairs => row(2 * number).over(row(2 * number + 1)),
        Rows::Taught => taught(row(number)),
    };
    let samples: Vec<Sample> = (0..samples).map(sample).collect();
    Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1)
}
