//! `POST /v1/chat/completions`: a conversation continued.
//!
//! Beside the shared fields: `messages`, `tools`, `tool_choice`, `parallel_tool_calls`, `logprobs` with `top_logprobs`,
//! `enable_thinking` and `chat_template_kwargs` (variables of the model's chat template), `reasoning_effort` (`none` is
//! `enable_thinking: false`, any other value is `true`).

mod messages;
mod tools;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use serde_json::{Map, Value};

use crate::gateway::ServedModel;
use crate::text::{ChatRequest, PromptError, Thinking};

use super::api::{Api, ChatAsk};
use super::dialect::respond;
use super::error::ApiError;
use super::fields::Fields;
use super::sampling::{self, Shared};
use super::{body, format, refused};

use writer::Chat;

/// Variables that requests may not set through `chat_template_kwargs`: they are ours.
const RESERVED_VARIABLES: [&str; 4] = ["messages", "tools", "add_generation_prompt", "documents"];

/// The route.
pub(super) async fn handle(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let (ask, shared) = parse(&Fields::body(&object), &model)?;
    drop(object);
    let delivery = shared.delivery;
    let dialect = Chat::new(&model, &shared, ask.logprobs);
    let answer = api.chat(ask, started).await?;
    respond(answer, dialect, delivery, api.config.limits.keep_alive).await
}

fn parse(fields: &Fields<'_>, model: &ServedModel) -> Result<(ChatAsk, Shared), ApiError> {
    super::api::check_model(fields, model)?;
    refused::check_chat(fields)?;
    let shared = sampling::read(fields, model)?;
    let logprobs = logprobs(fields, model)?;
    if model.template.is_none() {
        return Err(ApiError::prompt("messages", &PromptError::NoTemplate));
    }
    let (thinking, variables) = variables(fields)?;
    let tools = tools::read(fields)?;
    if tools.binds() && fields.flag("ignore_eos")? == Some(true) {
        let message = "`ignore_eos` is true together with tools whose calls are constrained; such an answer ends with an end token, so expected one of the two";
        return Err(ApiError::field("ignore_eos", message));
    }
    let ask = ChatAsk {
        chat: ChatRequest {
            messages: messages::read(fields)?,
            tools,
            thinking,
            format: format::read(fields)?,
            variables,
        },
        draw: shared.draw.clone(),
        logprobs,
        place: "messages",
    };
    Ok((ask, shared))
}

fn logprobs(fields: &Fields<'_>, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let count = sampling::alternatives(fields, "top_logprobs", model)?;
    match (wanted, count) {
        (true, count) => Ok(Some(count.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(count)) => Err(ApiError::field(
            "top_logprobs",
            format!("`top_logprobs` is {count}; expected `logprobs` to be true with it"),
        )),
    }
}

/// Whether the model reasons, and the template's further variables.
fn variables(fields: &Fields<'_>) -> Result<(Thinking, Map<String, Value>), ApiError> {
    let effort = match fields.text("reasoning_effort")? {
        None => Thinking::Default,
        Some("none") => Thinking::Off,
        Some("minimal" | "low" | "medium" | "high" | "xhigh") => Thinking::On,
        Some(_) => {
            return Err(ApiError::field(
                "reasoning_effort",
                "`reasoning_effort` is an unknown text; expected none, minimal, low, medium, high or xhigh",
            ));
        }
    };
    let mut variables = Map::new();
    if let Some(given) = fields.object("chat_template_kwargs")? {
        for (name, value) in given {
            if RESERVED_VARIABLES.contains(&name.as_str()) {
                let path = format!("chat_template_kwargs.{name}");
                let message =
                    format!("`{path}` is set; expected only variables of the template's own");
                return Err(ApiError::field(path, message));
            }
            variables.insert(name.clone(), value.clone());
        }
    }
    let thinking = match fields.flag("enable_thinking")? {
        Some(true) => Thinking::On,
        Some(false) => Thinking::Off,
        // What a client says to the template itself is more exact than an effort.
        None if variables.contains_key("enable_thinking") => Thinking::Default,
        None => effort,
    };
    Ok((thinking, variables))
}
