//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, with vLLM's fields.

use std::path::Path;

use serde_json::json;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::http::{Reply, Request, Response};
use crate::routes::delivery::sent;
use crate::service::Service;

pub fn load(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    service.trusts(request)?;
    let mut fields = Fields::parse(&request.body)?;
    let name = Fields::needed("lora_name", fields.text("lora_name")?)?;
    let path = Fields::needed("lora_path", fields.text("lora_path")?)?;
    let replace = fields.flag("load_inplace")?.unwrap_or(false);
    fields.end()?;
    let loaded = service.load(&name, Path::new(&path), replace);
    loaded.map_err(|why| ApiError::field("lora_path", why))?;
    sent(reply.send(Response::json(200, &json!({ "status": "loaded", "lora_name": name }))))
}

pub fn unload(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    service.trusts(request)?;
    let mut fields = Fields::parse(&request.body)?;
    let name = Fields::needed("lora_name", fields.text("lora_name")?)?;
    fields.end()?;
    service.unload(&name).map_err(|why| ApiError::new(404, why))?;
    sent(reply.send(Response::json(200, &json!({ "status": "unloaded", "lora_name": name }))))
}
