//! Text of others, made safe and visible.

/// Characters of a token that are shown.
const LONGEST: usize = 200;

/// Text as HTML, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A token's text with what the eye cannot see written out: line breaks (which still break), tabs, control characters, and those that turn
/// the direction of text or have no width. A token without a text of its own is a dotted circle.
pub(super) fn visible(text: &str) -> String {
    if text.is_empty() {
        return "◌".into();
    }
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push_str("↵\n"),
            '\t' => out.push_str("→\t"),
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                out.push_str(&format!("[U+{:04X}]", c as u32));
            }
            c if c.is_control() => out.push_str(&format!("[U+{:04X}]", c as u32)),
            c => out.push(c),
        }
    }
    out
}
