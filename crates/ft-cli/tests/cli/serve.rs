//! What `ft serve` answers.

use std::path::Path;

use serde_json::{Value, json};

use crate::serve_support::{Server, completion};
use crate::support::{Bench, ft, json};

const COMPLETIONS: &str = "/v1/completions";
pub const CHAT: &str = "/v1/chat/completions";

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn greedy_answers_are_those_of_generate_streamed_or_not() {
    let server = Server::start(&[]);
    for prompt in [
        "Once",
        "The key of the house was",
        "Is The Golden Palace a cheap restaurant? ",
    ] {
        let args = [
            "generate",
            "embedded:tiny",
            "--temperature",
            "0",
            "--max-new-tokens",
            "24",
            "--json",
        ];
        let generated = json(&[&args[..], &["--prompt", prompt]].concat());
        let body = json!({ "model": "embedded:tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0 });
        let whole = server.ok(COMPLETIONS, &body);
        assert_eq!(text(&whole), generated["text"].as_str().unwrap());
        assert_eq!(whole["choices"][0]["finish_reason"], generated["finish_reason"]);
        let tokens = generated["tokens"].as_array().unwrap().len();
        assert_eq!(whole["usage"]["completion_tokens"], tokens);

        let mut body = body;
        body["stream_options"] = json!({ "include_usage": true });
        let events = server.stream(COMPLETIONS, &body);
        let (usage, pieces) = events.split_last().unwrap();
        assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece["usage"].is_null()));
        assert_eq!(pieces.iter().map(text).collect::<String>(), text(&whole));
        assert_eq!(
            pieces.last().unwrap()["choices"][0]["finish_reason"],
            whole["choices"][0]["finish_reason"]
        );
    }
}

#[test]
fn several_prompts_choices_stops_seeds_and_biases() {
    let server = Server::start(&[]);
    let alone = |prompt: &str| text(&server.ok(COMPLETIONS, &completion(prompt, 12))).to_owned();
    let (one, two) = (alone("Once"), alone("The river"));

    let mut both = completion("", 12);
    both["prompt"] = json!(["Once", "The river"]);
    both["n"] = 2.into();
    let answer = server.ok(COMPLETIONS, &both);
    let texts: Vec<&str> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, [&one, &one, &two, &two]);
    assert_eq!(answer["usage"]["completion_tokens"], 48);

    let stop: String = one.chars().skip(4).take(3).collect();
    let mut stopped = completion("Once", 12);
    stopped["stop"] = json!([stop]);
    let answer = server.ok(COMPLETIONS, &stopped);
    assert_eq!(text(&answer), &one[..one.find(&stop).unwrap()]);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let streamed: String = server.stream(COMPLETIONS, &stopped).iter().map(text).collect();
    assert_eq!(streamed, text(&answer));

    let sampled = |seed: i64| {
        let mut body = completion("Once", 16);
        (body["temperature"], body["seed"]) = (1.0.into(), seed.into());
        text(&server.ok(COMPLETIONS, &body)).to_owned()
    };
    assert_eq!(sampled(7), sampled(7));
    assert!((0..5).any(|seed| sampled(seed) != sampled(7)));
    let args = [
        "generate",
        "embedded:tiny",
        "--prompt",
        "Once",
        "--temperature",
        "1",
        "--seed",
        "7",
    ];
    let generated = ft(&[&args[..], &["--max-new-tokens", "16", "--ignore-eos"]].concat()).ok();
    assert_eq!(format!("{}\n", sampled(7)), generated);

    let tokens = server.ok("/tokenize", &json!({ "model": "embedded:tiny", "prompt": "key" }))["tokens"].clone();
    let word = tokens[0].as_u64().unwrap();
    let mut forced = completion("Once", 3);
    forced["logit_bias"] = json!({ word.to_string(): 100 });
    let back = server.ok(
        "/detokenize",
        &json!({ "model": "embedded:tiny", "tokens": [word, word, word] }),
    );
    assert_eq!(
        text(&server.ok(COMPLETIONS, &forced)).trim(),
        back["prompt"].as_str().unwrap().trim()
    );
}

#[test]
fn echo_and_logprobs_are_the_likelihood_that_eval_finds() {
    let bench = Bench::new();
    let server = Server::start(&[]);
    let sentence = "The key of the house was under the old stone.";
    let ids = server.ok("/tokenize", &json!({ "model": "embedded:tiny", "prompt": sentence }))["tokens"].clone();
    let body = |prompt: Value| {
        json!({ "model": "embedded:tiny", "prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 1,
            "temperature": 0, "ignore_eos": true })
    };
    let answer = server.ok(COMPLETIONS, &body(ids.clone()));
    let logprobs = &answer["choices"][0]["logprobs"];
    let count = ids.as_array().unwrap().len();
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(name).len(), count + 1, "{name}: the prompt and one token more");
    }
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    assert!(text(&answer).starts_with(sentence));
    // The last token is the likeliest one.
    let best = |top: &Value| {
        top.as_object()
            .unwrap()
            .values()
            .map(|v| v.as_f64().unwrap())
            .fold(f64::MIN, f64::max)
    };
    assert_eq!(
        list("token_logprobs")[count].as_f64().unwrap(),
        best(&list("top_logprobs")[count])
    );

    // `ft eval` covers the end-of-text token too, which is taken as one more token of the prompt.
    let file = bench.write("text.jsonl", &format!("{}\n", json!({ "text": sentence })));
    let report = json(&["eval", "embedded:tiny", "--data", &file, "--format", "text", "--json"]);
    let eos: Value = serde_json::from_str(include_str!("../../../ft-embedded/assets/config.json")).unwrap();
    let mut whole = ids.as_array().unwrap().clone();
    whole.push(eos["eos_token_id"].clone());
    let answer = server.ok(COMPLETIONS, &body(json!([whole])));
    let scores = answer["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .clone();
    let sum: f64 = scores[1..=count].iter().map(|score| score.as_f64().unwrap()).sum();
    let expected = -report["loss"].as_f64().unwrap() * report["tokens"].as_f64().unwrap();
    assert_eq!(report["tokens"].as_u64().unwrap() as usize, count);
    assert!((sum - expected).abs() < 1e-3, "{sum} {expected}");

    // Without an answer, the same scores; as a text, the same tokens.
    let mut bare = body(json!(sentence));
    bare["max_tokens"] = 0.into();
    let bare = server.ok(COMPLETIONS, &bare);
    assert_eq!(
        bare["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[..],
        list("token_logprobs")[..count]
    );
    assert_eq!(text(&bare), sentence);
}

#[test]
fn conversations_go_through_the_template_of_the_model_that_is_named() {
    let bench = Bench::new();
    let adapter = trained(&bench, "run");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ tools | length if tools else '' }}assistant:";
    std::fs::write(Path::new(&adapter).join("chat_template.jinja"), template).unwrap();
    let server = Server::start(&["--adapter", &format!("tuned={adapter}")]);
    let messages = json!([{ "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "Who has " }, { "type": "text", "text": "key 3?" }] }]);
    let body = json!({ "model": "tuned", "messages": messages, "max_tokens": 10, "temperature": 0, "logprobs": true,
        "top_logprobs": 2 });

    let prompt = "system: Be brief.\nuser: Who has key 3?\nassistant:";
    let tokens = |body: &Value| server.ok("/tokenize", body)["tokens"].clone();
    let plain = tokens(&json!({ "model": "tuned", "prompt": prompt, "add_special_tokens": false }));
    assert_eq!(tokens(&json!({ "model": "tuned", "messages": messages })), plain);
    let tools = json!([{ "type": "function", "function": { "name": "open" } }]);
    let with_tools = tokens(&json!({ "model": "tuned", "messages": messages, "tools": tools }));
    assert_ne!(with_tools, plain, "the template sees the tools");

    let whole = server.ok(CHAT, &body);
    let choice = &whole["choices"][0];
    assert_eq!(
        (&whole["object"], &choice["message"]["role"]),
        (&json!("chat.completion"), &json!("assistant"))
    );
    assert_eq!(whole["usage"]["prompt_tokens"], plain.as_array().unwrap().len());
    let scores = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(
        scores.len() as u64,
        whole["usage"]["completion_tokens"].as_u64().unwrap()
    );
    assert!(
        scores
            .iter()
            .all(|score| score["top_logprobs"].as_array().unwrap().len() == 2)
    );
    assert_eq!(
        scores[0]["logprob"], scores[0]["top_logprobs"][0]["logprob"],
        "greedy takes the likeliest"
    );

    let completed = json!({ "model": "tuned", "prompt": plain, "max_tokens": 10, "temperature": 0 });
    assert_eq!(choice["message"]["content"], text(&server.ok(COMPLETIONS, &completed)));
    let events = server.stream(CHAT, &body);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let streamed: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(streamed, choice["message"]["content"].as_str().unwrap());
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        choice["finish_reason"]
    );
}

/// The adapter of a short run.
pub fn trained(bench: &Bench, name: &str) -> String {
    let out = bench.path(name).display().to_string();
    ft(&["train", &bench.config, "--set", &format!("train.out={out}")]).ok();
    format!("{out}/final")
}

#[test]
fn mixed_adapters_in_one_batch_answer_as_each_alone() {
    let bench = Bench::new();
    let first = trained(&bench, "run");
    let make = |name: &str, weight: &str| {
        let out = bench.path(name).display().to_string();
        ft(&["adapters", "combine", &format!("{first}:{weight}"), "--out", &out]).ok();
        out
    };
    let (second, third) = (make("b", "-6"), make("c", "9"));
    let named = [("a", &first), ("b", &second), ("c", &third)].map(|(name, path)| format!("{name}={path}"));
    let args: Vec<&str> = named.iter().flat_map(|named| ["--adapter", named]).collect();
    let server = Server::start(&args);

    let models = server.get("/v1/models").json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["embedded:tiny", "a", "b", "c"]);
    assert_eq!(
        (&models["data"][1]["parent"], &models["data"][1]["root"]),
        (&json!("embedded:tiny"), &json!(first))
    );
    assert!(models["data"][0]["parent"].is_null());
    assert_eq!(server.get("/v1/models/embedded:tiny").json()["id"], "embedded:tiny");

    let ask = |model: &str, prompt: &str| {
        let mut body = completion(prompt, 24);
        body["model"] = model.into();
        body["logprobs"] = 2.into();
        server.ok(COMPLETIONS, &body)["choices"][0].clone()
    };
    let jobs: Vec<(&str, String)> = (0..24)
        .map(|i| (ids[i % 4], format!("Who has key {}? ", i / 4)))
        .collect();
    let alone: Vec<Value> = jobs.iter().map(|(model, prompt)| ask(model, prompt)).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|(model, prompt)| scope.spawn(|| ask(model, prompt)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Texts and log probabilities to the last bit.
    assert_eq!(together, alone);
    assert!(
        alone[0]["text"] != alone[2]["text"] && alone[2]["text"] != alone[3]["text"],
        "{alone:?}"
    );

    for (model, path) in [("a", &first), ("b", &second), ("c", &third)] {
        let args = [
            "generate",
            "embedded:tiny",
            "--adapter",
            path,
            "--prompt",
            "Who has key 0? ",
            "--temperature",
            "0",
        ];
        let generated = ft(&[&args[..], &["--max-new-tokens", "24", "--ignore-eos"]].concat()).ok();
        let own = jobs.iter().position(|job| job.0 == model).unwrap();
        assert_eq!(
            format!("{}\n", alone[own]["text"].as_str().unwrap()),
            generated,
            "{model}"
        );
    }
}

#[test]
fn adapters_come_and_go_while_requests_run() {
    let bench = Bench::new();
    let first = trained(&bench, "run");
    let second = bench.path("b").display().to_string();
    ft(&["adapters", "combine", &format!("{first}:-6"), "--out", &second]).ok();
    let server = Server::start(&["--adapter", &format!("x={first}")]);
    let body = |tokens: usize| {
        let mut body = completion("Who has key 0? ", tokens);
        body["model"] = "x".into();
        body
    };
    let load = |path: &str, replace: bool| {
        server.post(
            "/v1/load_lora_adapter",
            &json!({ "lora_name": "x", "lora_path": path, "load_inplace": replace }),
        )
    };
    let ask = |tokens| text(&server.ok(COMPLETIONS, &body(tokens))).to_owned();
    let (short, long) = (ask(24), ask(300));
    assert!(load(&second, false).error(400).0 == "lora_path", "the name is taken");

    // Replaced while a request runs, which goes on with what it began with.
    let running = server.send("POST", COMPLETIONS, "", &body(300).to_string());
    server.wait("ft_requests_running", 1.0);
    assert_eq!(load(&second, true).status, 200);
    let replaced = ask(24);
    assert_ne!(replaced, short);
    let begun = crate::serve_support::Answer::read(running).json();
    assert_eq!(text(&begun), long);

    let unload = || server.post("/v1/unload_lora_adapter", &json!({ "lora_name": "x" }));
    assert_eq!(unload().status, 200);
    assert_eq!(unload().status, 404);
    assert_eq!(server.post(COMPLETIONS, &body(1)).error(404).1, "model_not_found");
    assert_eq!(load(&first, false).status, 200);
    assert_eq!(ask(24), short);
    assert_eq!(server.metric("ft_adapters"), 1.0);
    assert_eq!(load("/no/such/folder", true).status, 400);
    assert_eq!(ask(24), short, "what could not be loaded changes nothing");
}
