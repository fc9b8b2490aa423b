//! Words as the caption metrics see them: Stanford's PTBTokenizer (CoreNLP 3.4.1, lower case) with most punctuation left out, as
//! pycocoevalcap 1.2 calls it.
//!
//! Of the tokenizer's grammar, what running text needs: contractions, hyphens, slashes, numbers and fractions, currency, initials and
//! common abbreviations, quotation marks, brackets, tags, addresses, telephone numbers, emoticons. At every place the rule that reads furthest wins, the
//! first among equals; what a rule only looks ahead at counts as read.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::python;

/// Tokens that do not count.
const IGNORED: &[&str] = &["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// What the rules are written in; each may use those behind it.
const CLASSES: &[(&str, &str)] = &[
    ("{WORD}", r"{L}(?:{L}|{D})*(?:[.!?]{L}(?:{L}|{D})*)*"),
    ("{THING}", r"(?:[dDoOlL]{A}{L})?(?:{L}|{D})+"),
    ("{SLASHED}", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"),
    ("{UNSIGNED}", r"(?:{D}+(?:[.:,]{D}+)*|(?:[.:,]{D}+)+)"),
    (
        "{TITLE}",
        "(?i:mr|mrs|ms|dr|prof|gen|col|capt|lt|sgt|sen|rep|gov|rev|st|sr|jr|inc|ltd|co|corp|bros|vs|etc|fig|al|dept|est|rd|pp)",
    ),
    ("{MONTH}", "(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"),
    (
        "{STARTER}",
        r"(?:(?:About|According|Additionally|After|An|A|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|While|What|Yet|You)\s|{TAG})",
    ),
    (
        "{TAG}",
        r#"(?:<[!?][A-Za-z-][^>\n]*>|</?{NAME}(?: +{NAME}(?: *= *(?:"[^"\n]*"|'[^'\n]*'|{NAME}))?)* */?>)"#,
    ),
    ("{NAME}", "[A-Za-z][A-Za-z0-9_:.-]*"),
    ("{PART}", r#"[^\s"`'<>|.!?(){},_$&;:/-]"#),
    ("{L}", r"[\p{L}\p{M}]"),
    ("{D}", r"\p{Nd}"),
    ("{A}", r"['\x{2019}]"),
];

/// The token is the first group; what follows it is looked at only.
const RULES: &[&str] = &[
    // Two words written as one, cut where the second begins.
    r"((?i:can))(?i:not)",
    r"((?i:gon|wan))(?i:na)",
    r"((?i:got))(?i:ta)",
    r"((?i:lem|gim))(?i:me)",
    r"('(?i:t))(?i:is|was)",
    r"({L}+)(?i:n{A}t)",
    r"({WORD}){A}(?:[msdMSD]|re|ve|ll|RE|VE|LL)",
    r"({A}(?:[msdMSD]|re|ve|ll|RE|VE|LL))(?:[^A-Za-z]|$)",
    r"((?i:n{A}t))(?:[^A-Za-z]|$)",
    // Addresses and tags.
    r"({TAG})",
    r#"((?i:https?)://[^\s"<>|(){}]+[^\s"<>|.!?(){},-])"#,
    r#"((?:www\.(?:{PART}{1,64}\.)+[a-zA-Z]{2,4}|(?:{PART}{1,64}\.)+(?i:com|net|org|edu))(?:/[^\s"<>|()]+[^\s"<>|.!?(){},-])?)"#,
    r#"([a-zA-Z0-9][^\s"<>|(){}]{0,64}@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+)"#,
    r"(@[A-Za-z_][A-Za-z0-9_]*|\#{L}+)",
    r"(&(?i:amp|lt|gt|quot|apos|nbsp);)",
    // Words with an apostrophe, numbers, things with hyphens and slashes, words.
    r"((?i:'n'|'em|'cause|'till?|o'er|e'er|c'mon|ma'am|s'mores|'[2-9]0s))",
    r"([yY]{A}){L}",
    r"([-+]?{UNSIGNED})",
    r"((?:{D}{1,4}[- \x{A0}])?{D}{1,4}/{D}{1,4})",
    r"(\([0-9]{2,3}\)[ \x{A0}]?[0-9]{3,4}[- \x{A0}]?[0-9]{3,5})",
    r"({THING}(?:[-_\x{2010}\x{2011}]{THING})*)",
    r"({UNSIGNED}(?:[-_\x{2010}\x{2011}]{THING})+)",
    r"([cCfF]\#|[cC]\+\+)",
    r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)",
    r"({SLASHED}(?:/{SLASHED}){1,2})",
    r"({WORD})",
    // Initials and abbreviations keep their period, an initial not before what starts a sentence.
    r"([A-Za-z](?:\.[A-Za-z])*\.)",
    r"([A-Za-z])\.\s+{STARTER}",
    r"((?:{TITLE}|{MONTH})\.)",
    r"((?i:nos?)\.)\s?{D}",
    r"({WORD}\.)[,;:]",
    // Marks: a quotation mark before a word opens.
    r#"("|'')[A-Za-z0-9$]"#,
    r"(')[A-Za-z][^ \t\n\x{A0}]",
    r"([A-Z]*\$)",
    r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]",
    r"([\^=~<>x]_[\^=~<>x])",
    r"(''|``|[?!]+|\*+|_+|\#+|~+|<<|>>|--+|\.\.\.+|(?:\. ){2,4}\.)",
];

static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let spelled = |rule: &&str| {
        let expand = |rule: String, (name, means): &(&str, &str)| rule.replace(name, means);
        CLASSES.iter().fold(format!("^(?:{rule})"), expand)
    };
    let compile = |rule: &&str| Regex::new(&spelled(rule)).expect("a constant of this file, compiled by its tests");
    RULES.iter().map(compile).collect()
});

/// The words of each text, with a no-break space for a space inside of one (a fraction, a tag). The texts follow each other: whether an
/// initial ends a sentence depends on the next one.
pub(crate) fn words(texts: &[&str]) -> Vec<Vec<String>> {
    let lines: Vec<String> = texts.iter().map(|text| text.replace(['\n', '\r'], " ")).collect();
    let all = lines.join("\n");
    let mut words = vec![Vec::new()];
    let mut rest = all.as_str();
    while let Some(first) = rest.chars().next() {
        let length = if python::is_space(first) {
            if first == '\n' {
                words.push(Vec::new());
            }
            first.len_utf8()
        } else {
            let token = next(rest, first);
            let opens = rest[token.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '$');
            if let (Some(line), Some(word)) = (words.last_mut(), written(token, opens)) {
                line.push(word);
            }
            token.len()
        };
        rest = &rest[length..];
    }
    words
}

/// The token at the start of the text.
fn next(text: &str, first: char) -> &str {
    let found = COMPILED.iter().filter_map(|rule| rule.captures(text));
    let length = |captures: &Captures<'_>| (captures[0].len(), captures[1].len());
    let longest = found
        .map(|captures| length(&captures))
        .reduce(|best, other| if other.0 > best.0 { other } else { best });
    &text[..longest.map_or(first.len_utf8(), |(_, token)| token)]
}

/// A token as it is printed, unless it is ignored or beyond what the tokenizer reads.
fn written(token: &str, opens: bool) -> Option<String> {
    let word = match token {
        "\"" | "''" if opens => "``".into(),
        "\"" | "\u{201d}" | "\u{201e}" | "&quot;" => "''".into(),
        "\u{201c}" => "``".into(),
        "£" => "#".into(),
        "€" => "$".into(),
        "¢" => "cents".into(),
        "½" => "1/2".into(),
        "¼" => "1/4".into(),
        "¾" => "3/4".into(),
        "⅓" => "1/3".into(),
        "⅔" => "2/3".into(),
        "\u{2018}" | "\u{2019}" => return None,
        "\u{2013}" | "\u{2014}" | "…" | "\u{200b}" | "\u{2011}" => return None,
        "[" => "-lsb-".into(),
        "]" => "-rsb-".into(),
        "{" => "-lcb-".into(),
        "}" => "-rcb-".into(),
        "&nbsp;" | "&apos;" => return None,
        _ if token.starts_with("--") || token.starts_with("..") || token.starts_with(". ") => return None,
        _ if !token.starts_with('<') => token.replace('(', "-lrb-").replace(')', "-rrb-"),
        _ => token.into(),
    };
    let unread = |c: char| c > '\u{ffff}';
    let word = straight(word.to_lowercase());
    let word = word
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace(' ', "\u{a0}");
    (!IGNORED.contains(&word.as_str()) && !word.chars().any(unread)).then_some(word)
}

/// The curly apostrophe of a contraction made straight.
fn straight(word: String) -> String {
    match word.starts_with('\u{2019}') || word.ends_with("n\u{2019}t") {
        true => word.replace('\u{2019}', "'"),
        false => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_captions_tokenizer() {
        for (text, expected) in [
            (
                "It's Zara's, isn't it? They can\u{2019}t; I cannot.",
                "it 's zara 's is n't it they ca n't i can not",
            ),
            (
                "Costs £20-25, €9.50 or 1,000 (3 1/2 stars)!!",
                "costs # 20-25 $ 9.50 or 1,000 -lrb- 3\u{a0}1/2 stars -rrb- !!",
            ),
            (
                "\"5-star\" and/or 'cheap' -- <b>AT&T</b> a<b",
                "5-star and/or cheap <b> at&t </b> a < b",
            ),
            (
                "Mr. Smith at 5 p.m., city center., plan B. The end.it's x@y.com",
                "mr. smith at 5 p.m. city center. plan b the end.it 's x@y.com",
            ),
            ("call (212) 684-4700", "call -lrb-212-rrb-\u{a0}684-4700"),
            (
                "gonna \u{1f600} 'tis 漢字 שלום [x] ... :) #tag",
                "gon na 't is 漢字 שלום -lsb- x -rsb- :-rrb- #tag",
            ),
        ] {
            assert_eq!(words(&[text])[0].join(" "), expected);
        }
    }

    #[test]
    fn an_initial_looks_at_the_next_text() {
        let found = words(&["plan B.", "He left", "", "plan B.", "to leave"]);
        let found: Vec<String> = found.iter().map(|line| line.join(" ")).collect();
        assert_eq!(found, ["plan b", "he left", "", "plan b.", "to leave"]);
    }
}
