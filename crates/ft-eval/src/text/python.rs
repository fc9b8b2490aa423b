//! Python's white space, by which the reference programs cut text: Unicode's, and the four separators U+001C to U+001F.

/// `str.isspace` of one character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.split()`.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.rstrip()`.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_white_space() {
        assert!(words("a\u{1c}b\u{85} c\u{200b}d\u{3000}").eq(["a", "b", "c\u{200b}d"]));
        assert_eq!(trim_end(" a\u{1f}\n"), " a");
    }
}
