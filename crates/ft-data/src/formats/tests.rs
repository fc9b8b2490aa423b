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
        .samples(&Record(record.as_object().unwrap().clone()), tokenizer)
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
            if sample.learn[i] {
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
    assert_eq!(s.learned(), s.len() - 1);
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
    assert_eq!((s.ids[0], s.learn[0], s.learn[1]), (1, false, true));
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
fn chat_token_by_token() {
    let t = chatml();
    let messages = json!([{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Be brief."}]);
    let s = sample("chat", json!({"messages": messages}), &t);
    let expected = [
        "<|im_start|>",
        "user",
        "\n",
        "Hello",
        "!",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant",
        "\n",
        "[Be]",
        "[ brief]",
        "[.]",
        "[<|im_end|>]",
        "\n",
    ];
    assert_eq!(tokens(&s, &t).concat(), expected.concat());
    assert_eq!(
        s.ids.iter().filter(|&&id| id == 1).count(),
        2,
        "no BOS beyond those of the template"
    );
}

#[test]
fn chat_on_real_templates() {
    let messages = json!([
        {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Eins."},
        {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Zwei 🙂"},
    ]);
    let learn = |template: &str| {
        let t = templated(template);
        joined(&sample("chat", json!({"messages": messages}), &t), &t)
    };
    assert_eq!(
        learn("minimind2.jinja"),
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n\
         «Eins.<|im_end|>»\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n«Zwei 🙂<|im_end|>»\n"
    );
    assert_eq!(
        learn("smollm2.jinja"),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n«Eins.<|im_end|>»\n\
         <|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n«Zwei 🙂<|im_end|>»\n"
    );
    assert_eq!(learn("inst.jinja").matches("« Eins. <|im_end|>»").count(), 1);
    assert_eq!(
        learn("tagged.jinja").matches("«Zwei 🙂<|im_end|>\n»").count(),
        1,
        "tags are taken as they are"
    );
    assert_eq!(
        learn("plain.jinja"),
        "USER: One?\nASSISTANT:« Eins.\n»USER: Two?\nASSISTANT:« Zwei 🙂\n<|im_end|>»",
        "answers without an end of their own get EOS"
    );
}

#[test]
fn a_token_never_reaches_across_the_start_of_an_answer() {
    let t = chatml();
    // "\n" of the header and the newlines of the content would merge into one token if tokenized together.
    for content in ["\nBe", "\n\n\nBe", "  Be", "\r\nBe"] {
        let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]);
        let s = sample("chat", json!({"messages": messages}), &t);
        let prompt = t.encode_chat(&crate::Conversation::new().with("user", "Hi")).unwrap();
        assert_eq!(
            s.prompt(),
            prompt,
            "{content:?}: training must see the prompt that generation sees"
        );
        assert_eq!(t.decode(s.answer(), true), content);
    }
}

#[test]
fn whatever_is_said_the_answer_and_its_stop_are_learned() {
    // Contents made of what templates and tokenizers trip over, at the edges of turns most of all.
    const PIECES: &[&str] = &[
        "",
        " ",
        "\n",
        "\n\n",
        "  ",
        "The cook",
        "<|im_end|>",
        "<|im_start|>",
        "assistant\n",
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
        "{{ x }}",
        "{% if %}",
        "🙂",
        "é",
        "</think>",
        "<s>",
        "\u{200d}",
        "\t",
        "0",
        "\u{0}",
    ];
    let mut rng = crate::stream(11, "contents");
    let mut say = || -> String {
        (0..4)
            .map(|_| PIECES[crate::rng::below(&mut rng, PIECES.len())])
            .collect()
    };
    for template in [
        "smollm2.jinja",
        "qwen2_5.jinja",
        "minimind2.jinja",
        "no_prompt.jinja",
        "closing.jinja",
    ] {
        let t = templated(template);
        for _ in 0..100 {
            let (questions, answers) = ([say(), say()], [say(), say()]);
            let mut messages = vec![];
            for (question, answer) in questions.iter().zip(&answers) {
                messages.push(json!({"role": "user", "content": question}));
                messages.push(json!({"role": "assistant", "content": answer}));
            }
            let s = sample("chat", json!({"messages": messages}), &t);
            let learned: String = s.runs().map(|run| t.decode(&s.ids[run], false)).collect();
            let expected: String = answers.iter().map(|answer| format!("{answer}<|im_end|>")).collect();
            assert_eq!(learned, expected, "{template} {questions:?}");
        }
    }
}

#[test]
fn chat_shapes() {
    let t = templated("minimind2.jinja");
    let openai = sample(
        "chat",
        json!({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}),
        &t,
    );
    let sharegpt = json!([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]);
    assert_eq!(
        sample("chat", json!({"conversations": sharegpt, "system": "S"}), &t),
        openai
    );
    assert_eq!(
        sample(
            "chat",
            json!({"conversations": sharegpt.to_string(), "system": "S"}),
            &t
        ),
        openai,
        "JSON text in a CSV column"
    );
    assert_eq!(
        sample("chat", json!({"user": "Hi", "assistant": "Yes", "system": "S"}), &t),
        openai
    );
    let parts = json!([{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, {"role": "assistant", "content": "Yes"}]);
    assert_eq!(sample("chat", json!({"messages": parts}), &t), openai);
}

#[test]
fn sharegpt_tools() {
    let t = templated("minimind2.jinja");
    let record = json!({
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"Zürich\"}}"},
            {"from": "observation", "value": "{\"sky\": \"blue\"}"},
            {"from": "gpt", "value": "Blue."}
        ],
        "tools": "[{\"name\": \"weather\"}]"
    });
    let text = joined(&sample("chat", record, &t), &t);
    assert!(text.contains("<tools>\n{\"name\": \"weather\"}\n</tools>"), "{text}");
    assert!(text.contains("assistant\n«<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Zürich\"}}\n</tool_call><|im_end|>»\n"), "{text}");
    assert!(text.contains("<|im_start|>user\n<tool_response>\n{\"sky\": \"blue\"}\n</tool_response><|im_end|>\n<|im_start|>assistant\n«Blue.<|im_end|>»\n"), "{text}");
}

#[test]
fn unusable_conversations_say_which_message() {
    let error = |messages: Value| {
        samples("chat", json!({"messages": messages}), &chatml())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(json!([{"role": "user", "content": "Hi"}])),
        "nothing to learn: no message of the assistant"
    );
    assert_eq!(error(json!([])), "nothing to learn: no message of the assistant");
    assert!(
        error(json!([{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]))
            .starts_with("message 2: unknown role `bot`")
    );
    assert!(error(json!(["x"])).starts_with("message 1: expected an object, found text"));
    assert!(error(json!([{"content": "x"}])).starts_with("message 1: no `role`"));
    assert!(error(json!([{"role": "user"}])).starts_with("message 1: no `content`"));
    assert!(error(json!([{"role": "user", "content": [{"type": "image"}]}])).contains("\"image\" is not text"));
    assert!(error(json!([{"role": "user", "content": 3}])).contains("found a number"));
    let empty = samples("chat", json!({"user": "x", "assistant": ""}), &chatml()).unwrap_err();
    assert_eq!(empty.to_string(), "nothing to learn: the answer is empty");
    assert!(error(json!({"role": "user"})).contains("should be a list, found an object"));
    let error = samples(
        "chat",
        json!({"messages": [{"role": "assistant", "content": "x"}]}),
        &templated("inst.jinja"),
    )
    .unwrap_err();
    assert!(error.to_string().contains("roles must alternate"), "{error}");
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
    let detect = |names: &[&str]| FormatName::detect(names).map(|f| f.as_str());
    assert_eq!(detect(&["id", "messages"]), Some("chat"));
    assert_eq!(detect(&["conversations", "tools"]), Some("chat"));
    assert_eq!(detect(&["instruction", "input", "output"]), Some("instruct"));
    assert_eq!(detect(&["prompt", "completion"]), Some("prompt-completion"));
    assert_eq!(detect(&["text"]), Some("text"));
    assert_eq!(detect(&["mr", "ref"]), None);
    let names: Vec<_> = FormatName::all().map(|f| f.as_str()).collect();
    for name in &names {
        assert_eq!(name.parse::<FormatName>().unwrap().as_str(), *name);
    }
    assert_eq!(names.len(), 4);
}
