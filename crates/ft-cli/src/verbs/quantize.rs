//! `ft quantize`: a checkpoint with its projections in 4 or 8 bits, as bitsandbytes stores them.

use std::path::{Path, PathBuf};

use ft_data::Tokenizer;
use ft_model::{Checkpoint, LoadDtype, Model};
use ft_quant::Scheme;
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::weights::Format;
use crate::{locate, output};

/// Write a model with its projections in 4 or 8 bits, readable by transformers with bitsandbytes
#[derive(clap::Args, Debug)]
pub struct Quantize {
    /// Model folder, GGUF file or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// Number format
    #[arg(long, value_name = "KIND")]
    kind: Format,
    /// Store the scales of nf4 and fp4 in 8 bits too: 4.127 bits per weight instead of 4.5
    #[arg(long)]
    double: bool,
    /// Weights that share a scale in nf4 and fp4: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value_t = 64)]
    block: usize,
    /// Folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Quantize {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let scheme = Scheme {
            kind: self.kind.kind(),
            double: self.double,
            block: self.block,
        };
        scheme.check().map_err(|e| Failure::wrong_use(e.to_string()))?;
        let folder = locate::checkpoint(&self.model)?;
        if let Some(stored) = Checkpoint::open(&folder)?.scheme() {
            let why = format!("`{}` is quantized already, as {stored}", self.model);
            return Err(Failure::new(format!("{why}; quantize the model it was made from")));
        }
        let tokenizer = Tokenizer::from_dir(&folder)?;
        // Quantizing is work for the CPU, whatever else there is.
        let device = burn::tensor::Device::flex();
        let model = Model::load_quantized(&folder, LoadDtype::Auto, Some(scheme), &device)?;
        let draft = output::draft(&self.out);
        if let Err(failure) = write(&model, &tokenizer, &folder, &draft) {
            // What failed is not left lying about; the first failure is the one to report.
            let _ = std::fs::remove_dir_all(&draft);
            return Err(failure);
        }
        std::fs::rename(&draft, &self.out).context(self.out.display())?;
        self.report(bytes(&folder)?, bytes(&self.out)?)
    }

    fn report(&self, before: u64, after: u64) -> Result<(), Failure> {
        let kind = self.kind.kind().name();
        if self.json {
            return output::json(&json!({
                "out": self.out,
                "kind": kind,
                "double": self.double,
                "bytes_before": before,
                "bytes": after,
            }));
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        output::write(&format!(
            "quantized into {} as {kind}: {:.1} MiB, {:.1} MiB before\n",
            self.out.display(),
            mib(after),
            mib(before)
        ))
    }
}

/// Writes a model made from the one at `source`, with tokenizer and settings.
pub(super) fn write(model: &Model, tokenizer: &Tokenizer, source: &Path, folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(folder.display())?;
    }
    model.save(folder, LoadDtype::Auto)?;
    tokenizer.copy_to(folder)?;
    let settings = source.join("generation_config.json");
    if settings.is_file() {
        std::fs::copy(&settings, folder.join("generation_config.json")).context(settings.display())?;
    }
    Ok(())
}

/// Bytes of the weight files of a folder, or of a GGUF file.
fn bytes(folder: &Path) -> Result<u64, Failure> {
    if ft_gguf::is_gguf(folder) {
        return Ok(folder.metadata().context(folder.display())?.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let entry = entry.context(folder.display())?;
        if entry.path().extension().is_some_and(|e| e == "safetensors") {
            sum += entry.metadata().context(entry.path().display())?.len();
        }
    }
    Ok(sum)
}
