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

/// The text of one answer, piece by piece, up to the first of its stop texts.
#[derive(Debug)]
pub struct AnswerText<'a> {
    stream: Option<TextStream<'a>>,
    stops: Vec<String>,
    /// Text that may turn out to begin a stop text.
    held: String,
}

/// What a token made final.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// More text of the answer; may be empty.
    pub text: String,
    /// A stop text came: the answer ends here, before it.
    pub stopped: bool,
}

impl<'a> AnswerText<'a> {
    /// An answer that ends before any of `stops`. Special tokens are no part of the text.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> Self {
        Self {
            stream: Some(tokenizer.text_stream(true)),
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes a token of the answer; not the stop token.
    pub fn push(&mut self, id: u32) -> Piece {
        let text = self.stream.as_mut().map(|stream| stream.push(id)).unwrap_or_default();
        self.more(&text, false)
    }

    /// What was still held back.
    pub fn finish(&mut self) -> Piece {
        let rest = self.stream.take().map(TextStream::finish).unwrap_or_default();
        self.more(&rest, true)
    }

    fn more(&mut self, text: &str, last: bool) -> Piece {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(at) = found {
            self.stream = None;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return Piece { text, stopped: true };
        }
        let kept = if last {
            0
        } else {
            self.stops
                .iter()
                .map(|stop| overlap(&self.held, stop))
                .max()
                .unwrap_or(0)
        };
        let rest = self.held.split_off(self.held.len() - kept);
        Piece {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }
}

/// Bytes at the end of `text` that begin `stop`, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths
        .into_iter()
        .find(|&len| text.ends_with(&stop[..len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stops: &[&str], texts: &[&str]) -> (Vec<String>, bool) {
        let mut answer = AnswerText {
            stream: None,
            stops: stops.iter().map(|stop| stop.to_string()).collect(),
            held: String::new(),
        };
        let mut pieces = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let piece = answer.more(text, i + 1 == texts.len());
            pieces.push(piece.text);
            if piece.stopped {
                return (pieces, true);
            }
        }
        (pieces, false)
    }

    #[test]
    fn text_ends_before_the_first_stop() {
        let found = |pieces: &[&str], stopped| (pieces.iter().map(|p| p.to_string()).collect::<Vec<_>>(), stopped);
        assert_eq!(answer(&[], &["a", "b"]), found(&["a", "b"], false));
        assert_eq!(answer(&["b"], &["a b", "c"]), found(&["a "], true));
        assert_eq!(answer(&["end", "d"], &["the e", "nd", "x"]), found(&["the ", ""], true));
        assert_eq!(answer(&["\n\n"], &["a\n", "b\n"]), found(&["a", "\nb\n"], false));
        assert_eq!(answer(&["aab"], &["aa", "ab"]), found(&["", "a"], true));
        assert_eq!(answer(&["é!"], &["é", "?"]), found(&["", "é?"], false));
    }
}
