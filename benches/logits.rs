//! The logits of a model for given tokens, with or without an adapter, as the safetensors file that `check_adapter.py` compares with
//! PEFT or transformers. Rows of different lengths go through one right-padded batch, as in training.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::{Int, Tensor, TensorData};
use clap::Parser;
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_peft::Pass;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Writes `input_ids` [rows, width], `lengths` [rows] and `logits` [rows, width, vocab].
#[derive(Parser, Debug)]
struct Args {
    /// Checkpoint in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder in PEFT layout.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// One row of token ids, separated by commas (repeatable).
    #[arg(long, required_unless_present = "batches")]
    ids: Vec<String>,
    /// What `train.dump_batches` wrote: the first rows of it.
    #[arg(long)]
    batches: Option<PathBuf>,
    /// Rows to take from `batches`.
    #[arg(long, default_value_t = 4)]
    rows: usize,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
    /// As in `ft --device`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The program.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("logits: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args = Args::parse();
    let device = ft_cli::open_device(&args.device);
    let mut rows = args.ids.iter().map(|row| parse(row)).collect::<Result<Vec<_>>>()?;
    if let Some(file) = &args.batches {
        rows.extend(dumped(file, args.rows)?);
    }
    let config = ModelConfig::from_dir(&args.model)?;
    let config = match &args.adapter {
        None => config,
        Some(adapter) => config.with_head_of(adapter)?,
    };
    let mut model = Model::load_configured(config, &args.model, LoadDtype::F32, None, Some(0), &device)?;
    if let Some(adapter) = &args.adapter {
        ft_peft::adapter::load(adapter, &mut model)?;
    }
    let width = rows.iter().map(Vec::len).max().unwrap_or_default();
    let padded: Vec<i32> = rows.iter().flat_map(|row| pad(row, width)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(padded.clone(), [rows.len(), width]), &device);
    // [rows, width, vocab]
    let logits = model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()));
    write(&args.out, &rows, padded, logits)
}

fn parse(row: &str) -> Result<Vec<i32>> {
    row.split(',').map(|id| Ok(id.trim().parse()?)).collect()
}

/// The first `limit` rows of the file, all micro-batches of a step in order.
fn dumped(file: &Path, limit: usize) -> Result<Vec<Vec<i32>>> {
    let mut rows = Vec::new();
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        if rows.len() >= limit {
            break;
        }
        let step: serde_json::Value = serde_json::from_str(&line?)?;
        let batches = step["batches"].as_array().into_iter().flatten();
        for row in batches.filter_map(serde_json::Value::as_array).flatten() {
            rows.push(serde_json::from_value(row["ids"].clone())?);
        }
    }
    rows.truncate(limit);
    Ok(rows)
}

fn pad(row: &[i32], width: usize) -> impl Iterator<Item = i32> {
    row.iter().copied().chain(std::iter::repeat_n(0, width - row.len()))
}

fn write(out: &Path, rows: &[Vec<i32>], ids: Vec<i32>, logits: Tensor<3>) -> Result<()> {
    let [count, width, vocab] = logits.dims();
    let logits = logits.into_data().convert::<f32>();
    let lengths: Vec<i32> = rows.iter().map(|row| row.len() as i32).collect();
    let (ids, lengths) = (TensorData::new(ids, [count, width]), TensorData::new(lengths, [count]));
    let views = [
        (
            "input_ids",
            TensorView::new(Dtype::I32, vec![count, width], ids.as_bytes())?,
        ),
        ("lengths", TensorView::new(Dtype::I32, vec![count], lengths.as_bytes())?),
        (
            "logits",
            TensorView::new(Dtype::F32, vec![count, width, vocab], logits.as_bytes())?,
        ),
    ];
    safetensors::serialize_to_file(views, None, out)?;
    Ok(())
}
