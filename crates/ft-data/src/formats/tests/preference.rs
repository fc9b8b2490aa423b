//! Preferences: every shape they come in, and what is not taken for one.

use serde_json::{Value, json};

use super::templated;
use crate::config::{DataConfig, Overlong};
use crate::formats::Examples;
use crate::load::{Dataset, load_source};
use crate::sample::{Preference, Sample};
use crate::sources::Source;

fn load(records: &[Value], edit: impl FnOnce(&mut DataConfig)) -> crate::Result<Dataset> {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    let mut config = DataConfig::new("x.jsonl");
    edit(&mut config);
    let source = Source::Memory {
        name: "x.jsonl",
        bytes: text.as_bytes(),
    };
    load_source(source, &config, &templated("smollm2.jinja"))
}

fn one(record: Value) -> (String, Sample) {
    let data = load(&[record], |_| {}).unwrap();
    (data.format.as_str().to_owned(), data.samples[0].clone())
}

fn error(record: Value) -> String {
    load(&[record], |_| {}).unwrap_err().to_string()
}

/// Prompt and answer as text.
fn parts(sample: &Sample) -> (String, String) {
    let text = |ids: &[u32]| templated("smollm2.jinja").decode(ids, false);
    (text(sample.prompt()), text(sample.answer()))
}

const TURN: &str = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn every_shape_of_a_pair_gives_the_same_two_answers() {
    let (user, good, bad) = (
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": "Yes."}),
        json!({"role": "assistant", "content": "No."}),
    );
    for record in [
        json!({"prompt": [user], "chosen": [good], "rejected": [bad]}),
        json!({"chosen": [user, good], "rejected": [user, bad]}),
        json!({"messages": [user], "chosen": good, "rejected": bad}),
        json!({"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Yes."},
               "rejected": {"from": "gpt", "value": "No."}}),
        json!({"prompt": [user], "chosen": "Yes.", "rejected": "No."}),
    ] {
        let (format, sample) = one(record.clone());
        assert_eq!(format, "preference", "{record}");
        let rejected = sample.rejected().unwrap();
        assert_eq!(parts(&sample), (TURN.into(), "Yes.<|im_end|>".into()), "{record}");
        assert_eq!(parts(rejected), (TURN.into(), "No.<|im_end|>".into()), "{record}");
    }
    let (_, sample) = one(json!({"prompt": "Q: hi\nA:", "chosen": " yes", "rejected": " no"}));
    let eos = templated("smollm2.jinja").decode(&[templated("smollm2.jinja").eos_id().unwrap()], false);
    assert_eq!(parts(&sample), ("Q: hi\nA:".into(), format!(" yes{eos}")));
    assert_eq!(parts(sample.rejected().unwrap()).1, format!(" no{eos}"));
    let (_, implicit) = one(json!({"chosen": "Q: hi\nA: yes", "rejected": "Q: hi\nA: no"}));
    assert_eq!(implicit, sample, "the prompt is what both begin with");
}

#[test]
fn ratings_come_with_conversations_and_with_completions() {
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]);
    for (label, good) in [
        (json!(true), true),
        (json!(false), false),
        (json!(1), true),
        (json!(0), false),
        (json!("False"), false),
    ] {
        for record in [
            json!({"messages": chat, "label": label}),
            json!({"messages": chat, "kto_tag": label}),
            json!({"prompt": [chat[0]], "completion": [chat[1]], "label": label}),
        ] {
            let (format, sample) = one(record.clone());
            assert_eq!(format, "unpaired-preference", "{record}");
            assert_eq!(sample.preference, Preference::Rated(good), "{record}");
            assert_eq!(parts(&sample), (TURN.into(), "No.<|im_end|>".into()), "{record}");
        }
    }
    let (_, sample) = one(json!({"prompt": "Q", "completion": " no", "label": false}));
    assert_eq!(sample.preference, Preference::Rated(false));
    let data = load(&[json!({"messages": chat, "label": true})], |_| {}).unwrap();
    assert_eq!(data.format.examples(), Examples::Rated);
    let wrong = error(json!({"messages": chat, "label": "good"}));
    assert!(wrong.contains("`label` should be true or false"), "{wrong}");
}

#[test]
fn pairs_that_say_nothing_are_named() {
    for (record, expected) in [
        (
            json!({"prompt": "Q", "chosen": "a", "rejected": ""}),
            "x.jsonl:1: `rejected` is empty",
        ),
        (
            json!({"prompt": "Q", "chosen": null, "rejected": "a"}),
            "`chosen` is empty",
        ),
        (json!({"prompt": "Q", "chosen": "a", "rejected": "a"}), "are the same"),
        (
            json!({"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}),
            "part at message 1",
        ),
        (
            json!({"prompt": "Q", "chosen": 3, "rejected": "a"}),
            "`chosen` should be text or messages",
        ),
    ] {
        let text = error(record);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn both_answers_obey_the_longest_length() {
    let long = json!({"prompt": "Q", "chosen": " a", "rejected": " no".repeat(40)});
    let with = |overlong| {
        load(
            &[json!({"prompt": "Q", "chosen": " a", "rejected": " b"}), long.clone()],
            |c| {
                c.max_length = 8;
                c.overlong = overlong;
            },
        )
    };
    let cut = with(Overlong::Truncate).unwrap();
    assert_eq!((cut.samples.len(), cut.samples[1].width()), (2, 8));
    assert_eq!(cut.statistics.counts.truncated, 1);
    assert_eq!(with(Overlong::Drop).unwrap().samples.len(), 1);
    let text = with(Overlong::Error).unwrap_err().to_string();
    assert!(
        text.contains("x.jsonl:2") && text.contains("data.max_length is 8"),
        "{text}"
    );
    let text = with(Overlong::Split).unwrap_err().to_string();
    assert!(text.contains("data.overlong"), "{text}");
}

#[test]
fn what_is_not_all_to_be_learned_is_not_taken_for_a_chat() {
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]);
    for (record, expected) in [
        (
            json!({"messages": chat, "score": 0.2}),
            "`score` stands beside `messages`: name data.format",
        ),
        (json!({"messages": chat, "chosen": "a"}), "there is no `rejected`"),
        (
            json!({"prompt": "Q", "completion": "a", "rating": 5}),
            "`rating` stands beside `completion`",
        ),
    ] {
        let text = error(record);
        assert!(text.contains(expected), "{text}");
    }
    let named = |record: Value| load(&[record], |c| c.format = Some("chat".parse().unwrap()));
    assert_eq!(named(json!({"messages": chat, "score": 0.2})).unwrap().samples.len(), 1);
    assert_eq!(
        named(json!({"messages": chat, "label": true})).unwrap().samples.len(),
        1
    );
    let text = named(json!({"messages": chat, "label": false}))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`label` is false") && text.contains("unpaired-preference"),
        "{text}"
    );
}

#[test]
fn answers_that_are_marked_as_context_are_not_learned() {
    for mark in [json!({"weight": 0}), json!({"train": false}), json!({"loss": false})] {
        let mut first = json!({"role": "assistant", "content": "No."});
        first.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
        let record = json!({"messages": [
            {"role": "user", "content": "Hi"}, first,
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes.", "weight": 1},
        ]});
        let (_, sample) = one(record);
        assert_eq!(sample.runs().count(), 1, "{mark}");
        assert_eq!(parts(&sample).1, "Yes.<|im_end|>", "{mark}");
    }
    let user = json!({"role": "user", "content": "Hi"});
    let text = error(json!({"messages": [user, {"role": "assistant", "content": "a", "weight": 0}]}));
    assert!(text.contains("marked as context"), "{text}");
    let text = error(json!({"messages": [user, {"role": "assistant", "content": "a", "weight": 0.5}]}));
    assert!(text.contains("message 2: `weight` is 0.5"), "{text}");
}

#[test]
fn a_bad_answer_is_not_learned_however_that_is_written() {
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]);
    for (format, mut record) in [
        ("chat", json!({"messages": chat})),
        ("prompt-completion", json!({"prompt": "Hi", "completion": "No."})),
        ("instruct", json!({"instruction": "Hi", "output": "No."})),
    ] {
        for column in ["label", "kto_tag"] {
            for bad in [json!(false), json!(0), json!(0.0), json!("False"), json!("0")] {
                record[column] = bad.clone();
                let text = load(&[record.clone()], |c| c.format = Some(format.parse().unwrap()))
                    .unwrap_err()
                    .to_string();
                assert!(text.contains(&format!("`{column}` is {bad}")), "{text}");
                record.as_object_mut().unwrap().remove(column);
            }
        }
    }
}

#[test]
fn judgements_that_are_not_made_do_not_count() {
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]);
    let nothing = json!({"messages": chat, "label": null, "score": null, "chosen": null, "rejected": null});
    assert_eq!(one(nothing).0, "chat");
    assert_eq!(
        one(json!({"text": "a b", "label": 0, "score": 2.5})).0,
        "text",
        "a class of a text is no judgement"
    );
}

#[test]
fn a_cut_that_makes_answers_equal_leaves_no_pair() {
    let long = " no".repeat(20);
    let record = json!({"prompt": "Q", "chosen": format!("{long} a"), "rejected": format!("{long} b")});
    let short = json!({"prompt": "Q", "chosen": " a", "rejected": " b"});
    let data = load(&[short, record], |c| c.max_length = 8).unwrap();
    let counts = data.statistics.counts;
    assert_eq!((data.samples.len(), counts.truncated, counts.emptied), (1, 0, 1));
}

#[test]
fn statistics_show_the_longer_side() {
    let data = load(
        &[json!({"prompt": "Q", "chosen": " a", "rejected": " no".repeat(40)})],
        |_| {},
    )
    .unwrap();
    let s = &data.statistics;
    assert_eq!(s.longest, data.samples[0].width());
    assert!(s.histogram.last().unwrap().up_to >= s.longest);
}
