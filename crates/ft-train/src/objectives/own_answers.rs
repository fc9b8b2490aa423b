//! The answers that the model which trains gives itself, for steps on policy.

use ft_data::{Batch, Sample, sub_seed};
use ft_infer::GenerationConfig;
use ft_model::Model;

use super::targets::prompts_and_answers;
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

/// How it answers.
#[derive(Debug)]
pub struct OwnAnswers {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Of the draw.
    pub temperature: f64,
    /// The run's seed.
    pub seed: u64,
    /// How it stops.
    pub generation: GenerationConfig,
}

impl OwnAnswers {
    /// The batch with `model`'s answers to its prompts in the place of the data's.
    pub fn to(&self, step: &StepBatch, model: &Model) -> Result<StepBatch> {
        let batches = step.micro_batches.iter().map(|micro| &micro.batch);
        // Plain text, which has no prompt, is answered from its first token.
        let rows = batches.clone().flat_map(prompts_and_answers);
        let prompts: Vec<Vec<u32>> = rows.map(|(prompt, _)| prompt).collect();
        let room = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let config = GenerationConfig {
            max_new_tokens: self.max_new_tokens.min(model.positions().saturating_sub(room)).max(1),
            do_sample: true,
            temperature: self.temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            num_beams: 1,
            seed: sub_seed(self.seed, &format!("answers/{}", step.step)),
            batch_size: batches.clone().map(Batch::sequences).max().unwrap_or(1),
            ..self.generation.clone()
        };
        let answers = ft_infer::generate(model, &prompts, &config, &mut ft_infer::no_stream)?;
        let mut samples = prompts
            .iter()
            .zip(&answers)
            .map(|(prompt, answer)| Sample::answered([prompt.as_slice(), &answer.tokens].concat(), prompt.len()));
        let micro = step.micro_batches.iter().map(|micro| {
            let own: Vec<Sample> = samples.by_ref().take(micro.batch.sequences()).collect();
            MicroBatch {
                batch: micro.batch.with_sequences(&own),
                dropout_seed: micro.dropout_seed,
            }
        });
        Ok(StepBatch {
            rows: step.rows.clone(),
            loss_factor: step.loss_factor,
            own_answers: true,
            ..StepBatch::new(step.step, micro.collect())
        })
    }
}
