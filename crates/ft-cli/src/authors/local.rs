//! A model of this machine.

use ft_data::{AskedModel, Conversation, Question, Reply};
use ft_infer::{FinishReason, GenerationOptions};

use crate::device::Picked;
use crate::failure::{Context, Failure};
use crate::locate;
use crate::model::Loaded;
use crate::weights::Weights;

/// Questions that are answered together.
const BATCH: usize = 16;

pub struct Local(Loaded);

impl Local {
    pub fn open(model: &str, picked: &Picked) -> Result<Self, Failure> {
        let opened = locate::locate(model, None).and_then(|located| Loaded::open(located, Weights::STORED, picked));
        opened
            .map(Self)
            .context(format!("data.augment.operators: the model `{model}`"))
    }

    /// Answers in the tokenizer's chat template, where it has one; questions longer than the model reads get none.
    pub fn ask(&self, by: &AskedModel, questions: &[Question]) -> Result<Vec<Reply>, Failure> {
        let Loaded { model, tokenizer, .. } = &self.0;
        let config = self.0.generation(&GenerationOptions {
            max_new_tokens: Some(by.max_new_tokens),
            temperature: Some(by.temperature),
            batch_size: Some(BATCH),
            num_beams: Some(1),
            // Rows have streams of their own, by their number.
            seed: questions.first().map(|question| question.seed),
            ..GenerationOptions::default()
        })?;
        let encode = |question: &Question| match tokenizer.chat_template() {
            Some(_) => tokenizer.encode_chat(&Conversation::new().with("user", &question.prompt)),
            None => tokenizer.encode(&question.prompt, true),
        };
        let ids = questions.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let fits: Vec<bool> = ids
            .iter()
            .map(|ids| ids.len() < model.config().max_position_embeddings)
            .collect();
        let asked: Vec<Vec<u32>> = ids
            .into_iter()
            .zip(&fits)
            .filter(|(_, fits)| **fits)
            .map(|(ids, _)| ids)
            .collect();
        let mut answers = ft_infer::generate(model, &asked, &config, &mut ft_infer::no_stream)?.into_iter();
        let mut reply = |fits: &bool| match fits.then(|| answers.next()).flatten() {
            Some(answer) if answer.finish_reason == FinishReason::Length => Reply::Cut,
            Some(answer) => Reply::Text(tokenizer.decode(answer.content(), true)),
            None => Reply::Failed,
        };
        Ok(fits.iter().map(&mut reply).collect())
    }
}
