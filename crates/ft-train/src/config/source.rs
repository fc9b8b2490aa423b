//! Where every key of a configuration came from.
//!
//! A configuration is read from up to three kinds of text: the file named by `extends`, the file itself, and the
//! `--set` arguments. The texts are kept side by side, and each parsed tree has its byte spans shifted by the start of
//! its text, so that one merged tree still knows, for every key, which file, line and column it was typed in.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Issue;

/// A parsed table whose keys and values carry byte spans into [`Sources`].
pub(super) type Tree<'a> = DeTable<'a>;

/// One text that a configuration was made from.
#[derive(Debug)]
struct Source {
    /// Shown in messages: the file's path, or the `--set` argument as typed.
    name: String,
    /// The folder that relative paths in this text start from; none for `--set`.
    dir: Option<PathBuf>,
    text: String,
    start: usize,
}

/// All texts of one configuration, addressed by one range of byte offsets.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
}

impl Sources {
    /// Adds a file's text; returns its index.
    pub fn add_file(&mut self, path: &Path, text: String) -> usize {
        let dir = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        self.add(path.display().to_string(), Some(dir), text)
    }

    /// Adds one `--set` argument; returns its index.
    pub fn add_set(&mut self, argument: &str) -> usize {
        self.add(format!("--set {argument}"), None, argument.to_owned())
    }

    fn add(&mut self, name: String, dir: Option<PathBuf>, text: String) -> usize {
        // One byte between two texts keeps a span at the very end of one out of the next.
        let start = self.list.last().map_or(0, |s| s.start + s.text.len() + 1);
        self.list.push(Source { name, dir, text, start });
        self.list.len() - 1
    }

    fn at(&self, offset: usize) -> Option<&Source> {
        self.list.iter().rev().find(|s| s.start <= offset)
    }

    /// `file:line:column` of a byte offset; the argument itself for `--set`.
    pub fn locate(&self, offset: usize) -> String {
        let Some(source) = self.at(offset) else {
            return String::new();
        };
        if source.dir.is_none() {
            return source.name.clone();
        }
        let before = &source.text.as_bytes()[..(offset - source.start).min(source.text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let tail = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(tail).chars().count() + 1;
        format!("{}:{line}:{column}", source.name)
    }

    /// The folder of the file that holds this offset; none when it was typed as `--set`.
    pub fn folder(&self, offset: usize) -> Option<&Path> {
        self.at(offset)?.dir.as_deref()
    }

    /// The keys of the file at `index`.
    pub fn parse_file(&self, index: usize) -> Result<Tree<'_>, Issue> {
        let source = &self.list[index];
        let tree = DeTable::parse(&source.text).map_err(|e| {
            let at = self.locate(source.start + e.span().map_or(0, |s| s.start));
            Issue::new(at, e.message().lines().next().unwrap_or_default())
        })?;
        Ok(shift_table(tree.into_inner(), source.start))
    }

    /// The key of the `--set` argument at `index`: the value is a TOML literal where it reads as one, else a string.
    pub fn parse_set(&self, index: usize) -> Result<Tree<'_>, Issue> {
        let source = &self.list[index];
        let fail = |message: &str| Issue::new(source.name.clone(), message);
        let (key, value) = source.text.split_once('=').ok_or_else(|| fail("expected KEY=VALUE"))?;
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let good = |part: &str| !part.is_empty() && part.chars().all(bare);
        if !key.trim().split('.').all(good) {
            return Err(fail("the key must be dotted words, such as `optim.lr`"));
        }
        let span = source.start..source.start + source.text.len();
        let value = value.trim();
        let value = DeValue::parse(value).map_or_else(
            |_| DeValue::String(value.into()),
            |v| shift_value(v.into_inner(), source.start),
        );
        Ok(nest(key.trim(), value, &span))
    }
}

/// `a.b` and `v` as the table `{ a = { b = v } }`.
fn nest<'a>(key: &'a str, value: DeValue<'a>, span: &Range<usize>) -> Tree<'a> {
    let (head, value) = match key.split_once('.') {
        Some((head, rest)) => (head, DeValue::Table(nest(rest, value, span))),
        None => (key, value),
    };
    let mut table = Tree::new();
    table.insert(
        Spanned::new(span.clone(), head.into()),
        Spanned::new(span.clone(), value),
    );
    table
}

fn shift_table(table: DeTable<'_>, by: usize) -> Tree<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let at = shifted(key.span(), by);
            (Spanned::new(at, key.into_inner()), shift_spanned(value, by))
        })
        .collect()
}

fn shift_spanned(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let at = shifted(value.span(), by);
    Spanned::new(at, shift_value(value.into_inner(), by))
}

fn shift_value(value: DeValue<'_>, by: usize) -> DeValue<'_> {
    match value {
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        DeValue::Array(mut array) => {
            for item in array.iter_mut() {
                let owned = std::mem::replace(item, Spanned::new(0..0, DeValue::Boolean(false)));
                *item = shift_spanned(owned, by);
            }
            DeValue::Array(array)
        }
        plain => plain,
    }
}

fn shifted(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

/// Lays `over` on `base`: tables are merged key by key, everything else is replaced. A free-form table named in `whole`
/// (a dotted path) is replaced too, so that a new `data.map` does not inherit half of an old one.
pub(super) fn merge<'a>(base: &mut Tree<'a>, over: Tree<'a>, whole: &[&str]) {
    for (key, value) in over {
        let name = key.get_ref().to_string();
        let inner: Vec<&str> = whole
            .iter()
            .filter_map(|p| p.strip_prefix(&name)?.strip_prefix('.'))
            .collect();
        let both_tables = matches!(
            (base.get(&key).map(Spanned::get_ref), value.get_ref()),
            (Some(DeValue::Table(_)), DeValue::Table(_))
        );
        if !both_tables || whole.contains(&name.as_str()) {
            base.remove(&key);
            base.insert(key, value);
            continue;
        }
        let (Some(below), DeValue::Table(above)) = (base.get_mut(&key), value.into_inner()) else {
            continue;
        };
        if let DeValue::Table(below) = below.get_mut() {
            merge(below, above, &inner);
        }
    }
}

/// Whether the tree has a key at this dotted path.
pub(super) fn holds(tree: &Tree, path: &str) -> bool {
    match path.split_once('.') {
        None => tree.contains_key(path),
        Some((head, rest)) => {
            matches!(tree.get(head).map(Spanned::get_ref), Some(DeValue::Table(inner)) if holds(inner, rest))
        }
    }
}

/// The string at this dotted path.
pub(super) fn text<'t>(tree: &'t Tree<'_>, path: &str) -> Option<&'t str> {
    match (path.split_once('.'), tree.get(path.split('.').next()?)?.get_ref()) {
        (None, DeValue::String(text)) => Some(text),
        (Some((_, rest)), DeValue::Table(inner)) => text(inner, rest),
        _ => None,
    }
}

/// Removes the key at this dotted path.
pub(super) fn remove(tree: &mut Tree, path: &str) {
    match path.split_once('.') {
        None => {
            tree.remove(path);
        }
        Some((head, rest)) => {
            if let Some(DeValue::Table(inner)) = tree.get_mut(head).map(Spanned::get_mut) {
                remove(inner, rest);
            }
        }
    }
}

/// Removes every key of a section but one.
pub(super) fn keep_only(tree: &mut Tree, section: &str, keys: &[&str]) {
    if let Some(DeValue::Table(inner)) = tree.get_mut(section).map(Spanned::get_mut) {
        *inner = std::mem::take(inner)
            .into_iter()
            .filter(|(name, _)| keys.contains(&name.get_ref().as_ref()))
            .collect();
    }
}

/// Every dotted path of the tree with the bytes it covers, key and value; outer ones first.
pub(super) fn spans(tree: &Tree) -> Vec<(String, Range<usize>)> {
    fn collect(tree: &Tree, prefix: &str, out: &mut Vec<(String, Range<usize>)>) {
        for (key, value) in tree {
            let path = join(prefix, key.get_ref());
            let (start, end) = (
                key.span().start.min(value.span().start),
                key.span().end.max(value.span().end),
            );
            out.push((path.clone(), start..end));
            match value.get_ref() {
                DeValue::Table(inner) => collect(inner, &path, out),
                DeValue::Array(list) => {
                    for item in list.iter() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            out.push((path.clone(), item.span()));
                            collect(inner, &path, out);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    collect(tree, "", &mut out);
    out
}

/// `prefix.key`, or `key` at the top.
pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}
