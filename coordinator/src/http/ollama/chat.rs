//! `POST /api/chat` and `POST /api/generate`: a conversation or a text continued, as lines of JSON unless `stream` is false.
//!
//! | field | meaning |
//! |---|---|
//! | `messages` | `/api/chat`; none, or none that is there, only asks whether the model is loaded |
//! | `prompt`, `system`, `raw` | `/api/generate`; `raw` leaves out the chat template, as do models without one |
//! | `tools` | `/api/chat`; functions |
//! | `options` | see [`super::options`] |
//! | `think` | `true`, `false`, or an effort: `low`, `medium`, `high` |
//! | `stream` | left out: yes |
//! | `keep_alive`, `truncate`, `shift` | ignored: the model stays, and nothing is left out of a prompt |
//! | `format` | `json`, or a JSON schema, which is followed as far as it goes |
//! | `template`, `context`, `suffix`, `images`, `logprobs` | refused unless empty |

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use serde_json::{Map, Value};

use crate::gateway::ServedModel;
use crate::http::api::{Api, ChatAsk};
use crate::http::body;
use crate::http::dialect::respond;
use crate::http::error::{ApiError, json_response};
use crate::http::fields::{Fields, describe};
use crate::http::format::{self, Binding};
use crate::http::observe::Observed;
use crate::http::sampling::{Delivery, Draw};
use crate::http::tools;
use crate::text::{
    Ask, ChatRequest, Message, OutputFormat, Prompt, Reading, Said, Thinking, Tool, ToolUse,
    encode_prompts,
};

use super::writer::{Route, Writer};
use super::{check_model, messages, options};

/// Fields that are known but cannot be honoured; each may be empty.
const REFUSED: [&str; 5] = ["template", "context", "suffix", "logprobs", "top_logprobs"];

/// `POST /api/chat`.
pub(super) async fn chat(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    let shared = Shared::read(&fields, &model)?;
    let messages = messages::read(&fields)?;
    let tools = ToolUse {
        tools: tools::list(&fields, tool)?,
        ..ToolUse::default()
    };
    let writer = Writer::new(Route::Chat, shared.name.clone(), started);
    drop(object);
    if messages.is_empty() {
        api.ready()?;
        return Ok(json_response(StatusCode::OK, &writer.loaded()));
    }
    let delivery = shared.delivery;
    let mut ask = chat_ask(messages, shared, "messages");
    ask.chat.tools = tools;
    let answer = api.chat(ask, started).await?;
    respond(answer, writer, delivery, api.config.limits.keep_alive).await
}

/// `POST /api/generate`.
pub(super) async fn generate(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    let shared = Shared::read(&fields, &model)?;
    messages::no_images(&fields)?;
    let prompt = fields.text("prompt")?.unwrap_or_default().to_owned();
    let system = fields.text("system")?.unwrap_or_default().to_owned();
    let raw = fields.flag("raw")?.unwrap_or(false);
    let writer = Writer::new(Route::Generate, shared.name.clone(), started);
    let delivery = shared.delivery;
    drop(object);
    if prompt.is_empty() {
        api.ready()?;
        return Ok(json_response(StatusCode::OK, &writer.loaded()));
    }
    let answer = if raw {
        plain(&api, prompt, shared, started).await?
    } else if model.template.is_none() {
        let parts = [system, prompt];
        let parts = parts.iter().filter(|part| !part.is_empty());
        let text = parts.map(String::as_str).collect::<Vec<_>>().join("\n\n");
        plain(&api, text, shared, started).await?
    } else {
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(Message::System(Said::new(system)));
        }
        messages.push(Message::User(Said::new(prompt)));
        let ask = chat_ask(messages, shared, "prompt");
        api.chat(ask, started).await?
    };
    respond(answer, writer, delivery, api.config.limits.keep_alive).await
}

/// What both have.
struct Shared {
    /// As the client calls the model.
    name: String,
    delivery: Delivery,
    thinking: Thinking,
    format: OutputFormat,
    draw: Draw,
}

impl Shared {
    fn read(fields: &Fields<'_>, model: &ServedModel) -> Result<Self, ApiError> {
        check_model(fields, model)?;
        refused(fields)?;
        Ok(Self {
            name: fields.text("model")?.unwrap_or(&model.id).to_owned(),
            delivery: match fields.flag("stream")? {
                None | Some(true) => Delivery::Stream,
                Some(false) => Delivery::Whole,
            },
            thinking: thinking(fields)?,
            format: format::read_word_or_schema(fields, "format")?,
            draw: options::read(fields, model)?,
        })
    }
}

/// A function; the only kind of tool there is.
fn tool(fields: &Fields<'_>) -> Result<Tool, ApiError> {
    let function = fields
        .object("function")?
        .ok_or_else(|| fields.missing("function", "an object with `name`"))?;
    let path = fields.path("function");
    tools::tool(&Fields::at(&path, function), "parameters")
}

fn thinking(fields: &Fields<'_>) -> Result<Thinking, ApiError> {
    match fields.get("think") {
        None => Ok(Thinking::Default),
        Some(Value::Bool(true)) => Ok(Thinking::On),
        Some(Value::Bool(false)) => Ok(Thinking::Off),
        Some(Value::String(effort)) if matches!(effort.as_str(), "low" | "medium" | "high") => {
            Ok(Thinking::On)
        }
        Some(other) => Err(fields.wrong("think", other, "true, false, low, medium or high")),
    }
}

/// Refuses what is asked beyond what is built. Empty values ask for nothing.
fn refused(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in REFUSED {
        let Some(value) = fields.get(name) else {
            continue;
        };
        let empty = match value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_u64() == Some(0),
            Value::Null | Value::Object(_) => false,
        };
        if !empty {
            let message = format!(
                "`{name}` is {}; this service cannot honour it and expects nothing",
                describe(value)
            );
            return Err(ApiError::unsupported(name, message));
        }
    }
    Ok(())
}

fn chat_ask(messages: Vec<Message>, shared: Shared, place: &'static str) -> ChatAsk {
    ChatAsk {
        chat: ChatRequest {
            messages,
            tools: ToolUse::default(),
            thinking: shared.thinking,
            format: shared.format,
            variables: Map::new(),
        },
        draw: shared.draw,
        logprobs: None,
        place,
    }
}

/// Starts the continuation of a text as it is.
async fn plain(
    api: &Arc<Api>,
    text: String,
    shared: Shared,
    started: Instant,
) -> Result<Observed, ApiError> {
    api.ready()?;
    let model = Arc::clone(api.gateway.model());
    let prompts = api
        .compute(move || encode_prompts(&model.tokenizer, vec![Prompt::Text(text)]))
        .await?
        .map_err(|error| ApiError::prompt("prompt", &error))?;
    let reading = Reading::plain();
    let binding = Binding::of(shared.format);
    let constraint = api.constraint(binding, &reading).await?;
    let ask = shared.draw.ask(prompts, reading, None);
    api.start(Ask { constraint, ..ask }, started).await
}
