//! Tokens with a role (`tokenizer.ggml.*_token_id`).

use crate::value::{Metadata, Value};

/// Tokens that end a turn in well-known chat templates.
const TURN_ENDS: [&str; 8] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "</s>",
];

impl Metadata {
    /// The token of a role (`"eos"`, `"bos"`, `"padding"`, `"unknown"`), where it is one of the vocabulary.
    pub fn token(&self, role: &str) -> Option<u32> {
        let id = self.get(&format!("tokenizer.ggml.{role}_token_id"))?.as_u64()?;
        u32::try_from(id).ok().filter(|id| (*id as usize) < self.tokens().len())
    }

    /// Every token of the vocabulary, as it is spelt.
    pub fn tokens(&self) -> &[String] {
        match self.get("tokenizer.ggml.tokens") {
            Some(Value::Texts(tokens)) => tokens,
            _ => &[],
        }
    }

    /// Tokens that end a text: those that are named so, EOS first, and those that the chat template ends a turn with.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = Vec::new();
        let template = self.get("tokenizer.chat_template").and_then(Value::as_str);
        let of_template = || {
            let written = TURN_ENDS
                .iter()
                .filter(|end| template.is_some_and(|text| text.contains(**end)));
            written.filter_map(|end| self.tokens().iter().position(|token| token == end).map(|id| id as u32))
        };
        let named = ["eos", "eot", "eom"].into_iter().filter_map(|role| self.token(role));
        for id in named.chain(of_template()) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_where_the_template_says() {
        let mut metadata = Metadata::default();
        let tokens = ["a", "</s>", "<|im_end|>", "<|end|>"].map(String::from).to_vec();
        metadata.put("tokenizer.ggml.tokens", Value::Texts(tokens));
        metadata.put("tokenizer.ggml.eos_token_id", 1u32);
        metadata.put("tokenizer.ggml.eot_token_id", 9u32);
        assert_eq!(metadata.ends(), [1]);
        metadata.put("tokenizer.chat_template", "{{ text }}<|im_end|>");
        assert_eq!(metadata.ends(), [1, 2]);
        assert_eq!((metadata.token("eos"), metadata.token("eot")), (Some(1), None));
    }
}
