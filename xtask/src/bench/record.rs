//! `--record`: what was measured goes into `benches/results/methods.jsonl`, one line per method, from which the guide is made.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value};

use crate::{Outcome, shell};

/// Figures of one method by name.
pub type Figures = Map<String, Value>;

/// Puts the figures in the place of older ones of the same name; what else the file says stays.
pub fn record(measured: Vec<(String, Figures)>) -> Outcome {
    let path = shell::root().join("benches/results/methods.jsonl");
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    let text = fs::read_to_string(&path).map_err(told)?;
    let text = merged(&text, measured).map_err(|e| format!("{}: {e}", path.display()))?;
    fs::write(&path, text).map_err(told)
}

fn merged(text: &str, measured: Vec<(String, Figures)>) -> Result<String, serde_json::Error> {
    let lines: Result<Vec<Figures>, _> = text.lines().map(serde_json::from_str).collect();
    let name = |line: &Figures| line["method"].as_str().unwrap_or_default().to_owned();
    let mut lines: BTreeMap<String, Figures> = lines?.into_iter().map(|line| (name(&line), line)).collect();
    for (method, figures) in measured {
        let line = lines.entry(method.clone()).or_default();
        line.insert("method".into(), method.into());
        line.extend(figures);
    }
    Ok(lines
        .into_values()
        .map(|line| Value::from(line).to_string() + "\n")
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_figures_replace_old_ones_and_leave_the_rest() {
        let old = "{\"method\":\"lora\",\"tokens_per_s\":1.0,\"file_bytes\":7}\n";
        let new = Figures::from_iter([("tokens_per_s".to_owned(), Value::from(2.5))]);
        let text = merged(old, vec![("lora".into(), new.clone()), ("ia3".into(), new)]).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0], serde_json::json!({"method": "ia3", "tokens_per_s": 2.5}));
        assert_eq!(
            lines[1],
            serde_json::json!({"method": "lora", "tokens_per_s": 2.5, "file_bytes": 7})
        );
    }
}
