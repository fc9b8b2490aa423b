//! Errors in the form of OpenAI's API.

use std::fmt;

use ft_infer::RequestError;
use serde_json::{Value, json};

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// Status code of the response.
    pub status: u16,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: u16, message: impl fmt::Display) -> Self {
        Self {
            status,
            message: message.to_string(),
            param: None,
            code: None,
        }
    }

    /// Status 400: the field `param` is wrong.
    pub fn field(param: &str, message: impl fmt::Display) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(400, format!("{param}: {message}"))
        }
    }

    /// The field is one of OpenAI's that does nothing here.
    pub fn unsupported(param: &str, message: impl fmt::Display) -> Self {
        Self {
            code: Some("unsupported_parameter"),
            ..Self::field(param, message)
        }
    }

    pub fn unknown_model(name: &str, known: &[String]) -> Self {
        Self {
            param: Some("model".into()),
            code: Some("model_not_found"),
            ..Self::new(
                404,
                format!("there is no model `{name}`; there are {}", known.join(", ")),
            )
        }
    }

    pub fn with_param(self, param: &str) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    pub fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// OpenAI's name for a class of errors.
    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the response.
    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::Invalid(_) | RequestError::TooLong { .. } => 400,
            RequestError::UnknownAdapter(_) => 404,
            RequestError::Full(_) => 429,
            RequestError::Closing => 503,
            RequestError::TimedOut { .. } => 504,
            RequestError::Adapter { .. }
            | RequestError::Structure { .. }
            | RequestError::NotFinite { .. }
            | RequestError::Internal(_) => 500,
        };
        let code = match &error {
            RequestError::TooLong { .. } => Some("context_length_exceeded"),
            RequestError::Full(_) => Some("queue_full"),
            RequestError::Closing => Some("shutting_down"),
            RequestError::TimedOut { .. } => Some("timeout"),
            _ => None,
        };
        Self {
            code,
            ..Self::new(status, error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openais_form() {
        let body = ApiError::unknown_model("x", &["a".into(), "b".into()]).body();
        assert_eq!(
            body,
            json!({"error": {"message": "there is no model `x`; there are a, b", "type": "not_found_error",
                "param": "model", "code": "model_not_found"}})
        );
        let full = ApiError::from(RequestError::Full(3));
        assert_eq!((full.status, full.kind()), (429, "rate_limit_error"));
        assert_eq!(ApiError::field("n", "too many").body()["error"]["param"], "n");
    }
}
