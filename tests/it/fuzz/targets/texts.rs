//! What people write: tokenizers, templates, settings, data.

use std::fs;
use std::path::{Path, PathBuf};

use ft_data::named_template as named_template_source;
use ft_data::{ChatTemplate, Conversation, DataConfig, FormatName, Source, Tokenizer, load_source, template_names};
use ft_infer::GenerationConfig;
use ft_seed::below;
use ft_train::RunConfig;

use super::{Bench, folders, pick, read, words};
use crate::fuzz::mutate;
use crate::support::fixture;

pub fn tokenizer() -> Bench {
    let seeds = folders("tokenizers", "tokenizer.json");
    let names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    let load = |dir: &PathBuf| -> Vec<(&str, Vec<u8>)> {
        let there = names.into_iter().filter(|name| dir.join(name).is_file());
        there.map(|name| (name, read(&dir.join(name)))).collect()
    };
    let seeds: Vec<_> = seeds.iter().map(load).collect();
    Box::new(move |rng| {
        let mut files = pick(rng, &seeds).clone();
        let at = below(rng, files.len());
        files[at].1 = mutate::json(rng, &files[at].1);
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let tokenizer = Tokenizer::from_memory(&files).map_err(words)?;
        let ids = tokenizer
            .encode("The word <s> for\t\u{1f980} is 12 \u{5d0}\0.", true)
            .map_err(words)?;
        tokenizer.decode(&ids, below(rng, 2) == 0);
        let mut stream = tokenizer.text_stream(false);
        ids.iter().for_each(|id| drop(stream.push(*id)));
        // Few tokenizers have a name in llama.cpp.
        let _ = tokenizer.gguf(tokenizer.vocab_size());
        Ok(())
    })
}

pub fn chat_template() -> Bench {
    const WORDS: &[&str] = &[
        "{% for x in range(1000000000) %}{{ x }}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 100000000000 }}",
        "{{ 'x' * 90000000 * 90000000 }}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ 'ab'.replace('', 'x' * 1000000) }}",
        "{{ messages | tojson(indent=100000000) }}",
        "{{ [messages] * 1000000 | length }}",
        "{{ messages[99999999999999999999] }}",
        "{{ 1 // 0 }}",
        "{{ 2 ** 100000 }}",
        "{{ -9223372036854775808 // -1 }}",
        "{{ messages[0].content[5:-900000000000:-1] }}",
        "{% generation %}",
        "{% endgeneration %}",
        "{% endif %}",
        "{% break %}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%') }}",
        "{{ strftime_now('%Q%999999999d') }}",
        "{{ messages[0]['content'].split('') }}",
        "{{ messages[0].content.strip().title().partition('a')[2].center(999999999) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'a' | indent(2000000000) }}",
        "{{ (",
        "{{",
        "{%",
        "-%}",
        " ",
    ];
    let entries = fs::read_dir(fixture("chat_templates")).unwrap().flatten();
    let mut seeds: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    seeds.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| read(path)).collect();
    let folder = fixture("tokenizers/chatml");
    let plain = Tokenizer::from_dir(&folder).unwrap();
    Box::new(move |rng| {
        let seed: &Vec<u8> = pick(rng, &seeds);
        let source = mutate::lines(rng, seed, WORDS);
        let source = String::from_utf8_lossy(&source);
        let tokenizer = plain.clone().with_chat_template(&source).map_err(words)?;
        let conversation = Conversation::new()
            .with("system", "Be short.")
            .with("user", "What is 1 + 1?")
            .with("assistant", "2.");
        tokenizer.encode_chat(&conversation).map(drop).map_err(words)?;
        let line = serde_json::json!({"messages": conversation.messages}).to_string();
        let source = Source::Memory {
            name: "chat.jsonl",
            bytes: line.as_bytes(),
        };
        let samples = load_source(source, &DataConfig::new("chat.jsonl"), &tokenizer).map_err(words)?;
        assert_eq!(samples.samples.len(), 1, "wrong success");
        Ok(())
    })
}

/// Conversations that no built-in template was made for.
pub fn named_template() -> Bench {
    const SEED: &[u8] = br#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f",
        "arguments": {"x": [1, 2.5e-7, null]}}}]}, {"role": "tool", "content": "t", "tool_call_id": "abcdefghi"}, {"role": "assistant", "content": "b"}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties":
        {"x": {"type": "array", "items": {"type": "number"}, "default": [1]}}, "required": ["x"]}}}], "documents": []}"#;
    let specials = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let templates: Vec<ChatTemplate> = template_names()
        .map(|name| ChatTemplate::new(named_template_source(name).unwrap(), &specials.clone().into()).unwrap())
        .collect();
    Box::new(move |rng| {
        let text = mutate::json(rng, SEED);
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(words)?;
        let given = |name: &str| value.get(name).filter(|v| !v.is_null()).cloned();
        let conversation = Conversation {
            messages: value["messages"].as_array().cloned().unwrap_or_default(),
            tools: given("tools"),
            documents: given("documents").filter(|documents| documents != &serde_json::json!([])),
        };
        pick(rng, &templates)
            .render(&conversation, below(rng, 2) == 0)
            .map(drop)
    })
}

pub fn run_config() -> Bench {
    const WORDS: &[&str] = &[
        "[",
        "]",
        "[[task]]\n",
        "\"",
        "'''",
        "=",
        "nan",
        "inf",
        "-1",
        "1e400",
        "0x7fffffffffffffff",
        "true",
        "[[[[",
        "{a={a={",
        "train.steps = 1\n",
        "extends = \"x\"\n",
        "9999-99-99",
        "\\u0000",
        "#",
        "\n",
        "rank",
        "a.b.c.d.e.",
        "1979-05-27T07:32:00Z",
    ];
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seeds: Vec<PathBuf> = fs::read_dir(&configs).unwrap().flatten().map(|e| e.path()).collect();
    seeds.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| read(path)).collect();
    Box::new(move |rng| {
        let seed: &Vec<u8> = pick(rng, &seeds);
        let text = mutate::lines(rng, seed, WORDS);
        let text = String::from_utf8(text).map_err(words)?;
        let config = RunConfig::parse(&configs.join("fuzz.toml"), text, &[]).map_err(words)?;
        // What is written of a configuration is a configuration.
        let written = config.to_toml(None);
        let again = RunConfig::parse(&configs.join("fuzz.toml"), written.clone(), &[]);
        let again = again.unwrap_or_else(|e| panic!("wrong success: {e}"));
        assert_eq!(again.to_toml(None), written, "wrong success");
        Ok(())
    })
}

pub fn data() -> Bench {
    const WORDS: &[&str] = &[
        "\"",
        "\"\"",
        ",",
        "{",
        "}",
        "[",
        "]",
        "null",
        "\\u0000",
        "\\ud800",
        "1e999",
        "\u{feff}",
        "\r",
        "\n",
        "\0",
        "true",
        ":",
        "\t",
        "\"label\": false",
        "\"messages\"",
        "<|im_start|>",
        "<|im_end|>",
    ];
    const SEEDS: &[(&str, &str)] = &[
        (
            "a.jsonl",
            "{\"prompt\": \"one\", \"completion\": \"two\"}\n{\"prompt\": \"three\", \"completion\": \"four\"}\n",
        ),
        (
            "b.jsonl",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"ho\"}]}\n",
        ),
        (
            "c.json",
            "[{\"instruction\": \"add\", \"input\": \"1 1\", \"output\": \"2\"},\n {\"instruction\": \"say\", \"output\": \"x\"}]",
        ),
        ("d.csv", "prompt,completion\n\"a, b\",c\nd,\"e \"\"f\"\"\"\n"),
        ("e.tsv", "text\tother\nhello\tthere\n"),
        ("f.txt", "one text\n\nand another\n"),
        (
            "g.jsonl",
            "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n",
        ),
        (
            "h.jsonl",
            "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n{\"prompt\": \"a\", \"completion\": \"c\", \"label\": false}\n",
        ),
        (
            "i.jsonl",
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}\n",
        ),
        (
            "j.jsonl",
            "{\"chosen\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}], \"rejected\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n",
        ),
        (
            "k.jsonl",
            "{\"input_ids\": [5, 6, 7, 2], \"labels\": [-100, -100, 7, 2], \"attention_mask\": [1, 1, 1, 1]}\n{\"input_ids\": [8, 9]}\n",
        ),
        (
            "l.jsonl",
            "{\"segments\": [{\"label\": false, \"text\": \"a\"}, {\"label\": true, \"text\": \"b\"}]}\n",
        ),
        (
            "m.jsonl",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": null, \"reasoning\": \"r\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {}}}]}], \"tools\": [{\"function\": {\"name\": \"f\"}}], \"documents\": [{\"title\": \"t\", \"text\": \"d\"}]}\n",
        ),
    ];
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizers/chatml")).unwrap();
    let formats: Vec<FormatName> = FormatName::all().collect();
    Box::new(move |rng| {
        let (name, seed) = pick(rng, SEEDS);
        let bytes = match name.rsplit_once('.') {
            Some((_, "json")) if below(rng, 2) == 0 => mutate::json(rng, seed.as_bytes()),
            Some((_, "jsonl")) if below(rng, 2) == 0 => mutate::json_lines(rng, seed.trim_end().as_bytes()),
            _ => mutate::lines(rng, seed.as_bytes(), WORDS),
        };
        let mut config = DataConfig::new(*name);
        config.format = (below(rng, 4) == 0).then(|| *pick(rng, &formats));
        config.max_length = *pick(rng, &[8, 64, 4096]);
        let set = load_source(Source::Memory { name, bytes: &bytes }, &config, &tokenizer).map_err(words)?;
        assert_eq!(set.samples.len(), set.places.len(), "wrong success");
        for sample in set.samples.iter().flat_map(|sample| sample.sequences()) {
            assert!(
                sample.len() <= config.max_length,
                "wrong success: {} tokens",
                sample.len()
            );
            assert!(
                sample.ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()),
                "wrong success"
            );
        }
        Ok(())
    })
}

pub fn generation_config() -> Bench {
    const SEED: &[u8] = br#"{"bos_token_id": 1, "eos_token_id": [2, 5], "do_sample": true, "temperature": 0.7, "top_p": 0.9, "top_k": 40,
        "max_new_tokens": 8, "repetition_penalty": 1.1, "num_beams": 1, "length_penalty": 1.0, "early_stopping": true,
        "pad_token_id": 0}"#;
    let dir = tempfile::tempdir().unwrap();
    Box::new(move |rng| {
        let path = dir.path().join("generation_config.json");
        fs::write(path, mutate::json(rng, SEED)).unwrap();
        GenerationConfig::from_dir(dir.path(), &[2]).map(drop).map_err(words)
    })
}
