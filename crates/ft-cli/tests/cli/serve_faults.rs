//! What `ft serve` does with clients that are wrong, rude, too many or gone.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::serve_support::{Answer, Server, completion};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn what_is_wrong_with_a_request_is_said_in_openais_form() {
    let server = Server::start(&[]);
    let with = |field: &str, value: Value| {
        let mut body = completion("Once", 4);
        body[field] = value;
        server.post(COMPLETIONS, &body)
    };
    assert_eq!(
        with("model", json!("gpt-9")).error(404),
        (json!("model"), json!("model_not_found"))
    );
    assert_eq!(with("temperature", json!("hot")).error(400).0, "temperature");
    assert_eq!(with("temperature", json!(-1)).status, 400);
    assert_eq!(
        with("suffix", json!("x")).error(400),
        (json!("suffix"), json!("unsupported_parameter"))
    );
    assert_eq!(with("guided_regex", json!("x")).error(400).0, "guided_regex");
    assert_eq!(with("prompt", json!([])).error(400).0, "prompt");
    assert_eq!(with("prompt", json!([[5], []])).error(400).0, "prompt");
    assert_eq!(with("prompt", json!([5000])).status, 400);
    assert_eq!(with("max_tokens", json!(600)).error(400).1, "context_length_exceeded");
    let chat = |field: &str, value: Value| {
        let mut body = json!({ "model": "embedded:tiny", "messages": [{ "role": "user", "content": "hi" }] });
        body[field] = value;
        server.post("/v1/chat/completions", &body)
    };
    let xml = json!({ "type": "xml" });
    let refused = (json!("response_format"), json!("unsupported_parameter"));
    assert_eq!(chat("response_format", xml).error(400), refused);
    assert_eq!(chat("tool_choice", json!("required")).error(400).0, "tool_choice");
    assert_eq!(
        chat("n", json!(1)).error(400).0,
        "messages",
        "the embedded model has no chat template"
    );
    assert_eq!(server.get("/v1/nothing").status, 404);
    assert_eq!(server.get(COMPLETIONS).status, 405);
    assert_eq!(server.post("/health", &json!({})).status, 405);
    assert_eq!(server.get("/health").json(), json!({ "status": "ok" }));

    let raw = |body: &str| Answer::read(server.send("POST", COMPLETIONS, "", body));
    assert_eq!(raw("{\"model\": ").status, 400);
    assert_eq!(raw(&"[".repeat(100_000)).status, 400);
    let origin = "Origin: http://evil.example\r\n";
    let foreign = server.send("POST", COMPLETIONS, origin, &completion("Once", 1).to_string());
    assert_eq!(Answer::read(foreign).status, 403);
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::start_with(&["--api-key-env", "SERVE_KEY"], &[("SERVE_KEY", "s3cret")]);
    let body = completion("Once", 2).to_string();
    let ask = |header: &str| Answer::read(server.send("POST", COMPLETIONS, header, &body)).status;
    assert_eq!(ask("Authorization: Bearer s3cret\r\n"), 200);
    for wrong in [
        "",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3cret1\r\n",
        "Authorization: s3cret\r\n",
    ] {
        assert_eq!(ask(wrong), 401, "{wrong}");
    }
    let answer = server.get("/v1/models");
    assert_eq!(answer.error(401).1, "invalid_api_key");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_full_queue_is_said_and_who_hangs_up_makes_room() {
    let server = Server::start(&["--batch", "1", "--queue", "1"]);
    let long = completion("Once", 480).to_string();
    let streamed = {
        let mut body = completion("Once", 480);
        body["stream"] = true.into();
        body.to_string()
    };
    let mut first = server.send("POST", COMPLETIONS, "", &streamed);
    let mut some = [0; 64];
    first.read_exact(&mut some).unwrap();
    server.wait("ft_requests_running", 1.0);
    let second = server.send("POST", COMPLETIONS, "", &long);
    server.wait("ft_requests_waiting", 1.0);
    assert_eq!(
        server.post(COMPLETIONS, &completion("Once", 1)).error(429).1,
        "queue_full"
    );
    // One that waits, and one that is being answered.
    drop(second);
    drop(first);
    server.wait("ft_requests_waiting", 0.0);
    server.wait("ft_requests_running", 0.0);
    server.wait("ft_cache_positions_used", 0.0);
    assert_eq!(server.metric("ft_requests_cancelled_total"), 2.0);
    server.ok(COMPLETIONS, &completion("Once", 4));
}

#[test]
fn a_hundred_connections_at_once_are_all_answered() {
    let server = Server::start(&[]);
    let expected = server.ok(COMPLETIONS, &completion("Once", 8))["choices"].clone();
    let idle: Vec<_> = (0..40).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(server.ok(COMPLETIONS, &completion("Once", 8))["choices"], expected));
        }
    });
    drop(idle);
}

#[test]
fn several_requests_go_over_one_connection() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let body = completion("Once", 3).to_string();
    let request = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let chunked = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &body[..5],
        body.len() - 5,
        &body[5..]
    );
    // The second is sent before the first is answered, in two halves.
    let (front, back) = chunked.split_at(60);
    stream.write_all((request + front).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(back.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert_eq!(text.matches("\"completion_tokens\":3").count(), 2, "{text}");
}

#[test]
fn bodies_are_bounded() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
        .unwrap();
    assert_eq!(Answer::read(stream).error(413), (Value::Null, Value::Null));
    for (request, status) in [
        (
            "POST /tokenize HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            400,
        ),
        (
            "POST /tokenize HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            400,
        ),
        ("POST /tokenize HTTP/1.1\r\nContent-Length: -2\r\n\r\n{}", 400),
        ("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n{}", 501),
        (
            "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
            413,
        ),
        (
            "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
            400,
        ),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(Answer::read(stream).status, status, "{request:?}");
    }
    let mut stream = server.connect();
    stream
        .write_all(format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000)).as_bytes())
        .unwrap();
    assert_eq!(Answer::read(stream).status, 431);
    server.ok(COMPLETIONS, &completion("Once", 1));
}

/// A random number below `most`.
fn below(state: &mut u64, most: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % most.max(1) as u64) as usize
}

#[test]
fn mutated_requests_kill_nothing() {
    let server = Server::start(&["--timeout", "20"]);
    let bodies = [
        (COMPLETIONS, completion("Once", 2)),
        (
            COMPLETIONS,
            json!({ "model": "embedded:tiny", "prompt": [[5, 6], [7]], "max_tokens": 1, "echo": true, "logprobs": 2 }),
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "embedded:tiny", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 1 }),
        ),
        (
            "/tokenize",
            json!({ "model": "embedded:tiny", "prompt": "a \u{1f600} b" }),
        ),
        (
            "/v1/load_lora_adapter",
            json!({ "lora_name": "x", "lora_path": "/no/such" }),
        ),
    ];
    let words: [&[u8]; 12] = [
        b"null",
        b"-1",
        b"1e999",
        b"99999999999999999999",
        b"\"\"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\\ud800",
        b"true",
        b"0.5",
        b"\0",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut answered = 0;
    for round in 0..2000 {
        let (path, body) = &bodies[round % bodies.len()];
        let body = body.to_string();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
        // In the body alone every other time, so that half of them get beyond the head.
        let from = if round % 2 == 0 { request.len() - body.len() } else { 0 };
        for _ in 0..=below(&mut state, 3) {
            let at = from + below(&mut state, request.len() - from);
            let end = (at + below(&mut state, 6)).min(request.len());
            let word = words[below(&mut state, words.len())];
            match below(&mut state, 4) {
                0 => request[at] = below(&mut state, 256) as u8,
                1 => drop(request.drain(at..end)),
                2 => drop(request.splice(at..end, word.iter().copied())),
                _ => {
                    let copy = request[at..end].to_vec();
                    request.splice(at..at, copy);
                }
            }
        }
        let mut stream = server.connect();
        // The server may have refused and closed before all is written.
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(Shutdown::Write);
        answered += usize::from(Answer::read(stream).status != 0);
    }
    assert!(answered > 1000, "{answered}");
    server.wait("ft_requests_running", 0.0);
    server.ok(COMPLETIONS, &completion("Once", 2));
}

#[test]
fn sigterm_lets_requests_end_or_tells_them() {
    // Enough time: the request ends as if nothing had happened.
    let server = Server::start(&["--grace", "60"]);
    let running = server.send("POST", COMPLETIONS, "", &completion("Once", 300).to_string());
    server.wait("ft_requests_running", 1.0);
    server.signal("TERM");
    let answer = Answer::read(running);
    assert_eq!(
        (answer.status, answer.json()["usage"]["completion_tokens"].clone()),
        (200, json!(300))
    );
    let (code, said) = server.end();
    assert_eq!(code, 0, "{said}");

    // None: every request gets an error, a stream in its last event.
    let server = Server::start(&["--grace", "0", "--batch", "2"]);
    let whole: Vec<_> = (0..3)
        .map(|_| server.send("POST", COMPLETIONS, "", &completion("Once", 480).to_string()))
        .collect();
    server.wait("ft_requests_waiting", 1.0);
    server.signal("TERM");
    let begun = Instant::now();
    for stream in whole {
        assert_eq!(Answer::read(stream).error(503).1, "shutting_down");
    }
    let (code, said) = server.end();
    assert!(code == 0 && begun.elapsed() < Duration::from_secs(10), "{said}");
}
