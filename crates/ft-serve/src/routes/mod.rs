//! One file per group of paths; a new path is a line in the table.

mod adapters;
mod chat;
mod completions;
mod delivery;
mod embeddings;
mod models;
mod page;
mod runs;
mod state;
mod techniques;
mod tokens;

use crate::error::ApiError;
use crate::http::{Reply, Request};
use crate::service::Service;

type Run = fn(&Service, &Request, &mut Reply) -> Result<(), ApiError>;

/// What answers a path.
#[derive(Debug)]
pub struct Route {
    method: &'static str,
    /// A path that ends in `/` stands for all that begin with it, but for the shortest.
    path: &'static str,
    /// No key is asked for.
    pub open: bool,
    pub run: Run,
}

const fn route(method: &'static str, path: &'static str, run: Run) -> Route {
    Route {
        method,
        path,
        open: false,
        run,
    }
}

const ROUTES: [Route; 18] = [
    route("POST", "/v1/chat/completions", chat::run),
    route("POST", "/v1/completions", completions::run),
    route("POST", "/v1/embeddings", embeddings::run),
    route("GET", "/v1/models", models::list),
    route("GET", "/v1/models/", models::one),
    route("POST", "/v1/load_lora_adapter", adapters::load),
    route("POST", "/v1/unload_lora_adapter", adapters::unload),
    route("POST", "/tokenize", tokens::tokenize),
    route("POST", "/detokenize", tokens::detokenize),
    route("GET", "/metrics", state::metrics),
    route("GET", "/runs", runs::list),
    route("GET", "/runs/", runs::one),
    route("POST", "/runs", runs::start),
    route("POST", "/runs/", runs::act),
    route("POST", "/plan", runs::plan),
    route("GET", "/techniques", techniques::list),
    Route {
        open: true,
        ..route("GET", "/", page::show)
    },
    Route {
        open: true,
        ..route("GET", "/health", state::health)
    },
];

/// The route for a path.
pub fn find(method: &str, path: &str) -> Result<&'static Route, ApiError> {
    let below = |whole: &str| whole.len() > 1 && whole.ends_with('/') && path.starts_with(whole);
    let fits = |route: &&Route| path == route.path || below(route.path);
    let mut there = ROUTES.iter().filter(fits).peekable();
    if there.peek().is_none() {
        let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        return Err(ApiError::new(
            404,
            format!("there is no {path}; there are {}", paths.join(", ")),
        ));
    }
    let found = there.find(|route| route.method == method);
    found.ok_or_else(|| ApiError::new(405, format!("{path} does not take {method}")))
}
