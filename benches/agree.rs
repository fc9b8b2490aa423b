//! A device beside the CPU: the same models, steps and answers on both, and how far apart they come out. One JSON line per case, so
//! that a run that is cut off leaves what it found, and a table at the end; what cannot be computed is a line with the reason.
//!
//! | part | compared |
//! |---|---|
//! | `family` | logits with those that transformers computed, for every family of tests/fixtures |
//! | `training` | losses of three AdamW steps of every family with the CPU's |
//! | `generate` | greedy answers with those of transformers |
//! | `method` | losses of three AdamW steps with the CPU's, every method on every storage |
//! | `optimizer`, `checkpointing` | the same for every optimizer, and with blocks computed again |

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use ft_data::{Batch, Sample};
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::methods::full::FullConfig;
use ft_peft::{Pass, PeftConfig};
use ft_train::{MethodHook, TrainModel};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::step;

/// Compares a device with the CPU and with transformers.
#[derive(Parser, Debug)]
struct Args {
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Folder with a checkpoint and `golden.safetensors` for every family.
    #[arg(long, default_value = "tests/fixtures/families")]
    families: PathBuf,
    /// Cases whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds after which no further case begins.
    #[arg(long)]
    limit: Option<u64>,
}

/// What trains, most used first; every one of them goes over every storage.
const METHODS: &[&str] = &[
    "lora",
    "full",
    "lora use_dora",
    "adalora",
    "ia3",
    "loha",
    "lokr",
    "oft",
    "vera",
    "shira",
    "miss",
    "gralora",
    "osf",
    "ln_tuning",
    "prefix_tuning",
    "prompt_tuning",
    "p_tuning",
    "p_tuning_v2",
    "pfeiffer",
    "houlsby",
    "parallel",
    "trainable_tokens",
];
const STORAGES: &[&str] = &["f32", "nf4", "nf4+double", "int8", "fp4"];
const OPTIMIZERS: &[&str] = &["adamw_8bit", "adafactor", "lion", "sgd", "muon", "paged_adamw_32bit"];

/// Largest error of a loss beside the CPU's, and of a logit beside transformers', that passes: products on cards round their inputs
/// to tf32 at most.
const LIMIT: f64 = 5e-3;

/// Steps of a case.
const STEPS: usize = 3;

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let cpu = ft_cli::open_device("cpu");
    let device = ft_cli::open_device(&args.device);
    let start = std::time::Instant::now();
    let mut results = Vec::new();
    for case in cases(&args) {
        if args.limit.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            eprintln!(
                "agree: {} s are over; the rest is left out",
                args.limit.unwrap_or_default()
            );
            break;
        }
        let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.error(&device, &cpu)));
        let error = error.unwrap_or_else(|_| Err("it panicked, see above".into()));
        println!("{}", case.line(&error));
        results.push((case, error));
    }
    let failed = table(&results);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Debug)]
struct Case {
    part: &'static str,
    name: String,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Logits(PathBuf),
    Answers(PathBuf),
    Training(PathBuf),
    /// Flags of `step`.
    Steps(Vec<String>),
}

fn cases(args: &Args) -> Vec<Case> {
    let mut all = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&args.families)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    folders.retain(|folder| folder.join("golden.safetensors").exists() && folder.join("config.json").exists());
    folders.sort();
    let name = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for folder in &folders {
        all.push(Case {
            part: "family",
            name: name(folder),
            work: Work::Logits(folder.clone()),
        });
    }
    let mut steps = |part, name: String, flags: &[&str]| {
        let flags = ["step", "--shape", "tiny", "--batch", "2", "--seq", "32"]
            .iter()
            .chain(flags);
        all.push(Case {
            part,
            name,
            work: Work::Steps(flags.map(|flag| flag.to_string()).collect()),
        });
    };
    for method in METHODS {
        for storage in STORAGES {
            let (method, option) = match *method {
                "lora use_dora" => ("lora", Some("dora=true")),
                "trainable_tokens" => ("trainable_tokens", Some("token_indices=[1,2,3,4]")),
                method => (method, None),
            };
            if *storage != "f32" && method == "full" {
                continue; // codes cannot be trained
            }
            let mut flags = vec!["--method", method];
            flags.extend(option.iter().flat_map(|option| ["--set", option]));
            if *storage != "f32" {
                flags.extend(["--quant", storage]);
            }
            let name = [Some(method), option, Some(storage)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>();
            steps("method", name.join(" "), &flags);
        }
    }
    for optimizer in OPTIMIZERS {
        steps(
            "optimizer",
            (*optimizer).into(),
            &["--method", "full", "--optim", optimizer],
        );
    }
    for (every, method) in [("1", "lora"), ("1", "full"), ("2", "full")] {
        steps(
            "checkpointing",
            format!("{method} {every}"),
            &["--method", method, "--checkpointing", every],
        );
    }
    steps("packed", "lora".into(), &["--packed", "4"]);
    for folder in &folders {
        all.push(Case {
            part: "training",
            name: name(folder),
            work: Work::Training(folder.clone()),
        });
    }
    for folder in &folders {
        all.push(Case {
            part: "generate",
            name: name(folder),
            work: Work::Answers(folder.clone()),
        });
    }
    all.retain(|case| format!("{} {}", case.part, case.name).contains(&args.only));
    all
}

impl Case {
    /// The largest error of the device; relative, but for values below one.
    fn error(&self, device: &Device, cpu: &Device) -> Result<f64, String> {
        match &self.work {
            Work::Logits(folder) => logits(folder, device),
            Work::Answers(folder) => answers(folder, device),
            Work::Training(folder) => Ok(largest(&trained(folder, device)?, &trained(folder, cpu)?)),
            Work::Steps(flags) => {
                let (found, expected) = (losses(flags, device)?, losses(flags, cpu)?);
                Ok(largest(&found, &expected))
            }
        }
    }

    fn line(&self, error: &Result<f64, String>) -> Value {
        match error {
            Ok(error) => json!({ "part": self.part, "case": self.name, "error": error, "ok": *error <= LIMIT }),
            Err(why) => json!({ "part": self.part, "case": self.name, "failed": why, "ok": false }),
        }
    }
}

fn largest(found: &[f64], expected: &[f64]) -> f64 {
    let errors = found.iter().zip(expected).map(|(found, expected)| {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        if error.is_finite() { error } else { f64::INFINITY }
    });
    errors.fold(0.0, f64::max)
}

/// Losses of a few steps with the flags of `step`.
fn losses(flags: &[String], device: &Device) -> Result<Vec<f64>, String> {
    let args = step::Args::try_parse_from(flags).map_err(|e| e.to_string())?;
    let method = step::method(&args)?;
    let (model, ..) = step::build(&args, &method, &device.clone().autodiff())?;
    let batch = step::batch(&args, 0);
    take_steps(
        step::train_model(&args, model),
        &method,
        &step::optimizer(&args)?,
        &batch,
    )
}

/// Losses of a few steps in which a family's checkpoint trains whole.
fn trained(folder: &Path, device: &Device) -> Result<Vec<f64>, String> {
    let golden = Golden::open(folder)?;
    let (_, width, ids) = golden.ids("input_ids")?;
    let rows = ids.chunks(width).map(|row| {
        let ids = row.iter().map(|id| *id as u32).collect();
        Sample::new(ids, vec![true; width])
    });
    let rows: Vec<Sample> = rows.collect();
    let batch = Batch::new(&rows.iter().collect::<Vec<_>>(), 0, 1);
    let mut model = Model::load(folder, LoadDtype::F32, &device.clone().autodiff()).map_err(|e| e.to_string())?;
    let full = PeftConfig::Full(FullConfig::default());
    ft_peft::attach(&mut model, &full, 0).map_err(|e| e.to_string())?;
    let args = step::Args::try_parse_from(["step", "--method", "full"]).map_err(|e| e.to_string())?;
    take_steps(step::train_model(&args, model), &full, &OptimConfig::default(), &batch)
}

fn take_steps(
    mut train: TrainModel,
    method: &PeftConfig,
    optim: &OptimConfig,
    batch: &Batch,
) -> Result<Vec<f64>, String> {
    let mut hook = MethodHook::of(method);
    let mut optim = Optim::new(optim).map_err(|e| e.to_string())?;
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        // The same rows again, so that the loss says what the steps before did.
        let (next, loss) = step::take_step(train, &mut hook, &mut optim, batch.clone(), Some(1.0));
        train = next;
        losses.push(loss()?);
    }
    Ok(losses)
}

fn logits(folder: &Path, device: &Device) -> Result<f64, String> {
    let golden = Golden::open(folder)?;
    let model = Model::load(folder, LoadDtype::F32, device).map_err(|e| e.to_string())?;
    let (rows, width, ids) = golden.ids("input_ids")?;
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, width]), device);
    let found = model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()));
    let found: Vec<f64> = found.into_data().convert::<f32>().iter::<f64>().collect();
    Ok(largest(&found, &golden.floats("logits")?))
}

/// 0 where every answer is that of transformers, otherwise the share of rows that are not.
fn answers(folder: &Path, device: &Device) -> Result<f64, String> {
    let golden = Golden::open(folder)?;
    let model = Model::load(folder, LoadDtype::F32, device).map_err(|e| e.to_string())?;
    let (rows, width, ids) = golden.ids("prompt_ids")?;
    let (_, _, mask) = golden.ids("prompt_attention_mask")?;
    let (_, length, expected) = golden.ids("generated_ids")?;
    let row = |values: &[i64], r: usize, width: usize| values[r * width..(r + 1) * width].to_vec();
    let prompts: Vec<Vec<u32>> = (0..rows)
        .map(|r| {
            let kept = row(&ids, r, width).into_iter().zip(row(&mask, r, width));
            kept.filter(|(_, real)| *real == 1).map(|(id, _)| id as u32).collect()
        })
        .collect();
    let config = GenerationConfig {
        ignore_eos: true,
        ..GenerationConfig::greedy(length, [])
    };
    let found = ft_infer::generate(&model, &prompts, &config, &mut ft_infer::no_stream).map_err(|e| e.to_string())?;
    let differ = (0..rows).filter(|&r| {
        let expected = row(&expected, r, length);
        let own: Vec<i64> = found[r].tokens.iter().map(|id| i64::from(*id)).collect();
        own != expected
    });
    Ok(differ.count() as f64 / rows as f64)
}

/// Tensors that a reference program wrote.
struct Golden(Vec<u8>);

impl Golden {
    fn open(folder: &Path) -> Result<Self, String> {
        let path = folder.join("golden.safetensors");
        std::fs::read(&path)
            .map(Self)
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    fn bytes(&self, name: &str) -> Result<(Vec<usize>, Vec<u8>), String> {
        let file = SafeTensors::deserialize(&self.0).map_err(|e| e.to_string())?;
        let view = file.tensor(name).map_err(|e| format!("{name}: {e}"))?;
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    fn ids(&self, name: &str) -> Result<(usize, usize, Vec<i64>), String> {
        let (shape, bytes) = self.bytes(name)?;
        let &[rows, width] = shape.as_slice() else {
            return Err(format!("{name}: {shape:?}, where rows of ids are expected"));
        };
        let id = |b: &[u8]| i64::from_le_bytes(std::array::from_fn(|i| b[i]));
        Ok((rows, width, bytes.chunks_exact(8).map(id).collect()))
    }

    fn floats(&self, name: &str) -> Result<Vec<f64>, String> {
        let (_, bytes) = self.bytes(name)?;
        let float = |b: &[u8]| f64::from(f32::from_le_bytes(std::array::from_fn(|i| b[i])));
        Ok(bytes.chunks_exact(4).map(float).collect())
    }
}

/// Prints the worst case of every part to standard error; how many are off.
fn table(results: &[(Case, Result<f64, String>)]) -> usize {
    let bad = |error: &Result<f64, String>| error.as_ref().map_or(true, |error| *error > LIMIT);
    let mut parts: Vec<&str> = results.iter().map(|(case, _)| case.part).collect();
    parts.dedup();
    eprintln!("{:<16}{:>6}{:>6}   largest error", "part", "cases", "off");
    for part in parts {
        let own: Vec<_> = results.iter().filter(|(case, _)| case.part == part).collect();
        let worst = own
            .iter()
            .filter_map(|(case, error)| Some((case, *error.as_ref().ok()?)));
        let worst = worst.max_by(|a, b| a.1.total_cmp(&b.1));
        let worst = worst.map_or_else(String::new, |(case, error)| format!("{error:.1e} ({})", case.name));
        let off = own.iter().filter(|(_, error)| bad(error)).count();
        eprintln!("{part:<16}{:>6}{off:>6}   {worst}", own.len());
    }
    results.iter().filter(|(_, error)| bad(error)).count()
}
