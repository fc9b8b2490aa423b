//! `ft embed`: texts as vectors.

use std::path::PathBuf;

use clap::ValueEnum;
use ft_data::{DataConfig, Tokenizer, load_records};
use ft_infer::{EmbeddingConfig, Pooling};
use serde_json::json;

use crate::args::DeviceArg;
use crate::failure::{Context, Failure};
use crate::model::{Loaded, width_multiple};
use crate::weights::Weights;
use crate::{device, locate, output};

/// Write texts as vectors, one JSON object a line: {"text", "embedding"}
#[derive(clap::Args, Debug)]
pub struct Embed {
    /// Folder of a model, or of one in sentence-transformers' layout (modules.json), whose pooling then applies
    #[arg(value_name = "MODEL")]
    model: String,
    /// A text (repeatable)
    #[arg(long, value_name = "TEXT", required_unless_present = "data")]
    text: Vec<String>,
    /// Texts: .jsonl, .json, .csv, .tsv, or .txt with one on each line
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    data: Option<PathBuf>,
    /// The column of the texts
    #[arg(long, value_name = "NAME", default_value = "text", requires = "data")]
    field: String,
    /// Put this before every text, such as "query: "
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Adapter folder in PEFT layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Which tokens make the vector, where the folder does not say: their mean where nothing is said
    #[arg(long, value_name = "NAME")]
    pooling: Option<PoolingArg>,
    /// Give vectors length 1, even where the folder does not say so
    #[arg(long)]
    normalize: bool,
    /// Longest text in tokens; longer ones are cut
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Texts in one forward pass
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Write to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingArg {
    Mean,
    Cls,
    Last,
}

impl From<PoolingArg> for Pooling {
    fn from(typed: PoolingArg) -> Self {
        match typed {
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::Cls,
            PoolingArg::Last => Pooling::Last,
        }
    }
}

impl Embed {
    pub fn run(self) -> Result<(), Failure> {
        self.out.as_deref().map_or(Ok(()), output::must_not_exist)?;
        let mut located = locate::locate(&self.model, self.adapter.as_deref())?;
        let said = EmbeddingConfig::from_dir(&located.checkpoint)?;
        if let Some(said) = &said {
            located.checkpoint = located.checkpoint.join(&said.model);
        }
        let picked = device::pick(self.device.device)?;
        let loaded = Loaded::open(located, Weights::STORED, &picked)?;
        let said = said.unwrap_or_default();
        let config = EmbeddingConfig {
            pooling: self.pooling.map_or(said.pooling, Pooling::from),
            normalize: said.normalize || self.normalize,
            max_length: self.max_length.or(said.max_length),
            ..said
        };
        let longest = config.max_length.unwrap_or(usize::MAX).min(loaded.model.positions());
        let texts = self.texts(&loaded.tokenizer)?;
        let ids = |text: &String| {
            let (ids, _) = loaded
                .tokenizer
                .encode_pair(&format!("{}{text}", self.prefix), None, Some(longest))?;
            Ok(ids)
        };
        let ids: Vec<Vec<u32>> = texts.iter().map(ids).collect::<Result<_, ft_data::Error>>()?;
        let shape = [self.batch as usize, width_multiple(&picked)];
        let vectors = ft_infer::embed(&loaded.model, &ids, &config, shape);
        let lines = texts.iter().zip(vectors);
        let lines = lines.map(|(text, vector)| json!({ "text": text, "embedding": vector }).to_string() + "\n");
        let lines: String = lines.collect();
        match &self.out {
            None => output::write(&lines),
            Some(out) => {
                let draft = output::draft(out);
                std::fs::write(&draft, lines).context(draft.display())?;
                std::fs::rename(&draft, out).context(out.display())
            }
        }
    }

    fn texts(&self, tokenizer: &Tokenizer) -> Result<Vec<String>, Failure> {
        let Some(data) = &self.data else {
            return Ok(self.text.clone());
        };
        let mut config = DataConfig::new(data);
        config.format = Some("text".parse()?);
        if self.field != "text" {
            config.map.insert("text".into(), format!("{{{}}}", self.field));
        }
        let records = load_records(data, &config, None, tokenizer)?;
        let text = |row: &ft_data::Row| {
            row.fields
                .get("text")
                .and_then(|text| text.as_str())
                .unwrap_or_default()
                .to_string()
        };
        Ok(records.rows.iter().map(text).collect())
    }
}
