//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's dialect.
//!
//! `tools.rs` and `messages.rs` read, `writer.rs` writes. Beside them: `model`, `max_tokens` (as a bound: an answer that
//! would leave the context ends with `model_context_window_exceeded`), `system`, `thinking`, `stop_sequences`,
//! `temperature`, `top_p`, `top_k`, `stream`, `output_config.format` (`json_schema` with `schema`). `metadata`, `service_tier`, `cache_control`, `context_management`, the
//! effort and the budget of thinking are hints to Anthropic's own service and ignored.

mod messages;
mod tools;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::gateway::ServedModel;
use crate::text::{ChatRequest, OutputFormat, PromptError, Thinking};

use super::api::{Api, ChatAsk, check_model};
use super::dialect::respond;
use super::error::{ApiError, json_response};
use super::fields::{Fields, describe};
use super::sampling::{self, Delivery, Draw};
use super::{body, format};

use writer::{Messages, Shown};

/// The least budget that Anthropic's own service takes.
const BUDGET_TOKENS_MIN: u32 = 1024;

/// Fields that ask for something that is not built.
const REFUSED: [&str; 3] = ["mcp_servers", "container", "output_format"];

/// The route of answers.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    let chat = chat(&fields, &model)?;
    let (draw, most) = draw(&fields, &model)?;
    let delivery = match fields.flag("stream")? {
        Some(true) => Delivery::Stream,
        Some(false) | None => Delivery::Whole,
    };
    let writer = Messages::new(&model.id, draw.stops.clone(), most, shown(&fields)?);
    drop(object);
    let ask = ChatAsk {
        chat,
        draw,
        logprobs: None,
        place: "messages",
    };
    let answer = api.chat(ask, started).await?;
    respond(answer, writer, delivery, api.config.limits.keep_alive).await
}

/// The route that counts.
pub(super) async fn count(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let object = body::read_object(&api.config.limits, request).await?;
    let chat = chat(&Fields::body(&object), api.gateway.model())?;
    drop(object);
    let rendered = api.render(chat, "messages").await?;
    let body = json!({ "input_tokens": rendered.ids.len() });
    Ok(json_response(StatusCode::OK, &body))
}

/// What both routes read.
fn chat(fields: &Fields<'_>, model: &ServedModel) -> Result<ChatRequest, ApiError> {
    check_model(fields, model)?;
    refuse(fields)?;
    if model.template.is_none() {
        return Err(ApiError::prompt("messages", &PromptError::NoTemplate));
    }
    Ok(ChatRequest {
        messages: messages::read(fields)?,
        tools: tools::read(fields)?,
        thinking: thinking(fields)?,
        format: format(fields)?,
        variables: Map::new(),
    })
}

fn refuse(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in REFUSED {
        match fields.get(name) {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => {}
            Some(value) => return Err(not_yet(&fields.path(name), value, "nothing")),
        }
    }
    let Some(output) = fields.object("output_config")? else {
        return Ok(());
    };
    let output = Fields::at(&fields.path("output_config"), output);
    // How hard to think is a hint; it must still be one.
    output.text("effort")?;
    Ok(())
}

/// What the text of the answer has to look like.
fn format(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    match fields.object("output_config")? {
        None => Ok(OutputFormat::Text),
        Some(object) => {
            let output = Fields::at(&fields.path("output_config"), object);
            format::read_flat(&output, "format")
        }
    }
}

fn not_yet(path: &str, came: &Value, expected: &str) -> ApiError {
    let came = describe(came);
    let message =
        format!("`{path}` is {came}; this service cannot honour it yet and expects {expected}");
    ApiError::unsupported(path, message)
}

/// How tokens are drawn, and the most that the client wants.
fn draw(fields: &Fields<'_>, model: &ServedModel) -> Result<(Draw, u32), ApiError> {
    let most = fields
        .integer("max_tokens", 1..=u32::MAX)?
        .ok_or_else(|| fields.missing("max_tokens", "an integer from 1"))?;
    let mut draw = Draw::of(model);
    draw.default_max_tokens = Some(most);
    draw.stops = match fields.array("stop_sequences")? {
        None => Vec::new(),
        Some(_) => sampling::stop_texts(fields, "stop_sequences")?,
    };
    let sampling = &mut draw.sampling;
    if let Some(temperature) = fields.number("temperature", 0.0..=1.0)? {
        sampling.temperature = temperature;
    }
    if let Some(top_p) = fields.number("top_p", sampling::TOP_P)? {
        sampling.top_p = top_p;
    }
    if let Some(top_k) = sampling::top_k(fields, model)? {
        sampling.top_k = top_k;
    }
    Ok((draw, most))
}

const THINKING: &str = "an object with `type` `enabled`, `adaptive` or `disabled`";

/// Without a word there is no thinking, as clients of this dialect expect.
fn thinking(fields: &Fields<'_>) -> Result<Thinking, ApiError> {
    let Some(object) = fields.object("thinking")? else {
        return Ok(Thinking::Off);
    };
    let inner = Fields::at(&fields.path("thinking"), object);
    match inner.text("type")? {
        Some("disabled") => Ok(Thinking::Off),
        Some("adaptive") => Ok(Thinking::On),
        Some("enabled") => {
            let budget = inner.integer("budget_tokens", BUDGET_TOKENS_MIN..=u32::MAX)?;
            let expected = format!("an integer from {BUDGET_TOKENS_MIN}");
            budget.ok_or_else(|| inner.missing("budget_tokens", &expected))?;
            Ok(Thinking::On)
        }
        Some(_) => {
            let path = inner.path("type");
            let message =
                format!("`{path}` is an unknown text; expected `thinking` to be {THINKING}");
            Err(ApiError::field(path, message))
        }
        None => Err(inner.missing("type", "`enabled`, `adaptive` or `disabled`")),
    }
}

/// Whether thinking is shown or only marked.
fn shown(fields: &Fields<'_>) -> Result<Shown, ApiError> {
    let Some(object) = fields.object("thinking")? else {
        return Ok(Shown::Text);
    };
    let inner = Fields::at(&fields.path("thinking"), object);
    match inner.text("display")? {
        None | Some("summarized") => Ok(Shown::Text),
        Some("omitted") => Ok(Shown::Nothing),
        Some(_) => {
            let path = inner.path("display");
            let message =
                format!("`{path}` is an unknown text; expected `summarized` or `omitted`");
            Err(ApiError::field(path, message))
        }
    }
}
