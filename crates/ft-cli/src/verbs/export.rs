//! `ft export`: adapters as the servers read them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::ValueEnum;
use ft_peft::plain::PlainLora;
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::{locate, output};

/// Write an adapter for a server
#[derive(clap::Args, Debug)]
#[command(after_help = "\
vllm: a PEFT folder with every scale folded into B (rsLoRA, alpha_pattern) and every place at one rank
(rank_pattern), which is all that vLLM reads. What vLLM cannot read (DoRA, whole layers, biases, embeddings,
methods other than LoRA) is refused: merge it into its base with `ft merge` and serve the result.")]
pub struct Export {
    /// Adapter folder, or the folder of a run that ended in one
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// Who is to read it
    #[arg(long = "for", value_name = "SERVER")]
    server: Server,
    /// What to write; it must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A program that serves models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Server {
    Vllm,
}

/// Ranks that vLLM's `--max-lora-rank` takes and that all its releases have in common.
const VLLM_RANKS: [usize; 6] = [8, 16, 32, 64, 128, 256];

impl Export {
    pub fn run(self) -> Result<(), Failure> {
        if self.out.exists() {
            return Err(Failure::wrong_use(format!(
                "--out {}: exists already",
                self.out.display()
            )));
        }
        match self.server {
            Server::Vllm => self.vllm(),
        }
    }

    fn vllm(&self) -> Result<(), Failure> {
        let folder = locate::adapter_folder(&self.adapter)?;
        let adapter = PlainLora::read(&folder, &Device::flex()).map_err(|e| or_merge(e, &folder))?;
        let served = served_rank(adapter.rank()).and_then(|rank| places(&adapter).map(|()| rank));
        let rank = served.map_err(|why| or_merge(Failure::new(why), &folder))?;
        adapter.write(&self.out)?;
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        let out = std::path::absolute(&self.out).context(self.out.display())?;
        let base = adapter.base_model.as_deref().unwrap_or("BASE");
        let command = format!(
            "vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={}",
            out.display()
        );
        if self.json {
            return output::json(&json!({
                "out": self.out,
                "rank": adapter.rank(),
                "max_lora_rank": rank,
                "places": adapter.places.len(),
                "command": command,
            }));
        }
        output::write(&format!(
            "exported {} places of rank {} into {}\n{command}\n",
            adapter.places.len(),
            adapter.rank(),
            self.out.display()
        ))
    }
}

/// The smallest `--max-lora-rank` that holds `rank`.
fn served_rank(rank: usize) -> Result<usize, String> {
    let largest = VLLM_RANKS[VLLM_RANKS.len() - 1];
    let fits = VLLM_RANKS.into_iter().find(|served| *served >= rank);
    fits.ok_or_else(|| format!("vLLM serves ranks up to {largest}, this adapter has {rank}"))
}

/// Whether vLLM takes adapters at all of these places.
fn places(adapter: &PlainLora) -> Result<(), String> {
    if adapter.fan_in_fan_out {
        return Err("vLLM serves no LoRA over this base: its matrices lie [in, out] (GPT-2)".into());
    }
    match adapter
        .places
        .iter()
        .find(|(path, pair)| pair.embedding || *path == "lm_head")
    {
        Some((path, _)) => Err(format!(
            "{path} is adapted, and vLLM takes adapters on embeddings and the output head for some bases only"
        )),
        None => Ok(()),
    }
}

/// The failure with the way that is always open.
fn or_merge(failure: impl Into<Failure>, adapter: &Path) -> Failure {
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
