//! Errors as clients see them: a status and a JSON body in the shape that the path's clients know.
//!
//! The one place where an error becomes HTTP. Messages say what came, what was expected and what to do; they never
//! contain text of a prompt or an answer.

mod form;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::gateway::{Failure, Phase, Refusal, Retry, ServiceStatus};
use crate::people::OverLimit;
use crate::text::{AskError, EmbedError, PromptError};

pub(super) use form::ErrorForm;

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
/// Seconds after which a client may come back, if nothing better is known.
const RETRY_AFTER_S: u32 = 5;
const RETRY_AFTER_S_MAX: f64 = 600.0;

/// An answer that is not what was asked for. Boxed, so that the common outcome stays small.
#[derive(Debug, Clone)]
pub(super) struct ApiError(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after_s: Option<u32>,
    /// Fields beside `error`.
    extra: Map<String, Value>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after_s: None,
            extra: Map::new(),
        }))
    }

    fn coded(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    /// 400 about the request as a whole.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// 400 about one field.
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::bad_request(message);
        error.0.param = Some(param.into());
        error
    }

    /// 400 about a field that is known but cannot be honoured.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::field(param, message).coded("unsupported_parameter")
    }

    /// 401: no key or a wrong one.
    pub(super) fn unauthorized(what: impl std::fmt::Display) -> Self {
        let message = format!(
            "{what}; expected a key of this household in the header `Authorization: Bearer KEY` or `x-api-key: KEY`"
        );
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
            .coded("invalid_api_key")
    }

    /// 429: others take all the room there is for bodies.
    pub(super) fn busy() -> Self {
        let message = "too many large requests are being read; try again in a moment";
        let mut error =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).coded("busy");
        error.0.retry_after_s = Some(RETRY_AFTER_S);
        error
    }

    /// 429: somebody's limit is reached.
    pub(super) fn over_limit(over: &OverLimit) -> Self {
        let mut error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            over.to_string(),
        )
        .coded(over.code());
        error.0.retry_after_s = Some(over.retry_after_s());
        error
    }

    /// 403: this client may not speak to us from where it is.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).coded("forbidden")
    }

    /// 404: nothing at this path.
    pub(super) fn no_such_path() -> Self {
        let message =
            "nothing is served at this path; see /v1/models, /v1/chat/completions, /v1/completions";
        Self::new(StatusCode::NOT_FOUND, INVALID, message).coded("not_found")
    }

    /// 404: no response is kept under this id.
    pub(super) fn no_such_response() -> Self {
        let message = "no response is kept under this id: it was not stored, was deleted, or made room for newer ones";
        Self::new(StatusCode::NOT_FOUND, INVALID, message).coded("not_found")
    }

    /// 404: another model than the one that is served.
    pub(super) fn no_such_model(asked: &str, served: &str) -> Self {
        const SHOWN_CHARS: usize = 128;
        let asked: String = asked.chars().take(SHOWN_CHARS).collect();
        let message = format!("the model `{asked}` is not served here; expected `{served}`");
        let mut error = Self::new(StatusCode::NOT_FOUND, INVALID, message).coded("model_not_found");
        error.0.param = Some("model".to_owned());
        error
    }

    /// 405.
    pub(super) fn wrong_method() -> Self {
        let message =
            "this path does not take this method; the header `Allow` names those it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message).coded("method_not_allowed")
    }

    /// 408: the body did not come in time.
    pub(super) fn too_slow(deadline_s: f64) -> Self {
        let message = format!("the body was not complete after {deadline_s} s; send it faster");
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, message).coded("request_timeout")
    }

    /// 409: the household does not do what its owner asks.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, INVALID, message).coded("refused")
    }

    /// 413.
    pub(super) fn too_large(bytes_max: usize) -> Self {
        let message = format!("the body is too large; at most {bytes_max} bytes are accepted");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message).coded("request_too_large")
    }

    /// 415.
    pub(super) fn not_json() -> Self {
        let message =
            "the body must be JSON in UTF-8: send the header `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message)
            .coded("unsupported_media_type")
    }

    /// 500.
    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).coded("internal")
    }

    /// 503 with everything that is known about when it will be better.
    pub(super) fn not_ready(status: &ServiceStatus) -> Self {
        let message = format!("the model is not ready: {}", status.detail);
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message);
        error.0.code = Some(match status.phase {
            Phase::Draining => "shutting_down",
            _ => "not_ready",
        });
        error.0.retry_after_s = Some(retry_after_s(status.eta_s));
        error.0.extra = status_fields(status);
        error
    }

    /// An answer broke off before anything of it was sent.
    pub(super) fn failed(failure: &Failure) -> Self {
        let status = match failure.retry {
            Retry::Soon => StatusCode::SERVICE_UNAVAILABLE,
            Retry::Never => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut error = Self::new(status, SERVER, failure.message.clone()).coded(failure.code);
        error.0.retry_after_s = (failure.retry == Retry::Soon).then_some(RETRY_AFTER_S);
        error
    }

    /// An ask that could not start.
    pub(super) fn asked(error: &AskError, status: &ServiceStatus) -> Self {
        match error {
            AskError::EmptyPrompt => Self::field("prompt", error.to_string()),
            AskError::Refused(Refusal::NotReady) => Self::not_ready(status),
            AskError::Refused(Refusal::Context { .. }) => {
                Self::bad_request(format!("{error}; shorten the prompt or lower `max_tokens`"))
                    .coded("context_length_exceeded")
            }
            AskError::Refused(Refusal::Busy { retry_after_s }) => {
                let mut busy = Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    error.to_string(),
                )
                .coded("busy");
                busy.0.retry_after_s = Some(*retry_after_s);
                busy
            }
            AskError::Refused(Refusal::Invalid(_)) => Self::bad_request(error.to_string()),
        }
    }

    /// Inputs in `field` that got no vectors.
    pub(super) fn embed(field: &str, error: &EmbedError, status: &ServiceStatus) -> Self {
        match error {
            EmbedError::Empty(_) => Self::field(field, error.to_string()),
            EmbedError::TooLong { .. } => {
                Self::field(field, error.to_string()).coded("context_length_exceeded")
            }
            EmbedError::Refused(refusal) => {
                Self::asked(&AskError::Refused(refusal.clone()), status)
            }
            EmbedError::Failed(failure) => Self::failed(failure),
        }
    }

    /// A prompt that cannot be turned into ids; `place` is the field that it was in.
    pub(super) fn prompt(place: &str, error: &PromptError) -> Self {
        match error {
            PromptError::NoTools => Self::unsupported("tools", error.to_string()),
            PromptError::NoTemplate | PromptError::Template(_) | PromptError::Tokenizer(_) => {
                Self::field(place, error.to_string())
            }
        }
    }

    /// Writes the error into a response, whose other headers stay.
    pub(super) fn write(&self, form: ErrorForm, response: &mut Response<Body>) {
        let mut whole = json_response(self.0.status, &self.body(form));
        let headers = response.headers_mut();
        // It speaks of the body that was there before.
        headers.remove(header::CONTENT_LENGTH);
        headers.extend(std::mem::take(whole.headers_mut()));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        *response.status_mut() = whole.status();
        *response.body_mut() = whole.into_body();
    }
}

/// What `/readyz` tells.
pub(super) fn status_fields(status: &ServiceStatus) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("phase", status.phase.name().into());
    put("done_bytes", status.done_bytes.into());
    put("total_bytes", status.total_bytes.into());
    put("eta_s", status.eta_s.map_or(Value::Null, Value::from));
    put("nodes", status.nodes.into());
    put("missing_bytes", status.missing_bytes.into());
    put("detail", status.detail.clone().into());
    fields
}

/// Seconds to wait, from a prediction that may be missing or absurd.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to 1..=600 first"
)]
fn retry_after_s(eta_s: Option<f64>) -> u32 {
    match eta_s {
        Some(eta) if eta.is_finite() => eta.ceil().clamp(1.0, RETRY_AFTER_S_MAX) as u32,
        _ => RETRY_AFTER_S,
    }
}

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    let (status, bytes) = match serde_json::to_vec(body) {
        Ok(bytes) => (status, bytes),
        // Our own types always serialise; a bare 500 is the honest answer if one day they do not.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
