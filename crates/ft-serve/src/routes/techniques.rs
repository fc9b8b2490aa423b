//! `/techniques`: the methods with what was measured of them.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::service::Service;

/// What the table of the guide is made of.
const FIGURES: &str = include_str!("../../../../benches/results/methods.jsonl");

pub fn list(_: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let data: Result<Vec<Value>, _> = FIGURES.lines().map(serde_json::from_str).collect();
    let data = data.map_err(|e| ApiError::new(500, e))?;
    sent(reply.send(Response::json(200, &json!({ "object": "list", "data": data }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_technique_has_its_figures() {
        let lines: Vec<Value> = FIGURES
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(lines.iter().any(|line| line["method"] == "lora"));
        let measured = |line: &Value| line["tokens_per_s"].as_f64() > Some(0.0) && line["exact_match"].is_number();
        assert!(lines.iter().all(measured));
    }
}
