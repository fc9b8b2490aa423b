//! Texts as vectors: the last hidden states of a model, pooled over the tokens of each text, as sentence-transformers does
//! (Reimers and Gurevych 2019, arXiv:1908.10084), and the folder layout in which that says how.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_model::Model;
use ft_peft::Pass;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Over which tokens the hidden states of a text are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all.
    #[default]
    Mean,
    /// The first.
    Cls,
    /// The last.
    Last,
}

/// How a model makes vectors of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingConfig {
    /// The folder of the model itself, below that of the layout.
    pub model: PathBuf,
    /// Over which tokens.
    pub pooling: Pooling,
    /// Whether vectors have length 1.
    pub normalize: bool,
    /// Longest text in tokens.
    pub max_length: Option<usize>,
    /// Width of a vector, where that is known.
    pub dimension: Option<usize>,
}

impl EmbeddingConfig {
    /// What `modules.json` in `dir` says, with the files that it names; `None` where there is none.
    ///
    /// # Errors
    /// Files that cannot be read; modules that are not computed here, by their type.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("modules.json");
        if !path.is_file() {
            return Ok(None);
        }
        let modules = read(&path)?;
        let wrong = |why: String| failed(&path, why);
        let list = modules
            .as_array()
            .ok_or_else(|| wrong("a list of modules is needed".into()))?;
        let mut config = Self::default();
        let mut pooled = false;
        for module in list {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let folder = dir.join(text("path"));
            match text("type").rsplit('.').next().unwrap_or_default() {
                "Transformer" => {
                    config.model = text("path").into();
                    let own = read(&folder.join("sentence_bert_config.json")).ok();
                    let length = own
                        .as_ref()
                        .and_then(|own| own.get("max_seq_length"))
                        .and_then(Value::as_u64);
                    config.max_length = length.and_then(|length| usize::try_from(length).ok());
                }
                "Pooling" => {
                    let path = folder.join("config.json");
                    let own = read(&path)?;
                    let width = own.get("word_embedding_dimension").and_then(Value::as_u64);
                    config.dimension = width.and_then(|width| usize::try_from(width).ok());
                    config.pooling = pooling(&own).map_err(|why| failed(&path, why))?;
                    pooled = true;
                }
                "Normalize" => config.normalize = true,
                other => {
                    return Err(wrong(format!(
                        "a module of type \"{other}\" is not computed here; Transformer, Pooling and Normalize are"
                    )));
                }
            }
        }
        match pooled {
            true => Ok(Some(config)),
            false => Err(wrong("there is no module of type Pooling".into())),
        }
    }
}

impl EmbeddingConfig {
    /// Writes the layout around a model in `dir`.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let module = |number: usize, path: &str, kind: &str| json!({ "idx": number, "name": number.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
        let mut modules = vec![module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")];
        modules.extend(self.normalize.then(|| module(2, "2_Normalize", "Normalize")));
        let flag = |pooling: Pooling| self.pooling == pooling;
        let pooling = json!({
            "word_embedding_dimension": self.dimension,
            "pooling_mode_cls_token": flag(Pooling::Cls),
            "pooling_mode_mean_tokens": flag(Pooling::Mean),
            "pooling_mode_lasttoken": flag(Pooling::Last),
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
            "pooling_mode_weightedmean_tokens": false,
            "include_prompt": true,
        });
        let text = json!({ "max_seq_length": self.max_length, "do_lower_case": false });
        write(&dir.join("modules.json"), &json!(modules))?;
        write(&dir.join("sentence_bert_config.json"), &text)?;
        write(
            &dir.join("config_sentence_transformers.json"),
            &json!({ "similarity_fn_name": "cosine", "prompts": {} }),
        )?;
        for folder in ["1_Pooling", "2_Normalize"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(|e| failed(&path, e.to_string()))?;
        }
        write(&dir.join("1_Pooling/config.json"), &pooling)
    }
}

fn write(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).expect("JSON");
    fs::write(path, text).map_err(|e| failed(path, e.to_string()))
}

/// What `1_Pooling/config.json` says, in either spelling.
fn pooling(config: &Value) -> std::result::Result<Pooling, String> {
    const FLAGS: [(&str, &str); 7] = [
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "lasttoken"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_max_token", "max"),
    ];
    let flagged = FLAGS
        .iter()
        .filter(|(key, _)| config.get(*key) == Some(&Value::Bool(true)));
    let named = config.get("pooling_mode").and_then(Value::as_str);
    let modes: Vec<&str> = flagged.map(|(_, mode)| *mode).chain(named).collect();
    match modes.as_slice() {
        [] | ["mean"] => Ok(Pooling::Mean),
        ["cls"] => Ok(Pooling::Cls),
        ["lasttoken"] => Ok(Pooling::Last),
        others => Err(format!(
            "pooling \"{}\" is not computed here; mean, cls and lasttoken are, one of them",
            others.join("\" and \"")
        )),
    }
}

fn read(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).map_err(|e| failed(path, e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(path, format!("not valid JSON: {e}")))
}

fn failed(path: &Path, why: String) -> Error {
    Error::File {
        path: path.into(),
        problems: vec![why],
    }
}

/// The vectors of texts, given as token ids, in their order; texts of like length share forward passes of `batch_size`, in widths that are
/// multiples of `multiple`. A text without tokens has a vector of zeros.
pub fn embed(model: &Model, texts: &[Vec<u32>], config: &EmbeddingConfig, shape: [usize; 2]) -> Vec<Vec<f32>> {
    embed_rows(model, texts, config, shape, &|_| {})
}

/// [`embed`], where something is told the number of rows before each forward pass.
pub(crate) fn embed_rows(
    model: &Model,
    texts: &[Vec<u32>],
    config: &EmbeddingConfig,
    [batch_size, multiple]: [usize; 2],
    before: &dyn Fn(usize),
) -> Vec<Vec<f32>> {
    let width = model.config().hidden_size;
    let mut vectors = vec![vec![0.0; width]; texts.len()];
    let mut order: Vec<usize> = (0..texts.len()).filter(|text| !texts[*text].is_empty()).collect();
    order.sort_by_key(|text| std::cmp::Reverse(texts[*text].len()));
    for numbers in order.chunks(batch_size.max(1)) {
        let sample = |number: &usize| Sample::answered(texts[*number].clone(), usize::MAX);
        let samples: Vec<Sample> = numbers.iter().map(sample).collect();
        let batch = Batch::new(&samples.iter().collect::<Vec<_>>(), 0, multiple.max(1));
        let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
        let ids = Tensor::<2, Int>::from_data(ids, &model.device());
        before(batch.rows);
        let hidden = model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval());
        let hidden: Vec<f32> = hidden.into_data().iter::<f32>().collect();
        for (sequence, number) in numbers.iter().enumerate() {
            let cells = batch.cells(sequence);
            let tokens = match config.pooling {
                Pooling::Mean => cells,
                Pooling::Cls => cells.start..cells.start + 1,
                Pooling::Last => cells.end - 1..cells.end,
            };
            vectors[*number] = pooled(
                &hidden[tokens.start * width..tokens.end * width],
                width,
                config.normalize,
            );
        }
    }
    vectors
}

/// The mean of rows of `width`, of length 1 where asked for.
fn pooled(rows: &[f32], width: usize, normalize: bool) -> Vec<f32> {
    let count = rows.len() / width;
    let mut sum = vec![0.0f64; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let mean = sum.iter().map(|sum| sum / count as f64);
    let length = match normalize {
        true => mean.clone().map(|x| x * x).sum::<f64>().sqrt().max(1e-12),
        false => 1.0,
    };
    mean.map(|x| (x / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(modules: &str, pooling: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        fs::write(dir.path().join("modules.json"), modules).unwrap();
        fs::write(dir.path().join("1_Pooling/config.json"), pooling).unwrap();
        fs::write(
            dir.path().join("sentence_bert_config.json"),
            r#"{"max_seq_length": 256}"#,
        )
        .unwrap();
        dir
    }

    const MODULES: &str = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

    #[test]
    fn the_layout_of_sentence_transformers_is_read() {
        let read = |modules: &str, pooling: &str| EmbeddingConfig::from_dir(folder(modules, pooling).path());
        let mean = read(
            MODULES,
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#,
        )
        .unwrap();
        let expected = EmbeddingConfig {
            normalize: true,
            max_length: Some(256),
            ..EmbeddingConfig::default()
        };
        assert_eq!(mean, Some(expected));
        let cls = read(MODULES, r#"{"pooling_mode": "cls"}"#).unwrap().unwrap();
        assert_eq!(cls.pooling, Pooling::Cls);
        let error = read(MODULES, r#"{"pooling_mode_max_tokens": true}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("1_Pooling/config.json") && error.contains("\"max\""),
            "{error}"
        );
        let error = read(&MODULES.replace("models.Normalize", "models.Dense"), "{}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"Dense\" is not computed here"), "{error}");
        assert_eq!(
            EmbeddingConfig::from_dir(tempfile::tempdir().unwrap().path()).unwrap(),
            None
        );
    }

    #[test]
    fn a_mean_of_length_one() {
        assert_eq!(pooled(&[1.0, 0.0, 5.0, 8.0], 2, false), [3.0, 4.0]);
        assert_eq!(pooled(&[1.0, 0.0, 5.0, 8.0], 2, true), [0.6, 0.8]);
    }
}
