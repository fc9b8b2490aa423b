//! `response_format`: answers that are JSON, of a schema or of any; and those that must be calls of tools.

use ft_infer::Structure;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::persona::Persona;

const NAME: &str = "response_format";

/// What the answer must be, if anything. `call` is the schema where it must be a call.
pub fn take(fields: &mut Fields, persona: &Persona, call: Option<Value>) -> Result<Option<Structure>, ApiError> {
    let follow = |name: &str, schema: Option<Value>| {
        let structure = schema.map(|schema| persona.vocabulary()?.json(&schema));
        structure.transpose().map_err(|why| ApiError::field(name, why))
    };
    let Some(value) = fields.take(NAME) else {
        return follow("tools", call);
    };
    let mut format = Fields::of(NAME, value)?;
    let schema = match Fields::needed("type", format.text("type")?)?.as_str() {
        "text" => None,
        "json_object" => Some(json!({ "type": "object" })),
        "json_schema" => Some(schema(&mut format)?),
        kind => {
            let why = format!("\"{kind}\" is not supported; text, json_object and json_schema are");
            return Err(ApiError::unsupported(NAME, why));
        }
    };
    format.end()?;
    match (schema, call) {
        (Some(_), Some(_)) => Err(ApiError::field(
            NAME,
            "an answer that tool_choice makes a call has no other format",
        )),
        (None, call) => follow("tools", call),
        (schema, None) => follow(NAME, schema),
    }
}

/// `strict` changes nothing: a schema is always followed.
fn schema(format: &mut Fields) -> Result<Value, ApiError> {
    const INNER: &str = "json_schema";
    let mut inner = Fields::of(INNER, Fields::needed(INNER, format.take(INNER))?)?;
    for name in ["name", "description"] {
        inner.text(name)?;
    }
    inner.flag("strict")?;
    let schema = inner.take("schema").unwrap_or_else(|| json!({}));
    inner.end().map(|()| schema)
}
