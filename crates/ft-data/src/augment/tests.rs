use serde_json::{Value, json};

use super::words::{pieces, text};
use super::*;
use crate::error::At;
use crate::formats::FormatName;

/// Numbers, names, negations, code, markup, and words to change.
const TEXTS: &[&str] = &[
    "Find a cheap restaurant near the big house, please.",
    "The quick customer did not buy 3 cars in Paris; she said: \"It's expensive!\"\nNow explain `let x = fast;` and {name} quickly.",
    "Ask NASA about the price of a very small trip (usually 12.50 EUR), don't guess.",
    "",
    "42",
    "¿Qué? Ça va — naïve façade, “quoted” words…\n\n\tlast line without end",
];

fn operators() -> Vec<OperatorConfig> {
    let options = |name: &&str| match *name {
        "templates" => json!({"kind": name, "templates": ["Q: {text}\nA:", "Please: {text}"]}),
        _ => json!({"kind": name}),
    };
    let asks = ["paraphrase", "back_translation"];
    let kinds = OperatorConfig::NAMES
        .iter()
        .filter(|name| !asks.contains(name))
        .map(options);
    kinds.map(|options| serde_json::from_value(options).unwrap()).collect()
}

fn augment(operators: Vec<OperatorConfig>) -> AugmentConfig {
    AugmentConfig {
        copies: 20,
        fields: vec![],
        apply: Apply::One,
        operators,
        change: vec![],
    }
}

fn apply(operator: &OperatorConfig, source: &str, seed: u64) -> String {
    operator.build().unwrap().apply(source, &[], &mut stream(seed, "test"))
}

fn parsed(options: Value) -> OperatorConfig {
    serde_json::from_value(options).unwrap()
}

#[test]
fn pieces_are_the_text_and_kept_words_are_kept() {
    for source in TEXTS {
        assert_eq!(text(&pieces(source, &[])), *source);
    }
    let free = |source: &str, change: &[Protected]| -> Vec<String> {
        let pieces = pieces(source, change).into_iter().filter(|piece| piece.free);
        pieces.map(|piece| piece.text).collect()
    };
    assert_eq!(
        free(TEXTS[2], &[]),
        [
            "Ask", "about", "the", "price", "of", "a", "very", "small", "trip", "usually", "guess"
        ]
    );
    assert_eq!(
        free("it is not in Rome", &[Protected::Negations, Protected::Names]).len(),
        5
    );
    assert_eq!(free("`a b` c_d e/f x@y.z <b> ok", &[]), ["ok"]);
    assert_eq!(free("```\nlet a = b;\n``` done", &[]), ["done"]);
}

/// What must survive every operator.
fn fixed(source: &str) -> Vec<String> {
    let kept = pieces(source, &[]).into_iter().filter(|piece| !piece.free);
    let kept = kept.map(|piece| piece.text).filter(|text| !text.trim().is_empty());
    kept.collect()
}

#[test]
fn every_operator_keeps_what_is_kept_and_repeats_itself() {
    for operator in operators() {
        let mut changed = 0;
        for source in TEXTS {
            for seed in 0..30 {
                let made = apply(&operator, source, seed);
                assert_eq!(made, apply(&operator, source, seed), "{}", operator.name());
                changed += usize::from(made != *source);
                let mut rest = made.as_str();
                for piece in fixed(source) {
                    let at = rest.find(&piece);
                    let at = at.unwrap_or_else(|| panic!("{}: {piece:?} is gone or moved: {made:?}", operator.name()));
                    rest = &rest[at + piece.len()..];
                }
            }
        }
        assert!(changed > 40, "{}: {changed} of 180 changed", operator.name());
    }
}

#[test]
fn as_many_words_change_as_eda_says() {
    let source =
        "the customer bought a cheap car and a huge house near the lovely old road while people walked slowly by it";
    let words = source.split(' ').count();
    for (alpha, expected) in [(0.0, 1), (0.1, 2), (0.2, 4)] {
        let operator = parsed(json!({"kind": "synonyms", "alpha": alpha}));
        for seed in 0..20 {
            let made = apply(&operator, source, seed);
            let differ = source.split(' ').zip(made.split(' ')).filter(|(a, b)| a != b).count();
            assert_eq!((made.split(' ').count(), differ), (words, expected), "{made}");
        }
        let operator = parsed(json!({"kind": "insert", "alpha": alpha}));
        assert_eq!(apply(&operator, source, 3).split(' ').count(), words + expected);
        let operator = parsed(json!({"kind": "swap", "alpha": alpha}));
        let mut sorted: Vec<_> = source.split(' ').collect();
        let swapped = apply(&operator, source, 3);
        let mut swapped: Vec<_> = swapped.split(' ').collect();
        sorted.sort_unstable();
        swapped.sort_unstable();
        assert_eq!(swapped, sorted);
    }
    let delete = parsed(json!({"kind": "delete", "alpha": 0.3}));
    let left: usize = (0..400)
        .map(|seed| apply(&delete, source, seed).split(' ').count())
        .sum();
    // All but the first and the last word go with probability 0.3.
    let expected = words as f64 - 0.3 * (words - 1) as f64;
    assert!(
        (left as f64 / 400.0 - expected).abs() < 0.4,
        "{left}, expected {expected}"
    );
    assert!(
        apply(&parsed(json!({"kind": "delete", "alpha": 1.0})), source, 0)
            .split(' ')
            .count()
            >= 2
    );
}

#[test]
fn letters_change_as_nlpaug_counts_them() {
    let differ = |a: &str, b: &str| a.chars().zip(b.chars()).filter(|(a, b)| a != b).count();
    let operator = parsed(json!({"kind": "keyboard", "aug_word_p": 1.0, "aug_char_p": 0.3}));
    let made = apply(&operator, "restaurant go house", 0);
    let words: Vec<&str> = made.split(' ').collect();
    assert_eq!(
        (differ(words[0], "restaurant"), words[1], differ(words[2], "house")),
        (3, "go", 1)
    );
    assert_eq!(
        apply(&operator, "Restaurant", 1)
            .chars()
            .filter(|c| c.is_uppercase())
            .count(),
        1
    );
}

#[test]
fn copies_change_prompts_alone_and_say_where_they_come_from() {
    let augmenter = Augmenter::new(&augment(operators()), 7).unwrap();
    let (files, line) = (["a.jsonl".to_owned()], |line| Place {
        file: 0,
        at: At::Line(line),
    });
    let format: FormatName = "prompt-completion".parse().unwrap();
    let fields = augmenter.fields(format.format()).unwrap();
    let record = json!({"prompt": TEXTS[1], "completion": TEXTS[0], "id": 3});
    let made = augmenter.copies(&files, line(4), record.as_object().unwrap(), &fields);
    assert!(made.len() > 10);
    for row in &made {
        assert_eq!(row.fields["completion"], TEXTS[0]);
        assert_ne!(row.fields["prompt"], TEXTS[1]);
        assert_eq!((row.source.place.as_str(), row.source.operators.len()), ("line 4", 1));
        assert_eq!(row.record()["source"]["copy"], row.source.copy);
    }
    assert_eq!(
        made,
        augmenter.copies(&files, line(4), record.as_object().unwrap(), &fields)
    );
    let other = augmenter.copies(&files, line(5), record.as_object().unwrap(), &fields);
    assert_ne!(made[0].fields, other[0].fields);
    let chat: FormatName = "chat".parse().unwrap();
    let fields = augmenter.fields(chat.format()).unwrap();
    let messages = json!([{"role": "system", "content": TEXTS[0]}, {"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[0]}]);
    for row in augmenter.copies(
        &files,
        line(1),
        json!({"messages": messages}).as_object().unwrap(),
        &fields,
    ) {
        let said: Vec<&str> = (0..3)
            .map(|at| row.fields["messages"][at]["content"].as_str().unwrap())
            .collect();
        assert_eq!((said[0], said[2]), (TEXTS[0], TEXTS[0]));
        assert_ne!(said[1], TEXTS[0]);
    }
    let text: FormatName = "text".parse().unwrap();
    let error = augmenter.fields(text.format()).unwrap_err().to_string();
    assert!(
        error.starts_with("data.augment.fields: format \"text\" has no field"),
        "{error}"
    );
}

#[test]
fn options_that_make_no_sense_are_named() {
    let error = |options: Value| {
        let config: AugmentConfig = serde_json::from_value(options).unwrap();
        Augmenter::new(&config, 0).unwrap_err().to_string()
    };
    assert!(error(json!({"operators": []})).contains("none given; there are: swap, delete"));
    assert!(error(json!({"operators": [{"kind": "swap"}], "copies": 0})).starts_with("data.augment.copies: 0"));
    assert!(error(json!({"operators": [{"kind": "swap", "alpha": 2}]})).contains("swap: `alpha` 2 is not a rate"));
    assert!(error(json!({"operators": [{"kind": "templates"}]})).contains("`templates` is missing"));
    assert!(
        error(json!({"operators": [{"kind": "templates", "templates": ["x"]}]})).contains("should hold {text} once")
    );
    assert!(error(json!({"operators": [{"kind": "synonyms", "lexicon": "nowhere.txt"}]})).contains("nowhere.txt"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "big, large\nlonely\n").unwrap();
    let lexicon = file.path().to_str().unwrap();
    assert!(error(json!({"operators": [{"kind": "insert", "lexicon": lexicon}]})).contains("line 2: expected words"));
    assert!(serde_json::from_value::<OperatorConfig>(json!({"kind": "swap", "aplha": 1})).is_err());
}
