//! A model behind `POST ADDRESS/chat/completions`. What may pass (no connection, no answer in time, an answer that is none, "too many
//! requests") is tried again; what the server refuses ends it, in the server's words.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ft_data::{AskedModel, Question, Reply};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::hub;

/// Tries of a question, before it is left.
const TRIES: u32 = 4;
/// How long the first new try waits; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest that a server may make it wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions at a time.
const AT_ONCE: usize = 8;
/// Questions in a row that came to nothing, before the rest is not asked.
const IN_VAIN: usize = 10;
/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 4 << 20;

pub struct Endpoint {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    by: AskedModel,
}

/// Why there is no answer.
enum Trouble {
    /// Another try may have one.
    Passing(String, Duration),
    Refused(String),
}

impl Endpoint {
    pub fn new(by: &AskedModel, address: &str) -> Result<Self, Failure> {
        let url = format!("{}/chat/completions", address.trim_end_matches('/'));
        if hub::is_forbidden() && !is_here(address) {
            return Err(Failure::new(format!("{address}: --offline forbids the network")));
        }
        let key = |name: &String| {
            std::env::var(name)
                .map_err(|_| Failure::new(format!("{address}: the environment has no {name} (api_key_env)")))
        };
        let wait = Duration::from_secs(by.timeout_s);
        let agent = ureq::AgentBuilder::new()
            .timeout_connect(wait.min(Duration::from_secs(10)))
            .timeout(wait)
            // The key goes to nobody else.
            .redirects(0)
            .user_agent(concat!("ft/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent,
            url,
            key: by.api_key_env.as_ref().map(key).transpose()?,
            by: by.clone(),
        })
    }

    /// Asks some at a time; the replies are in order.
    pub fn ask(&self, questions: &[Question]) -> Result<Vec<Reply>, Failure> {
        let (next, vain) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let replies = Mutex::new(vec![Reply::Failed; questions.len()]);
        let refused: Mutex<Option<String>> = Mutex::new(None);
        let hold = |why: String| {
            refused.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(why);
            next.store(questions.len(), Ordering::Relaxed);
        };
        let work = || {
            while let Some((at, question)) = questions.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                match self.patiently(question) {
                    Ok(reply) => {
                        vain.store(0, Ordering::Relaxed);
                        replies.lock().unwrap_or_else(|e| e.into_inner())[at] = reply;
                    }
                    Err(Trouble::Refused(why)) => return hold(why),
                    Err(Trouble::Passing(why, _)) => {
                        tracing::warn!("{}: a question came to nothing: {why}", self.url);
                        if vain.fetch_add(1, Ordering::Relaxed) + 1 >= IN_VAIN {
                            return hold(format!(
                                "{IN_VAIN} questions in a row came to nothing, the last one: {why}"
                            ));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(questions.len()) {
                scope.spawn(work);
            }
        });
        match refused.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(why) => Err(Failure::new(format!("{}: {why}", self.url))),
            None => Ok(replies.into_inner().unwrap_or_else(|e| e.into_inner())),
        }
    }

    fn patiently(&self, question: &Question) -> Result<Reply, Trouble> {
        let mut tried = 0;
        loop {
            match self.once(question) {
                Err(Trouble::Passing(_, wait)) if tried + 1 < TRIES => {
                    std::thread::sleep(wait.clamp(PAUSE * (1 << tried), PATIENCE));
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn once(&self, question: &Question) -> Result<Reply, Trouble> {
        let passing = |why: String| Trouble::Passing(why, Duration::ZERO);
        let mut request = self.agent.post(&self.url).set("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.set("Authorization", &format!("Bearer {key}"));
        }
        let body = json!({
            "model": self.by.name,
            "messages": [{ "role": "user", "content": question.prompt }],
            "temperature": self.by.temperature,
            "max_tokens": self.by.max_new_tokens,
            // A number that every JSON reader has.
            "seed": question.seed >> 33,
        });
        let answer = match request.send_string(&body.to_string()) {
            Ok(answer) if answer.status() < 300 => answer,
            Ok(moved) => {
                return Err(Trouble::Refused(format!(
                    "status {}; is the address right?",
                    moved.status()
                )));
            }
            Err(ureq::Error::Status(code, answer)) => return Err(refusal(code, answer)),
            Err(ureq::Error::Transport(error)) => return Err(passing(error.to_string())),
        };
        let text = body_of(answer).map_err(|e| passing(e.to_string()))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| passing(format!("an answer that is not JSON: {e}")))?;
        let choice = &value["choices"][0];
        match (&choice["message"]["content"], choice["finish_reason"].as_str()) {
            (_, Some("length")) => Ok(Reply::Cut),
            (Value::String(text), _) => Ok(Reply::Text(text.clone())),
            _ => Err(passing("an answer without choices[0].message.content".into())),
        }
    }
}

fn body_of(answer: ureq::Response) -> std::io::Result<String> {
    let mut text = String::new();
    answer.into_reader().take(MAX_ANSWER).read_to_string(&mut text)?;
    Ok(text)
}

fn refusal(code: u16, answer: ureq::Response) -> Trouble {
    let wait = answer.header("Retry-After").and_then(|text| text.trim().parse().ok());
    let wait = Duration::from_secs(wait.unwrap_or(0));
    let text = body_of(answer).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let said = value["error"]["message"].as_str().unwrap_or(text.trim());
    let said: String = said.chars().take(300).collect();
    let why = format!("status {code}: {said}");
    match code {
        408 | 425 | 429 | 500.. => Trouble::Passing(why, wait),
        _ => Trouble::Refused(why),
    }
}

/// Whether an address is of this machine.
fn is_here(address: &str) -> bool {
    let host = address.split("://").nth(1).unwrap_or_default();
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    // Before the host may stand a name and a password.
    let host = host.rsplit('@').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let loopback = |address: std::net::IpAddr| address.is_loopback();
    name == "localhost" || name.parse().is_ok_and(loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_no_network() {
        for here in [
            "http://127.0.0.1:80/v1",
            "http://localhost",
            "https://[::1]:9/v1",
            "http://127.3.2.1/",
            "http://user:word@localhost:9/v1",
        ] {
            assert!(is_here(here), "{here}");
        }
        for away in [
            "http://example.org/v1",
            "https://10.0.0.1:80",
            "http://localhost.example.org",
            "http://user@127.0.0.1.x",
            "http://localhost:x@example.org/v1",
            "http://127.0.0.1@example.org",
        ] {
            assert!(!is_here(away), "{away}");
        }
    }
}
