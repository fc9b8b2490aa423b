//! `/runs`: the run folders that the server was told of, for the page and for whoever else wants them; and `/plan`.

use std::time::Duration;

use serde_json::json;

use crate::draft::Draft;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::runs::{self, LOG, Metrics};
use crate::service::Service;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub fn list(service: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let runner = service.runner()?;
    let folder = runner.folder();
    let data = runs::list(folder, &runner.states());
    let data = data.map_err(|e| ApiError::new(500, format!("{}: {e}", folder.display())))?;
    sent(reply.send(Response::json(200, &json!({ "object": "list", "data": data }))))
}

/// `/runs/NAME/metrics` as events, from the beginning and on while the run writes; `report`, `config`, `settings`, `log`.
pub fn one(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let (name, run, what) = named(service, request)?;
    let text = |file: &str| {
        let text = std::fs::read_to_string(run.join(file));
        text.map_err(|e| ApiError::new(404, format!("{file} of \"{name}\": {e}")))
    };
    match what {
        "metrics" => follow(service, Metrics::of(&run), reply),
        "report" => sent(reply.send(Response::html(text("report.html")?))),
        "config" => sent(reply.send(Response::text(text("config.toml")?))),
        "settings" => sent(reply.send(Response::json(200, &runs::settings(&run).into()))),
        "log" => sent(reply.send(Response::text(runs::tail(&run.join(LOG)).unwrap_or_default()))),
        _ => Err(ApiError::new(
            404,
            "of a run there are metrics, report, config, settings and log",
        )),
    }
}

/// `POST /plan`: what a configuration comes to, before it is run.
pub fn plan(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let plan = service.runner()?.plan(&draft(service, request)?, reply.client())?;
    sent(reply.send(Response::json(200, &plan)))
}

/// `POST /runs`: starts a run.
pub fn start(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let draft = draft(service, request)?;
    service.runner()?.start(&draft)?;
    sent(reply.send(Response::json(200, &json!({ "name": draft.name, "state": "running" }))))
}

/// `POST /runs/NAME/stop` and `resume`.
pub fn act(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    may_act(service, request)?;
    let (name, _, what) = named(service, request)?;
    let runner = service.runner()?;
    match what {
        "stop" => runner.stop(&name)?,
        "resume" => runner.resume(&name)?,
        _ => return Err(ApiError::new(404, "with a run one can do stop and resume")),
    }
    let state = runner.states().get(&name).copied();
    sent(reply.send(Response::json(200, &json!({ "name": name, "state": state }))))
}

/// The run that a path names, and what of it.
fn named<'a>(service: &Service, request: &'a Request) -> Result<(String, std::path::PathBuf, &'a str), ApiError> {
    let rest = request.path.trim_start_matches("/runs/");
    let (name, what) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let name = crate::http::percent_decoded(name).unwrap_or_default();
    match runs::folder(service.runner()?.folder(), &name) {
        Some(run) => Ok((name, run, what)),
        None => Err(ApiError::new(404, format!("there is no run \"{name}\""))),
    }
}

fn draft(service: &Service, request: &Request) -> Result<Draft, ApiError> {
    may_act(service, request)?;
    let mut fields = Fields::parse(&request.body)?;
    let draft = Draft::take(&mut fields, service.runner()?.folder())?;
    fields.end().map(|()| draft)
}

/// Who has programs started is asked for more: what a form of another site cannot send.
fn may_act(service: &Service, request: &Request) -> Result<(), ApiError> {
    service.runner()?;
    service.trusts(request)?;
    if service.is_stopping() {
        return Err(ApiError::new(503, "the server is shutting down").with_code("shutting_down"));
    }
    let kind = request.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(ApiError::new(415, "Content-Type: application/json is needed")),
    }
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
