//! `--record`: the README's table is made of a results file, which its first line names; the guide's figures too.
//!
//! ```text
//! <!-- techniques: benches/results/cpu/2026-11-30-abc/embedded.jsonl -->
//! ..
//! <!-- end of techniques -->
//! ```

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::catalog;
use super::journal::parse;
use super::rows::Results;
use super::table;
use super::trial::number;
use crate::bench::record::{Figures, record as keep};
use crate::{Outcome, guide, shell};

const BEGIN: &str = "<!-- techniques: ";
const END: &str = "<!-- end of techniques -->";

/// Puts the table in the place of the one on the same ground, and the figures into `methods.jsonl`.
pub fn record(results: &Path) -> Outcome {
    let root = shell::root();
    let inside = results.strip_prefix(&root).unwrap_or(results);
    if !root.join(inside).exists() || inside.is_absolute() {
        return Err(format!(
            "{}: not in the repository: nothing recorded",
            results.display()
        ));
    }
    let readme = root.join("README.md");
    let told = |e: std::io::Error| format!("{}: {e}", readme.display());
    let text = fs::read_to_string(&readme).map_err(told)?;
    let ground = inside.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let old = blocks(&text)
        .into_iter()
        .find(|block| block.path.ends_with(&format!("/{ground}")));
    let Some(old) = old else {
        return Err(format!(
            "README.md: no block `{BEGIN}.../{ground} -->`: nothing recorded"
        ));
    };
    let new = block(&inside.display().to_string())?;
    fs::write(&readme, text.replace(old.text, &new)).map_err(told)?;
    let results = read(inside)?;
    let path = root.join(MEASURED);
    let known = fs::read_to_string(&path).map_err(|e| format!("{MEASURED}: {e}"))?;
    fs::write(&path, advice(&known, stem(inside), &results)?).map_err(|e| format!("{MEASURED}: {e}"))?;
    if stem(inside) == "embedded" {
        keep(figures(&results))?;
        guide::run(&[])?;
    }
    Ok(())
}

/// What `ft advise` knows of the comparisons.
const MEASURED: &str = "crates/ft-train/src/advise/measured.json";

/// [`MEASURED`] with these results in the place of older ones on their ground; the embedded model's come first.
fn advice(known: &str, ground: &str, results: &Results) -> Result<String, String> {
    let known: Vec<Value> = serde_json::from_str(known).map_err(|e| format!("{MEASURED}: {e}"))?;
    let mut all: Vec<Value> = known.into_iter().filter(|one| one["ground"] != ground).collect();
    let rows = results.rows.iter().map(|row| {
        let quality = row.quality.unwrap_or(row.loss);
        // Short, so that what is read is written again to the letter.
        let [mean, deviation] = [quality.mean, quality.deviation].map(|x| (x * 1e6).round() / 1e6);
        let figures = json!({ "quality": mean, "deviation": deviation });
        (row.name.to_owned(), figures)
    });
    let rows = Value::Object(rows.collect());
    let place = if ground == "embedded" { 0 } else { all.len() };
    all.insert(
        place,
        json!({ "ground": ground, "metric": results.metric(), "rows": rows }),
    );
    serde_json::to_string_pretty(&all)
        .map(|text| text + "\n")
        .map_err(|e| e.to_string())
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// A part of the README that is made, markers included.
struct Block<'t> {
    path: &'t str,
    text: &'t str,
}

fn blocks(readme: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = readme[at..].find(BEGIN).map(|begin| at + begin) {
        let Some(end) = readme[begin..].find(END).map(|end| begin + end + END.len()) else {
            break;
        };
        let text = &readme[begin..end];
        let path = text[BEGIN.len()..].split(" -->").next().unwrap_or_default();
        found.push(Block { path, text });
        at = end;
    }
    found
}

/// The block of a results file, named from the repository's root.
fn block(path: &str) -> Result<String, String> {
    let results = read(Path::new(path))?;
    let beside = |kind: &str| path.replace(".jsonl", &format!(".{kind}"));
    Ok(format!(
        "{BEGIN}{path} -->\n{}\n![{} against peak memory, a point for each technique]({})\n\nTo be sorted, with curves: \
         [{}]({}).\n{END}",
        table::short(&results),
        results.metric().replace('_', " "),
        beside("svg"),
        beside("html"),
        beside("html"),
    ))
}

fn read(path: &Path) -> Result<Results, String> {
    let whole = shell::root().join(path);
    let told = |why: String| format!("{}: {why}", path.display());
    let text = fs::read_to_string(whole).map_err(|e| told(e.to_string()))?;
    let lines = parse(&text).map_err(|e| told(e.to_string()))?;
    Results::of(&lines).ok_or_else(|| told("no finished run".into()))
}

/// Of the techniques that are a method with its default options.
fn figures(results: &Results) -> Vec<(String, Figures)> {
    let rows = results.rows.iter().filter_map(|row| {
        let technique = catalog::named(row.name)?;
        let [only] = technique.settings else { return None };
        let method = only.strip_prefix("peft.method=").filter(|method| *method == row.name)?;
        let figures = Figures::from_iter([
            ("trainable".into(), row.trainable.into()),
            ("file_bytes".into(), row.file_bytes.into()),
            ("lr".into(), row.lr.into()),
            ("loss_before".into(), number(&results.base, "loss").into()),
            ("loss_after".into(), row.loss.mean.into()),
            (
                results.metric().to_owned(),
                row.quality.map(|quality| quality.mean).into(),
            ),
        ]);
        Some((method.to_owned(), figures))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_readme_are_those_of_the_results() {
        let readme = fs::read_to_string(shell::root().join("README.md")).unwrap();
        let blocks = blocks(&readme);
        assert!(!blocks.is_empty(), "README.md has no table of techniques");
        for old in blocks {
            let new = block(old.path).unwrap();
            assert!(
                old.text == new,
                "README.md: the table of {} is stale: `cargo xtask bench --record`",
                old.path
            );
            let known = fs::read_to_string(shell::root().join(MEASURED)).unwrap();
            let path = Path::new(old.path);
            let advice = advice(&known, stem(path), &read(path).unwrap()).unwrap();
            assert!(known == advice, "{MEASURED} is stale: `cargo xtask bench --record`");
        }
    }

    #[test]
    fn blocks_are_found_by_their_markers() {
        let text = format!("a {BEGIN}x/e.jsonl -->\n1\n{END} b {BEGIN}y/f.jsonl -->{END} c");
        let found = blocks(&text);
        assert_eq!(
            found.iter().map(|b| b.path).collect::<Vec<_>>(),
            ["x/e.jsonl", "y/f.jsonl"]
        );
        assert!(found[0].text.ends_with(END) && found[0].text.contains("\n1\n"));
    }
}
