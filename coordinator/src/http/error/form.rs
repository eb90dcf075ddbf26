//! The three shapes in which clients expect an error.
//!
//! The shape follows from the path alone, so that even a request that was turned away before any route saw it is
//! answered in words that its client understands.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::ApiError;

/// Whose clients are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum ErrorForm {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
    /// `{"error": "message"}`
    Ollama,
}

impl ErrorForm {
    /// The form that belongs to a path.
    pub(in crate::http) fn of(path: &str) -> Self {
        let below = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if below("/v1/messages") {
            Self::Anthropic
        } else if below("/api") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }
}

impl ApiError {
    /// The JSON body.
    pub(in crate::http) fn body(&self, form: ErrorForm) -> Value {
        let parts = &self.0;
        let error = match form {
            ErrorForm::OpenAi => json!({
                "message": parts.message,
                "type": parts.kind,
                "param": parts.param,
                "code": parts.code,
            }),
            ErrorForm::Anthropic => json!({
                "type": anthropic_type(parts.status),
                "message": match parts.code {
                    // Agents look for these words, and then shorten their history.
                    Some("context_length_exceeded") => format!("prompt is too long: {}", parts.message),
                    _ => parts.message.clone(),
                },
            }),
            ErrorForm::Ollama => Value::String(parts.message.clone()),
        };
        let mut body = Map::new();
        if form == ErrorForm::Anthropic {
            body.insert("type".to_owned(), "error".into());
        }
        body.insert("error".to_owned(), error);
        body.extend(parts.extra.clone());
        Value::Object(body)
    }
}

/// Anthropic's name for a kind of error.
fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::REQUEST_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_from_the_path() {
        for (path, form) in [
            ("/v1/messages", ErrorForm::Anthropic),
            ("/v1/messages/count_tokens", ErrorForm::Anthropic),
            ("/v1/messagesx", ErrorForm::OpenAi),
            ("/api/chat", ErrorForm::Ollama),
            ("/apis", ErrorForm::OpenAi),
            ("/v1/chat/completions", ErrorForm::OpenAi),
            ("/", ErrorForm::OpenAi),
        ] {
            assert_eq!(ErrorForm::of(path), form, "{path}");
        }
    }

    #[test]
    fn each_form_says_what_came() {
        let error = ApiError::field("top_k", "`top_k` is wrong");
        let openai = json!({"error": {"message": "`top_k` is wrong", "type": "invalid_request_error",
            "param": "top_k", "code": null}});
        assert_eq!(error.body(ErrorForm::OpenAi), openai);
        let anthropic = json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "`top_k` is wrong"}});
        assert_eq!(error.body(ErrorForm::Anthropic), anthropic);
        let ollama = json!({"error": "`top_k` is wrong"});
        assert_eq!(error.body(ErrorForm::Ollama), ollama);
    }
}
