//! Records of preferences as data sets have them: what is the prompt, what is learned, and what is no pair at all.

use super::*;

/// Chosen and rejected, with what is learned between brackets.
fn shown(record: Value, tokenizer: &Tokenizer) -> [String; 2] {
    let pair = sample("preference", record, tokenizer);
    [&pair, pair.rejected().unwrap()].map(|side| joined(side, tokenizer))
}

fn flaw(format: &str, record: Value, tokenizer: &Tokenizer) -> String {
    match samples(format, record.clone(), tokenizer) {
        Ok(samples) => panic!("{record} is taken for {}", joined(&samples[0], tokenizer)),
        Err(flaw) => flaw.to_string(),
    }
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn the_prompt_of_whole_texts_ends_where_the_first_differing_word_begins() {
    let t = chatml();
    let cases = [
        // The example of TRL's documentation.
        ["The sky is", " blue.", " green."],
        ["\n\nHuman: Hi\n\nAssistant:", " I'm fine.", " I'd go."],
        ["\n\nHuman: Hi\n\nAssistant: I", " am fine.", " do."],
        // Within a word, and where one answer is the beginning of the other.
        ["A blue", " black sky", " blank sky"],
        ["Q: 1\nA:", " yes", " yes, sure"],
        // Only a space belongs to the word after it.
        ["Answer:\n", "Yes", "No"],
        ["Answer:\n\n ", " Yes", " No"],
        ["Zürich", " schön", " schräg"],
        ["One", " two", "\nthree"],
    ];
    for [prompt, chosen, rejected] in cases {
        let whole = json!({"chosen": format!("{prompt}{chosen}"), "rejected": format!("{prompt}{rejected}")});
        let apart = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        assert_eq!(shown(whole, &t), shown(apart, &t), "{prompt:?}");
    }
}

#[test]
fn texts_without_a_common_beginning_need_a_prompt() {
    let t = llama();
    for (chosen, rejected) in [("Yes", "No"), ("Great", "Good"), (" Yes", " No"), ("好的", "好吧")] {
        let error = flaw("preference", json!({"chosen": chosen, "rejected": rejected}), &t);
        assert!(error.contains("`prompt`"), "{error}");
        let unconditional = json!({"prompt": "", "chosen": chosen, "rejected": rejected});
        let pair = sample("preference", unconditional, &t);
        assert_eq!(pair.prompt(), [1], "nothing but BOS");
    }
}

#[test]
fn every_conversational_shape_gives_the_same_pair() {
    let t = templated("minimind2.jinja");
    let (system, question) = (turn("system", "S"), turn("user", "Two?"));
    let (good, bad) = (turn("assistant", "Zwei."), turn("assistant", "Drei."));
    let sharegpt = json!([{"from": "system", "value": "S"}, {"from": "human", "value": "Two?"}]);
    let head = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n";
    let expected = ["Zwei.", "Drei."].map(|answer| format!("{head}«{answer}<|im_end|>»\n"));
    let whole = [json!([system, question, good]), json!([system, question, bad])];
    let shapes = [
        json!({"prompt": [system, question], "chosen": [good], "rejected": [bad]}),
        json!({"prompt": [system, question], "chosen": "Zwei.", "rejected": "Drei."}),
        json!({"prompt": [question], "system": "S", "chosen": good, "rejected": bad}),
        json!({"prompt": "Two?", "system": "S", "chosen": [good], "rejected": [bad]}),
        json!({"messages": [system, question], "chosen": good, "rejected": bad}),
        json!({"conversations": sharegpt, "chosen": {"from": "gpt", "value": "Zwei."}, "rejected": {"from": "gpt", "value": "Drei."}}),
        json!({"instruction": "Two?", "input": "", "system": "S", "chosen": "Zwei.", "rejected": "Drei."}),
        json!({"instruction": "Two?", "system": "S", "chosen": [good], "rejected": [bad]}),
        json!({"chosen": whole[0], "rejected": whole[1]}),
        json!({"chosen": [question, good], "rejected": [question, bad], "system": "S"}),
        json!({"chosen": {"messages": whole[0]}, "rejected": {"messages": whole[1]}}),
        json!({"chosen": whole[0].to_string(), "rejected": whole[1].to_string()}),
        // UltraFeedback, binarized: the question, both conversations, and the chosen one once more.
        json!({"prompt": "Two?", "chosen": whole[0], "rejected": whole[1], "messages": whole[0], "score_chosen": 8.0}),
        json!({"prompt": [system, question], "chosen": whole[0], "rejected": whole[1]}),
        json!({"prompt": [system], "chosen": [question, good], "rejected": [question, bad]}),
        json!({"messages": whole[0], "chosen": whole[0], "rejected": whole[1]}),
    ];
    let wrong = shapes.iter().filter(|shape| {
        let pair = samples("preference", (*shape).clone(), &t);
        pair.is_err() || shown((*shape).clone(), &t) != expected
    });
    let wrong: Vec<String> = wrong.map(Value::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_what_differs_in_a_longer_conversation_is_learned() {
    let before = [turn("user", "One?"), turn("assistant", "Eins."), turn("user", "Two?")];
    let whole = |last: &str| [&before[..], &[turn("assistant", last)]].concat();
    for template in ["minimind2.jinja", "tagged.jinja", "inst.jinja", "reasoning.jinja"] {
        let t = templated(template);
        let record = json!({"chosen": whole("Zwei."), "rejected": whole("Drei und mehr.")});
        let pair = sample("preference", record, &t);
        for (side, answer) in pair.sequences().zip(["Zwei.", "Drei und mehr."]) {
            assert_eq!(side.runs().count(), 1, "{template}");
            assert!(t.decode(side.answer(), true).trim().ends_with(answer), "{template}");
        }
        assert_eq!(pair.prompt(), pair.rejected().unwrap().prompt(), "{template}");
    }
}

#[test]
fn an_instruction_is_asked_as_the_instruct_format_asks_it() {
    for t in [llama(), templated("minimind2.jinja")] {
        let question = json!({"instruction": "Translate.", "input": "two", "system": "S", "history": [["a", "b"]]});
        let with = |fields: Value| {
            let mut record = question.clone();
            record
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            record
        };
        let good = sample("instruct", with(json!({"output": "zwei"})), &t);
        let pair = sample("preference", with(json!({"chosen": "zwei", "rejected": "drei"})), &t);
        let rated = sample(
            "unpaired-preference",
            with(json!({"output": "zwei", "kto_tag": true})),
            &t,
        );
        assert_eq!(
            (&pair.ids, pair.runs().count()),
            (&good.ids, 1),
            "answers in the history are context"
        );
        assert_eq!((&rated.ids, rated.runs().count()), (&good.ids, 1));
    }
}

#[test]
fn answers_to_different_prompts_are_no_pair() {
    let t = templated("minimind2.jinja");
    let (hi, ho) = (turn("user", "Hi"), turn("user", "Ho"));
    let (yes, no) = (turn("assistant", "Yes"), turn("assistant", "No"));
    let cases = [
        (json!({"chosen": [hi, yes], "rejected": [ho, no]}), "message 1"),
        (
            json!({"chosen": [hi, yes, hi, no], "rejected": [hi, yes, ho, no]}),
            "message 3",
        ),
        (
            json!({"chosen": [turn("system", "S"), hi, yes], "rejected": [turn("system", "S"), ho, no]}),
            "message 2",
        ),
        (
            json!({"chosen": [hi, yes, ho], "rejected": [hi, yes, ho, no]}),
            "message 3",
        ),
        (json!({"chosen": [yes], "rejected": [no]}), "no prompt"),
        (
            json!({"prompt": [hi], "chosen": [hi, yes], "rejected": [no]}),
            "a whole conversation",
        ),
        (
            json!({"prompt": "Ho", "chosen": [hi, yes], "rejected": [hi, no]}),
            "do not begin with",
        ),
        (
            json!({"prompt": [ho], "chosen": [hi, yes], "rejected": [hi, no]}),
            "do not begin with",
        ),
        (
            json!({"prompt": "Ho", "system": "S", "chosen": " a", "rejected": " b"}),
            "`system`",
        ),
    ];
    for (record, expected) in cases {
        let error = flaw("preference", record, &t);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_answer_without_words_is_empty() {
    let t = templated("minimind2.jinja");
    for empty in [
        json!(""),
        json!(null),
        json!([]),
        json!(turn("assistant", "")),
        json!([turn("assistant", "")]),
    ] {
        let record = json!({"prompt": [turn("user", "a")], "chosen": [turn("assistant", "b")], "rejected": empty});
        let error = flaw("preference", record, &t);
        assert!(error.contains("`rejected` is empty"), "{error}");
    }
}

#[test]
fn rated_answers_are_read_as_the_format_beneath_says() {
    let t = templated("minimind2.jinja");
    let turns = json!([turn("user", "Hi"), turn("assistant", "Yes")]);
    let sharegpt = json!([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]);
    let cases = [
        ("prompt-completion", json!({"prompt": "Hi", "completion": " Yes"})),
        ("prompt-completion", json!({"prompt": null, "completion": "Yes"})),
        (
            "prompt-completion",
            json!({"prompt": [turns[0]], "completion": [turns[1]]}),
        ),
        ("chat", json!({"messages": turns})),
        ("chat", json!({"conversations": sharegpt, "system": "S"})),
        ("chat", json!({"user": "Hi", "assistant": "Yes"})),
        (
            "instruct",
            json!({"instruction": "Say", "input": "yes", "output": "Yes"}),
        ),
    ];
    for (format, record) in cases {
        let plain = sample(format, record.clone(), &t);
        for column in ["label", "kto_tag"] {
            let mut record = record.clone();
            record[column] = json!(" False ");
            let names: Vec<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(
                FormatName::detect(&names, false).unwrap().as_str(),
                "unpaired-preference",
                "{record}"
            );
            assert_eq!(
                sample("unpaired-preference", record, &t),
                plain.clone().rated(false),
                "{format} {column}"
            );
        }
    }
}

#[test]
fn switches_may_be_numbers_or_booleans() {
    let t = templated("minimind2.jinja");
    for off in [
        json!({"weight": 0}),
        json!({"weight": false}),
        json!({"train": 0}),
        json!({"loss": "false"}),
    ] {
        let mut first = turn("assistant", "No.");
        first.as_object_mut().unwrap().extend(off.as_object().unwrap().clone());
        let record = json!({"messages": [turn("user", "Hi"), first, turn("user", "Hi"), turn("assistant", "Yes.")]});
        assert_eq!(sample("chat", record, &t).runs().count(), 1, "{off}");
    }
    let maybe = json!({"role": "assistant", "content": "x", "train": "maybe"});
    let error = flaw("chat", json!({"messages": [turn("user", "Hi"), maybe]}), &t);
    assert!(error.starts_with("message 2: `train` is \"maybe\""), "{error}");
}

const KEYS: [&str; 19] = [
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "messages",
    "conversations",
    "label",
    "kto_tag",
    "score",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "tools",
    "text",
    "user",
    "assistant",
    "other",
];

#[test]
fn records_at_random_are_samples_or_flaws_but_never_panics() {
    let mut rng = crate::stream(5, "records");
    let mut below = |n| ft_seed::below(&mut rng, n);
    let tokenizers = [templated("minimind2.jinja"), templated("tagged.jinja"), llama()];
    let mut usable = 0;
    for _ in 0..6000 {
        let mut record = serde_json::Map::new();
        for _ in 0..1 + below(4) {
            record.insert(KEYS[below(KEYS.len())].into(), value(&mut below, 3));
        }
        if below(2) == 0 {
            record.insert("chosen".into(), value(&mut below, 3));
            record.insert("rejected".into(), value(&mut below, 3));
        }
        let t = &tokenizers[below(tokenizers.len())];
        for format in FormatName::all() {
            let result = format.format().samples(&Record(record.clone(), None), t);
            let checked = |s: &Sample| s.sequences().all(|side| side.ids.len() == side.learn().len());
            assert!(result.iter().flatten().all(checked));
            usable += result.map_or(0, |samples| samples.len());
        }
    }
    assert!(usable > 200, "the records are not all hopeless: {usable}");
}

fn value(below: &mut impl FnMut(usize) -> usize, depth: usize) -> Value {
    const TEXTS: [&str; 8] = [
        "a b",
        "a c",
        "",
        " ",
        "[",
        "[{\"role\": \"user\"}]",
        "false",
        "好\u{200d}",
    ];
    const ROLES: [&str; 7] = ["user", "assistant", "human", "gpt", "function_call", "system", "bot"];
    match below(if depth == 0 { 4 } else { 9 }) {
        0 => Value::Null,
        1 => json!(below(2) == 0),
        2 => json!(below(3)),
        3 => json!(TEXTS[below(TEXTS.len())]),
        4 | 5 => (0..below(4)).map(|_| value(below, depth - 1)).collect(),
        6 => json!({KEYS[below(KEYS.len())]: value(below, depth - 1)}),
        7 => json!({"role": ROLES[below(ROLES.len())], "content": value(below, 0), "weight": value(below, 0)}),
        // Whole conversations, so that some records go all the way.
        _ => {
            let said = |i: usize, text: &str| json!({"role": (["user", "assistant"][i % 2]), "content": text});
            (0..1 + below(4)).map(|i| said(i, TEXTS[below(3)])).collect()
        }
    }
}
