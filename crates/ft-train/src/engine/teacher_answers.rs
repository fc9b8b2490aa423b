//! Sequence-level distillation (Kim and Rush 2016, arXiv:1606.07947): the teacher answers the prompts of a run's samples, and what it
//! says is data to learn from like any other.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use ft_data::Sample;
use ft_infer::{FinishReason, GenerationConfig};
use serde::Serialize;
use serde_json::json;

use super::prepare::{given, load};
use super::score::teacher_of;
use crate::{Error, Plan, Result};

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct WrittenAnswers {
    /// The file.
    pub out: PathBuf,
    /// Answers.
    pub answers: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Answers that were cut at the most tokens: they teach no stop.
    pub cut: usize,
}

/// The prompts that are answered at a time, so that answers are written while others are made.
const CHUNK: usize = 256;

/// Writes the teacher's answers to the prompts of the training samples of `plan` to `out`, in format `pre-tokenized`, with prompt and
/// completion as text beside. How it answers is what `[generate]` says, with `objective.max_new_tokens` where that says nothing.
///
/// # Errors
/// A plan without a teacher; samples without a prompt; files that cannot be written.
pub fn write_teacher_answers(plan: &Plan, out: &Path) -> Result<WrittenAnswers> {
    let options = teacher_of(plan)?;
    let samples: Vec<&Sample> = plan.batches.samples().iter().collect();
    if let Some(number) = samples.iter().position(|sample| sample.prompt().is_empty()) {
        let why = format!("data.train: sample {} has no prompt to be answered", number + 1);
        return Err(Error::Plan(vec![why]));
    }
    let base = load(plan)?;
    let teacher = options.teacher(&given(plan, &base))?.valid();
    let mut config = GenerationConfig {
        max_new_tokens: plan.config.generate.max_new_tokens.unwrap_or(options.max_new_tokens),
        batch_size: plan.config.train.batch_size.count(),
        ..plan.generation.clone()
    };
    let io = |e| Error::io(out, e);
    let draft = out.with_extension("writing");
    let mut file = BufWriter::new(File::create(&draft).map_err(io)?);
    let mut written = WrittenAnswers {
        out: out.to_owned(),
        answers: 0,
        tokens: 0,
        cut: 0,
    };
    for (number, chunk) in samples.chunks(CHUNK).enumerate() {
        config.seed = ft_data::sub_seed(plan.config.train.seed, &format!("teacher's answers/{number}"));
        let prompts: Vec<Vec<u32>> = chunk.iter().map(|sample| sample.prompt().to_vec()).collect();
        let answers = ft_infer::generate(&teacher, &prompts, &config, &mut ft_infer::no_stream)?;
        for (prompt, answer) in prompts.iter().zip(answers) {
            let ids = [prompt.as_slice(), &answer.tokens].concat();
            let label = |(at, id): (usize, &u32)| if at < prompt.len() { -100 } else { i64::from(*id) };
            let labels: Vec<i64> = ids.iter().enumerate().map(label).collect();
            let line = json!({
                "prompt": plan.tokenizer.decode(prompt, false),
                "completion": plan.tokenizer.decode(&answer.tokens, false),
                "input_ids": ids,
                "labels": labels,
            });
            writeln!(file, "{line}").map_err(io)?;
            written.answers += 1;
            written.tokens += answer.tokens.len();
            written.cut += usize::from(answer.finish_reason == FinishReason::Length);
        }
    }
    let file = file.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&draft, out).map_err(io)?;
    Ok(written)
}
