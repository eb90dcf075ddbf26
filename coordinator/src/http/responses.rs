//! `POST /v1/responses`: a conversation continued, told as items; and what is kept of it.
//!
//! | field | meaning |
//! |---|---|
//! | `input` | a text or items, see [`input`] |
//! | `instructions` | come first; not carried on by `previous_response_id` |
//! | `previous_response_id` | goes on from a kept response |
//! | `store` | left out: yes; in memory, bounded for each person, the oldest goes first |
//! | `tools`, `tool_choice`, `parallel_tool_calls` | see [`tools`] |
//! | `reasoning.effort` | `none` switches reasoning off, any other on; `summary` is taken and never given: reasoning comes whole |
//! | `include` | `reasoning.encrypted_content` is honoured |
//! | `max_output_tokens`, `temperature`, `top_p`, and ours: `top_k`, `min_p`, `seed`, `stop`, penalties | as in chats |
//! | `metadata` | given back |
//! | `text.format` | `text`, `json_object`, or `json_schema` with `schema`, `name` and `strict` |
//! | `truncation` | `disabled` only |
//! | `background`, `conversation`, `prompt`, `top_logprobs`, `text.verbosity` | refused unless they ask for nothing |
//! | `user`, `safety_identifier`, `prompt_cache_key`, `service_tier`, `stream_options`, `max_tool_calls`, `client_metadata` | ignored |

mod input;
mod item;
mod sealed;
mod store;
mod tools;
mod writer;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{Request, Response, StatusCode};
use axum::routing::{get, post};
use serde_json::{Map, Value, json};

use crate::gateway::ServedModel;
use crate::text::{ChatRequest, Message, OutputFormat, PromptError, Said, Thinking};

use super::api::{Api, ChatAsk, check_model};
use super::dialect::respond;
use super::error::{ApiError, json_response};
use super::fields::{Fields, describe};
use super::sampling::{self, Delivery, Draw};
use super::{body, format, guard};

use item::Seal;
use writer::{Keep, Writer};

pub(super) use store::Store;

/// Entries of `metadata`, and bytes of a key and of a value.
const METADATA_MAX: (usize, usize, usize) = (16, 64, 512);

/// All paths below `/v1/responses`.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/{id}", get(kept).delete(remove))
}

/// `POST /v1/responses`.
async fn create(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let owner = guard::caller()?.person().id;
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    let parsed = Parsed::read(&fields, &model)?;
    let mut messages = match fields.text("previous_response_id")? {
        None => Vec::new(),
        Some(id) => {
            let kept = api.responses.get(owner, id);
            let kept = kept.ok_or_else(|| not_kept("previous_response_id"))?;
            kept.messages.clone()
        }
    };
    messages.extend(parsed.input);
    let keep = parsed.store.then(|| Keep {
        store: Arc::clone(&api.responses),
        owner,
        messages: messages.clone(),
    });
    if let Some(text) = fields.text("instructions")?.filter(|text| !text.is_empty()) {
        messages.insert(0, Message::System(Said::new(text)));
    }
    let answered = answered(&object, &model, &parsed.draw);
    let writer = Writer::new(answered, parsed.tools.custom, parsed.seal, keep);
    drop(object);
    let ask = ChatAsk {
        chat: ChatRequest {
            messages,
            tools: parsed.tools.uses,
            thinking: parsed.thinking,
            format: parsed.format,
            variables: Map::new(),
        },
        draw: parsed.draw,
        logprobs: None,
        place: "input",
    };
    let answer = api.chat(ask, started).await?;
    respond(
        answer,
        writer,
        parsed.delivery,
        api.config.limits.keep_alive,
    )
    .await
}

/// `GET /v1/responses/{id}`.
async fn kept(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, ApiError> {
    // A path that is no text names nothing.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let owner = guard::caller()?.person().id;
    let kept = api.responses.get(owner, &id);
    let kept = kept.ok_or_else(ApiError::no_such_response)?;
    Ok(json_response(StatusCode::OK, &kept.body))
}

/// `DELETE /v1/responses/{id}`.
async fn remove(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, ApiError> {
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let owner = guard::caller()?.person().id;
    if !api.responses.remove(owner, &id) {
        return Err(ApiError::no_such_response());
    }
    let body = json!({ "id": id, "object": "response", "deleted": true });
    Ok(json_response(StatusCode::OK, &body))
}

fn not_kept(field: &'static str) -> ApiError {
    ApiError::field(
        field,
        format!(
            "`{field}` names no response that is kept here: it was not stored, was deleted, or made room for newer ones; send the whole conversation as `input`"
        ),
    )
}

/// What a request says, beside what is given back as it came.
struct Parsed {
    input: Vec<Message>,
    tools: tools::Tools,
    thinking: Thinking,
    format: OutputFormat,
    seal: Seal,
    store: bool,
    delivery: Delivery,
    draw: Draw,
}

impl Parsed {
    fn read(fields: &Fields<'_>, model: &ServedModel) -> Result<Self, ApiError> {
        check_model(fields, model)?;
        refused(fields)?;
        metadata(fields)?;
        if model.template.is_none() {
            return Err(ApiError::prompt("input", &PromptError::NoTemplate));
        }
        let mut draw = sampling::draw(fields, model)?;
        draw.choices = 1;
        draw.max_tokens = fields.integer("max_output_tokens", 1..=u32::MAX)?;
        Ok(Self {
            input: input::read(fields)?,
            tools: tools::read(fields)?,
            thinking: thinking(fields)?,
            format: format(fields)?,
            seal: include(fields)?,
            store: fields.flag("store")?.unwrap_or(true),
            delivery: match fields.flag("stream")? {
                Some(true) => Delivery::Stream,
                Some(false) | None => Delivery::Whole,
            },
            draw,
        })
    }
}

/// The fields of the answer that repeat the request, or say what held in its place.
fn answered(object: &Map<String, Value>, model: &ServedModel, draw: &Draw) -> Map<String, Value> {
    let created = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    put("object", "response".into());
    put(
        "created_at",
        created.map_or(0, |since| since.as_secs()).into(),
    );
    put("model", model.id.as_str().into());
    put("temperature", draw.sampling.temperature.into());
    put("top_p", draw.sampling.top_p.into());
    let reasoning = json!({ "effort": null, "summary": null });
    for (name, left_out) in [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("previous_response_id", Value::Null),
        ("reasoning", reasoning),
        ("parallel_tool_calls", true.into()),
        ("store", true.into()),
        ("tool_choice", "auto".into()),
        ("tools", json!([])),
        ("metadata", json!({})),
        ("user", Value::Null),
    ] {
        let given = object.get(name).filter(|value| !value.is_null());
        put(name, given.cloned().unwrap_or(left_out));
    }
    let format = object.get("text").and_then(|text| text.get("format"));
    let format = format.filter(|format| !format.is_null()).cloned();
    let format = format.unwrap_or_else(|| json!({ "type": "text" }));
    put("text", json!({ "format": format }));
    put("truncation", "disabled".into());
    put("background", false.into());
    body
}

fn thinking(fields: &Fields<'_>) -> Result<Thinking, ApiError> {
    let Some(object) = fields.object("reasoning")? else {
        return Ok(Thinking::Default);
    };
    let reasoning = Fields::at("reasoning", object);
    for name in ["summary", "generate_summary"] {
        one_of(&reasoning, name, &["auto", "concise", "detailed", "none"])?;
    }
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh"];
    Ok(match one_of(&reasoning, "effort", &efforts)? {
        None => Thinking::Default,
        Some("none") => Thinking::Off,
        Some(_) => Thinking::On,
    })
}

fn one_of<'a>(
    fields: &Fields<'a>,
    name: &str,
    known: &[&str],
) -> Result<Option<&'a str>, ApiError> {
    match fields.text(name)? {
        Some(text) if !known.contains(&text) => {
            let path = fields.path(name);
            let message = format!(
                "`{path}` is an unknown text; expected one of {}",
                known.join(", ")
            );
            Err(ApiError::field(path, message))
        }
        text => Ok(text),
    }
}

/// What else is to be told. Additions of tools that are not run here have nothing to add.
fn include(fields: &Fields<'_>) -> Result<Seal, ApiError> {
    const NOTHING_TO_ADD: [&str; 5] = [
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
    ];
    let mut seal = Seal::No;
    for (index, entry) in fields
        .array("include")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        match entry.as_str() {
            Some("reasoning.encrypted_content") => seal = Seal::Yes,
            Some(known) if NOTHING_TO_ADD.contains(&known) => {}
            _ => {
                let path = format!("include[{index}]");
                let message = format!(
                    "`{path}` is {}; this service can add `reasoning.encrypted_content` alone",
                    describe(entry)
                );
                return Err(ApiError::unsupported(path, message));
            }
        }
    }
    Ok(seal)
}

fn metadata(fields: &Fields<'_>) -> Result<(), ApiError> {
    let Some(object) = fields.object("metadata")? else {
        return Ok(());
    };
    let (entries_max, key_max, value_max) = METADATA_MAX;
    let fits = |(key, value): (&String, &Value)| {
        let value = value.as_str();
        key.len() <= key_max && value.is_some_and(|text| text.len() <= value_max)
    };
    if object.len() <= entries_max && object.iter().all(fits) {
        return Ok(());
    }
    let message = format!(
        "`metadata` is an object of {}; expected at most {entries_max} strings of {value_max} bytes, under keys of {key_max} bytes",
        object.len()
    );
    Err(ApiError::field("metadata", message))
}

/// Refuses what is asked beyond what is built; forms that ask for nothing are accepted.
fn refused(fields: &Fields<'_>) -> Result<(), ApiError> {
    let refuse = |path: &str, expected: &str| {
        let message =
            format!("`{path}` is set; this service cannot honour it yet and expects {expected}");
        Err(ApiError::unsupported(path, message))
    };
    for name in ["conversation", "prompt"] {
        if fields.get(name).is_some() {
            return refuse(name, "nothing");
        }
    }
    if fields.flag("background")? == Some(true) {
        return refuse("background", "nothing or false");
    }
    if fields.integer("top_logprobs", 0..=20)?.unwrap_or(0) > 0 {
        return refuse("top_logprobs", "nothing or 0");
    }
    if one_of(fields, "truncation", &["auto", "disabled"])? == Some("auto") {
        return refuse("truncation", "nothing or disabled");
    }
    let Some(object) = fields.object("text")? else {
        return Ok(());
    };
    let text = Fields::at("text", object);
    let verbosity = one_of(&text, "verbosity", &["low", "medium", "high"])?;
    if verbosity.is_some_and(|word| word != "medium") {
        return refuse("text.verbosity", "nothing or medium");
    }
    Ok(())
}

/// What the text of the answer has to look like.
fn format(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    match fields.object("text")? {
        None => Ok(OutputFormat::Text),
        Some(object) => format::read_flat(&Fields::at("text", object), "format"),
    }
}
