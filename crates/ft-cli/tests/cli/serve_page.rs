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

#[test]
fn a_run_is_made_in_a_browser() {
    let Some(browser) = Browser::start() else {
        eprintln!("not run: there is no chromedriver here");
        return;
    };
    let bench = Bench::new();
    let folder = runs(&bench);
    let train = bench.samples("many.jsonl", 60);
    let server = Server::start(&["--runs", &folder.display().to_string()]);
    browser.open(&format!("http://{}/", server.address));
    browser.wait_for("return document.querySelectorAll('#models input:checked').length === 1");

    // The arrow keys lead through the tabs.
    browser.run("document.getElementById('tab-chat').focus()");
    browser.press("\u{e014}");
    browser.press("\u{e014}");
    browser.wait_for(
        "return !document.getElementById('new').hidden && document.getElementById('d-method').options.length > 10",
    );
    assert_eq!(browser.run("return document.activeElement.id"), "tab-new");
    assert_eq!(
        browser.run("return document.getElementById('d-model').value"),
        "embedded:tiny"
    );
    let fill = |id: &str, value: &str| {
        let value = serde_json::to_string(value).unwrap();
        browser.run(&format!(
            "const field = document.getElementById('{id}'); field.value = {value}; field.dispatchEvent(new Event('input', {{ bubbles: true }}))"
        ));
    };

    // What is wrong is said while it is typed, and what is right is planned.
    browser.wait_for("return /data.train/.test(document.querySelector('#plan .refusal')?.textContent)");
    fill("d-train", &train);
    fill("d-steps", "100000");
    fill("d-batch", "4");
    fill("toml", "[train]\nlog_evry = 1");
    browser.wait_for("return /log_evry/.test(document.querySelector('#plan .refusal')?.textContent)");
    fill("toml", "[train]\nlog_every = 1\nsave_every = 1000");
    browser.wait_for("return /fits/.test(document.querySelector('#plan dl')?.textContent)");
    let facts = browser.run("return document.querySelector('#plan dl').textContent");
    assert!(facts.as_str().unwrap().contains("100,000"), "{facts}");
    fill("d-quant", "nf4 double");
    browser.wait_for("return /double = true/.test(document.querySelector('#plan pre')?.textContent)");
    fill("d-quant", "");

    // Enter starts it.
    fill("d-name", "second");
    browser.run("document.getElementById('d-name').focus()");
    browser.press("\u{e007}");
    let state = |wanted: &str| {
        browser.wait_for(&format!(
            "const row = [...document.querySelectorAll('#run-rows tr')].find(row => row.cells[1].textContent === 'second');
            return row?.cells[7].textContent === '{wanted}'"
        ));
    };
    let press = |name: &str| {
        browser.wait_for(&format!(
            "return document.querySelector('[aria-label=\"{name}\"]') !== null"
        ));
        browser.run(&format!("document.querySelector('[aria-label=\"{name}\"]').click()"));
    };
    state("running");
    browser.wait_for("return document.querySelectorAll('#curves polyline').length === 1");
    press("Stop second");
    state("stopped");
    press("Resume second");
    state("running");
    press("Stop second");
    state("stopped");
    press("Output second");
    browser.wait_for("return /resumed after step/.test(document.querySelector('#log pre').textContent)");

    // Two runs side by side: figures, and the settings that differ.
    press("show first one");
    browser.wait_for("return document.querySelectorAll('#comparison thead th').length === 3");
    browser.wait_for("return [...document.querySelectorAll('#comparison tbody th')].some(name => name.textContent === 'peft.method')");
    browser.run("const figure = document.getElementById('figure'); figure.value = 'lr'; figure.dispatchEvent(new Event('change'))");
    browser.wait_for("return document.querySelectorAll('#curves polyline').length === 1");

    // The techniques, sorted, and one of them in the form.
    browser.run("document.getElementById('tab-techniques').click()");
    browser.wait_for("return document.querySelectorAll('#technique-rows tr').length > 10");
    browser.run(
        "[...document.querySelectorAll('#technique-head button')].find(b => b.textContent === 'tokens/s').click()",
    );
    browser.wait_for(
        "const speeds = [...document.querySelectorAll('#technique-rows tr')].map(row => Number(row.cells[1].textContent));
        return speeds.every((speed, at) => at === 0 || speed >= speeds[at - 1])",
    );
    press("use prefix_tuning");
    browser.wait_for("return !document.getElementById('new').hidden && document.getElementById('d-method').value === 'prefix_tuning'");
    assert_eq!(browser.run("return document.getElementById('status').textContent"), "");
}
