//! `/v1/embeddings`: texts as vectors.

use std::time::Instant;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, ids};
use crate::http::{Reply, Request, Response};
use crate::persona::Persona;
use crate::routes::delivery::sent;
use crate::service::Service;

const INPUT: &str = "input";
/// Most texts of a request; OpenAI's.
const TEXTS: usize = 2048;
/// Texts and tokens that are handed to the engine at once, so that requests beside it are not held up for long.
const PIECE: (usize, usize) = (16, 4096);

pub fn run(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    let mut fields = Fields::parse(&request.body)?;
    let persona = service.persona(&Fields::needed("model", fields.text("model")?)?)?;
    let as_text = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::field("encoding_format", "float or base64 is expected")),
    };
    let width = service.engine().embedding_width();
    if fields
        .count("dimensions")?
        .is_some_and(|dimensions| dimensions != width)
    {
        let why = format!("vectors of this model have {width} numbers, and are not cut");
        return Err(ApiError::unsupported("dimensions", why));
    }
    fields.take("user");
    let texts = texts(service, &mut fields, &persona)?;
    fields.end()?;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let mut vectors = Vec::with_capacity(texts.len());
    let due = Instant::now() + service.settings().request_time;
    for piece in pieces(texts) {
        if Instant::now() >= due {
            let why = format!("the time for the request is over after {} texts", vectors.len());
            return Err(ApiError::new(504, why).with_code("timeout"));
        }
        if !reply.client().listens() {
            return Ok(());
        }
        let adapter = persona.adapter.as_deref();
        vectors.extend(service.engine().embed(piece, adapter, &service.settings().embedding)?);
    }
    let data = vectors.iter().enumerate().map(|(index, vector)| {
        let embedding = if as_text { base64(vector).into() } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let object = json!({
        "object": "list", "data": data.collect::<Vec<Value>>(), "model": persona.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    sent(reply.send(Response::json(200, &object)))
}

/// The texts as tokens: a text, a list of texts, a list of ids, or a list of those.
fn texts(service: &Service, fields: &mut Fields, persona: &Persona) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = |why: &str| ApiError::field(INPUT, why);
    let encode = |text: &str| {
        let encoded = persona.tokenizer.encode_pair(text, None, None);
        encoded.map(|(ids, _)| ids).map_err(|e| ApiError::field(INPUT, e))
    };
    let texts = match Fields::needed(INPUT, fields.take(INPUT))? {
        Value::String(text) => vec![encode(&text)?],
        Value::Array(values) if values.first().is_some_and(Value::is_number) => vec![ids(INPUT, &values)?],
        Value::Array(values) if values.len() > TEXTS => {
            return Err(ApiError::field(INPUT, format!("at most {TEXTS} texts in a request")));
        }
        Value::Array(values) => {
            let one = |value: &Value| match value {
                Value::String(text) => encode(text),
                Value::Array(values) => ids(INPUT, values),
                _ => Err(wrong("texts or lists of token ids are expected")),
            };
            values.iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong("a text, a list of texts or lists of token ids are expected")),
    };
    let own = service.settings().embedding.max_length.unwrap_or(usize::MAX);
    let most = own.min(service.engine().positions());
    for (at, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return Err(ApiError::field(
                INPUT,
                format!("text {at} is empty: give it at least one token"),
            ));
        }
        if text.len() > most {
            let why = format!(
                "text {at} has {} tokens, and the model takes {most}; cut it",
                text.len()
            );
            return Err(ApiError::field(INPUT, why).with_code("context_length_exceeded"));
        }
    }
    match texts.is_empty() {
        true => Err(wrong("at least one text is expected")),
        false => Ok(texts),
    }
}

/// Texts in the order they came, a few at a time.
fn pieces(texts: Vec<Vec<u32>>) -> Vec<Vec<Vec<u32>>> {
    let mut pieces: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut tokens = 0;
    for text in texts {
        let fits = |piece: &Vec<_>| piece.len() < PIECE.0 && tokens + text.len() <= PIECE.1;
        if !pieces.last().is_some_and(fits) {
            pieces.push(Vec::new());
            tokens = 0;
        }
        tokens += text.len();
        if let Some(last) = pieces.last_mut() {
            last.push(text);
        }
    }
    pieces
}

/// The numbers in 32 bits each, the lowest byte first, in base64 (RFC 4648).
fn base64(vector: &[f32]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { letter as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_pythons() {
        // base64.b64encode(struct.pack("<2f", 1.0, -2.5)), of 3 and of none.
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0, -2.5, 0.1]), "AACAPwAAIMDNzMw9");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[]), "");
    }

    #[test]
    fn pieces_are_small_and_lose_nothing() {
        let texts: Vec<Vec<u32>> = (0..40).map(|at| vec![at; 1 + 97 * at as usize]).collect();
        let pieces = pieces(texts.clone());
        let tokens = |piece: &Vec<Vec<u32>>| piece.iter().map(Vec::len).sum::<usize>();
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() == 1 || (piece.len() <= PIECE.0 && tokens(piece) <= PIECE.1))
        );
        assert_eq!(pieces.concat(), texts);
    }
}
