//! `/`: a page to speak with the models and to watch runs. It is one file without a build step, and asks the other paths as any client does.

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::service::Service;

pub fn show(_: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    sent(reply.send(Response::html(include_str!("../page/page.html").into())))
}
