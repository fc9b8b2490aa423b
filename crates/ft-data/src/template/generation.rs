//! `{% generation %}`: how a template says which text the assistant wrote.
//!
//! transformers adds the tag to Jinja. Here it becomes a filter block, which nests and trims white space exactly as a tag does, whose
//! filter puts a mark on both sides. The marks are Unicode noncharacters, never used for text; conversations that contain them are refused.

use std::ops::Range;

use serde_json::Value;

use super::Conversation;

const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The filter's name in expanded templates.
pub(super) const FILTER: &str = "__generation";

/// The filter: its input between marks.
pub(super) fn mark(body: &str) -> String {
    format!("{OPEN}{body}{CLOSE}")
}

/// Rewrites the tags to a filter block; says whether there were any.
pub(super) fn expand(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut found = false;
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let inside = &tag[2..];
        let name = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
        let word = &name[..name
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(name.len())];
        let replacement = match word {
            "generation" => format!("filter {FILTER}"),
            "endgeneration" => "endfilter".into(),
            _ => {
                out.push_str("{%");
                rest = inside;
                continue;
            }
        };
        found = true;
        out.push_str(&tag[..tag.len() - name.len()]);
        out.push_str(&replacement);
        rest = &name[word.len()..];
    }
    out.push_str(rest);
    (out, found)
}

/// Text with a mark in it would move the mask.
pub(super) fn refuse_marks(conversation: &Conversation) -> Result<(), String> {
    match conversation.messages.iter().chain(&conversation.tools).any(has_mark) {
        true => Err(format!(
            "the conversation contains the noncharacter {} or {}",
            OPEN.escape_unicode(),
            CLOSE.escape_unicode()
        )),
        false => Ok(()),
    }
}

fn has_mark(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains([OPEN, CLOSE]),
        Value::Array(values) => values.iter().any(has_mark),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains([OPEN, CLOSE]) || has_mark(value)),
        _ => false,
    }
}

/// Removes the marks; returns the text and the bytes between them, outermost where they nest.
pub(super) fn take_marks(marked: &str) -> Result<(String, Vec<Range<usize>>), String> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = vec![];
    let mut open = vec![];
    for c in marked.chars() {
        match c {
            OPEN => open.push(text.len()),
            CLOSE => {
                let start = open.pop().ok_or("its generation block was cut apart")?;
                if open.is_empty() {
                    spans.push(start..text.len());
                }
            }
            other => text.push(other),
        }
    }
    match open.is_empty() {
        true => Ok((text, spans)),
        false => Err("its generation block was cut apart".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_filter_blocks_and_keep_their_trimming() {
        let (expanded, found) = expand("{% if x %}{%- generation +%}a{% endgeneration -%}b{%endif%}{{ generation }}");
        assert_eq!(
            expanded,
            "{% if x %}{%- filter __generation +%}a{% endfilter -%}b{%endif%}{{ generation }}"
        );
        assert!(found);
        assert_eq!(
            expand("{% set generation_x = 1 %}{% generations %} {%").0,
            "{% set generation_x = 1 %}{% generations %} {%"
        );
        assert!(!expand("{% for generation in x %}{{ generation }}{% endfor %}").1);
    }

    #[test]
    fn marks_come_out_as_spans() {
        let marked = format!("ab{}é{}c{}", mark(""), mark(&format!("d{}e", mark("x"))), "");
        let (text, spans) = take_marks(&marked).unwrap();
        assert_eq!(text, "abédxec");
        assert_eq!(spans, [2..2, 4..7]);
        assert!(take_marks("a\u{fdd1}").is_err() && take_marks("\u{fdd0}a").is_err());
    }
}
