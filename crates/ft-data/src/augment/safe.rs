//! Whether a text that a model wrote anew still says what must not change: numbers, names, negations, code. What is found out without a
//! model is found out by spelling alone: that a text of other words means the same is not checked.

use super::Protected;
use super::words::{NEGATIONS, Piece, chunks, pieces};

/// Why a text was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// No answer, after every try.
    Failed,
    /// The answer did not end.
    Cut,
    /// Nothing was said.
    Empty,
    /// The text itself.
    Same,
    /// Under a third or over three times as many words.
    Length,
    /// More lines than the text has: the model says something beside it.
    Lines,
    /// A number is gone, new or another one.
    Number,
    /// A name is gone or new.
    Name,
    /// Another number of negations.
    Negation,
    /// Code, markup or a placeholder is gone or new.
    Code,
}

impl Loss {
    /// As it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Failed => "failed",
            Loss::Cut => "cut",
            Loss::Empty => "empty",
            Loss::Same => "same",
            Loss::Length => "length",
            Loss::Lines => "lines",
            Loss::Number => "number",
            Loss::Name => "name",
            Loss::Negation => "negation",
            Loss::Code => "code",
        }
    }
}

/// An answer without white space around it, and without quotation marks where both are there.
pub fn bare(answer: &str) -> &str {
    let answer = answer.trim();
    let quoted = [('"', '"'), ('“', '”'), ('«', '»')]
        .into_iter()
        .find_map(|(open, close)| {
            let inside = answer.strip_prefix(open)?.strip_suffix(close)?;
            (!inside.contains([open, close])).then_some(inside)
        });
    quoted.unwrap_or(answer).trim()
}

/// What the text `made` of `source` lost or changed that must stay; `change` may.
pub fn lost(source: &str, made: &str, change: &[Protected]) -> Option<Loss> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let [before, after] = [source, made].map(plain);
    if after.is_empty() {
        return Some(Loss::Empty);
    }
    if before == after {
        return Some(Loss::Same);
    }
    let [old, new] = [source, made].map(|text| text.split_whitespace().count());
    if new > 3 * old + 3 || old > 3 * new + 3 {
        return Some(Loss::Length);
    }
    let lines = |text: &str| text.trim().lines().filter(|line| !line.trim().is_empty()).count();
    if lines(made) > lines(source) {
        return Some(Loss::Lines);
    }
    let may = |what: Protected| change.contains(&what);
    let differ = |of: &dyn Fn(&str) -> Vec<String>| sorted(of(source)) != sorted(of(made));
    if differ(&code) {
        return Some(Loss::Code);
    }
    if !may(Protected::Numbers) && differ(&numbers) {
        return Some(Loss::Number);
    }
    if !may(Protected::Negations) && negations(source) != negations(made) {
        return Some(Loss::Negation);
    }
    if !may(Protected::Names) && (unnamed(source, made) || unnamed(made, source)) {
        return Some(Loss::Name);
    }
    None
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort_unstable();
    list
}

/// Digits with points and commas between them, wherever they stand; code has its own.
fn numbers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut now = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let inside = ".,:/".contains(c) && !now.is_empty() && rest.peek().is_some_and(|next| next.is_numeric());
        match c.is_numeric() || inside {
            true => now.push(c),
            false if now.is_empty() => {}
            false => found.push(std::mem::take(&mut now)),
        }
    }
    found.extend((!now.is_empty()).then_some(now));
    found
}

/// What stands between back ticks, and words with marks inside: `snake_case`, `a/b`, `{name}`, `<tag>`, addresses.
fn code(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    found.retain(|span| !span.trim().is_empty());
    let outside: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let marked = chunks(&outside).filter_map(|chunk| {
        let word = chunk.trim_matches(|c: char| "()\"'“”‘’«»¿¡*.,;:!?…".contains(c));
        let inside = |c: char| !c.is_alphanumeric() && !"'’-–—.,:;…\"“”()¿¡!?%$€£&".contains(c);
        (word.contains(char::is_alphanumeric) && word.contains(inside)).then(|| word.to_owned())
    });
    found.extend(marked);
    found
}

/// How many words say no; "but", "except" and their like only turn a sentence.
fn negations(text: &str) -> usize {
    let turns = [
        "but", "however", "except", "unless", "unlike", "lack", "lacks", "lacking", "fail", "fails", "failed",
    ];
    let denies = |piece: &Piece| {
        let word = piece.text.to_lowercase();
        let listed = NEGATIONS.contains(&word.as_str()) && !turns.contains(&word.as_str());
        listed || word.ends_with("n't") || word.ends_with("n’t")
    };
    pieces(text, &[]).iter().filter(|piece| denies(piece)).count()
}

/// Whether a name of one text is nowhere in the other: words in capitals, and words that begin with one inside of a sentence.
fn unnamed(from: &str, to: &str) -> bool {
    let free = pieces(from, &[Protected::Numbers, Protected::Negations]);
    let is_name = |piece: &&Piece| !piece.free && piece.text.chars().any(char::is_uppercase) && is_word(&piece.text);
    let (whole, lower) = (words(to), to.to_lowercase());
    free.iter().filter(is_name).any(|name| {
        let capitals = name.text.chars().filter(|c| c.is_uppercase()).count();
        let itself = name.text == "I" || name.text.starts_with("I'") || name.text.starts_with("I’");
        // A capital inside of a sentence may be that of a sentence elsewhere; several are never.
        let there = match capitals > 1 {
            true => whole.contains(&name.text.as_str()),
            false => lower.contains(&name.text.to_lowercase()),
        };
        !itself && !there
    })
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || "'’-".contains(c))
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || "'’-".contains(c)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lose_their_frame() {
        assert_eq!(bare(" \"A house.\" \n"), "A house.");
        assert_eq!(bare("“So.”"), "So.");
        assert_eq!(bare("\"A\" and \"B\""), "\"A\" and \"B\"");
        assert_eq!(bare(" \n"), "");
    }

    #[test]
    fn other_words_are_safe_and_what_changed_is_named() {
        let source = "Ann paid 12.50 EUR for 3 tickets, but she did not use `code_one` or {name} at NASA.";
        let safe = "For 3 tickets Ann gave 12.50 EUR; at NASA {name} and `code_one` were not used by her.";
        assert_eq!(lost(source, safe, &[]), None);
        let cases = [
            (safe.replace("12.50", "12.5"), Loss::Number),
            (safe.replace("3 ", "three "), Loss::Number),
            (safe.replace("not ", ""), Loss::Negation),
            (safe.replace("her", "her, no"), Loss::Negation),
            (safe.replace("NASA", "Nasa"), Loss::Name),
            (safe.replace("her.", "her in Paris."), Loss::Name),
            (safe.replace("code_one", "code_two"), Loss::Code),
            (safe.replace("{name}", "the name"), Loss::Code),
            (safe.replace("used", "`used`"), Loss::Code),
            (source.to_uppercase(), Loss::Same),
            (" ".into(), Loss::Empty),
            (format!("Sure! Here it is:\n{safe}"), Loss::Lines),
            ("Ann did it.".into(), Loss::Length),
            (safe.repeat(9), Loss::Length),
        ];
        for (made, expected) in cases {
            assert_eq!(lost(source, &made, &[]), Some(expected), "{made}");
        }
        let all = [Protected::Numbers, Protected::Names, Protected::Negations];
        assert_eq!(lost("Ann has no 3 cats here", "The dogs of Bob are there", &all), None);
    }

    #[test]
    fn ordinary_sentences_are_not_taken_for_names_and_numbers() {
        for (source, made) in [
            ("The cat sat on the mat.", "On the mat sat the cat. It stayed."),
            ("I think it isn't far.", "It is not far, I believe."),
            ("Is it well-made? I'd say so.", "Would I call it well-made? Yes."),
            ("Open at 10:30, 50% off.", "50% off, and it opens at 10:30."),
            ("¿Qué hora es?", "¿Me dices la hora?"),
        ] {
            assert_eq!(lost(source, made, &[]), None, "{made}");
        }
        assert_eq!(numbers("1,000 and 2.5x, 3. 4/5"), ["1,000", "2.5", "3", "4/5"]);
    }
}
