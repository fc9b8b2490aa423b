//! The fields of a request body: read by name and type, so that what is left over can be refused by name.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// A JSON object, of which fields are taken.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::new(400, "the body must be a JSON object")),
            Err(e) => Err(ApiError::new(400, format!("the body is not valid JSON: {e}"))),
        }
    }

    pub fn of(name: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(ApiError::field(name, "an object is expected")),
        }
    }

    /// The value of a field; `null` is the same as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(ApiError::field(name, format!("{wanted} is expected"))),
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.typed(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let read = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.typed(name, "a whole number of 0 or more", read)
    }

    pub fn whole(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        self.typed(name, "a whole number", Value::as_i64)
    }

    pub fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub fn needed<T>(name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::field(name, "is missing"))
    }

    /// Refuses every field that was not taken, the first by name.
    pub fn end(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.0.iter().find(|(_, value)| !value.is_null()) else {
            return Ok(());
        };
        Err(ApiError::unsupported(name, "this field is not supported here"))
    }
}

/// A list of token ids.
pub fn ids(name: &str, values: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let ids: Option<Vec<u32>> = values.iter().map(id).collect();
    ids.ok_or_else(|| ApiError::field(name, "a list of token ids is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let mut fields = Fields::parse(br#"{"n": -1, "temperature": "hot", "stream": null, "audio": {}}"#).unwrap();
        assert!(fields.count("n").unwrap_err().body()["error"]["param"] == "n");
        assert!(fields.number("temperature").is_err());
        assert_eq!(fields.flag("stream").unwrap(), None);
        let left = fields.end().unwrap_err().body();
        assert_eq!(
            (&left["error"]["param"], &left["error"]["code"]),
            (&"audio".into(), &"unsupported_parameter".into())
        );
        assert_eq!(Fields::parse(b"[1]").unwrap_err().status, 400);
        assert_eq!(Fields::parse(b"{\"a\": \xff}").unwrap_err().status, 400);
    }
}
