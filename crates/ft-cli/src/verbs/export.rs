//! `ft export`: adapters as the servers read them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::ValueEnum;
use ft_data::Tokenizer;
use ft_gguf::FileType;
use ft_infer::GenerationConfig;
use ft_model::ModelConfig;
use ft_model::gguf::{self, GgufSource};
use ft_peft::plain::PlainLora;
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::locate::Located;
use crate::{locate, modelfile, output};

/// Write an adapter or a model for a server
#[derive(clap::Args, Debug)]
#[command(after_help = "\
--for vllm writes a PEFT folder with every scale folded into B (rsLoRA, alpha_pattern) and every place at one rank
(rank_pattern), which is all that vLLM reads.

--for llama.cpp writes one GGUF file: of an adapter or a run that ended in one, the adapter (for --lora beside the
GGUF of its base), or with --merge base and adapter as one model; of any other model, the model with its tokenizer.

--for ollama writes a folder: the model as a GGUF file, with base and adapter as one, and a Modelfile with its template, its
stop texts and how it draws.

What a server cannot read (for adapters: DoRA, whole layers, biases, embeddings, methods other than LoRA) is refused
with the reason; merging always works: `ft merge`, or --merge here.")]
pub struct Export {
    /// Adapter folder, run folder, model folder, GGUF file or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// Who is to read it
    #[arg(long = "for", value_name = "SERVER")]
    server: Server,
    /// What to write: a folder for vllm and ollama, a file for llama.cpp; it must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Adapter folder in PEFT layout, where MODEL is its base
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Write base and adapter as one model (llama.cpp)
    #[arg(long)]
    merge: bool,
    /// Type of the matrices in a GGUF file; f16 for models and f32 for adapters when left out
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The type of matrices in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    #[value(name = "q5_k_m")]
    Q5KM,
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl Dtype {
    fn of_file(self) -> FileType {
        match self {
            Dtype::F32 => FileType::All(ft_gguf::Dtype::F32),
            Dtype::F16 => FileType::All(ft_gguf::Dtype::F16),
            Dtype::Bf16 => FileType::All(ft_gguf::Dtype::Bf16),
            Dtype::Q8_0 => FileType::All(ft_gguf::Dtype::Q8_0),
            Dtype::Q6K => FileType::All(ft_gguf::Dtype::Q6K),
            Dtype::Q5KM => FileType::Q5KM,
            Dtype::Q4KM => FileType::Q4KM,
        }
    }

    /// Of an adapter's matrices, whose rows are as short as its rank.
    fn of_adapter(self) -> Result<ft_gguf::Dtype, Failure> {
        match self.of_file() {
            FileType::All(dtype) if dtype != ft_gguf::Dtype::Q6K => Ok(dtype),
            _ => Err(Failure::wrong_use(format!(
                "--dtype {} is for models: an adapter is f32, f16, bf16 or q8_0",
                self.name()
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Q8_0 => "q8_0",
            Dtype::Q6K => "q6_k",
            Dtype::Q5KM => "q5_k_m",
            Dtype::Q4KM => "q4_k_m",
        }
    }
}

/// A program that serves models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Server {
    Vllm,
    #[value(name = "llama.cpp")]
    LlamaCpp,
    Ollama,
}

/// Ranks that vLLM's `--max-lora-rank` takes and that all its releases have in common.
const VLLM_RANKS: [usize; 6] = [8, 16, 32, 64, 128, 256];

impl Export {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        match (self.server, self.merge) {
            (Server::Vllm, true) => Err(Failure::wrong_use(
                "--merge is for llama.cpp; vLLM serves what `ft merge` writes",
            )),
            (Server::Vllm, false) if self.dtype.is_some() => Err(Failure::wrong_use(
                "--dtype is for llama.cpp; adapters for vllm are f32",
            )),
            (Server::Vllm, false) => self.vllm(),
            (Server::LlamaCpp, _) => self.llama_cpp(),
            (Server::Ollama, _) => self.ollama(),
        }
    }

    fn vllm(&self) -> Result<(), Failure> {
        let named = self.adapter.as_deref().unwrap_or(Path::new(&self.model));
        let folder = locate::adapter_folder(named).map_err(|failure| {
            match locate::locate(&self.model, self.adapter.as_deref()) {
                Ok(whole) if whole.adapter.is_none() => Failure::wrong_use(format!(
                    "`{}` is a whole model, which needs no export: vllm serve {}",
                    self.model,
                    whole.checkpoint.display()
                )),
                _ => failure,
            }
        })?;
        let adapter = PlainLora::read(&folder, &Device::flex()).map_err(|e| or_merge(e, &folder))?;
        let served = served_rank(adapter.rank()).and_then(|rank| served_modules(&adapter).map(|()| rank));
        let rank = served.map_err(|why| or_merge(Failure::new(why), &folder))?;
        adapter.write(&self.out)?;
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        let out = std::path::absolute(&self.out).context(self.out.display())?;
        let base = adapter.base_model.as_deref().unwrap_or("BASE");
        let command = format!(
            "vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={}",
            out.display()
        );
        let what = format!("{} modules of rank {}", adapter.pairs.len(), adapter.rank());
        let figures = json!({
            "rank": adapter.rank(),
            "max_lora_rank": rank,
            "places": adapter.pairs.len(),
        });
        self.report(&what, figures, &command)
    }

    fn llama_cpp(&self) -> Result<(), Failure> {
        let located = locate::locate(&self.model, self.adapter.as_deref())?;
        let out = self.out.display();
        match &located.adapter {
            Some(adapter) if !self.merge => {
                let dtype = self.dtype.unwrap_or(Dtype::F32);
                let of_adapter = dtype.of_adapter()?;
                let merge = "write base and adapter as one model: add --merge";
                let instead = |e: Failure| e.hint(if merges(adapter) { merge } else { RUN_HERE });
                let lora = PlainLora::read(adapter, &Device::flex()).map_err(|e| instead(e.into()))?;
                self.whole(|draft| {
                    gguf::write_adapter(&located.checkpoint, &lora, of_adapter, draft).map_err(|e| instead(e.into()))
                })?;
                let what = format!("{} modules as {}", lora.pairs.len(), dtype.name());
                let figures = json!({ "places": lora.pairs.len(), "rank": lora.rank(), "dtype": dtype.name() });
                self.report(&what, figures, &format!("llama-server -m BASE.gguf --lora {out}"))
            }
            None if self.merge => Err(Failure::wrong_use(
                "there is no adapter to merge: name one with --adapter, or leave out --merge",
            )),
            _ => {
                let tokenizer = Tokenizer::from_dir(located.tokenizer())?;
                self.whole(|draft| self.write_model(&located, &tokenizer, draft))?;
                self.report_model(&format!("llama-server -m {out}"))
            }
        }
    }

    fn ollama(&self) -> Result<(), Failure> {
        const GGUF: &str = "model.gguf";
        let located = locate::locate(&self.model, self.adapter.as_deref())?;
        let tokenizer = Tokenizer::from_dir(located.tokenizer())?;
        let config = ModelConfig::from_dir(&located.checkpoint)?;
        let mut settings = GenerationConfig::from_dir(located.settings(), &config.eos_token_ids)?;
        settings.add_stops(tokenizer.eos_ids());
        self.whole(|draft| {
            std::fs::create_dir(draft).context(draft.display())?;
            self.write_model(&located, &tokenizer, &draft.join(GGUF))?;
            let file = draft.join("Modelfile");
            std::fs::write(&file, modelfile::of(GGUF, &tokenizer, &settings)).context(file.display())
        })?;
        let out = self.out.display();
        self.report_model(&format!("ollama create NAME -f {out}/Modelfile"))
    }

    /// The model as one GGUF file, with its adapter merged.
    fn write_model(&self, located: &Located, tokenizer: &Tokenizer, out: &Path) -> Result<(), Failure> {
        let rows = ModelConfig::from_dir(&located.checkpoint)?.vocab_size;
        let source = GgufSource {
            dir: &located.checkpoint,
            quant: located.quant,
            adapter: located.adapter.as_deref(),
            tokenizer: tokenizer.gguf(rows)?,
        };
        Ok(gguf::write_model(&source, self.of_model().of_file(), out)?)
    }

    fn of_model(&self) -> Dtype {
        self.dtype.unwrap_or(Dtype::F16)
    }

    fn report_model(&self, command: &str) -> Result<(), Failure> {
        let name = self.of_model().name();
        self.report(&format!("the model as {name}"), json!({ "dtype": name }), command)
    }

    /// Lets `write` write a file under another name, which becomes `out` once it is whole.
    fn whole(&self, write: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
        let name = self.out.file_name().unwrap_or_default();
        let folder = draft_folder(&self.out)?;
        let draft = folder.join(name);
        let written = write(&draft).and_then(|()| std::fs::rename(&draft, &self.out).context(self.out.display()));
        // The folder holds nothing but the draft; the first failure is the one to report.
        let _ = std::fs::remove_dir_all(&folder);
        written
    }

    fn report(&self, what: &str, mut figures: serde_json::Value, command: &str) -> Result<(), Failure> {
        if self.json {
            figures["out"] = json!(self.out);
            figures["command"] = command.into();
            return output::json(&figures);
        }
        output::write(&format!("exported {what} into {}\n{command}\n", self.out.display()))
    }
}

/// A new folder beside `out`, for what is not whole yet.
fn draft_folder(out: &Path) -> Result<PathBuf, Failure> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let folder = out.with_file_name(format!(".writing-{name}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context(folder.display())?;
    }
    std::fs::create_dir_all(&folder).context(folder.display())?;
    Ok(folder)
}

/// The smallest `--max-lora-rank` that holds `rank`.
fn served_rank(rank: usize) -> Result<usize, String> {
    let largest = VLLM_RANKS[VLLM_RANKS.len() - 1];
    let fits = VLLM_RANKS.into_iter().find(|served| *served >= rank);
    fits.ok_or_else(|| format!("vLLM serves ranks up to {largest}, this adapter has {rank}"))
}

/// Whether vLLM takes adapters at all of these places.
fn served_modules(adapter: &PlainLora) -> Result<(), String> {
    if adapter.fan_in_fan_out {
        return Err("vLLM serves no LoRA over this base: its matrices lie [in, out] (GPT-2)".into());
    }
    match adapter
        .pairs
        .iter()
        .find(|(path, pair)| pair.embedding || *path == "lm_head")
    {
        Some((path, _)) => Err(format!(
            "{path} is adapted, and vLLM takes adapters on embeddings and the output head for some bases only"
        )),
        None => Ok(()),
    }
}

const RUN_HERE: &str = "it cannot be merged either: run it here, with ft generate or ft chat";

fn merges(adapter: &Path) -> bool {
    ft_peft::adapter::read_config(adapter).is_ok_and(|config| config.method().merges())
}

/// The failure with the way that is still open.
fn or_merge(failure: impl Into<Failure>, adapter: &Path) -> Failure {
    if !merges(adapter) {
        return failure.into().hint(RUN_HERE);
    }
    failure.into().hint(format!(
        "merge it and serve the result: ft merge BASE --adapter {} --out DIR",
        adapter.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rank_that_the_server_takes() {
        let ranks = [1, 8, 9, 256].map(|rank| served_rank(rank).unwrap());
        assert_eq!(ranks, [8, 8, 16, 256]);
        assert!(served_rank(257).is_err());
    }
}
