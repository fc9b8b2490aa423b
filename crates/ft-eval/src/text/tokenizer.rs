//! sacreBLEU's tokenizers (Post 2018, arXiv:1804.08771).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use super::python;

/// How BLEU cuts text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BleuTokenizer {
    /// NIST's mteval-v13a: ASCII punctuation apart from words, numbers whole.
    #[default]
    V13a,
    /// NIST's mteval-v14, international: all punctuation and symbols of Unicode apart.
    Intl,
    /// Every character.
    Char,
    /// White space only.
    None,
}

impl BleuTokenizer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::V13a, Self::Intl, Self::Char, Self::None];

    /// sacreBLEU's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::Intl => "intl",
            Self::Char => "char",
            Self::None => "none",
        }
    }

    pub(crate) fn tokens(self, text: &str) -> Vec<String> {
        let text = python::trim_end(text);
        let owned = |words: &str| python::words(words).map(str::to_string).collect();
        match self {
            Self::V13a => v13a(text),
            Self::Intl => owned(&substitute(&*INTL, text)),
            Self::Char => text
                .chars()
                .filter(|c| !python::is_space(*c))
                .map(String::from)
                .collect(),
            Self::None => owned(text),
        }
    }
}

impl fmt::Display for BleuTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BleuTokenizer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|tokenizer| tokenizer.name() == name);
        found.ok_or_else(|| format!("choose among {}", Self::ALL.map(Self::name).join(", ")))
    }
}

type Substitutions = [(Regex, &'static str)];

/// Punctuation of ASCII; periods and commas that no digit precedes, or none follows; hyphens behind digits.
static V13A: LazyLock<[(Regex, &'static str); 4]> = LazyLock::new(|| {
    [
        (regex(r"([!-&(-+/:-@\[-`{-~])"), " $1 "),
        (regex(r"([^0-9])([.,])"), "$1 $2 "),
        (regex(r"([.,])([^0-9])"), " $1 $2"),
        (regex(r"([0-9])(-)"), "$1 $2 "),
    ]
});

/// Punctuation that no number precedes, or none follows; symbols.
static INTL: LazyLock<[(Regex, &'static str); 3]> = LazyLock::new(|| {
    [
        (regex(r"(\P{N})(\p{P})"), "$1 $2 "),
        (regex(r"(\p{P})(\P{N})"), " $1 $2"),
        (regex(r"(\p{S})"), " $1 "),
    ]
});

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant of this file, compiled by its tests")
}

fn substitute(substitutions: &Substitutions, text: &str) -> String {
    let apply =
        |text: Cow<'_, str>, (regex, by): &(Regex, &str)| Cow::Owned(regex.replace_all(&text, *by).into_owned());
    substitutions.iter().fold(Cow::Borrowed(text), apply).into_owned()
}

/// Tokens of mteval-v13a; line breaks join, and the entities of its SGML files are read.
pub(crate) fn v13a(text: &str) -> Vec<String> {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let text = substitute(&*V13A, &format!(" {text} "));
    python::words(&text).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(tokenizer: BleuTokenizer, text: &str) -> String {
        tokenizer.tokens(text).join(" ")
    }

    #[test]
    fn tokens_of_13a() {
        let tokens = |text: &str| joined(BleuTokenizer::V13a, text);
        assert_eq!(
            tokens("It's 3.5%, or 1,000-2 (not &quot;x&quot;)..."),
            "It's 3.5 % , or 1,000 - 2 ( not \" x \" ) . . ."
        );
        assert_eq!(tokens("well-known end-\nings\nhere.  "), "well-known endings here .");
    }

    #[test]
    fn the_others_and_their_names() {
        assert_eq!(joined(BleuTokenizer::Intl, "«Да», 1.5€"), "« Да » , 1.5 €");
        assert_eq!(joined(BleuTokenizer::Char, "ab c "), "a b c");
        assert_eq!(joined(BleuTokenizer::None, " a.b  c!"), "a.b c!");
        for tokenizer in BleuTokenizer::ALL {
            assert_eq!(tokenizer.to_string().parse(), Ok(tokenizer));
        }
        assert_eq!(
            "zh".parse::<BleuTokenizer>().unwrap_err(),
            "choose among 13a, intl, char, none"
        );
    }
}
