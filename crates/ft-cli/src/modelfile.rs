//! Ollama's Modelfile (<https://docs.ollama.com/modelfile>) beside a GGUF file: template, stop texts, sampling.

use std::fmt::Write;

use ft_data::{Conversation, Tokenizer};
use ft_infer::GenerationConfig;
use serde_json::json;

/// The file for the model in `gguf`.
pub fn of(gguf: &str, tokenizer: &Tokenizer, settings: &GenerationConfig) -> String {
    let mut out = format!("FROM ./{gguf}\n");
    // A template that is not found out is left to Ollama, which knows many by the one in the GGUF file.
    if let Some(template) = template(tokenizer) {
        out += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
    }
    for id in &settings.eos_token_id {
        if let Some(stop) = tokenizer.id_to_token(*id) {
            out += &format!("PARAMETER stop {}\n", json!(stop));
        }
    }
    let sampled = |value: f64| if settings.do_sample { value } else { 0.0 };
    let mut parameter = |name: &str, value: f64| writeln!(out, "PARAMETER {name} {value}").expect("a text takes all");
    parameter("temperature", sampled(settings.temperature));
    if settings.do_sample {
        parameter("top_k", settings.top_k as f64);
        parameter("top_p", settings.top_p);
        parameter("min_p", settings.min_p);
    }
    parameter("repeat_penalty", settings.repetition_penalty);
    out
}

/// The chat template in Go's language, found by rendering conversations whose texts are marks. None where messages are more than their
/// text between two constant ones: a system message that is put into the first user's, or one that is there unasked.
fn template(tokenizer: &Tokenizer) -> Option<String> {
    const MARKS: [&str; 3] = ["\u{1}S\u{1}", "\u{1}U\u{1}", "\u{1}A\u{1}"];
    let [system, user, assistant] = MARKS;
    let source = tokenizer.chat_template()?;
    let bos = tokenizer
        .bos_id()
        .and_then(|id| tokenizer.id_to_token(id))
        .unwrap_or_default();
    let render = |messages: &[(&str, &str)]| -> Option<String> {
        let messages = messages
            .iter()
            .map(|(role, text)| json!({ "role": role, "content": text }));
        let conversation = Conversation {
            messages: messages.collect(),
            tools: None,
            documents: None,
        };
        let text = source.render(&conversation, true).ok()?;
        // Ollama adds it itself, as the GGUF file says.
        Some(text.strip_prefix(&bos).unwrap_or(&text).to_owned())
    };
    let alone = render(&[("user", user)])?;
    let (before_user, behind_user) = alone.split_once(user)?;
    let turns = render(&[("user", user), ("assistant", assistant), ("user", user)])?;
    let rest = turns
        .strip_prefix(before_user)?
        .strip_prefix(user)?
        .strip_prefix(behind_user)?;
    let behind_assistant = rest
        .strip_prefix(assistant)?
        .strip_suffix(behind_user)?
        .strip_suffix(user)?
        .strip_suffix(before_user)?;
    let mut blocks = vec![
        ("user", before_user.to_owned(), behind_user.to_owned()),
        ("assistant", String::new(), behind_assistant.to_owned()),
    ];
    let asked = render(&[("system", system), ("user", user)])?;
    let (before_system, rest) = asked.split_once(system)?;
    let behind_system = rest
        .strip_suffix(behind_user)?
        .strip_suffix(user)?
        .strip_suffix(before_user)?;
    blocks.insert(0, ("system", before_system.to_owned(), behind_system.to_owned()));
    let foreign = |text: &String| text.contains("{{") || text.contains("\"\"\"");
    if blocks
        .iter()
        .any(|(_, before, behind)| foreign(before) || foreign(behind))
    {
        return None;
    }
    let mut out = String::from("{{ range .Messages }}");
    for (i, (role, before, behind)) in blocks.iter().enumerate() {
        let word = if i == 0 { "if" } else { "else if" };
        out += &format!("{{{{ {word} eq .Role \"{role}\" }}}}{before}{{{{ .Content }}}}{behind}");
    }
    Some(out + "{{ end }}{{ end }}")
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;

    fn tokenizer(source: &str) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        ft_embedded::unpack(dir.path()).unwrap();
        Tokenizer::from_dir(dir.path())
            .unwrap()
            .with_chat_template(source)
            .unwrap()
    }

    #[test]
    fn a_template_of_constant_texts_is_found_out() {
        let zephyr = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
        let found = template(&tokenizer(zephyr)).unwrap();
        assert_eq!(
            found,
            "{{ range .Messages }}{{ if eq .Role \"system\" }}<|system|>\n{{ .Content }}</s>\n\
             {{ else if eq .Role \"user\" }}<|user|>\n{{ .Content }}</s>\n<|assistant|>\n\
             {{ else if eq .Role \"assistant\" }}{{ .Content }}</s>\n{{ end }}{{ end }}"
        );
    }

    #[test]
    fn what_is_more_than_that_is_left_to_ollama() {
        let unasked = "{% if messages[0].role != 'system' %}SYSTEM\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
        let joined = "{% for m in messages %}{% if m.role == 'system' %}{% set s = m.content %}{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}";
        let braces = "{% for m in messages %}{{ '{{' }}{{ m.content }}\n{% endfor %}";
        for source in [unasked, joined, braces] {
            assert_eq!(template(&tokenizer(source)), None, "{source}");
        }
    }

    #[test]
    fn stops_and_sampling_are_those_of_the_checkpoint() {
        let tokenizer = tokenizer("{{ messages[0].content }}");
        let stop = tokenizer.eos_ids()[0];
        let greedy = of("m.gguf", &tokenizer, &GenerationConfig::greedy(9, [stop]));
        let text = json!(tokenizer.id_to_token(stop).unwrap());
        assert_eq!(
            greedy,
            format!("FROM ./m.gguf\nPARAMETER stop {text}\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n")
        );
        let drawn = GenerationConfig {
            do_sample: true,
            temperature: 0.7,
            top_k: 20,
            ..GenerationConfig::greedy(9, [])
        };
        let drawn = of("m.gguf", &tokenizer, &drawn);
        assert!(
            drawn.contains("PARAMETER temperature 0.7\nPARAMETER top_k 20\n"),
            "{drawn}"
        );
    }
}
