//! `--python PYTHON`: the first seed's run made again by torch + PEFT (`benches/peft/run.py`), from the same start, with the same batches and
//! learning rates, right after ours. Its result is scored by `ft`.

use serde_json::json;

use super::catalog::Technique;
use super::trial::{Bench, FIRST, model, object, remove, short, text, tokens_per_s};
use crate::bench::program::parse;
use crate::{Outcome, shell};

/// What PEFT trains from a folder alone, with nothing done around a step; the last are bitsandbytes' storages.
const SHARED: &[(&str, &[&str])] = &[
    ("full", &[]),
    ("lora", &[]),
    ("lora_qv", &[]),
    ("rslora", &[]),
    ("dora", &[]),
    ("ia3", &[]),
    ("vera", &[]),
    ("loha", &[]),
    ("lokr", &[]),
    ("oft", &[]),
    ("shira", &[]),
    ("miss", &[]),
    ("gralora", &[]),
    ("osf", &[]),
    ("ln_tuning", &[]),
    ("prefix_tuning", &[]),
    ("prompt_tuning", &[]),
    ("qlora_nf4", &["--quant", "nf4"]),
    ("qlora_nf4_double", &["--quant", "nf4", "--double"]),
    ("qlora_fp4", &["--quant", "fp4"]),
    ("qlora_int8", &["--quant", "int8"]),
];

impl Bench {
    pub fn beside(&self, technique: &'static Technique, rate: f64, python: &str) -> Outcome {
        let Some((_, storage)) = SHARED.iter().find(|(name, _)| *name == technique.name) else {
            return Ok(());
        };
        let key = [("technique", technique.name.into()), ("phase", "peft".into())];
        if self.journal.find(&key).is_some() {
            return Ok(());
        }
        let (out, start) = (self.folder(technique, "beside")?, self.folder(technique, "start")?);
        let seed = [format!("train.seed={FIRST}")];
        let train = |sets: &[&[String]]| self.ask("train", technique, &sets.concat());
        train(&[&short(0.0, 1, &start), &seed])?;
        let dump = format!("train.dump_batches={}", text(&out.join("batches.jsonl")));
        // Every step's own loss, to be compared.
        let logged = "train.log_every=1".to_owned();
        let ours = train(&[&short(rate, self.ground.steps, &out), &seed, &[dump, logged]])?;

        let full = technique.name == "full";
        let (adapter, theirs) = (start.join("final"), out.join("peft"));
        let mut args = vec!["benches/peft/run.py".into(), "--model".into(), model(&start)?];
        if !full {
            args.extend(["--adapter".into(), text(&adapter)]);
        }
        args.extend([
            "--batches".into(),
            text(&out.join("batches.jsonl")),
            "--out".into(),
            text(&theirs),
        ]);
        args.extend(["--threads".into(), self.ft.threads().to_string()]);
        args.extend(["--compare".into(), text(&out.join("metrics.jsonl"))]);
        args.extend(storage.iter().map(|arg| arg.to_string()));
        let mut run = std::process::Command::new(python);
        let told = shell::output(run.current_dir(shell::root()).args(&args));
        let line = match told.as_ref().map(|told| parse(last_line(told))) {
            Ok(Ok(told)) => {
                let kept = if full {
                    format!("model.path={}", text(&theirs.join("model")))
                } else {
                    format!("peft.from={}", text(&theirs.join("adapter")))
                };
                let scored = self.score(technique, &kept)?;
                json!({
                    "tokens_per_s": tokens_per_s(&told), "ours_per_s": tokens_per_s(&ours), "peak_bytes": told["peak_bytes"],
                    "ours_peak_bytes": ours["peak_memory_bytes"], "max_loss_difference": told["max_loss_difference"], "scored": scored,
                })
            }
            Ok(Err(why)) => json!({ "why": why }),
            Err(why) => json!({ "why": last_line(why.trim()) }),
        };
        let mut line = object(line);
        line.insert("technique".into(), technique.name.into());
        line.insert("phase".into(), "peft".into());
        eprintln!(
            "{} beside PEFT: {}",
            technique.name,
            serde_json::Value::from(line.clone())
        );
        self.journal.add(line)?;
        remove(&out)?;
        remove(&start)
    }

    /// What the held-out data say of a model or adapter: a run that learns nothing.
    fn score(&self, technique: &Technique, kept: &str) -> Result<serde_json::Value, String> {
        let out = self.folder(technique, "score")?;
        let storage = technique
            .settings
            .iter()
            .filter(|setting| !setting.starts_with("peft."));
        let mut sets: Vec<String> = storage.map(|setting| setting.to_string()).collect();
        sets.extend(["train.steps=1".into(), "optim.lr=0".into(), kept.to_owned()]);
        sets.push(format!("train.out={}", text(&out)));
        let outcome = self.ground.call(&self.ft, "train", &sets)?;
        remove(&out)?;
        Ok(outcome["before"].clone())
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or(text)
}
