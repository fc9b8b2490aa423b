//! A browser without a window, led through chromedriver by the W3C's WebDriver protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// None where no browser is installed.
    pub fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut said = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = said.find_map(|line| {
            let line = line.ok()?;
            line.split_once("successfully on port ")?
                .1
                .trim_end_matches('.')
                .parse()
                .ok()
        });
        // What it says later must have somewhere to go.
        std::thread::spawn(move || said.for_each(drop));
        let mut browser = Self {
            driver,
            port: port.expect("chromedriver says its port"),
            session: String::new(),
        };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let begun = browser.call("POST", "/session", &wanted);
        browser.session = begun["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    pub fn open(&self, url: &str) {
        self.ask("url", &json!({ "url": url }));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script until it returns true.
    pub fn wait_for(&self, script: &str) {
        for _ in 0..600 {
            if self.run(script) == true {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let page = self.run("return document.body.innerText");
        panic!("never true: {script}; the page says {page}");
    }

    /// Types into what has the focus; `\u{e009}` holds Control, `\u{e007}` is Enter, `\u{e004}` Tab.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .map(|key| json!({ "type": "keyDown", "value": key }))
            .chain(keys.chars().rev().map(|key| json!({ "type": "keyUp", "value": key })))
            .collect();
        self.ask(
            "actions",
            &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }),
        );
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{what}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("a request");
        // The driver says that it closes the connection, and does not.
        let (mut stream, mut length, mut line) = (BufReader::new(stream), 0, String::new());
        while stream.read_line(&mut line).expect("a head") > 2 {
            let head = line.to_ascii_lowercase();
            if let Some(number) = head.strip_prefix("content-length:") {
                length = number.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.call("DELETE", &path, &json!({}))));
        drop(closed);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
