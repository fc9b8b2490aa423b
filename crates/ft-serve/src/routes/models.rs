//! `/v1/models`: the base and its adapters.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::persona::Persona;
use crate::routes::delivery::sent;
use crate::service::Service;

pub fn list(service: &Service, _: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let data: Vec<Value> = service
        .personas()
        .iter()
        .map(|persona| model(service, persona))
        .collect();
    sent(reply.send(Response::json(200, &json!({ "object": "list", "data": data }))))
}

pub fn one(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let name = request.path.strip_prefix("/v1/models/").unwrap_or_default();
    let persona = service.persona(&unescape(name))?;
    sent(reply.send(Response::json(200, &model(service, &persona))))
}

fn model(service: &Service, persona: &Persona) -> Value {
    let parent = persona.adapter.as_ref().map(|_| service.base().name.clone());
    json!({
        "id": persona.name, "object": "model", "created": service.created, "owned_by": "ft",
        "root": persona.root, "parent": parent, "max_model_len": service.engine().limit_with(persona.adapter.as_deref()),
    })
}

/// `%2F` and the like as what they stand for.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, later)) = rest.split_first() {
        let hex = later.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &later[2..] } else { later };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unescaped() {
        assert_eq!(super::unescape("a%2Fb%3a%zz%"), "a/b:%zz%");
    }
}
