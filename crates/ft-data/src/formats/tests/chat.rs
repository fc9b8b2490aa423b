//! Conversations.

use super::*;

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
    let mut say = || -> String { (0..4).map(|_| PIECES[ft_seed::below(&mut rng, PIECES.len())]).collect() };
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
