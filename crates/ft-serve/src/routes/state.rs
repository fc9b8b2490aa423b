//! `/health` and `/metrics`.

use std::fmt::Write;

use serde_json::json;

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::service::Service;

pub fn health(_: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    sent(reply.send(Response::json(200, &json!({ "status": "ok" }))))
}

pub fn metrics(service: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let stats = service.engine().stats();
    let adapters = service.engine().adapters().len() as u64;
    let figures = [
        (
            "gauge",
            "requests_waiting",
            "Requests that wait for a place.",
            stats.waiting,
        ),
        (
            "gauge",
            "requests_running",
            "Requests that are worked on.",
            stats.running,
        ),
        (
            "gauge",
            "cache_positions_used",
            "Positions of the cache that are taken.",
            stats.cache_used,
        ),
        (
            "gauge",
            "cache_positions",
            "Positions of the cache.",
            stats.cache_positions,
        ),
        ("gauge", "adapters", "Adapters that requests can name.", adapters),
        (
            "gauge",
            "adapters_in_memory",
            "Adapters in memory; the others are read when they are named.",
            stats.adapters_in_memory,
        ),
        (
            "counter",
            "adapter_reloads_total",
            "Adapters that were read again after they had left memory.",
            stats.adapter_reloads,
        ),
        (
            "counter",
            "embedded_texts_total",
            "Texts of which vectors were made.",
            stats.embedded_texts,
        ),
        (
            "counter",
            "requests_finished_total",
            "Requests that ended as they should.",
            stats.finished,
        ),
        (
            "counter",
            "requests_cancelled_total",
            "Requests whose client went away.",
            stats.cancelled,
        ),
        (
            "counter",
            "requests_failed_total",
            "Requests that ended with an error.",
            stats.failed,
        ),
        (
            "counter",
            "preemptions_total",
            "Times a request gave its cache up for others.",
            stats.preempted,
        ),
        ("counter", "steps_total", "Forward passes.", stats.steps),
        (
            "counter",
            "prompt_tokens_total",
            "Tokens of prompts that were read.",
            stats.prompt_tokens,
        ),
        (
            "counter",
            "generated_tokens_total",
            "Tokens that were generated.",
            stats.generated_tokens,
        ),
        (
            "counter",
            "drafted_tokens_total",
            "Tokens that were computed ahead, because they stood there before.",
            stats.drafted_tokens,
        ),
        (
            "counter",
            "accepted_tokens_total",
            "Tokens computed ahead that were what the model says.",
            stats.accepted_tokens,
        ),
    ];
    let mut text = String::new();
    for (kind, name, about, value) in figures {
        write(&mut text, kind, name, about, &[(String::new(), value.to_string())]);
    }
    let first = [
        ("_sum".to_string(), format!("{}", stats.first_token_micros as f64 / 1e6)),
        ("_count".to_string(), stats.first_tokens.to_string()),
    ];
    write(
        &mut text,
        "summary",
        "first_token_seconds",
        "Time from a request's arrival to its first token.",
        &first,
    );
    let statuses: Vec<_> = (2..6)
        .map(|digit| {
            (
                format!("{{status=\"{digit}xx\"}}"),
                service.responses(digit).to_string(),
            )
        })
        .collect();
    write(
        &mut text,
        "counter",
        "http_responses_total",
        "Responses by their status.",
        &statuses,
    );
    sent(reply.send(Response::metrics(text)))
}

/// One metric in the text format of Prometheus, `values` by what stands behind its name.
fn write(text: &mut String, kind: &str, name: &str, about: &str, values: &[(String, String)]) {
    let mut line = |arguments: std::fmt::Arguments| text.write_fmt(arguments).expect("a text takes everything");
    line(format_args!("# HELP ft_{name} {about}\n# TYPE ft_{name} {kind}\n"));
    for (label, value) in values {
        line(format_args!("ft_{name}{label} {value}\n"));
    }
}
