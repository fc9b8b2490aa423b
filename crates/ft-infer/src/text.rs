//! Tokens to text while they come.

use ft_data::{TextStream, Tokenizer};

use crate::{FinishReason, Token};

/// The text of every row, piece by piece: a piece is handed out once no later token can change it.
pub struct Texts<'a> {
    /// One per row; gone once the row has ended.
    streams: Vec<Option<TextStream<'a>>>,
}

impl<'a> Texts<'a> {
    /// For `rows` prompts. Special tokens are no part of the text.
    pub fn new(tokenizer: &'a Tokenizer, rows: usize) -> Self {
        Self {
            streams: (0..rows).map(|_| Some(tokenizer.text_stream(true))).collect(),
        }
    }

    /// The text that `token` makes final in its row: often one word, sometimes nothing (half a character), all the rest at the end.
    /// The stop token itself is no text.
    pub fn push(&mut self, token: Token) -> String {
        let Some(mut stream) = self.streams.get_mut(token.row).and_then(Option::take) else {
            return String::new();
        };
        let mut text = match token.finish {
            Some(FinishReason::Stop) => String::new(),
            _ => stream.push(token.id),
        };
        match token.finish {
            Some(_) => text += &stream.finish(),
            None => self.streams[token.row] = Some(stream),
        }
        text
    }
}
