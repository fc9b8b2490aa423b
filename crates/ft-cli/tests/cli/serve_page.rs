//! The page of `ft serve`, and the runs that it shows.

use std::io::Write;
use std::path::Path;

use crate::serve_support::{Answer, Server};
use crate::support::{Bench, ft};
use crate::webdriver::Browser;

fn log(run: &Path, lines: &str) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(run.join("metrics.jsonl"))
        .unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// A folder with a run that is under way and something that is none.
fn runs(bench: &Bench) -> std::path::PathBuf {
    let folder = bench.path("runs");
    let run = folder.join("first one");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::create_dir_all(folder.join("else")).unwrap();
    std::fs::write(bench.path("secret.txt"), "secret").unwrap();
    std::fs::write(run.join("config.toml"), "[peft]\nmethod = \"dora\"\n").unwrap();
    log(
        &run,
        "{\"step\":10,\"loss\":2.5}\n{\"step\":20,\"loss\":1.5,\"eval_loss\":1.75}\n",
    );
    folder
}

#[test]
fn runs_are_listed_followed_and_kept_apart_from_the_rest() {
    let bench = Bench::new();
    let folder = runs(&bench);
    let server = Server::start(&["--runs", &folder.display().to_string()]);
    let listed = server.get("/runs").json();
    let run = &listed["data"][0];
    assert_eq!(
        (listed["data"].as_array().unwrap().len(), &run["name"]),
        (1, &"first one".into())
    );
    assert_eq!((run["step"].as_u64(), run["method"].as_str()), (Some(20), Some("dora")));
    assert!(server.get("/runs/first%20one/config").body.contains("dora"));
    for path in [
        "/runs/..%2f/metrics",
        "/runs/else/metrics",
        "/runs/../secret.txt/config",
        "/runs/first%20one/report",
        "/runs/first%20one",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }

    let following = server.send("GET", "/runs/first%20one/metrics", "", "");
    std::thread::sleep(std::time::Duration::from_millis(300));
    log(&folder.join("first one"), "{\"step\":30,\"loss\":1.25}\n");
    std::thread::sleep(std::time::Duration::from_millis(600));
    server.signal("TERM");
    let told = Answer::read(following).body;
    let events: Vec<&str> = told
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    assert_eq!(events.len(), 3, "{told}");
    assert!(events[2].contains("1.25"), "a line that was written later");
    assert_eq!(server.end().0, 0, "whoever follows a run holds nobody up");
}

#[test]
fn without_runs_there_is_the_page_alone() {
    let bench = Bench::new();
    let server = Server::start_with(&["--api-key-env", "FT_PAGE_KEY"], &[("FT_PAGE_KEY", "k")]);
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.body.starts_with("<!doctype html>") && !page.body.contains("http://localhost"));
    assert_eq!(
        server.get("/runs").status,
        401,
        "the page is open, what it shows is not"
    );
    let keyed = Answer::read(server.send("GET", "/runs", "Authorization: Bearer k\r\n", ""));
    assert_eq!(keyed.status, 404);
    let absent = bench.path("absent").display().to_string();
    let refused = ft(&["serve", "embedded:tiny", "--runs", &absent]);
    assert!(
        refused.code == 2 && refused.stderr.contains("absent"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = Browser::start() else {
        eprintln!("not run: there is no chromedriver here");
        return;
    };
    let bench = Bench::new();
    let folder = runs(&bench);
    let server = Server::start(&["--runs", &folder.display().to_string()]);
    browser.open(&format!("http://{}/", server.address));
    browser.wait_for("return document.querySelectorAll('#models input:checked').length === 1");

    // By keyboard alone: a text goes on, and every token tells how sure it was.
    browser.run(
        "document.getElementById('form').value = 'text'; document.getElementById('max_tokens').value = 12;
        document.getElementById('prompt').value = 'Once'; document.getElementById('prompt').focus()",
    );
    browser.press("\u{e009}\u{e007}");
    browser.wait_for(
        "return document.querySelectorAll('.token').length >= 4 && !document.getElementById('send').disabled",
    );
    let said = browser.run("return [...document.querySelectorAll('.token')].map(t => t.textContent).join('')");
    let body = serde_json::json!({ "model": "embedded:tiny", "prompt": "Once", "max_tokens": 12, "temperature": 0 });
    let whole = server.ok("/v1/completions", &body);
    assert_eq!(said, whole["choices"][0]["text"]);
    browser.run("document.querySelector('.token').focus()");
    browser.wait_for("const tip = document.getElementById('tip'); return !tip.hidden && / %/.test(tip.textContent)");
    assert_eq!(
        browser.run("return /tokens, .* per second/.test(document.querySelector('.column .note').textContent)"),
        true
    );

    // A long answer can be stopped.
    browser.run("document.getElementById('max_tokens').value = 400; document.getElementById('prompt').focus()");
    browser.press("\u{e009}\u{e007}");
    browser.wait_for("return !document.getElementById('stop').disabled");
    browser.run("document.getElementById('stop').click()");
    browser.wait_for("return document.getElementById('stop').disabled");
    server.wait("ft_requests_running", 0.0);

    // Curves grow while the run writes.
    browser.run("document.getElementById('tab-runs').click()");
    browser.wait_for("return document.querySelectorAll('#run-rows tr').length === 1");
    browser.run("document.querySelector('#run-rows input').click()");
    browser.wait_for("return document.querySelectorAll('#curves polyline').length === 2");
    log(&folder.join("first one"), "{\"step\":30,\"loss\":1.25}\n");
    browser
        .wait_for("return document.querySelector('#curves polyline').getAttribute('points').split(' ').length === 3");
    assert_eq!(browser.run("return document.getElementById('status').textContent"), "");
}
