//! Which files of a repository are fetched.

use std::path::{Path, PathBuf};

use ft_data::Role;

use super::wanted::Wanted;

/// Files of a model besides its weights.
const BESIDE: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "adapter.safetensors",
];

impl Wanted {
    /// Those of a repository's files that are wanted.
    pub fn choose(&self, files: &[String]) -> Result<Vec<String>, String> {
        let chosen = match self {
            Wanted::Model => model_files(files),
            Wanted::Data { path, splits } => data_files(files, path, splits)?,
        };
        match chosen.is_empty() {
            true => Err("it holds none of the files that ft reads".into()),
            false => Ok(chosen),
        }
    }
}

fn model_files(files: &[String]) -> Vec<String> {
    let weights = |file: &str| {
        let named = |stem: &str| file.starts_with(stem) && file.ends_with(".safetensors");
        named("model-") || file == "model.safetensors" || file == "adapter_model.safetensors"
    };
    let plain = |file: &&String| !file.contains('/');
    // Some repositories hold the weights under other names, some hold them twice.
    let usual = files.iter().filter(plain).any(|file| weights(file));
    let wanted = |file: &&String| {
        let other = !usual && file.ends_with(".safetensors");
        BESIDE.contains(&file.as_str()) || weights(file) || other
    };
    let templates = files.iter().filter(|file| {
        let rest = file.strip_prefix("additional_chat_templates/");
        rest.is_some_and(|name| name.ends_with(".jinja") && !name.contains('/'))
    });
    files
        .iter()
        .filter(plain)
        .filter(wanted)
        .chain(templates)
        .cloned()
        .collect()
}

fn data_files(files: &[String], path: &str, splits: &[(Option<String>, Role)]) -> Result<Vec<String>, String> {
    let paths: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let mut chosen = Vec::new();
    for (split, role) in splits {
        for file in ft_data::choose_files(&paths, path, split.as_deref(), *role)? {
            if !chosen.contains(&file) {
                chosen.push(file);
            }
        }
    }
    let same = |file: &&String| chosen.iter().any(|path| path == Path::new(file.as_str()));
    Ok(files.iter().filter(same).cloned().collect())
}
