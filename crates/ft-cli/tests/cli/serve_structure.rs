//! `ft serve`: answers that are JSON of a schema, and calls of tools.

use std::path::Path;

use serde_json::{Value, json};

use crate::serve::{CHAT, trained};
use crate::serve_support::Server;
use crate::support::Bench;

#[test]
fn answers_are_json_of_a_schema_and_calls_of_tools() {
    let bench = Bench::new();
    let adapter = trained(&bench, "run");
    let template = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    std::fs::write(Path::new(&adapter).join("chat_template.jinja"), template).unwrap();
    let server = Server::start(&["--adapter", &format!("tuned={adapter}")]);
    let parameters = json!({ "type": "object", "properties": { "key": { "type": "integer", "minimum": 1, "maximum": 99 },
        "kind": { "enum": ["open", "shut"] } }, "required": ["key", "kind"], "additionalProperties": false });
    let body = json!({ "model": "tuned", "messages": [{ "role": "user", "content": "Who has key 3?" }],
        "max_tokens": 180, "temperature": 1.0, "seed": 5, "ignore_eos": true });
    let with = |more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let check = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        assert!((1..=99).contains(&value["key"].as_i64().unwrap()), "{text}");
        assert!(["open", "shut"].contains(&value["kind"].as_str().unwrap()), "{text}");
    };

    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "door", "strict": true, "schema": parameters } });
    let asked = with(json!({ "response_format": format, "n": 3 }));
    let whole = server.ok(CHAT, &asked);
    for choice in whole["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "stop");
        check(choice["message"]["content"].as_str().unwrap());
    }

    let tools = json!([{ "type": "function", "function": { "name": "turn", "parameters": parameters } }]);
    let asked = with(json!({ "tools": tools, "tool_choice": "required" }));
    let choice = server.ok(CHAT, &asked)["choices"][0].clone();
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"], &call["name"]),
        (&json!("tool_calls"), &Value::Null, &json!("turn"))
    );
    check(call["arguments"].as_str().unwrap());
    let events = server.stream(CHAT, &asked);
    let streamed = events
        .iter()
        .find_map(|e| e.pointer("/choices/0/delta/tool_calls/0/function"));
    assert_eq!(streamed, Some(call));
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    for (wrong, param) in [
        (json!({ "response_format": { "type": "xml" } }), "response_format"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "number or so" } } } }),
            "response_format",
        ),
        (
            json!({ "response_format": { "type": "json_object" }, "tools": tools, "tool_choice": "required" }),
            "response_format",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice"),
    ] {
        let answer = server.post(CHAT, &with(wrong.clone()));
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{wrong}"
        );
    }
}
