//! What `ft eval` says of a model with a head for labels.

use std::collections::BTreeMap;
use std::path::Path;

use ft_eval::{HeadAnswers, HeadReport};
use ft_model::{HeadConfig, Problem};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Context, Failure};
use crate::output;

/// Metrics of numbers, which no answer in words has.
pub const METRICS: [&str; 3] = ["mse", "pearson", "spearman"];

/// Those of `scores` that were asked for, all where none was.
pub fn chosen(
    mut scores: BTreeMap<&'static str, f64>,
    asked: &[String],
) -> Result<BTreeMap<&'static str, f64>, Failure> {
    if let Some(unknown) = asked.iter().find(|name| !scores.contains_key(name.as_str())) {
        let known: Vec<&str> = scores.keys().copied().collect();
        return Err(Failure::wrong_use(format!(
            "--metric {unknown}: the head of this model is measured by {}",
            known.join(", ")
        )));
    }
    scores.retain(|name, _| asked.is_empty() || asked.iter().any(|asked| asked == name));
    Ok(scores)
}

/// The report.
#[derive(Serialize)]
pub struct Measured {
    loss: f64,
    samples: usize,
    #[serde(flatten)]
    scores: BTreeMap<&'static str, f64>,
}

impl Measured {
    pub fn of(report: &HeadReport, scores: BTreeMap<&'static str, f64>) -> Self {
        Self {
            loss: report.loss,
            samples: report.count,
            scores,
        }
    }

    pub fn page(&self) -> String {
        let mut rows = vec![
            vec!["loss".to_string(), format!("{:.6}", self.loss)],
            vec!["samples".into(), output::count(self.samples as u64)],
        ];
        let scores = self.scores.iter();
        rows.extend(scores.map(|(name, value)| vec![name.to_string(), format!("{value:.4}")]));
        output::table(&rows, &[false, true])
    }
}

/// Writes what was said as JSONL, in the order of the samples: the label, or those that are on, or the number; and every output.
pub fn write(out: &Path, head: &HeadConfig, answers: &HeadAnswers, samples: usize) -> Result<(), Failure> {
    if answers.numbers.len() != samples {
        return Err(Failure::wrong_use(
            "--out: writes what is said of whole texts, and this head speaks of their words",
        ));
    }
    let mut lines = vec![String::new(); samples];
    let rows = answers.outputs.chunks_exact(answers.width).zip(answers.classes());
    for ((row, class), number) in rows.zip(&answers.numbers) {
        let names = head.labels.iter();
        let outputs: Map<String, Value> = names.clone().cloned().zip(row.iter().map(|x| json!(x))).collect();
        let prediction = match head.problem {
            Problem::SingleLabelClassification => json!(head.labels[class]),
            Problem::MultiLabelClassification => names
                .zip(row)
                .filter(|(_, x)| **x > 0.0)
                .map(|(name, _)| json!(name))
                .collect(),
            Problem::Regression if row.len() == 1 => json!(row[0]),
            Problem::Regression => json!(row),
        };
        lines[*number] = json!({ "prediction": prediction, "outputs": outputs }).to_string() + "\n";
    }
    let draft = output::draft(out);
    std::fs::write(&draft, lines.concat()).context(draft.display())?;
    std::fs::rename(&draft, out).context(out.display())
}
