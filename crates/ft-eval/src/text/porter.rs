//! Porter's stemmer (Porter 1980, "An algorithm for suffix stripping") with NLTK's changes, as NLTK 3.10 computes it by default and
//! ROUGE uses it. Words are `a-z0-9`; a digit is a consonant.

/// What the rules would get wrong.
const IRREGULAR: &[(&str, &str)] = &[
    ("skies", "sky"),
    ("sky", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix and what takes its place.
type Rule = (&'static str, &'static str);

const STEP_2: &[Rule] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: &[Rule] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// All go without a trace.
const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word in lower case.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return stem.to_string();
    }
    if word.len() <= 2 {
        return word.to_string();
    }
    let word = plural(word);
    let word = past(&word);
    let word = final_y(&word);
    let word = double_suffix(&word);
    let word = first_rule(&word, STEP_3, |stem| measure(stem) > 0);
    let word = single_suffix(&word);
    double_l(&final_e(&word))
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_string();
    }
    let rules = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    first_rule(word, &rules, |_| true)
}

/// Step 1b.
fn past(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 {
            format!("{stem}ee")
        } else {
            word.to_string()
        };
    }
    let stem = word.strip_suffix("ed").or_else(|| word.strip_suffix("ing"));
    match stem.filter(|stem| !consonants(stem).iter().all(|consonant| *consonant)) {
        Some(stem) => repaired(stem),
        None => word.to_string(),
    }
}

/// What is left of a word without `ed` or `ing`, made a word again.
fn repaired(stem: &str) -> String {
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    let doubled = matches!(stem.as_bytes(), [.., a, b] if a == b) && consonants(stem).ends_with(&[true]);
    if doubled {
        let kept = stem.len() - usize::from(!stem.ends_with(['l', 's', 'z']));
        return stem[..kept].to_string();
    }
    match measure(stem) == 1 && ends_short(stem) {
        true => format!("{stem}e"),
        false => stem.to_string(),
    }
}

/// Step 1c.
fn final_y(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).ends_with(&[true]) => format!("{stem}i"),
        _ => word.to_string(),
    }
}

/// Step 2.
fn double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffix(&format!("{stem}al"));
    }
    // The `l` of `logi` counts with the stem.
    match word.strip_suffix("ogi").filter(|stem| stem.ends_with('l')) {
        Some(stem) if measure(stem) > 0 => format!("{stem}og"),
        Some(_) => word.to_string(),
        None => first_rule(word, STEP_2, |stem| measure(stem) > 0),
    }
}

/// Step 4.
fn single_suffix(word: &str) -> String {
    let Some((suffix, stem)) = STEP_4
        .iter()
        .find_map(|suffix| Some((suffix, word.strip_suffix(suffix)?)))
    else {
        return word.to_string();
    };
    let goes = measure(stem) > 1 && (*suffix != "ion" || stem.ends_with(['s', 't']));
    if goes { stem.to_string() } else { word.to_string() }
}

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => stem.to_string(),
        _ => word.to_string(),
    }
}

/// Step 5b.
fn double_l(word: &str) -> String {
    let shorter = &word[..word.len().saturating_sub(1)];
    match word.ends_with("ll") && measure(shorter) > 1 {
        true => shorter.to_string(),
        false => word.to_string(),
    }
}

/// Applies the first rule whose suffix the word has, if the stem allows it.
fn first_rule(word: &str, rules: &[Rule], allows: impl Fn(&str) -> bool) -> String {
    let found = rules
        .iter()
        .find_map(|(suffix, by)| Some((word.strip_suffix(suffix)?, by)));
    match found {
        Some((stem, by)) if allows(stem) => format!("{stem}{by}"),
        _ => word.to_string(),
    }
}

/// Which letters are consonants: all but a, e, i, o, u, and y behind a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !flags.last().copied().unwrap_or(false),
            _ => true,
        });
    }
    flags
}

/// How often a vowel is followed by a consonant: Porter's m.
fn measure(stem: &str) -> usize {
    consonants(stem)
        .windows(2)
        .filter(|pair| *pair == [false, true])
        .count()
}

/// Consonant, vowel, consonant other than w, x, y at the end; or the two letters vowel, consonant.
fn ends_short(stem: &str) -> bool {
    match consonants(stem)[..] {
        [.., true, false, true] => !stem.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}
