//! The embedded default: its files are a model folder, and a short run of the quickstart learns.

use std::path::Path;

use burn::tensor::Device;
use ft_data::Tokenizer;
use ft_model::{LoadDtype, Model};
use ft_train::{FitOptions, Plan, RunConfig, fit};
use tempfile::TempDir;

fn unpacked() -> TempDir {
    let dir = TempDir::new().unwrap();
    ft_embedded::unpack(dir.path()).unwrap();
    dir
}

fn plan(folder: &Path, sets: &[&str]) -> Plan {
    let mut sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    sets.push(format!("train.out={}", folder.join("run").display()));
    let config = RunConfig::load(&folder.join("quickstart.toml"), &sets).unwrap();
    Plan::resolve(config, &Device::flex(), "cpu").unwrap()
}

#[test]
fn the_embedded_files_are_a_model_folder() {
    let dir = unpacked();
    let model = Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.eos_id(), Some(0));
    assert_eq!(model.config().vocab_size, ft_embedded::recipe::VOCAB_SIZE);
    for text in [
        "Mara lives in Branford.\nQuestion: How old?",
        "  two spaces, ünïcödé, 雨 and 1234\t\n",
    ] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), true), text);
    }
}

#[test]
fn the_quickstart_is_planned_without_a_warning() {
    let dir = unpacked();
    let plan = plan(dir.path(), &[]);
    assert_eq!(plan.warnings, Vec::<String>::new());
    let longest = plan.train().iter().chain(plan.valid()).map(|s| s.len()).max();
    assert!(longest.unwrap() <= plan.model.max_position_embeddings);
}

/// A quarter of the real run: enough for the format, and for most of the answers.
#[test]
fn a_short_quickstart_learns_to_answer() {
    let dir = unpacked();
    let plan = plan(dir.path(), &["train.steps=100", "eval.max_samples=40"]);
    let outcome = fit(plan, FitOptions::default()).unwrap();
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.2 * before.loss, "loss {} -> {}", before.loss, after.loss);
    let [first, last] = [&before, &after].map(|score| score.metrics["exact_match"]);
    assert_eq!(first, 0.0, "the base has never seen an answer");
    assert!(last > 0.3, "exact match {last}");
}
