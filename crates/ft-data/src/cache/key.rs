//! What tokens depend on, as 128 bits.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde_json::json;
use twox_hash::xxhash3_128::Hasher;

use crate::config::DataConfig;
use crate::error::{Error, Result};
use crate::sources::kind_of;
use crate::tokenizer::Tokenizer;

/// To be raised with every change of what a record becomes.
const TOKENIZATION: u32 = 2;

/// XXH3 over everything that tokens depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u128);

impl Key {
    /// Of the contents of files, in their order, the tokenizer with its template, and the settings that shape samples.
    pub fn of(files: &[PathBuf], config: &DataConfig, tokenizer: &Tokenizer) -> Result<Key> {
        let contents = files.iter().map(|path| {
            let hash = hash_file(path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            });
            let name = path.to_string_lossy().to_lowercase();
            Ok(json!([kind_of(&name), format!("{:032x}", hash?)]))
        });
        let template = tokenizer.chat_template().map(|template| template.source());
        // A template that writes today's date makes other tokens tomorrow.
        let dated = template.is_some_and(|text| text.contains("strftime_now"))
            && !config.chat_template_kwargs.contains_key("date_string");
        let mut all = json!({
            "version": [TOKENIZATION, env!("CARGO_PKG_VERSION")],
            "files": contents.collect::<Result<Vec<_>>>()?,
            "tokenizer": tokenizer.fingerprint(),
            "template": template,
            "kwargs": config.chat_template_kwargs,
            "day": dated.then(crate::template::today),
            "format": config.format,
            "map": config.map,
            "max_length": config.max_length,
            "overlong": config.overlong,
            "separator": config.separator,
            "limit": config.limit,
        });
        if let Some(labels) = &config.labels {
            all["labels"] = json!(labels);
        }
        Ok(Key(hash(all.to_string().as_bytes())))
    }

    pub fn words(self) -> [u32; 4] {
        [0, 32, 64, 96].map(|shift| (self.0 >> shift) as u32)
    }

    /// The name of the entry's folder.
    pub fn name(self) -> String {
        format!("{:032x}", self.0)
    }
}

fn hash(bytes: &[u8]) -> u128 {
    Hasher::oneshot(bytes)
}

fn hash_file(path: &PathBuf) -> std::io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish_128()),
            read => hasher.write(&buffer[..read]),
        }
    }
}
