//! Every metric against the golden file that `tests/fixtures/metrics/generate.py` wrote with the reference programs.

use serde_json::Value;

use super::*;
use crate::{BleuTokenizer, Smoothing};

const SENTENCES: &str = include_str!("../../../../tests/fixtures/metrics/sentences.txt");
const GOLDEN: &str = include_str!("../../../../tests/fixtures/metrics/golden.json");
const MARKS: [&str; 8] = [".", ",", "!", "-", "'s", "…", "?\"", ")"];
const LABELS: [&str; 5] = ["yes", "no", "maybe", "not  at all", "what"];

/// An answer with its references.
pub(crate) fn answer(hypothesis: &str, references: &[&str]) -> Answer {
    Answer {
        prompt: None,
        hypothesis: hypothesis.into(),
        references: references.iter().map(ToString::to_string).collect(),
    }
}

/// The generator's own random numbers.
struct Random {
    state: u64,
    sentences: Vec<&'static str>,
}

impl Random {
    fn new(state: u64) -> Self {
        Self {
            state,
            sentences: sentences(),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.state = self
            .state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.state >> 33) as usize % n
    }

    fn sentence(&mut self) -> &'static str {
        let at = self.below(self.sentences.len());
        self.sentences[at]
    }
}

fn sentences() -> Vec<&'static str> {
    SENTENCES.split('\n').filter(|line| !line.is_empty()).collect()
}

fn damaged(rng: &mut Random, sentence: &str, times: usize) -> String {
    let mut words: Vec<String> = sentence.split(' ').map(str::to_string).collect();
    for _ in 0..times {
        let kind = rng.below(9);
        if words.is_empty() {
            continue;
        }
        let at = rng.below(words.len());
        match kind {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at].clone()),
            2 => {
                let word = words.remove(at);
                words.push(word);
            }
            3 => {
                let other: Vec<&str> = rng.sentence().split(' ').collect();
                words[at] = other[rng.below(other.len())].to_string();
            }
            4 => words[at] = words[at].to_uppercase(),
            5 => words[at].push_str(MARKS[rng.below(MARKS.len())]),
            6 => words[at] = words[at].chars().skip(1).collect(),
            7 => words[at].push('\n'),
            _ => words.extend(rng.sentence().split(' ').map(str::to_string)),
        }
    }
    words.join(" ")
}

fn pair(rng: &mut Random) -> Answer {
    let sentence = rng.sentence();
    let count = 1 + rng.below(3);
    let mut copy = |most| {
        let times = rng.below(most);
        damaged(rng, sentence, times)
    };
    let references = (0..count).map(|_| copy(4)).collect();
    Answer {
        prompt: None,
        references,
        hypothesis: copy(6),
    }
}

/// A thousand pairs.
fn pairs(rng: &mut Random) -> Vec<Vec<Answer>> {
    (0..50).map(|_| (0..20).map(|_| pair(rng)).collect()).collect()
}

fn long_text(rng: &mut Random, characters: usize) -> String {
    let alphabet: Vec<char> = "abcdeabcde' .,-é漢ש😀ع\n".chars().collect();
    let mut text: Vec<char> = Vec::new();
    while text.len() < characters {
        let letter = alphabet[rng.below(alphabet.len())];
        let times = match letter {
            'a' | 'b' => 1 + rng.below(5),
            'c'..='e' => 1 + rng.below(90),
            _ => 1,
        };
        text.extend(std::iter::repeat_n(letter, times));
        if rng.below(3) == 0 {
            text.push(' ');
        }
    }
    text[..characters].iter().collect()
}

fn groups() -> Vec<Vec<Answer>> {
    let mut rng = Random::new(42);
    let mut groups = pairs(&mut rng);
    for sentence in sentences() {
        groups.push(vec![answer(&damaged(&mut rng, sentence, 4), &[sentence])]);
    }
    let empty = [
        answer("", &[""]),
        answer("", &["x"]),
        answer("x", &[""]),
        answer(" ", &["\n", ""]),
        answer("\n\n", &["a\n"]),
        answer("a", &["a"]),
        answer("a b c d e", &["a b c d e"]),
    ];
    groups.push(empty.to_vec());
    groups.extend(empty.map(|one| vec![one]));
    let mut long = || long_text(&mut rng, 100_000);
    groups.push(vec![answer(&long(), &[&long()])]);
    let text = long();
    groups.push(vec![answer(&damaged(&mut rng, &text, 40), &[&text, "short"])]);
    groups.push(vec![answer(&"a".repeat(100_000), &[&"a".repeat(99_999)])]);
    groups
}

fn labelled() -> Vec<Vec<Answer>> {
    let mut rng = Random::new(7);
    let mut one = || {
        let right = LABELS[rng.below(4)];
        let answered = if rng.below(5) < 3 { right } else { LABELS[rng.below(5)] };
        answer(answered, &[right])
    };
    let mut groups: Vec<Vec<Answer>> = (0..50).map(|_| (0..20).map(|_| one()).collect()).collect();
    groups.push(vec![answer("yes", &["yes"])]);
    groups
}

/// What a key of the golden file says: a metric, then choices.
fn named(key: &str) -> (&str, Settings) {
    let mut words = key.split(' ');
    let name = words.next().unwrap();
    let mut settings = Settings::default();
    let mut smoothing = ("exp", None);
    for word in words {
        match word {
            "lowercase" => settings.lowercase = true,
            "stem" => settings.stem = true,
            "floor" | "add-k" => smoothing.0 = word,
            // Without a number the default: "bleu none" is the tokenizer, "bleu 13a none" the smoothing.
            "none" if key.contains("13a") => smoothing.0 = word,
            "0.5" => smoothing.1 = Some(0.5),
            tokenizer => settings.tokenizer = tokenizer.parse::<BleuTokenizer>().unwrap(),
        }
    }
    settings.smoothing = Smoothing::new(smoothing.0, smoothing.1).unwrap();
    (name, settings)
}

fn value(key: &str, answers: &[Answer]) -> f64 {
    let (name, settings) = named(key);
    score(&[find(name).unwrap()], answers, &settings).values[name]
}

#[test]
fn the_scores_are_those_of_the_reference_programs() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let groups = [groups(), labelled()].concat();
    assert_eq!(cases.len(), groups.len());
    let mut wrong = Vec::new();
    for (case, answers) in cases.iter().zip(&groups) {
        for (key, expected) in case["scores"].as_object().unwrap() {
            let found = value(key, answers);
            // The original of NIST divides by zero where no answer is as long as its longest n-gram.
            let near = |expected: f64| (found - expected).abs() <= 1e-10 * expected.abs().max(1.0);
            if !expected.as_f64().map_or(found.is_finite(), near) {
                wrong.push(format!("{key} of {}: {found}, not {expected}", case["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn scores_of_english_are_those_of_the_caption_metrics() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut rng = Random {
        sentences: sentences()[..35].to_vec(),
        ..Random::new(11)
    };
    for (answers, expected) in pairs(&mut rng).iter().zip(golden["captions"].as_array().unwrap()) {
        for name in ["cider", "coco_rougeL"] {
            let (found, expected) = (value(name, answers), expected[name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-9, "{name}: {found}, not {expected}");
        }
    }
}

#[test]
fn the_signatures_are_those_of_sacrebleu() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    for (key, expected) in golden["signatures"].as_object().unwrap() {
        let (key, references) = key.rsplit_once(' ').unwrap();
        let answers = match references {
            "one" => [answer("a", &["a"]), answer("b", &["b"])],
            "two" => [answer("a", &["a", "b"]), answer("b", &["b", "c"])],
            _ => [answer("a", &["a"]), answer("b", &["b", "c"])],
        };
        let (name, settings) = named(key);
        let scores = score(&[find(name).unwrap()], &answers, &settings);
        assert_eq!(
            scores.signatures[name],
            expected.as_str().unwrap(),
            "{key}, {references}"
        );
    }
}

#[test]
fn the_stems_are_those_of_nltk() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let stems = golden["stems"].as_object().unwrap();
    assert!(stems.len() > 1000);
    for (word, expected) in stems {
        assert_eq!(crate::text::porter::stem(word), expected.as_str().unwrap(), "{word}");
    }
}

#[test]
fn names_are_unique_and_found() {
    for metric in METRICS {
        assert_eq!(METRICS.iter().filter(|other| other.name == metric.name).count(), 1);
        assert_eq!(find(metric.name).unwrap().about, metric.about);
    }
    let error = find("blue").unwrap_err().to_string();
    assert!(
        error.contains("blue") && error.contains("bleu, sentence_bleu"),
        "{error}"
    );
}

#[test]
fn nothing_to_score_is_0() {
    let all: Vec<&Metric> = METRICS.iter().collect();
    let scores = score(&all, &[], &Settings::default());
    assert!(
        scores.values.len() > 10 && scores.values.values().all(|value| *value == 0.0),
        "{scores:?}"
    );
}
