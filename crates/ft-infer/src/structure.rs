//! Answers of a given structure: JSON of a schema. At every step, tokens that cannot lead to one are left out; which these are is
//! llguidance's work (<https://github.com/guidance-ai/llguidance>).

use std::fmt;
use std::sync::Arc;

use ft_data::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

/// White space between two tokens of JSON: at most so much, or a model that likes it never ends.
const SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// The tokens of a tokenizer as bytes. Making it takes a pass over the vocabulary, so make it once.
#[derive(Clone)]
pub struct Vocabulary(Arc<ParserFactory>);

impl Vocabulary {
    /// Answers end with one of `stops`.
    ///
    /// # Errors
    /// No token to stop at, or one outside of the vocabulary.
    pub fn new(tokenizer: &Tokenizer, stops: &[u32]) -> Result<Self, String> {
        let size = tokenizer.vocab_size();
        if stops.is_empty() || stops.iter().any(|id| *id as usize >= size) {
            return Err(format!(
                "an answer of a given structure needs tokens to stop at in the vocabulary of {size}; there are {stops:?}"
            ));
        }
        let bytes = |id: u32| match tokenizer.is_special(id) || stops.contains(&id) {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.bytes_of(id).as_slice()].concat(),
            false => tokenizer.bytes_of(id),
        };
        let words: Vec<Vec<u8>> = (0..size as u32).map(bytes).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, stops[0]), &words).with_eos_tokens(stops);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Self(Arc::new(factory)))
    }

    /// JSON that is valid under a JSON schema. An empty object allows any JSON.
    ///
    /// # Errors
    /// What is wrong with the schema, or which of its keywords cannot be followed.
    pub fn json(&self, schema: &Value) -> Result<Structure, String> {
        let mut schema = schema.clone();
        let object = schema.as_object_mut().ok_or("a JSON schema is an object")?;
        object.insert("x-guidance".into(), json!({ "whitespace_pattern": SPACE }));
        let parser = self.0.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(why) => Err(why.split_whitespace().collect::<Vec<_>>().join(" ")),
            None => matcher
                .compute_mask()
                .map_err(|e| e.to_string())
                .map(|_| Structure(matcher)),
        }
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocabulary({})", self.0.tok_env().tok_trie().vocab_size())
    }
}

/// What an answer may be, and how much of it is there.
pub struct Structure(Matcher);

impl Structure {
    /// Takes the chance from every token that the answer cannot go on with: its logit becomes -inf.
    pub(crate) fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.0.compute_mask_or_eos().map_err(|e| e.to_string())?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.is_allowed(id as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on by a token that [`Self::restrict`] left; whether it ends the answer.
    pub(crate) fn take(&mut self, id: u32) -> Result<bool, String> {
        let ends = self
            .0
            .tok_env()
            .map_err(|e| e.to_string())?
            .tok_trie()
            .eos_tokens()
            .contains(&id);
        if !ends {
            self.0.consume_token(id).map_err(|e| e.to_string())?;
        }
        Ok(ends)
    }
}

/// Two answers to the same prompt go their own ways.
impl Clone for Structure {
    fn clone(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

impl fmt::Debug for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Structure")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> (Tokenizer, Vocabulary, u32) {
        let dir = tempfile::tempdir().unwrap();
        ft_embedded::unpack(dir.path()).unwrap();
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let stop = tokenizer.eos_ids()[0];
        let vocabulary = Vocabulary::new(&tokenizer, &[stop]).unwrap();
        (tokenizer, vocabulary, stop)
    }

    fn allowed(structure: &mut Structure, id: u32, size: usize) -> bool {
        let mut logits = vec![0.0; size];
        structure.restrict(&mut logits).unwrap();
        logits[id as usize] == 0.0
    }

    #[test]
    fn a_text_is_allowed_token_by_token_if_it_fits_the_schema() {
        let (tokenizer, vocabulary, stop) = vocabulary();
        let size = tokenizer.vocab_size() + 3;
        let schema = json!({
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 1}},
            "required": ["name", "n"], "additionalProperties": false,
        });
        let fits = |text: &str| -> bool {
            let mut structure = vocabulary.json(&schema).unwrap();
            for id in tokenizer.encode(text, false).unwrap() {
                if !allowed(&mut structure, id, size) {
                    return false;
                }
                assert!(!structure.clone().take(id).unwrap() && !structure.take(id).unwrap());
            }
            allowed(&mut structure, stop, size) && structure.take(stop).unwrap()
        };
        assert!(fits(r#"{"name": "ann", "n": 3}"#));
        assert!(fits("{ \"name\":\"é\",\n \"n\":10}"));
        for wrong in [
            r#"{"name": "ann"}"#,
            r#"{"name": "ann", "n": 0}"#,
            r#"{"name": "ann", "n": 3, "x": 1}"#,
            r#"{"name": "a name too long", "n": 3}"#,
            r#"["name"]"#,
            "name",
            "",
        ] {
            assert!(!fits(wrong), "{wrong}");
        }
    }

    #[test]
    fn rows_beyond_the_vocabulary_and_special_tokens_have_no_chance() {
        let (tokenizer, vocabulary, stop) = vocabulary();
        let size = tokenizer.vocab_size() + 3;
        let mut any = vocabulary.json(&json!({})).unwrap();
        assert!(!allowed(&mut any, stop, size) && !allowed(&mut any, size as u32 - 1, size));
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        let (tokenizer, vocabulary, _) = vocabulary();
        for (schema, said) in [
            (json!([]), "object"),
            (json!({"type": "text"}), "text"),
            (json!({"$ref": "http://example.org/x"}), "http"),
            (json!({"type": "string", "pattern": "("}), "("),
        ] {
            let error = vocabulary.json(&schema).unwrap_err();
            assert!(error.contains(said) && error.len() < 400, "{schema}: {error}");
        }
        assert!(Vocabulary::new(&tokenizer, &[]).is_err());
        assert!(Vocabulary::new(&tokenizer, &[1 << 30]).is_err());
    }
}
