//! Paths typed in a configuration become absolute, so that the copy in the run folder works from everywhere.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::source::{Sources, Tree};
use crate::objectives::Reference;

/// The keys that name files or folders to read.
const INPUTS: &[&str] = &[
    "model.path",
    "model.tokenizer",
    "peft.from",
    "data.train",
    "data.valid",
    "data.chat_template",
    "data.cache",
    "data.augment.operators.lexicon",
    "data.augment.operators.by.model",
    "data.augment.operators.there.model",
    "data.augment.operators.back.model",
    "task.train",
    "task.valid",
    "eval.general",
    "objective.reference",
    "objective.teacher",
    "objective.teacher_adapter",
    "objective.cache",
];

/// Rewrites every relative input path that exists: from the folder of the file it is typed in, else from the current
/// folder. A path that exists in neither stays as typed, for the error that will name it.
pub(super) fn make_absolute(tree: &mut Tree, sources: &Sources) {
    for key in INPUTS {
        let Some((section, name)) = key.rsplit_once('.') else {
            continue;
        };
        for table in tables(tree, section) {
            match table.get_mut(name) {
                Some(value) if is_word(key, value) => {}
                Some(value) => rewrite(value, sources),
                None => {}
            }
        }
    }
}

/// Whether it is a word, even where a folder has this name.
fn is_word(key: &str, value: &Spanned<DeValue>) -> bool {
    let word = match key {
        "data.cache" => "auto",
        _ if key.starts_with("objective.") => Reference::BASE,
        _ => return false,
    };
    value.get_ref().as_str() == Some(word)
}

/// The table of a section, or every one of a list such as `[[task]]`.
fn tables<'t, 's>(tree: &'t mut Tree<'s>, section: &str) -> Vec<&'t mut Tree<'s>> {
    let (name, rest) = section.split_once('.').unwrap_or((section, ""));
    let found: Vec<&mut Tree<'s>> = match tree.get_mut(name).map(Spanned::get_mut) {
        Some(DeValue::Table(table)) => vec![table],
        Some(DeValue::Array(list)) => {
            let items = list.iter_mut().map(Spanned::get_mut);
            items
                .filter_map(|item| match item {
                    DeValue::Table(table) => Some(table),
                    _ => None,
                })
                .collect()
        }
        _ => Vec::new(),
    };
    match rest {
        "" => found,
        rest => found.into_iter().flat_map(|table| tables(table, rest)).collect(),
    }
}

fn rewrite(value: &mut Spanned<DeValue>, sources: &Sources) {
    let folder = sources.folder(value.span().start).map(Path::to_path_buf);
    match value.get_mut() {
        DeValue::String(text) => {
            if let Some(found) = find(text, folder.as_deref()) {
                *text = found.to_string_lossy().into_owned().into();
            }
        }
        DeValue::Array(list) => list.iter_mut().for_each(|item| rewrite(item, sources)),
        _ => {}
    }
}

fn find(text: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let candidates = folder.map(|f| f.join(text)).into_iter().chain([PathBuf::from(text)]);
    // A pattern names no file, and cannot be canonical.
    let absolute = |p: PathBuf| p.canonicalize().or_else(|_| std::path::absolute(&p)).ok();
    candidates.filter(|p| ft_data::finds(p)).find_map(absolute)
}
