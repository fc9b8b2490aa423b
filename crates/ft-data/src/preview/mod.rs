//! A sample made visible: each token's text and whether it is learned.

mod page;
mod text;

use serde::Serialize;

use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub use page::{is_preview_page, preview_page};

/// A sample, token by token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The tokens; their texts joined are the text of the sample, special tokens spelled out.
    pub tokens: Vec<PreviewToken>,
    /// How many are learned.
    pub learned: usize,
}

/// One token of a [`Preview`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviewToken {
    /// Its id.
    pub id: u32,
    /// The text it adds; empty for a token that only begins a character, whose text comes with the token that completes it.
    pub text: String,
    /// Whether the loss covers it.
    pub learn: bool,
    /// Whether it stands for no text: BOS, EOS, turn markers.
    pub special: bool,
}

impl Preview {
    /// Decodes `sample` token by token.
    pub fn new(sample: &Sample, tokenizer: &Tokenizer) -> Preview {
        let mut stream = tokenizer.text_stream(false);
        let learn = sample.learn();
        let flags = sample.ids.iter().zip(&learn);
        let mut tokens: Vec<_> = flags
            .map(|(&id, &learn)| PreviewToken {
                id,
                text: stream.push(id),
                learn,
                special: tokenizer.is_special(id),
            })
            .collect();
        if let Some(last) = tokens.last_mut() {
            last.text.push_str(&stream.finish());
        }
        Preview {
            tokens,
            learned: sample.target_tokens(),
        }
    }

    /// The text in pieces that are learned or not as a whole.
    pub fn runs(&self) -> Vec<(bool, String)> {
        let runs = self.tokens.chunk_by(|a, b| a.learn == b.learn);
        runs.map(|run| (run[0].learn, run.iter().map(|t| t.text.as_str()).collect()))
            .collect()
    }
}
