//! Where the assistant's turns lie in a rendered conversation, found by construction.
//!
//! For the assistant's message `i`:
//!
//! ```text
//! render(..i,  prompt)   <|user|>Hi<|end|><|assistant|>
//! render(..=i)           <|user|>Hi<|end|><|assistant|>Hello<|end|>
//!                        header, not learned           learned
//! ```
//!
//! This is what the model meets when it is used: a prompt that ends where its answer begins. A template that renders a message differently
//! once others follow (many leave out the reasoning of earlier answers) makes one sample per answer, each with the history that
//! the model will see; otherwise the whole conversation is one sample. `{% generation %}` blocks, where a template has them, say the
//! same directly.

use std::ops::Range;

use serde_json::Value;

use super::{ChatTemplate, Conversation};
use crate::error::Flaw;
use crate::tokenizer::Tokenizer;

/// A rendered text with the bytes that the assistant wrote.
#[derive(Debug, PartialEq)]
pub(crate) struct Rendered {
    pub text: String,
    pub spans: Vec<Range<usize>>,
    /// The spans are the template's own; nothing at their ends may be trimmed.
    pub exact: bool,
}

impl Rendered {
    /// The text up to the end of the last answer in it.
    fn up_to_its_end(&self) -> &str {
        &self.text[..self.spans.last().map_or(self.text.len(), |span| span.end)]
    }
}

/// Renders a conversation into one or more texts, so that each of the assistant's messages at `learned` is learned once.
pub(crate) fn render_turns(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    learned: &[usize],
) -> Result<Vec<Rendered>, Flaw> {
    if template.marks_generation {
        return render_marked(template, conversation, learned);
    }
    let mut texts: Vec<Rendered> = vec![];
    let answers = conversation
        .messages
        .iter()
        .enumerate()
        .filter(|(i, _)| learned.contains(i));
    for (index, message) in answers {
        let turn = Turn {
            template,
            tokenizer,
            conversation,
            index,
        }
        .locate()?;
        check_rendered(message, index, &turn.full[turn.span.clone()])?;
        match texts.last_mut() {
            Some(last) if turn.full[..turn.span.start].starts_with(&last.text) => {
                last.text = turn.full;
                last.spans.push(turn.span);
            }
            _ => texts.push(Rendered {
                text: turn.full,
                spans: vec![turn.span],
                exact: false,
            }),
        }
    }
    Ok(texts)
}

/// The same with the template's own marks. Those of an answer are what it has more than the messages before it.
fn render_marked(
    template: &ChatTemplate,
    conversation: &Conversation,
    learned: &[usize],
) -> Result<Vec<Rendered>, Flaw> {
    let render = |count: usize, prompt: bool| match count {
        0 => Ok((String::new(), Vec::new())),
        _ => template
            .render_marked(&conversation.first(count), prompt)
            .map_err(Flaw::Template),
    };
    let mut texts: Vec<Rendered> = vec![];
    for &index in learned {
        let (text, mut spans) = render(index + 1, false)?;
        check_rendered(&conversation.messages[index], index, &text)?;
        spans.drain(..render(index, true)?.1.len().min(spans.len()));
        spans.retain(|span| !span.is_empty());
        match texts.last_mut() {
            Some(last) if text.starts_with(last.up_to_its_end()) => {
                last.text = text;
                last.spans.extend(spans);
            }
            _ => texts.push(Rendered {
                text,
                spans,
                exact: true,
            }),
        }
    }
    texts.retain(|rendered| !rendered.spans.is_empty());
    match texts.is_empty() {
        true => Err(Flaw::NothingToLearn(
            "the chat template marks nothing of it with {% generation %}",
        )),
        false => Ok(texts),
    }
}

/// One message of the assistant, to be located.
struct Turn<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    conversation: &'a Conversation,
    index: usize,
}

/// The conversation up to and including a turn, and the bytes of the turn.
struct Located {
    full: String,
    span: Range<usize>,
}

impl Turn<'_> {
    fn locate(&self) -> Result<Located, Flaw> {
        let history = &self.conversation.messages[..self.index];
        let full = self.render(&self.conversation.messages[..=self.index], false)?;
        if history.is_empty() {
            // Many templates cannot render nothing at all, so there is no prompt to compare with.
            let ignores_prompt = self.render(&self.conversation.messages[..=self.index], true)? == full;
            return if ignores_prompt {
                self.locate_by_content(full, "")
            } else {
                self.locate_first(full)
            };
        }
        let (base, prompt) = (self.render(history, false)?, self.render(history, true)?);
        match prompt == base {
            true => self.locate_by_content(full, &base),
            false => self.locate_by_prompt(full, &base, &prompt),
        }
    }

    fn locate_first(&self, full: String) -> Result<Located, Flaw> {
        let span = self.content(&full)?.start..full.len();
        Ok(Located { full, span })
    }

    fn locate_by_prompt(&self, mut full: String, base: &str, prompt: &str) -> Result<Located, Flaw> {
        let start = if full.starts_with(prompt) {
            prompt.len()
        } else if full.starts_with(base) {
            // A prompt may open what a stored answer lacks, such as a reasoning block: the answer begins where they part.
            common_prefix(&full, prompt)
        } else {
            return Err(
                self.flaw("the chat template rewrites the messages before this one, so it is unclear where it begins")
            );
        };
        if !prompt.starts_with(base) {
            // Without a prompt the template closes the conversation as a whole, which is not the assistant's doing.
            let prompted = self.render(&self.conversation.messages[..=self.index], true)?;
            let common = common_prefix(&full, &prompted);
            let tokens = self.tokenizer.tokens(&full).map_err(Flaw::Tokenizer)?;
            let end = tokens
                .iter()
                .map(|token| token.end)
                .rfind(|end| *end <= common)
                .unwrap_or(common);
            full.truncate(end.max(start));
        }
        let span = start..full.len();
        Ok(Located { full, span })
    }

    /// For templates that ignore `add_generation_prompt`: some have no header before an answer (`[INST] .. [/INST] answer`), some print
    /// it with the answer, some after every conversation.
    fn locate_by_content(&self, mut full: String, base: &str) -> Result<Located, Flaw> {
        let content = self.content(&full)?;
        let gap = full
            .strip_prefix(base)
            .and_then(|rest| rest.get(..content.start.saturating_sub(base.len())));
        let start = if gap.is_some_and(|gap| gap.trim().is_empty()) {
            base.len()
        } else {
            content.start
        };
        // What both texts end with holds the end of a turn and, if printed always, the next header. The turn's own end comes first.
        let common = if base.is_empty() {
            full.len()
        } else {
            common_suffix(&full[start..], base)
        };
        let tail = content.end.max(full.len() - common);
        let tokens = self.tokenizer.tokens(&full[tail..]).map_err(Flaw::Tokenizer)?;
        if let Some(stop) = tokens.iter().find(|token| self.tokenizer.is_special(token.id)) {
            full.truncate(tail + stop.end);
        }
        let span = start..full.len();
        Ok(Located { full, span })
    }

    /// The message's content: what changes in the text when the content does.
    fn content(&self, full: &str) -> Result<Range<usize>, Flaw> {
        let mut messages = self.conversation.messages[..=self.index].to_vec();
        messages[self.index]["content"] = Value::from("\u{fdd2}");
        let changed = self.render(&messages, false)?;
        let start = common_prefix(full, &changed);
        Ok(start..full.len() - common_suffix(&full[start..], &changed))
    }

    fn render(&self, messages: &[Value], prompt: bool) -> Result<String, Flaw> {
        let conversation = Conversation {
            messages: messages.to_vec(),
            ..self.conversation.beside()
        };
        self.template.render(&conversation, prompt).map_err(Flaw::Template)
    }

    fn flaw(&self, what: &'static str) -> Flaw {
        Flaw::NotRendered {
            index: self.index + 1,
            what,
        }
    }
}

/// A template that does not know tools, or wants its texts in another shape, would silently teach an empty answer.
fn check_rendered(message: &Value, index: usize, turn: &str) -> Result<(), Flaw> {
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let mut names = calls.filter_map(|call| call["function"]["name"].as_str().or(call["name"].as_str()));
    if !names.all(|name| turn.contains(name)) {
        return Err(Flaw::NotRendered {
            index: index + 1,
            what: "the chat template leaves out its tool calls",
        });
    }
    // Templates may drop or move parts of a text (reasoning), but never its end.
    let last_word = message["content"]
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .next_back();
    if !last_word.is_none_or(|word| turn.contains(word)) {
        return Err(Flaw::NotRendered {
            index: index + 1,
            what: "the chat template leaves out its text",
        });
    }
    Ok(())
}

/// The bytes that two texts have in common at the start, in whole characters.
pub(crate) fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y);
    same.map(|(c, _)| c.len_utf8()).sum()
}

fn common_suffix(a: &str, b: &str) -> usize {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y);
    same.map(|(c, _)| c.len_utf8()).sum()
}
