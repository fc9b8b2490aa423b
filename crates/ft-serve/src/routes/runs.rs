//! `/runs`: the run folders that the server was told of, for the page and for whoever else wants them.

use std::time::Duration;

use serde_json::json;

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::runs::{self, Metrics};
use crate::service::Service;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub fn list(service: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let folder = folder(service)?;
    let data = runs::list(folder).map_err(|e| ApiError::new(500, format!("{}: {e}", folder.display())))?;
    sent(reply.send(Response::json(200, &json!({ "object": "list", "data": data }))))
}

/// `/runs/NAME/metrics` as events, from the beginning and on while the run writes; `/runs/NAME/report`, `/runs/NAME/config`.
pub fn one(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let rest = request.path.trim_start_matches("/runs/");
    let (name, what) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let name = crate::http::percent_decoded(name).unwrap_or_default();
    let run = runs::folder(folder(service)?, &name);
    let run = run.ok_or_else(|| ApiError::new(404, format!("there is no run \"{name}\"")))?;
    let text = |file: &str| {
        let text = std::fs::read_to_string(run.join(file));
        text.map_err(|e| ApiError::new(404, format!("{file} of \"{name}\": {e}")))
    };
    match what {
        "metrics" => follow(service, Metrics::of(&run), reply),
        "report" => sent(reply.send(Response::html(text("report.html")?))),
        "config" => sent(reply.send(Response::text(text("config.toml")?))),
        _ => Err(ApiError::new(404, "of a run there are metrics, report and config")),
    }
}

fn folder(service: &Service) -> Result<&std::path::Path, ApiError> {
    let runs = service.settings().runs.as_deref();
    runs.ok_or_else(|| ApiError::new(404, "this server shows no runs; `ft serve --runs DIR` does"))
}

fn follow(service: &Service, mut metrics: Metrics, reply: &mut Reply) -> Result<(), ApiError> {
    if reply.begin_events().is_err() {
        return Ok(());
    }
    while !service.is_stopping() && reply.client().listens() {
        // A folder that was removed has nothing more to tell.
        let Ok(lines) = metrics.next() else { break };
        if lines.iter().any(|line| reply.event(line).is_err()) {
            return Ok(());
        }
        if lines.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
    sent(reply.end_events())
}
