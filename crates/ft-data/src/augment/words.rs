//! A text as words that may change and everything between them that may not.
//!
//! What is kept: white space, punctuation, words with digits, with marks inside (`snake_case`, `a/b`, `x@y`, `{name}`, `<tag>`), in
//! back ticks, names (capitals inside a sentence, all capitals), negations. At the start of a sentence a capital says nothing; the word
//! may change, and what takes its place is capitalized too.

use super::Protected;

/// A piece of a text; all pieces in turn are the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// As it stands there.
    pub text: String,
    /// Whether it is a word that may change.
    pub free: bool,
    /// Whether a sentence starts with it.
    pub first: bool,
    /// Whether white space stands on both of its sides, or an end of the text.
    pub alone: bool,
}

pub(super) const NEGATIONS: &[&str] = &[
    "no", "not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "cannot", "without", "except",
    "unless", "unlike", "lack", "lacks", "lacking", "fail", "fails", "failed", "hardly", "barely", "scarcely",
    "seldom", "rarely", "but", "however",
];

/// The pieces of a text.
pub fn pieces(text: &str, change: &[Protected]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut code, mut first) = (false, true);
    for chunk in chunks(text) {
        let blank = chunk.starts_with(char::is_whitespace);
        let ticks = chunk.matches('`').count();
        if blank || code || ticks > 0 {
            // A fence of three ticks turns code on and off as one does.
            code ^= ticks % 2 == 1;
            first |= blank && chunk.contains('\n');
            pieces.push(kept(chunk));
            continue;
        }
        let Some((before, word, after)) = core(chunk) else {
            first = ends_sentence(chunk);
            pieces.push(kept(chunk));
            continue;
        };
        if !before.is_empty() {
            pieces.push(kept(before));
        }
        pieces.push(Piece {
            text: word.to_owned(),
            free: is_free(word, first, change),
            first,
            alone: before.is_empty() && after.is_empty(),
        });
        first = ends_sentence(after);
        if !after.is_empty() {
            pieces.push(kept(after));
        }
    }
    pieces
}

/// The text of pieces.
pub fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

/// Numbers of the pieces that may change.
pub fn free(pieces: &[Piece]) -> Vec<usize> {
    (0..pieces.len()).filter(|at| pieces[*at].free).collect()
}

/// `word` with a capital where `like` has one, in capitals where `like` is.
pub fn cased_like(word: &str, like: &str) -> String {
    let capitals = like.chars().filter(|c| c.is_uppercase()).count();
    match like.chars().next() {
        Some(_) if capitals > 1 && !like.chars().any(char::is_lowercase) => word.to_uppercase(),
        Some(c) if c.is_uppercase() => capitalized(word),
        _ => word.to_owned(),
    }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars).collect()
}

fn kept(text: &str) -> Piece {
    Piece {
        text: text.to_owned(),
        free: false,
        first: false,
        alone: false,
    }
}

/// Runs of white space and of everything else, in turn.
pub(super) fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let blank = rest.chars().next()?.is_whitespace();
        let end = rest.find(|c: char| c.is_whitespace() != blank).unwrap_or(rest.len());
        let (chunk, after) = rest.split_at(end);
        rest = after;
        Some(chunk)
    })
}

/// Punctuation, a word, punctuation; none where it is no word with punctuation around it.
fn core(chunk: &str) -> Option<(&str, &str, &str)> {
    let start = chunk.find(char::is_alphanumeric)?;
    let last = chunk.rfind(char::is_alphanumeric)?;
    let end = last + chunk[last..].chars().next()?.len_utf8();
    let (before, word, after) = (&chunk[..start], &chunk[start..end], &chunk[end..]);
    let around = |text: &str| text.chars().all(|c| "()\"'“”‘’«»¿¡*.,;:!?…-–—".contains(c));
    let inside = |c: char| c.is_alphanumeric() || "'’-".contains(c);
    (around(before) && around(after) && word.chars().all(inside)).then_some((before, word, after))
}

fn ends_sentence(text: &str) -> bool {
    text.chars().any(|c| ".!?…:".contains(c))
}

fn is_free(word: &str, first: bool, change: &[Protected]) -> bool {
    let may = |what: Protected| change.contains(&what);
    let lower = word.to_lowercase();
    let negates = NEGATIONS.contains(&lower.as_str()) || lower.ends_with("n't") || lower.ends_with("n’t");
    let capitals = word.chars().filter(|c| c.is_uppercase()).count();
    let starts = word.chars().next().is_some_and(char::is_uppercase);
    // "I" is a capital of its own; anything beyond one capital at the start of a sentence is a name or an abbreviation.
    let names = capitals > 1 || word == "I" || word.starts_with("I'") || (capitals == 1 && !(first && starts));
    (may(Protected::Numbers) || !word.chars().any(char::is_numeric))
        && (may(Protected::Negations) || !negates)
        && (may(Protected::Names) || !names)
}
