//! `/v1/embeddings`, and adapters that are not served as others are.

use std::path::Path;

use serde_json::{Value, json};

use crate::serve_support::{Server, completion};
use crate::support::{Bench, ft};

const EMBEDDINGS: &str = "/v1/embeddings";

/// What `ft embed` prints for texts.
fn embedded(model: &str, texts: &[&str], more: &[&str]) -> Vec<Vec<f64>> {
    let typed = texts.iter().flat_map(|text| ["--text", *text]);
    let args: Vec<&str> = ["embed", model, "--device", "cpu"]
        .into_iter()
        .chain(typed)
        .chain(more.iter().copied())
        .collect();
    let lines = ft(&args).ok();
    lines
        .lines()
        .map(|line| vector(&serde_json::from_str::<Value>(line).unwrap()["embedding"]))
        .collect()
}

fn vector(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value}"))
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn close(one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len());
    assert!(
        one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5),
        "{one:?} {other:?}"
    );
}

#[test]
fn vectors_are_those_of_embed() {
    let bench = Bench::new();
    let adapter = crate::serve::trained(&bench, "run");
    let server = Server::start(&["--adapter", &format!("tuned={adapter}")]);
    let texts = ["Who has key 3?", "A river.", "Once upon a time there was a door."];
    for (model, more) in [
        ("embedded:tiny", vec![]),
        ("tuned", vec!["--adapter", adapter.as_str()]),
    ] {
        let expected = embedded("embedded:tiny", &texts, &more);
        let answer = server.ok(EMBEDDINGS, &json!({ "model": model, "input": texts }));
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(answer["data"][at]["index"], at);
            close(&vector(&answer["data"][at]["embedding"]), expected);
        }
        // A text alone, and as tokens.
        let alone = server.ok(EMBEDDINGS, &json!({ "model": model, "input": texts[1] }));
        close(&vector(&alone["data"][0]["embedding"]), &expected[1]);
        let tokens = server.ok("/tokenize", &json!({ "model": model, "prompt": texts[1] }))["tokens"].clone();
        assert_eq!(
            alone["usage"],
            json!({ "prompt_tokens": tokens.as_array().unwrap().len(), "total_tokens": tokens.as_array().unwrap().len() })
        );
        let ids = server.ok(
            EMBEDDINGS,
            &json!({ "model": model, "input": [tokens.clone(), tokens] }),
        );
        assert_eq!(ids["data"][0]["embedding"], ids["data"][1]["embedding"]);
        close(&vector(&ids["data"][1]["embedding"]), &expected[1]);
    }
    let width = server.ok(EMBEDDINGS, &json!({ "model": "tuned", "input": "a" }))["data"][0]["embedding"]
        .as_array()
        .unwrap()
        .len();
    let packed = server.ok(
        EMBEDDINGS,
        &json!({ "model": "tuned", "input": "a", "encoding_format": "base64", "dimensions": width }),
    );
    assert_eq!(
        packed["data"][0]["embedding"].as_str().unwrap().len(),
        (4 * width).div_ceil(3) * 4
    );

    let wrong = |field: &str, value: Value| {
        let mut body = json!({ "model": "tuned", "input": "a" });
        body[field] = value;
        server.post(EMBEDDINGS, &body).error(400)
    };
    assert_eq!(
        wrong("dimensions", json!(8)),
        (json!("dimensions"), json!("unsupported_parameter"))
    );
    assert_eq!(wrong("encoding_format", json!("hex")).0, "encoding_format");
    for input in [
        json!([]),
        json!(5),
        json!([[]]),
        json!([{}]),
        json!(["a", 5]),
        json!([-1]),
    ] {
        assert_eq!(wrong("input", input).0, "input");
    }
    assert_eq!(wrong("input", json!([99_999])).0, Value::Null);
    assert_eq!(wrong("input", json!("key ".repeat(600))).1, "context_length_exceeded");
    assert_eq!(server.metric("ft_requests_waiting"), 0.0);
}

#[test]
fn an_encoder_is_served_for_vectors_alone() {
    let bench = Bench::new();
    let bert = encoder(&bench);
    let server = Server::of(&bert, &[]);
    let texts = ["the a b", "c"];
    let answer = server.ok(EMBEDDINGS, &json!({ "model": bert, "input": texts }));
    for (at, expected) in embedded(&bert, &texts, &[]).iter().enumerate() {
        close(&vector(&answer["data"][at]["embedding"]), expected);
    }
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let body = json!({ "model": bert, "prompt": "x", "messages": [{ "role": "user", "content": "x" }] });
        assert_eq!(
            server.post(path, &body).error(400),
            (json!("model"), json!("model_not_supported")),
            "{path}"
        );
    }
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], bert);
}

/// A tiny BERT with a tokenizer: the fixture without its head.
fn encoder(bench: &Bench) -> String {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads/bert");
    let folder = bench.path("bert");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(fixture)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_file())
    {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "b", "c"];
    let vocab: Value = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), id.into()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let special = |name: &str, id: usize| json!({ "id": name, "ids": [id], "tokens": [name] });
    let token = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": { "type": "TemplateProcessing", "single": [token("[CLS]"), text("A"), token("[SEP]")],
            "pair": [token("[CLS]"), text("A"), token("[SEP]"), text("B"), token("[SEP]")],
            "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) } },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder.display().to_string()
}

#[test]
fn an_adapter_that_rows_cannot_choose_goes_alone() {
    let bench = Bench::new();
    let train = |name: &str, method: &str| {
        let out = bench.path(name).display().to_string();
        let [out_set, method] = [format!("train.out={out}"), format!("peft={{method='{method}'}}")];
        ft(&[
            "train",
            &bench.config,
            "--set",
            &out_set,
            "--set",
            &method,
            "--set",
            "optim.lr=0.1",
        ])
        .ok();
        out
    };
    let (ia3, prompt) = (train("ia3", "ia3"), train("prompt", "prompt_tuning"));
    let generated = |adapter: &str| {
        let args = [
            "generate",
            "embedded:tiny",
            "--adapter",
            adapter,
            "--prompt",
            "Who has key 3? ",
            "--temperature",
            "0",
        ];
        ft(&[
            &args[..],
            &["--max-new-tokens", "12", "--ignore-eos", "--device", "cpu"],
        ]
        .concat())
        .ok()
    };
    let server = Server::of(&ia3, &[]);
    let mut body = completion("Who has key 3? ", 12);
    body["model"] = ia3.clone().into();
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(
        format!("{}\n", answer["choices"][0]["text"].as_str().unwrap()),
        generated(&ia3)
    );
    let more = json!({ "lora_name": "more", "lora_path": prompt });
    let refused = server.post("/v1/load_lora_adapter", &more);
    assert!(
        refused.status == 400 && refused.body.contains("takes no other"),
        "{}",
        refused.body
    );

    // Virtual tokens go with others; IA3 does not, and the reason is said.
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(Path::new(&prompt).join("final/chat_template.jinja"), template).unwrap();
    let server = Server::start(&["--adapter", &format!("prompt={prompt}")]);
    body["model"] = "prompt".into();
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(
        format!("{}\n", answer["choices"][0]["text"].as_str().unwrap()),
        generated(&prompt)
    );
    let refused = server.post(
        "/v1/load_lora_adapter",
        &json!({ "lora_name": "scaled", "lora_path": ia3 }),
    );
    assert!(
        refused.status == 400 && refused.body.contains("ia3") && refused.body.contains("alone"),
        "{}",
        refused.body
    );
}
