//! `ft merge`: base and adapter become a plain checkpoint, and are shown to say the same.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::ValueEnum;
use ft_model::{Checkpoint, LoadDtype, Model, Rows};
use ft_peft::Pass;
use serde_json::json;

use crate::args::DeviceArg;
use crate::failure::{Context, Failure};
use crate::locate::Located;
use crate::model::Loaded;
use crate::weights::Weights;
use crate::{device, locate, output};

/// Merge an adapter into its base model, as a plain checkpoint
#[derive(clap::Args, Debug)]
pub struct Merge {
    /// Base model: folder or embedded:tiny; or a run folder, which brings its adapter
    #[arg(value_name = "MODEL")]
    model: String,
    /// Adapter folder in PEFT layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the written numbers; the base's own when left out, or bf16 where that is in codes
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Do not compare the merged model with base and adapter
    #[arg(long)]
    no_verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

/// A type that checkpoints are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    fn load(self) -> LoadDtype {
        match self {
            Dtype::Bf16 => LoadDtype::Bf16,
            Dtype::F16 => LoadDtype::F16,
            Dtype::F32 => LoadDtype::F32,
        }
    }

    /// The type that most numbers of a checkpoint have; 16 bits where most are in codes.
    fn of(located: &Located) -> Result<Self, Failure> {
        let checkpoint = Checkpoint::open(&located.checkpoint)?;
        let in_codes = located.quant.is_some() || checkpoint.scheme().is_some();
        let numbers = |name: &str| -> usize {
            let same = checkpoint.entries().filter(|(_, e)| format!("{:?}", e.dtype) == name);
            same.map(|(_, e)| e.shape.iter().product::<usize>()).sum()
        };
        let kinds = [(Dtype::F32, "F32"), (Dtype::F16, "F16"), (Dtype::Bf16, "BF16")];
        Ok(kinds
            .into_iter()
            .max_by_key(|(_, name)| numbers(name))
            .map(|(kind, _)| match kind {
                Dtype::F32 if in_codes => Dtype::Bf16,
                kind => kind,
            })
            .unwrap_or(Dtype::F32))
    }

    /// Largest difference of a logit that rounding every weight to this type explains, as a share of the largest logit.
    fn tolerance(self) -> f64 {
        match self {
            Dtype::F32 => 1e-4,
            Dtype::F16 => 1e-2,
            Dtype::Bf16 => 5e-2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::F32 => "f32",
        })
    }
}

impl Merge {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let located = locate::locate(&self.model, self.adapter.as_deref())?;
        if located.adapter.is_none() {
            return Err(Failure::wrong_use(format!(
                "there is no adapter to merge: `{}` is a whole model; name an adapter with --adapter",
                self.model
            )));
        }
        let dtype = self.dtype.map_or_else(|| Dtype::of(&located), Ok)?;
        let unpacked = Checkpoint::open(&located.checkpoint)?.has_mxfp4();
        let picked = device::pick(self.device.device)?;
        let mut loaded = Loaded::open(located, Weights::F32, &picked)?;

        let expected = (!self.no_verify).then(|| Probe::of(&loaded.model));
        ft_peft::fold(&mut loaded.model)?;
        let draft = draft(&self.out);
        let written = write(&loaded, dtype, &draft).and_then(|()| {
            expected
                .map(|expected| verify(expected, &loaded.model, &draft, dtype, &picked.device))
                .transpose()
        });
        let verified = match written {
            Ok(verified) => verified,
            Err(failure) => {
                // What failed is not left lying about; the first failure is the one to report.
                let _ = std::fs::remove_dir_all(&draft);
                return Err(failure);
            }
        };
        std::fs::rename(&draft, &self.out).context(self.out.display())?;
        self.report(dtype, unpacked, verified)
    }

    fn report(&self, dtype: Dtype, unpacked: bool, verified: Option<Verified>) -> Result<(), Failure> {
        let out = self.out.display();
        if self.json {
            return output::json(&json!({
                "out": self.out,
                "dtype": dtype.to_string(),
                "unpacked": unpacked.then_some("mxfp4"),
                "verified": verified.is_some(),
                "max_difference": verified.as_ref().map(|v| v.folded.largest),
                "max_difference_written": verified.as_ref().map(|v| v.written.largest),
                "largest_logit": verified.as_ref().map(|v| v.folded.scale),
            }));
        }
        let dtype = match unpacked {
            true => format!("{dtype}, the experts too, which were in MXFP4"),
            false => dtype.to_string(),
        };
        output::write(&match verified {
            Some(Verified { folded, written }) => format!(
                "merged into {out} as {dtype}\nlargest difference of a logit: {:.2e} merged, {:.2e} as written \
                 (largest logit {:.2})\n",
                folded.largest, written.largest, folded.scale
            ),
            None => format!("merged into {out} as {dtype}, not verified\n"),
        })
    }
}

/// A name beside `out` for what is not whole yet.
fn draft(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".writing-{name}"))
}

fn write(loaded: &Loaded, dtype: Dtype, folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(folder.display())?;
    }
    loaded.model.save(folder, dtype.load())?;
    loaded.tokenizer.copy_to(folder)?;
    if let Some(settings) = loaded.located.generation_config() {
        std::fs::copy(&settings, folder.join("generation_config.json")).context(settings.display())?;
    }
    Ok(())
}

struct Verified {
    /// Merged in memory, against base and adapter.
    folded: Difference,
    /// Read back from the disk, against base and adapter.
    written: Difference,
}

fn verify(expected: Probe, folded: &Model, out: &Path, dtype: Dtype, device: &Device) -> Result<Verified, Failure> {
    let folded = expected.compare(&Probe::of(folded));
    folded.check(
        Dtype::F32.tolerance(),
        "the merged weights do not compute what base and adapter compute",
    )?;
    let written = expected.compare(&Probe::of(&Model::load(out, LoadDtype::F32, device)?));
    written.check(
        dtype.tolerance(),
        "the written checkpoint does not compute what base and adapter compute",
    )?;
    Ok(Verified { folded, written })
}

/// Logits of a model for some made-up tokens.
struct Probe(Vec<f32>);

impl Probe {
    fn of(model: &Model) -> Self {
        let config = model.config();
        let (rows, width) = (2, config.max_position_embeddings.min(32));
        // A linear congruential walk: ids from all over the vocabulary, the same on every machine.
        let ids = (0..rows * width).scan(1u64, |state, _| {
            *state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            Some(((*state >> 33) % config.vocab_size as u64) as i32)
        });
        let ids = TensorData::new(ids.collect::<Vec<i32>>(), [rows, width]);
        let ids = Tensor::<2, Int>::from_data(ids, &model.device());
        let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
        let outputs = match model.head() {
            None => model.logits(hidden).flatten::<2>(0, 1),
            Some(_) => model.head_outputs(hidden.flatten::<2>(0, 1)),
        };
        Self(outputs.into_data().iter::<f32>().collect())
    }

    fn compare(&self, other: &Self) -> Difference {
        let pairs = || self.0.iter().zip(&other.0);
        // `max` would pass over a NaN.
        let largest = pairs()
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, |m: f64, d| if d.is_nan() || d > m { d } else { m });
        let scale = self.0.iter().map(|a| f64::from(a.abs())).fold(0.0, f64::max);
        Difference { largest, scale }
    }
}

/// How far two sets of logits are apart.
#[derive(Clone, Copy, Debug)]
struct Difference {
    largest: f64,
    scale: f64,
}

impl Difference {
    fn check(self, tolerance: f64, what: &str) -> Result<(), Failure> {
        let allowed = tolerance * self.scale;
        if self.largest <= allowed {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{what}: a logit differs by {:.3e}, {allowed:.3e} is allowed; nothing was written (--no-verify skips this check)",
            self.largest
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_and_a_nan_are_found() {
        let probe = |values: &[f32]| Probe(values.to_vec());
        let difference = probe(&[1.0, -4.0]).compare(&probe(&[1.5, -4.25]));
        assert_eq!((difference.largest, difference.scale), (0.5, 4.0));
        assert!(difference.check(0.2, "x").is_ok());
        assert!(difference.check(0.1, "x").is_err());
        assert!(
            probe(&[1.0, 2.0, 3.0])
                .compare(&probe(&[1.0, f32::NAN, 3.0]))
                .check(0.5, "x")
                .is_err()
        );
    }
}
