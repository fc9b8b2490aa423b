//! `ft data augment` with models: one of this machine, and one behind an address that errs, is slow, speaks nonsense and hangs up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Bench, Done, ft, ft_with};

/// What comes in the place of an answer, once per entry, whoever asks.
#[derive(Clone, Copy)]
enum Prank {
    Status(u16),
    Slow,
    NoJson,
    NoContent,
    HangUp,
    Silent,
}

/// Answers as OpenAI's API does, by `rule` from the prompt to a text, or a cut one (`None`).
struct Server {
    address: String,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn start(rule: fn(&str) -> Option<String>, pranks: &[Prank]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let pranks = Arc::new(Mutex::new(pranks.iter().rev().copied().collect::<Vec<_>>()));
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, pranks) = (Arc::clone(&shared), Arc::clone(&pranks));
                std::thread::spawn(move || drop(answer(stream, rule, &log, &pranks)));
            }
        });
        Self { address, log }
    }
}

fn answer(
    stream: TcpStream,
    rule: fn(&str) -> Option<String>,
    log: &Mutex<Vec<Value>>,
    pranks: &Mutex<Vec<Prank>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut length, mut key, mut line) = (0, String::new(), String::new());
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => key = value.trim().to_owned(),
                _ => {}
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut asked: Value = serde_json::from_slice(&body).unwrap();
        let prompt = asked["messages"][0]["content"].as_str().unwrap().to_owned();
        asked["key"] = key.into();
        log.lock().unwrap().push(asked);
        let prank = pranks.lock().unwrap().pop();
        let content = rule(&prompt);
        let reason = if content.is_some() { "stop" } else { "length" };
        let choice = json!({ "message": { "content": content.unwrap_or_default() }, "finish_reason": reason });
        let (status, text) = match prank {
            Some(Prank::Status(code)) => (code, json!({ "error": { "message": "no such model" } }).to_string()),
            Some(Prank::NoJson) => (200, "<html>".into()),
            Some(Prank::NoContent) => (200, json!({ "choices": [] }).to_string()),
            _ => (200, json!({ "choices": [choice] }).to_string()),
        };
        let whole = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        match prank {
            Some(Prank::Slow) => std::thread::sleep(Duration::from_millis(3000)),
            Some(Prank::HangUp) => return stream.write_all(&whole.as_bytes()[..whole.len() - 5]),
            Some(Prank::Silent) => return Ok(()),
            _ => {}
        }
        stream.write_all(whole.as_bytes())?;
    }
}

/// `run.toml` with an operator; prompts are "Who has key N? ".
fn config(bench: &Bench, operator: &str, records: usize) -> String {
    let lines = std::fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = lines.lines().take(records).collect();
    bench.write("few.jsonl", &lines.join("\n"));
    let text = bench.text.replace("'train.jsonl'", "'few.jsonl'");
    bench.write(
        "asks.toml",
        &format!("{text}[data.augment]\noperators = [{operator}]\n"),
    )
}

fn paraphrase(server: &Server, more: &str) -> String {
    let address = &server.address;
    format!(
        "{{ kind = 'paraphrase', prompt = 'Anew: {{text}}', by = {{ model = '{address}', name = 'm', timeout_s = 1{more} }} }}"
    )
}

fn augment(bench: &Bench, config: &str) -> (Done, Vec<Value>) {
    let out = bench.path("made.jsonl");
    let _ = std::fs::remove_file(&out);
    let done = ft_with(
        &["data", "augment", config, "--out", &out.display().to_string(), "--json"],
        &[("MY_KEY", "secret")],
    );
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    (
        done,
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    )
}

/// "Who has key 3?" becomes "Key 3 is with whom?"; keys 7 and 8 are lost, 9 never ends.
fn whom(prompt: &str) -> Option<String> {
    let key = prompt.strip_prefix("Anew: Who has key ")?.strip_suffix('?')?;
    match key {
        "7" => Some("Key 6 is with whom?".into()),
        "8" => Some("A key is with whom?".into()),
        "9" => None,
        _ => Some(format!(" Key {key} is with whom? ")),
    }
}

#[test]
fn an_endpoint_writes_records_and_trains_a_run() {
    let bench = Bench::new();
    let server = Server::start(whom, &[]);
    let path = config(&bench, &paraphrase(&server, ", api_key_env = 'MY_KEY'"), 12);
    let (done, rows) = augment(&bench, &path);
    let told: Value = serde_json::from_str(&done.ok()).unwrap();
    assert_eq!((told["asked"].as_u64(), told["made"].as_u64()), (Some(12), Some(9)));
    assert_eq!(told["dropped"], json!({ "cut": 1, "number": 2 }));
    assert_eq!(rows[3]["prompt"], "Key 3 is with whom? ");
    assert_eq!(rows[3]["completion"], "Door 3 has it.");
    assert_eq!(rows[3]["source"]["place"], "line 4");
    assert_eq!(rows[3]["source"]["models"], json!([format!("m at {}", server.address)]));
    let log = server.log.lock().unwrap();
    let all = |key: &str, value: Value| log.iter().all(|asked| asked[key] == value);
    assert!(all("model", "m".into()) && all("key", "Bearer secret".into()) && all("max_tokens", 256.into()));
    let seeds: std::collections::HashSet<u64> = log.iter().map(|asked| asked["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 12);

    // A run is given the file; with the section it says so.
    let refused = ft(&["plan", &path]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("ft data augment CONFIG --out made.jsonl"),
        "{}",
        refused.stderr
    );
    let made = format!(
        "data.train=['{}', '{}']",
        bench.path("few.jsonl").display(),
        bench.path("made.jsonl").display()
    );
    let plan = crate::support::json(&["plan", &bench.config, "--json", "--set", &made]);
    assert_eq!(plan["data"]["train"]["samples"], 21);
}

#[test]
fn what_may_pass_is_tried_again() {
    let bench = Bench::new();
    use Prank::*;
    let pranks = [
        Status(500),
        Status(429),
        Slow,
        NoJson,
        NoContent,
        HangUp,
        Silent,
        Status(503),
    ];
    let server = Server::start(whom, &pranks);
    let (done, rows) = augment(&bench, &config(&bench, &paraphrase(&server, ""), 6));
    assert_eq!((done.code, rows.len()), (0, 6), "{}", done.stderr);
    assert_eq!(server.log.lock().unwrap().len(), 6 + pranks.len());
}

#[test]
fn what_will_not_pass_ends_it_in_the_servers_words() {
    let bench = Bench::new();
    let server = Server::start(whom, &[Prank::Status(404); 8]);
    let (done, rows) = augment(&bench, &config(&bench, &paraphrase(&server, ""), 6));
    assert_eq!((done.code, rows.len()), (1, 0));
    assert!(
        done.stderr.contains("/v1/chat/completions: status 404: no such model"),
        "{}",
        done.stderr
    );

    let server = Server::start(whom, &[Prank::NoJson; 400]);
    let (done, _) = augment(&bench, &config(&bench, &paraphrase(&server, ""), 30));
    assert!(
        done.stderr.contains("10 questions in a row came to nothing"),
        "{}",
        done.stderr
    );
    assert!(server.log.lock().unwrap().len() < 100);

    let nobody = "{ kind = 'paraphrase', by = { model = 'http://192.0.2.1/v1', name = 'm' } }";
    let path = config(&bench, nobody, 2);
    let out = bench.path("x.jsonl").display().to_string();
    let done = ft(&["--offline", "data", "augment", &path, "--out", &out]);
    assert!(
        done.code == 1 && done.stderr.contains("--offline forbids the network"),
        "{}",
        done.stderr
    );
    let no_key = nobody.replace("'m'", "'m', api_key_env = 'NO_SUCH_KEY'");
    let done = ft(&["data", "augment", &config(&bench, &no_key, 2), "--out", &out]);
    assert!(done.stderr.contains("no NO_SUCH_KEY (api_key_env)"), "{}", done.stderr);
}

/// A model that has learned to answer these questions: nothing of it is a safe paraphrase, and all of it is other words where everything may
/// change.
#[test]
fn a_model_of_this_machine_writes_too_and_translations_ask_two() {
    let bench = Bench::new();
    ft(&["train", &bench.config, "--plain", "--set", "train.steps=60"]).ok();
    let by = format!("{{ model = '{}', temperature = 0, max_new_tokens = 24 }}", bench.out());
    let local = format!("{{ kind = 'paraphrase', prompt = '{{text}} ', by = {by} }}");
    // Doors are other numbers than keys.
    let lines = std::fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = lines.lines().skip(10).collect();
    bench.write("train.jsonl", &lines.join("\n"));
    let path = config(&bench, &local, 6);
    let (done, rows) = augment(&bench, &path);
    assert_eq!((done.code, rows.len()), (1, 0), "{}", done.stderr);
    assert!(
        done.stderr
            .contains("nothing was made of 6 texts; 6 of 6 texts were left out"),
        "{}",
        done.stderr
    );

    let server = Server::start(
        |prompt| prompt.strip_prefix("EN ").map(|_| "Key 1 is with whom?".into()),
        &[],
    );
    let back = format!("{{ model = '{}', name = 'm' }}", server.address);
    let two = format!(
        "{{ kind = 'back_translation', there = {by}, back = {back}, there_prompt = '{{text}} ', back_prompt = 'EN {{text}}' }}"
    );
    let path = config(&bench, &two, 6);
    let text = std::fs::read_to_string(&path).unwrap() + "change = ['numbers', 'names', 'negations']\n";
    let (done, rows) = augment(&bench, &bench.write("two.toml", &text));
    let told: Value = serde_json::from_str(&done.ok()).unwrap();
    let cut = told["dropped"]["cut"].as_u64().unwrap_or(0);
    let asked = server.log.lock().unwrap();
    assert_eq!((asked.len() as u64 + cut, rows.len()), (6, asked.len()), "{told}");
    assert!(
        asked
            .iter()
            .any(|asked| asked["messages"][0]["content"].as_str().unwrap().contains("Door"))
    );
    assert_eq!(rows[0]["source"]["models"][0], bench.out());
}
