//! The built-in templates beside the official ones (`tests/fixtures/named_templates`), and what they refuse.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::named::{NAMED, template_names};
use super::*;
use crate::tokenizer::Tokenizer;

#[derive(Deserialize)]
struct Goldens {
    special: BTreeMap<String, String>,
    conversations: BTreeMap<String, Case>,
    goldens: Vec<Golden>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Value>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Golden {
    named: String,
    conversation: String,
    kwargs: Map<String, Value>,
    text: String,
    /// By the number of the answer that follows.
    prompts: BTreeMap<usize, String>,
}

impl Goldens {
    fn read() -> Goldens {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/named_templates/goldens.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn template(&self, name: &str, kwargs: &Map<String, Value>) -> ChatTemplate {
        let source = named_template(name).unwrap();
        ChatTemplate::new(source, &self.special).unwrap().with_kwargs(kwargs)
    }

    fn conversation(&self, golden: &Golden) -> Conversation {
        let case = &self.conversations[&golden.conversation];
        Conversation {
            messages: case.messages.clone(),
            tools: case.tools.clone(),
            documents: None,
        }
    }
}

/// Any will do: the marks say where answers lie.
fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
    Tokenizer::from_dir(folder.as_ref()).unwrap()
}

#[test]
fn built_in_templates_print_what_the_official_ones_print() {
    let goldens = Goldens::read();
    let mut differences = vec![];
    for golden in &goldens.goldens {
        let template = goldens.template(&golden.named, &golden.kwargs);
        let conversation = goldens.conversation(golden);
        let mut compare = |what: String, ours: Result<String, String>, expected: &String| {
            if ours.as_ref() != Ok(expected) {
                let (name, shape) = (&golden.named, &golden.conversation);
                differences.push(format!(
                    "{name}, {shape}, {what}\n  ours     {ours:?}\n  official {expected:?}"
                ));
            }
        };
        compare("text".into(), template.render(&conversation, false), &golden.text);
        for (answer, prompt) in &golden.prompts {
            let ours = template.render(&conversation.first(*answer), true);
            compare(format!("prompt {answer}"), ours, prompt);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let covered: Vec<_> = goldens.goldens.iter().map(|golden| golden.named.as_str()).collect();
    assert!(template_names().all(|name| covered.contains(&name)));
}

/// What is learned of an answer is what the model would write after the official prompt, its end included, and nothing else.
#[test]
fn what_is_learned_begins_where_generation_begins_and_ends_with_the_turn() {
    let goldens = Goldens::read();
    for golden in &goldens.goldens {
        let what = format!("{}, {}", golden.named, golden.conversation);
        let template = goldens.template(&golden.named, &golden.kwargs);
        let conversation = goldens.conversation(golden);
        let named = NAMED.iter().find(|named| named.name == golden.named).unwrap();
        let end = named.end.unwrap_or(&goldens.special["eos_token"]);
        let mut learned = 0;
        for (&answer, prompt) in &golden.prompts {
            let texts = render_turns(&template, &tokenizer(), &conversation, &[answer]).unwrap();
            let [Rendered { text, spans, .. }] = texts.as_slice() else {
                panic!("{what}: {texts:?}");
            };
            let [span] = spans.as_slice() else {
                panic!("{what}: {spans:?}");
            };
            // R1 opens the reasoning in its prompt, but stored answers without reasoning have none.
            let opened = golden.named == "deepseek-r1" && !text[..span.start].ends_with("<think>\n");
            let prompt = prompt.strip_suffix("<think>\n").filter(|_| opened).unwrap_or(prompt);
            assert_eq!(&text[..span.start], prompt, "{what}, answer {answer}");
            let message = &conversation.messages[answer];
            let called = message["tool_calls"].is_array();
            let end = if golden.named == "gpt-oss" && called {
                "<|call|>"
            } else {
                end
            };
            assert!(text[span.clone()].ends_with(end), "{what}: {:?}", &text[span.clone()]);
            assert!(text[span.end..].trim().is_empty(), "{what}: {:?}", &text[span.end..]);
            let said = message["content"]
                .as_str()
                .unwrap()
                .split("</think>")
                .last()
                .unwrap()
                .trim();
            assert!(text[span.clone()].contains(said), "{what}");
            learned += 1;
        }
        // All together: each answer once, in one text where the template does not rewrite earlier ones.
        let answers: Vec<usize> = golden.prompts.keys().copied().collect();
        let texts = render_turns(&template, &tokenizer(), &conversation, &answers).unwrap();
        assert_eq!(
            texts.iter().map(|text| text.spans.len()).sum::<usize>(),
            learned,
            "{what}"
        );
        assert_eq!(texts.last().unwrap().text, golden.text, "{what}");
    }
}

#[test]
fn a_template_that_hides_earlier_reasoning_makes_a_text_per_answer_and_others_make_one() {
    let goldens = Goldens::read();
    let texts = |name: &str, shape: &str| {
        let golden = goldens
            .goldens
            .iter()
            .find(|g| g.named == name && g.conversation == shape);
        let golden = golden.unwrap();
        let answers: Vec<usize> = golden.prompts.keys().copied().collect();
        let template = goldens.template(name, &golden.kwargs);
        render_turns(&template, &tokenizer(), &goldens.conversation(golden), &answers)
            .unwrap()
            .len()
    };
    assert_eq!(texts("qwen3", "reasoning"), 2);
    assert_eq!(texts("gpt-oss", "reasoning"), 2);
    assert_eq!(texts("mistral-v3", "system"), 2, "the system message moves");
    assert_eq!(texts("mistral-v3", "one"), 1);
    assert_eq!(texts("mistral-v7-tekken", "system"), 1);
    for name in [
        "chatml", "llama3", "llama3.1", "phi4", "zephyr", "gemma3", "qwen2.5", "smollm2",
    ] {
        assert_eq!(texts(name, "system"), 1, "{name}");
    }
}

#[test]
fn what_a_family_has_no_form_for_is_refused_in_words() {
    let goldens = Goldens::read();
    let error = |name: &str, messages: Value, tools: Option<Value>, documents: Option<Value>| {
        let conversation = Conversation {
            messages: messages.as_array().unwrap().clone(),
            tools,
            documents,
        };
        goldens
            .template(name, &Map::new())
            .render(&conversation, false)
            .unwrap_err()
    };
    let hello = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]);
    for name in template_names() {
        let told = error(name, hello.clone(), None, Some(json!([{"text": "x"}])));
        assert!(
            told.contains("it says: ") && told.contains("documents"),
            "{name}: {told}"
        );
    }
    let tools = Some(json!([{"type": "function", "function": {"name": "f"}}]));
    for name in [
        "chatml",
        "deepseek-r1",
        "deepseek-v3",
        "gemma3",
        "llama3",
        "phi4",
        "smollm2",
        "zephyr",
    ] {
        let told = error(name, hello.clone(), tools.clone(), None);
        assert!(told.contains(name) && told.contains("tools"), "{name}: {told}");
    }
    let call = json!({"function": {"name": "f", "arguments": {}}});
    let called = json!([hello[0], {"role": "assistant", "content": "", "tool_calls": [call]}]);
    for name in ["chatml", "deepseek-r1", "gemma3", "llama3", "phi4", "smollm2", "zephyr"] {
        let told = error(name, called.clone(), None, None);
        assert!(
            told.contains("tool calls") || told.contains("in turn"),
            "{name}: {told}"
        );
    }
    assert!(error("mistral-v3", called, None, None).contains("id of 9 characters"));
    let two = json!([hello[0], {"role": "assistant", "content": "", "tool_calls": [call, call]}]);
    for name in ["llama3.1", "llama3.2", "gpt-oss"] {
        assert!(error(name, two.clone(), None, None).contains("several calls"), "{name}");
    }
    let thought = json!([hello[0], {"role": "assistant", "content": "2", "reasoning": "Add."}]);
    for name in template_names().filter(|name| !["qwen3", "gpt-oss", "deepseek-r1"].contains(name)) {
        assert!(error(name, thought.clone(), None, None).contains("reason"), "{name}");
    }
    assert!(error("smollm3", hello.clone(), None, None).contains("enable_thinking = false"));
    let critic = json!([hello[0], {"role": "critic", "content": "no"}]);
    for name in template_names().filter(|name| !["chatml", "llama3", "llama3.1", "llama3.2", "smollm2"].contains(name))
    {
        let told = error(name, critic.clone(), None, None);
        assert!(
            told.contains("critic") || told.contains("in turn") || name.starts_with("smollm3"),
            "{name}: {told}"
        );
    }
    let nested = json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters":
        {"properties": {"x": {"type": "object", "properties": {"y": {"type": "string"}}}}}}}]);
    assert!(error("gpt-oss", hello, Some(nested), None).contains("objects without properties"));
}

#[test]
fn a_name_needs_a_tokenizer_that_has_its_end_of_turn() {
    assert!(tokenizer().with_named_template("chatml").is_ok());
    let error = |name: &str| tokenizer().with_named_template(name).unwrap_err().to_string();
    assert!(error("gemma3").contains("ends answers with <end_of_turn>, which this tokenizer does not have"));
    let told = error("qwen_3");
    assert!(
        told.starts_with("data.chat_template: qwen_3: no such file") && told.contains("did you mean `qwen3`?"),
        "{told}"
    );
    assert!(told.contains("smollm2, smollm3, zephyr"), "{told}");
}

#[test]
fn the_configuration_describes_every_name() {
    let schema = serde_json::to_value(schemars::schema_for!(crate::DataConfig)).unwrap();
    let told = schema["properties"]["chat_template"]["description"]
        .as_str()
        .unwrap()
        .to_owned();
    for name in template_names() {
        assert!(told.contains(&format!("\"{name}\"")), "{name}: {told}");
    }
    assert!(
        NAMED.windows(2).all(|pair| pair[0].name < pair[1].name),
        "in alphabetical order"
    );
}
