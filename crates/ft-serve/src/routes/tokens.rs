//! `/tokenize` and `/detokenize`, with vLLM's fields.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, ids};
use crate::http::{Reply, Request, Response};
use crate::routes::chat;
use crate::routes::delivery::sent;
use crate::service::Service;
use crate::tool_calls::Tools;

pub fn tokenize(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let mut fields = Fields::parse(&request.body)?;
    let persona = service.persona(&Fields::needed("model", fields.text("model")?)?)?;
    let tokens = match fields.text("prompt")? {
        None => {
            let tools = Tools::take(&mut fields)?;
            chat::prompt(&mut fields, &persona, &tools)?
        }
        Some(text) => {
            let special = fields.flag("add_special_tokens")?.unwrap_or(true);
            let tokens = persona.tokenizer.encode(&text, special);
            tokens.map_err(|e| ApiError::field("prompt", e))?
        }
    };
    fields.end()?;
    let limit = service.engine().limit_with(persona.adapter.as_deref());
    let object = json!({ "count": tokens.len(), "max_model_len": limit, "tokens": tokens });
    sent(reply.send(Response::json(200, &object)))
}

pub fn detokenize(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let mut fields = Fields::parse(&request.body)?;
    let persona = service.persona(&Fields::needed("model", fields.text("model")?)?)?;
    let tokens = match Fields::needed("tokens", fields.take("tokens"))? {
        Value::Array(values) => ids("tokens", &values)?,
        _ => return Err(ApiError::field("tokens", "a list of token ids is expected")),
    };
    fields.end()?;
    let text = persona.tokenizer.decode(&tokens, false);
    sent(reply.send(Response::json(200, &json!({ "prompt": text }))))
}
