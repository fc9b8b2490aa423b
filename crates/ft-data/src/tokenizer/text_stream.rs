//! Text that grows token by token, without ever showing half a character.

use super::Tokenizer;

/// Turns tokens into text as they come. The pieces joined are what [`Tokenizer::decode`] makes of all tokens at once.
///
/// A token may hold part of a UTF-8 character, and the text of a token may depend on the one before it (a leading space), so
/// a few tokens of context are decoded again at each step.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Context already shown, then tokens still held back.
    ids: Vec<u32>,
    shown: usize,
}

/// Held back longer than this, an incomplete character is broken for good: four tokens make the longest character.
const PATIENCE: usize = 8;

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        TextStream {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            shown: 0,
        }
    }

    /// The text that `id` completes; empty while a character is still incomplete.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.unshown();
        let incomplete = text.ends_with('\u{fffd}') && self.ids.len() - self.shown < PATIENCE;
        if incomplete || text.is_empty() {
            return String::new();
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        text
    }

    /// What is still held back: a character that was never completed, as U+FFFD.
    pub fn finish(self) -> String {
        self.unshown()
    }

    fn unshown(&self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special);
        let text = self.tokenizer.decode(&self.ids, self.skip_special);
        text.get(before.len()..).unwrap_or_default().to_owned()
    }
}
