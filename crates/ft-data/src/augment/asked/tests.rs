use serde_json::json;

use super::*;
use crate::error::At;

/// Answers by rule, and notes what it was asked.
struct Echo {
    rule: fn(&str) -> Reply,
    asked: Vec<(String, Question)>,
    /// Calls that still work.
    left: usize,
}

impl Author for Echo {
    type Error = &'static str;

    fn ask(&mut self, by: &AskedModel, questions: &[Question]) -> Result<Vec<Reply>, Self::Error> {
        self.left = self.left.checked_sub(1).ok_or("gone")?;
        let asked = questions.iter().map(|q| (by.model.clone(), q.clone()));
        self.asked.extend(asked);
        Ok(questions.iter().map(|q| (self.rule)(&q.prompt)).collect())
    }
}

fn section(operators: serde_json::Value, copies: usize) -> super::super::AugmentConfig {
    serde_json::from_value(json!({ "operators": operators, "copies": copies })).unwrap()
}

fn run(
    config: &super::super::AugmentConfig,
    format: &str,
    records: &[serde_json::Value],
    rule: fn(&str) -> Reply,
) -> (Rewritten, Echo) {
    let mut echo = Echo {
        rule,
        asked: Vec::new(),
        left: usize::MAX,
    };
    let place = |line| Place {
        file: 0,
        at: At::Line(line),
    };
    let records: Vec<_> = (1..)
        .map(place)
        .zip(records.iter().map(|r| r.as_object().unwrap()))
        .collect();
    let format: FormatName = format.parse().unwrap();
    let (made, failure) = rewrite(config, format, &["a.jsonl".into()], &records, 7, &mut echo).unwrap();
    assert_eq!(failure, None);
    (made, echo)
}

const BY: &str = "embedded:tiny";

#[test]
fn paraphrases_that_are_safe_become_records_with_their_source() {
    let config = section(
        json!([{ "kind": "paraphrase", "by": { "model": BY }, "prompt": "Anew: {text}" }]),
        2,
    );
    let records = [
        json!({ "prompt": "The box holds 3 cats.\n", "completion": "yes", "id": 1 }),
        json!({ "prompt": "The box holds 4 cats.\n", "completion": "no", "id": 2 }),
        json!({ "prompt": "12 + 5\n", "completion": "17" }),
    ];
    let (made, echo) = run(&config, "prompt-completion", &records, |prompt| {
        match prompt.strip_prefix("Anew: ").unwrap() {
            "The box holds 3 cats." => Reply::Text("\"Inside the box are 3 cats.\"".into()),
            _ => Reply::Text("Inside the box are 5 cats.".into()),
        }
    });
    assert_eq!(echo.asked.len(), 4, "a text without letters is not asked for");
    let seeds: std::collections::HashSet<u64> = echo.asked.iter().map(|(_, q)| q.seed).collect();
    assert_eq!(seeds.len(), 4);
    assert_eq!((made.asked, made.rows.len(), made.dropped["number"]), (4, 2, 2));
    for (copy, row) in (1..).zip(&made.rows) {
        let expected = json!({
            "prompt": "Inside the box are 3 cats.\n", "completion": "yes", "id": 1,
            "source": { "file": "a.jsonl", "place": "line 1", "copy": copy, "operators": ["paraphrase"], "models": [BY] },
        });
        assert_eq!(row.record(), expected);
    }
    let (again, _) = run(&config, "prompt-completion", &records, echo.rule);
    assert_eq!(again, made);
}

#[test]
fn back_translation_asks_two_models_in_turn() {
    let at = json!({ "model": "http://127.0.0.1:1/v1", "name": "de" });
    let operators = json!([{ "kind": "back_translation", "there": at, "back": { "model": BY }, "there_prompt": "DE {text}", "back_prompt": "EN {text}" }]);
    let messages = json!([{ "role": "user", "content": "Where is the station?" }, { "role": "assistant", "content": "There." }, { "role": "user", "content": "Cut this off." }]);
    let (made, echo) = run(
        &section(operators, 1),
        "chat",
        &[json!({ "messages": messages })],
        |prompt| match prompt {
            "DE Where is the station?" => Reply::Text("Wo ist der Bahnhof?".into()),
            "EN Wo ist der Bahnhof?" => Reply::Text("Where do I find the station?".into()),
            _ => Reply::Cut,
        },
    );
    let models: Vec<&str> = echo.asked.iter().map(|(model, _)| model.as_str()).collect();
    assert_eq!(models, ["http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1", BY]);
    assert_eq!((made.asked, made.dropped["cut"]), (2, 1));
    let said = &made.rows[0].fields["messages"];
    assert_eq!(said[0]["content"], "Where do I find the station?");
    assert_eq!(
        (&said[1], &said[2]),
        (&messages[1], &messages[2]),
        "answers, and what came to nothing, stay"
    );
    assert_eq!(made.rows[0].source.models, ["de at http://127.0.0.1:1/v1", BY]);
}

#[test]
fn what_was_made_stays_where_the_author_fails() {
    let config = section(json!([{ "kind": "paraphrase", "by": { "model": BY } }]), 1);
    let record = json!({ "prompt": "A small house", "completion": "x" });
    let records: Vec<_> = (1..=300)
        .map(|line| {
            (
                Place {
                    file: 0,
                    at: At::Line(line),
                },
                record.as_object().unwrap(),
            )
        })
        .collect();
    let mut echo = Echo {
        rule: |_| Reply::Text("A little house".into()),
        asked: Vec::new(),
        left: 1,
    };
    let format: FormatName = "prompt-completion".parse().unwrap();
    let (made, failure) = rewrite(&config, format, &["a".into()], &records, 7, &mut echo).unwrap();
    assert_eq!((made.rows.len(), failure), (GROUP, Some("gone")));
}

#[test]
fn sections_that_cannot_be_are_refused_by_key() {
    let error = |operators, more: serde_json::Value| {
        let mut section = json!({ "operators": operators });
        section
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let config: super::super::AugmentConfig = serde_json::from_value(section).unwrap();
        config.check().unwrap_err().to_string()
    };
    let by = |by: serde_json::Value| json!([{ "kind": "paraphrase", "by": by }]);
    let plain = json!({ "model": BY });
    let cases = [
        (by(json!({ "model": "http://x/v1" })), "`by.name` is missing"),
        (by(json!({ "model": BY, "name": "n" })), "belong to an address"),
        (by(json!({ "model": BY, "temperature": -1 })), "`by.temperature`"),
        (by(json!({ "model": BY, "max_new_tokens": 0 })), "`by.max_new_tokens`"),
        (
            json!([{ "kind": "paraphrase", "by": plain, "prompt": "x" }]),
            "`prompt` should hold {text} once",
        ),
        (
            json!([{ "kind": "back_translation", "there": plain, "back": { "model": "http://x" } }]),
            "`back.name`",
        ),
        (
            json!([{ "kind": "paraphrase", "by": plain }, { "kind": "swap" }]),
            "cannot stand beside others",
        ),
    ];
    for (operators, expected) in cases {
        let error = error(operators, json!({}));
        assert!(
            error.starts_with("data.augment.operators: ") && error.contains(expected),
            "{error}"
        );
    }
    assert!(error(by(plain.clone()), json!({ "apply": "all" })).starts_with("data.augment.apply"));
    let config = section(by(plain), 1);
    let error = Augmenter::new(&config, 0).unwrap_err().to_string();
    assert!(error.contains("ft data augment CONFIG --out"), "{error}");
}
