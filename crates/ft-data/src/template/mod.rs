//! Chat templates: the Jinja program in a checkpoint that turns messages into text.
//!
//! The environment is that of transformers (`chat_template_utils.py`): blocks are trimmed, `break` and `continue` work, `tojson` does not
//! escape HTML, `raise_exception` and `strftime_now` exist, and strings and dictionaries have Python's methods.

mod clock;
mod generation;
mod named;
mod python;
mod python_json;
mod python_text;
mod turns;

use std::collections::BTreeMap;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde_json::{Map, json};

use crate::error::{Error, Result};
pub(crate) use clock::today;
pub use named::{named_template, template_names};
pub(crate) use turns::{Rendered, common_prefix, render_turns};

/// A compiled chat template with the special tokens it may name.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    marks_generation: bool,
    variables: BTreeMap<String, Value>,
}

/// Messages in the shape of the OpenAI API, as templates expect them: `{"role", "content", ...}`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<serde_json::Value>,
    /// Descriptions of the tools the assistant may call, as a JSON list.
    pub tools: Option<serde_json::Value>,
    /// Texts to answer from, as a JSON list of `{"title", "text"}`.
    pub documents: Option<serde_json::Value>,
}

impl Conversation {
    /// No messages yet.
    pub fn new() -> Conversation {
        Conversation::default()
    }

    /// Adds a message.
    pub fn with(mut self, role: &str, content: &str) -> Conversation {
        self.messages.push(json!({"role": role, "content": content}));
        self
    }

    /// Its first `count` messages, with all that is beside them.
    fn first(&self, count: usize) -> Conversation {
        Conversation {
            messages: self.messages[..count].to_vec(),
            ..self.beside()
        }
    }

    /// Tools and documents without messages.
    fn beside(&self) -> Conversation {
        Conversation {
            messages: Vec::new(),
            tools: self.tools.clone(),
            documents: self.documents.clone(),
        }
    }
}

/// The names under which a message holds its reasoning; templates read the first, those of gpt-oss the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as `apply_chat_template` passes it: without nulls, its reasoning under the names that templates read.
fn as_passed(message: &serde_json::Value) -> serde_json::Value {
    let Some(fields) = message.as_object() else {
        return message.clone();
    };
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    let mut passed: Map<_, _> = Map::new();
    if let Some(reasoning) = REASONING
        .iter()
        .find_map(|name| fields.get(*name).filter(|value| !value.is_null()))
    {
        passed.insert(REASONING[1].into(), reasoning.clone());
        passed.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        passed.insert(REASONING[0].into(), reasoning.clone());
    } else {
        passed.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    }
    passed.into()
}

const NAME: &str = "chat_template";

/// What one rendering may do: instructions, each of which also pays for 64 bytes of what it makes (a quarter of a gigabyte in all).
/// Templates of real checkpoints take thousands.
const FUEL: u64 = 1 << 22;

/// minijinja counts lines and columns in 16 bits.
const LONGEST: usize = u16::MAX as usize;

impl ChatTemplate {
    /// Compiles `source`; `specials` are `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`Error::Template`] with the line when the source does not parse.
    pub fn new(source: &str, specials: &BTreeMap<String, String>) -> Result<ChatTemplate> {
        // Jinja reads every kind of line break as "\n".
        let (expanded, marks_generation) = generation::expand(&source.replace("\r\n", "\n").replace('\r', "\n"));
        if expanded.lines().any(|line| line.len() >= LONGEST) || expanded.lines().count() >= LONGEST {
            return Err(Error::Template(format!(
                "it has {LONGEST} lines or more, or a line of as many bytes"
            )));
        }
        let mut env = environment();
        env.add_template_owned(NAME, expanded)
            .map_err(|e| Error::Template(explain(&e)))?;
        let variables = specials
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        Ok(ChatTemplate {
            env,
            source: source.into(),
            marks_generation,
            variables,
        })
    }

    /// This template with further variables.
    pub fn with_kwargs(&self, kwargs: &Map<String, serde_json::Value>) -> ChatTemplate {
        let mut variables = self.variables.clone();
        variables.extend(
            kwargs
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(Serde(value)))),
        );
        ChatTemplate {
            env: self.env.clone(),
            source: self.source.clone(),
            variables,
            ..*self
        }
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant's next message begins.
    ///
    /// # Errors
    /// The template's own complaint (`raise_exception`) or what it trips over, with the line.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String, String> {
        self.render_marked(conversation, add_generation_prompt)
            .map(|(text, _)| text)
    }

    /// The text and, when the template has `{% generation %}` blocks, the bytes they produced.
    pub(crate) fn render_marked(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<(String, Vec<Range<usize>>), String> {
        if self.marks_generation {
            generation::refuse_marks(conversation)?;
        }
        let mut variables = self.variables.clone();
        let messages: Vec<_> = conversation.messages.iter().map(as_passed).collect();
        variables.insert("messages".into(), Value::from(Serde(&messages)));
        for (name, list) in [("tools", &conversation.tools), ("documents", &conversation.documents)] {
            let given = list.as_ref().map(|list| Value::from(Serde(list)));
            // Both may also come once for all conversations, as template variables.
            if given.is_some() || !variables.contains_key(name) {
                variables.insert(name.into(), given.unwrap_or(Value::from(())));
            }
        }
        variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let template = self.env.get_template(NAME).map_err(|e| explain(&e))?;
        let text = template.render(variables).map_err(|e| explain(&e))?;
        python::fits(Some(text.len())).map_err(|e| explain(&e))?;
        match self.marks_generation {
            true => generation::take_marks(&text),
            false => Ok((text, Vec::new())),
        }
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the default delimiters"),
    );
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(python_text::print);
    env.set_unknown_method_callback(python::call_method);
    env.add_filter("string", python_text::string);
    env.add_filter("tojson", python_json::filter);
    env.add_filter(generation::FILTER, generation::mark);
    env.add_test("iterable", python::is_iterable);
    env.add_test("sequence", python::is_sequence);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: &str| clock::strftime(format, clock::now()));
    env
}

/// What `raise_exception` raises, told apart from the template's mistakes by this detail's beginning.
fn raise_exception(message: Rest<String>, _: Kwargs) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(
        ErrorKind::InvalidOperation,
        format!("it says: {}", message.join(" ")),
    ))
}

/// The innermost message with the template's line.
fn explain(error: &minijinja::Error) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "it loops or makes text without end".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

#[cfg(test)]
mod named_tests;
#[cfg(test)]
mod tests;
