mod chat;
mod pairs;
mod preference;
mod tokens;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn chatml() -> Tokenizer {
    Tokenizer::from_dir(&fixtures().join("tokenizers/chatml")).unwrap()
}

fn llama() -> Tokenizer {
    Tokenizer::from_dir(&fixtures().join("tokenizers/llama")).unwrap()
}

fn templated(name: &str) -> Tokenizer {
    let source = std::fs::read_to_string(fixtures().join("chat_templates").join(name)).unwrap();
    chatml().with_chat_template(&source).unwrap()
}

fn samples(format: &str, record: Value, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
    let format: FormatName = format.parse().unwrap();
    format
        .format()
        .samples(&Record(record.as_object().unwrap().clone(), None), tokenizer)
}

fn sample(format: &str, record: Value, tokenizer: &Tokenizer) -> Sample {
    let mut samples = samples(format, record, tokenizer).unwrap();
    assert_eq!(samples.len(), 1);
    samples.remove(0)
}

/// Each token's text, learned ones in brackets.
fn tokens(sample: &Sample, tokenizer: &Tokenizer) -> Vec<String> {
    let text = |i: usize| tokenizer.decode(&sample.ids[i..=i], false);
    (0..sample.len())
        .map(|i| {
            if sample.learn()[i] {
                format!("[{}]", text(i))
            } else {
                text(i)
            }
        })
        .collect()
}

fn joined(sample: &Sample, tokenizer: &Tokenizer) -> String {
    let runs = crate::Preview::new(sample, tokenizer).runs();
    runs.into_iter()
        .map(|(learn, text)| if learn { format!("«{text}»") } else { text })
        .collect()
}

#[test]
fn text_learns_all_but_the_first_token_and_ends_in_eos() {
    let s = sample("text", json!({"text": "The cook."}), &llama());
    assert_eq!(s.ids[0], 1, "BOS by the post-processor");
    assert_eq!(s.ids.last(), Some(&2));
    assert_eq!(s.target_tokens(), s.len() - 1);
    let s = sample("text", json!({"text": "The cook.<|im_end|>"}), &chatml());
    assert_eq!(
        tokens(&s, &chatml()),
        ["The", "[ c]", "[oo]", "[k]", "[.]", "[<|im_end|>]"],
        "EOS is not doubled"
    );
    let twice = sample("text", json!({"text": "<s>x"}), &llama());
    assert_ne!(twice.ids[1], 1, "BOS is not doubled");
    assert!(samples("text", json!({"text": ""}), &llama()).is_err());
    assert_eq!(
        sample("text", json!({"text": 12}), &llama()),
        sample("text", json!({"text": "12"}), &llama())
    );
}

#[test]
fn prompt_and_completion_token_by_token() {
    let t = chatml();
    let s = sample(
        "prompt-completion",
        json!({"prompt": "The cook\n", "completion": " adds salt."}),
        &t,
    );
    let expected = "The| c|oo|k|\n|[ adds]|[ sal]|[t]|[.]|[<_im_end_>]";
    assert_eq!(tokens(&s, &t).join("|").replace("<|im_end|>", "<_im_end_>"), expected);
    let t = llama();
    let s = sample(
        "prompt-completion",
        json!({"prompt": "The cook", "completion": "adds salt.</s>"}),
        &t,
    );
    let prompt = t.encode("The cook", true).unwrap();
    assert_eq!(s.prompt(), prompt, "special tokens once, at the start");
    assert_eq!(
        s.answer(),
        t.encode("adds salt.</s>", false).unwrap(),
        "EOS is not doubled"
    );
    let bos_in_data = sample(
        "prompt-completion",
        json!({"prompt": "<s>The cook", "completion": "x"}),
        &t,
    );
    assert_eq!(bos_in_data.ids.iter().filter(|&&id| id == 1).count(), 1);
}

#[test]
fn an_empty_prompt_or_completion() {
    let t = llama();
    let s = sample("prompt-completion", json!({"prompt": null, "completion": "x"}), &t);
    assert_eq!((s.ids[0], s.learn()[0], s.learn()[1]), (1, false, true));
    let error = samples("prompt-completion", json!({"prompt": "x", "completion": ""}), &t).unwrap_err();
    assert_eq!(error.to_string(), "nothing to learn: the completion is empty");
    let error = samples("prompt-completion", json!({"prompt": "x", "answer": "y"}), &t).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no column `completion`; the columns are: prompt, answer"
    );
    let error = samples("prompt-completion", json!({"prompt": ["x"], "completion": "y"}), &t).unwrap_err();
    assert_eq!(error.to_string(), "`prompt` should be text, found a list");
}

#[test]
fn only_the_completion_of_a_conversational_prompt_is_learned() {
    for template in ["minimind2.jinja", "tagged.jinja", "inst.jinja"] {
        let t = templated(template);
        let record = json!({
            "prompt": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Eins."}, {"role": "user", "content": "Two?"}],
            "completion": [{"role": "assistant", "content": "Zwei."}]
        });
        let s = sample("prompt-completion", record, &t);
        assert_eq!(s.runs().count(), 1, "{template}");
        assert!(t.decode(s.answer(), true).trim().starts_with("Zwei."), "{template}");
    }
}

#[test]
fn instruct_with_and_without_a_template() {
    let record =
        json!({"instruction": "Translate.", "input": "one", "output": "eins", "system": "S", "history": [["a", "b"]]});
    let t = templated("minimind2.jinja");
    assert_eq!(
        joined(&sample("instruct", record.clone(), &t), &t),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n«b<|im_end|>»\n\
         <|im_start|>user\nTranslate.\none<|im_end|>\n<|im_start|>assistant\n«eins<|im_end|>»\n"
    );
    let t = llama();
    let s = sample(
        "instruct",
        json!({"instruction": "Translate.", "input": "", "output": "eins"}),
        &t,
    );
    assert_eq!(
        s.prompt(),
        t.encode("### Instruction:\nTranslate.\n\n### Response:\n", true)
            .unwrap()
    );
    assert_eq!(s.answer(), [t.encode("eins", false).unwrap(), vec![2]].concat());
    let s = sample("instruct", record, &t);
    let prompt = "### System:\nS\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nTranslate.\n\n### Input:\none\n\n### Response:\n";
    assert_eq!(s.prompt(), t.encode(prompt, true).unwrap());
    assert!(samples("instruct", json!({"instruction": "x", "output": ""}), &t).is_err());
    assert!(
        samples(
            "instruct",
            json!({"instruction": "x", "output": "y", "history": [["a"]]}),
            &t
        )
        .is_err()
    );
}

#[test]
fn formats_need_what_they_need() {
    let check = |format: &str, t: &Tokenizer| {
        format
            .parse::<FormatName>()
            .unwrap()
            .format()
            .check(t)
            .map_err(|e| e.to_string())
    };
    assert!(check("chat", &llama()).unwrap_err().contains("data.chat_template"));
    assert!(check("chat", &chatml()).is_ok());
    let bytes = std::fs::read(fixtures().join("tokenizers/chatml/tokenizer.json")).unwrap();
    let no_eos = Tokenizer::from_memory(&[("tokenizer.json", &bytes)]).unwrap();
    assert!(check("prompt-completion", &no_eos).unwrap_err().contains("eos_token"));
    assert!(check("text", &no_eos).is_ok());
}

#[test]
fn formats_are_recognised_by_their_fields() {
    let detect = |names: &[&str]| FormatName::detect(names, false).map(|f| f.as_str());
    assert_eq!(detect(&["id", "messages"]), Some("chat"));
    assert_eq!(detect(&["conversations", "tools"]), Some("chat"));
    assert_eq!(detect(&["instruction", "input", "output"]), Some("instruct"));
    assert_eq!(detect(&["prompt", "completion"]), Some("prompt-completion"));
    assert_eq!(detect(&["text"]), Some("text"));
    assert_eq!(detect(&["prompt", "chosen", "rejected"]), Some("preference"));
    assert_eq!(detect(&["messages", "label"]), Some("unpaired-preference"));
    assert_eq!(detect(&["segments"]), Some("segments"));
    assert_eq!(detect(&["anchor", "positive"]), Some("text-pairs"));
    let answers = ["prompt", "completion", "input_ids", "labels"];
    assert_eq!(
        detect(&answers),
        Some("pre-tokenized"),
        "what `ft distill answers` writes"
    );
    assert_eq!(detect(&["mr", "ref"]), None);
    let names: Vec<_> = FormatName::all().map(|f| f.as_str()).collect();
    for name in &names {
        assert_eq!(name.parse::<FormatName>().unwrap().as_str(), *name);
    }
    assert_eq!(names.len(), 11);
}

#[test]
fn a_list_of_completions_is_a_sample_each() {
    let t = chatml();
    let record = json!({"prompt": "Q", "completion": ["a", 2]});
    let both = samples("prompt-completion", record, &t).unwrap();
    let texts: Vec<String> = both.iter().map(|s| joined(s, &t)).collect();
    let alone = |answer| {
        joined(
            &sample("prompt-completion", json!({"prompt": "Q", "completion": answer}), &t),
            &t,
        )
    };
    assert_eq!(texts, [alone("a"), alone("2")]);
    assert_eq!(both[0].prompt(), both[1].prompt());
    for (completion, reason) in [
        (json!([]), "empty list"),
        (json!(["a", ["b"]]), "`completion` should be text"),
    ] {
        let error = samples(
            "prompt-completion",
            json!({"prompt": "Q", "completion": completion}),
            &t,
        )
        .unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}
