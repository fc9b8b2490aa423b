//! Runs that are planned, started, stopped and resumed through `ft serve`.

use serde_json::{Value, json};

use crate::serve_support::{Answer, JSON, Server};
use crate::support::{Bench, ft};

/// A configuration of a run that only a stop ends.
fn endless(bench: &Bench, name: &str) -> Value {
    let train = bench.samples("train.jsonl", 60);
    json!({ "name": name, "toml": "[optim]\nlr = 5e-3\n[train]\nlog_every = 1\nsave_every = 1000\n", "keys": {
        "model.path": "embedded:tiny", "peft.method": "lora", "peft.rank": 4, "data.train": train, "train.steps": 100_000,
        "train.batch_size": 4,
    } })
}

fn run(server: &Server, name: &str) -> Value {
    let listed = server.get("/runs").json();
    let mut runs = listed["data"].as_array().unwrap().iter();
    runs.find(|run| run["name"] == name).cloned().unwrap_or_default()
}

/// Waits until a run is as told.
fn wait(server: &Server, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..1500 {
        let found = run(server, name);
        if so(&found) {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    let log = server.get(&format!("/runs/{name}/log")).body;
    panic!("{name} is never {what}: {}, {log}", run(server, name));
}

fn steps(run: &Value) -> u64 {
    run["step"].as_u64().unwrap_or(0)
}

#[test]
fn a_run_is_planned_started_stopped_and_resumed() {
    let bench = Bench::new();
    let folder = bench.path("all");
    std::fs::create_dir(&folder).unwrap();
    let server = Server::start(&["--runs", &folder.display().to_string()]);
    let body = endless(&bench, "one");

    // The plan is that of `ft plan`.
    let planned = server.ok("/plan", &body);
    let file = bench.write("same.toml", planned["config"].as_str().unwrap());
    let own: Value = serde_json::from_str(&ft(&["plan", &file, "--json", "--device", "cpu"]).ok()).unwrap();
    for key in ["trainable", "steps", "data", "refusals", "warnings", "targets"] {
        assert_eq!(planned["plan"][key], own[key], "{key}");
    }
    assert_eq!(planned["plan"]["steps"]["total"], 100_000);
    assert!(planned["plan"]["bytes_total"].as_u64() > Some(1_000_000));
    let mut wrong = body.clone();
    wrong["keys"]["peft.rnak"] = 5.into();
    let refused = server.ok("/plan", &wrong);
    let said = refused["said"].as_str().unwrap();
    assert!(
        refused["plan"].is_null() && said.contains("one.toml") && said.contains("rnak"),
        "{said}"
    );
    let mut small = body.clone();
    small["keys"]["train.batch_size"] = 0.into();
    assert!(
        server.ok("/plan", &small)["said"]
            .as_str()
            .unwrap()
            .contains("train.batch_size")
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "a plan leaves nothing");

    assert_eq!(server.ok("/runs", &body)["state"], "running");
    assert_eq!(server.post("/runs", &body).error(409).0, Value::Null);
    let running = wait(&server, "one", "at work", |run| steps(run) > 1);
    assert_eq!(
        (&running["state"], &running["method"]),
        (&json!("running"), &json!("lora"))
    );
    assert_eq!(server.ok("/runs/one/stop", &json!({}))["state"], "stopping");
    let stopped = wait(&server, "one", "stopped", |run| run["state"] == "stopped");
    let saved = || std::fs::read_dir(folder.join("one/checkpoints")).unwrap().count();
    assert_eq!(saved(), 1, "what was done is saved");
    assert!(server.get("/runs/one/log").body.contains("saved in"));
    assert_eq!(server.post("/runs/one/stop", &json!({})).error(409).1, Value::Null);
    assert_eq!(server.post("/runs", &body).error(409).0, "name");
    assert_eq!(server.get("/runs/one/settings").json()["peft.rank"], 4);

    server.ok("/runs/one/resume", &json!({}));
    wait(&server, "one", "further on", |run| {
        run["state"] == "running" && steps(run) > steps(&stopped)
    });
    // The end of the server is no end for the run: it saves.
    server.signal("TERM");
    assert_eq!(server.end().0, 0);
    let log = std::fs::read_to_string(folder.join("one/output.txt")).unwrap();
    assert!(
        log.contains("resumed after step") && log.matches("saved in").count() == 2,
        "{log}"
    );
}

#[test]
fn a_run_that_cannot_be_says_why_and_may_be_tried_again() {
    let bench = Bench::new();
    let folder = bench.path("all");
    std::fs::create_dir_all(folder.join("mine")).unwrap();
    let server = Server::start(&["--runs", &folder.display().to_string()]);
    let mut body = endless(&bench, "two");
    body["keys"]["data.train"] = "absent.jsonl".into();
    server.ok("/runs", &body);
    wait(&server, "two", "failed", |run| run["state"] == "failed");
    assert!(server.get("/runs/two/log").body.contains("absent.jsonl"));
    body["keys"]["data.train"] = bench.samples("few.jsonl", 8).into();
    body["keys"]["train.steps"] = 2.into();
    server.ok("/runs", &body);
    let done = wait(&server, "two", "finished", |run| run["state"] == "finished");
    assert!(steps(&done) == 2 && done["report"] == true, "{done}");
    body["name"] = "mine".into();
    assert_eq!(
        server.post("/runs", &body).error(409).0,
        "name",
        "a folder of somebody else's"
    );
    assert!(std::fs::read_dir(folder.join("mine")).unwrap().next().is_none());
}

#[test]
fn who_may_not_start_programs_does_not() {
    let bench = Bench::new();
    let folder = bench.path("all");
    std::fs::create_dir(&folder).unwrap();
    let runs = folder.display().to_string();
    let server = Server::start(&["--runs", &runs]);
    let body = endless(&bench, "one").to_string();
    for path in ["/runs", "/plan", "/runs/one/resume"] {
        for (headers, status) in [
            ("", 415),
            ("Content-Type: text/plain\r\n", 415),
            (&*format!("{JSON}Origin: http://evil.example\r\n"), 403),
            (&*format!("{JSON}Sec-Fetch-Site: cross-site\r\n"), 403),
            // A name that was pointed at this machine.
            (
                &*format!("Host: evil.example\r\n{JSON}Origin: http://evil.example\r\n"),
                403,
            ),
        ] {
            let answer = Answer::read(server.send("POST", path, headers, &body));
            assert_eq!(answer.status, status, "{path} {headers}");
        }
    }
    let outside = json!({ "name": "../one", "keys": {} });
    assert_eq!(server.post("/runs", &outside).error(400).0, "name");
    let elsewhere = json!({ "name": "one", "toml": "train.out = \"/tmp/elsewhere\"" });
    assert_eq!(server.post("/runs", &elsewhere).error(400).0, "toml");
    assert_eq!(server.post("/runs/..%2fall/resume", &json!({})).status, 404);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);

    let keyed = Server::start_with(&["--runs", &runs, "--api-key-env", "RUN_KEY"], &[("RUN_KEY", "k")]);
    assert_eq!(Answer::read(keyed.send("POST", "/runs", JSON, &body)).status, 401);
    let shown = format!("{JSON}Authorization: Bearer k\r\n");
    assert_eq!(Answer::read(keyed.send("POST", "/plan", &shown, &body)).status, 200);
    assert_eq!(Server::start(&[]).post("/plan", &json!({})).status, 404);
}

#[test]
fn techniques_are_listed() {
    let listed = Server::start(&[]).get("/techniques").json();
    assert!(
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line["method"] == "vera")
    );
}
