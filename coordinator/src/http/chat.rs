//! `POST /v1/chat/completions`: a conversation continued.
//!
//! Beside the shared fields: `messages`, `logprobs` with `top_logprobs`, `enable_thinking` and
//! `chat_template_kwargs` (variables of the model's chat template), `reasoning_effort` (`none` is
//! `enable_thinking: false`, any other value is `true`).

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::gateway::ServedModel;
use crate::text::{Ask, ChatPrompt, Delta, Usage, render_chat};

use super::api::Api;
use super::dialect::{Dialect, Head, UsageBody, finish_name, respond};
use super::error::ApiError;
use super::fields::Fields;
use super::logprobs::{ChatTokens, TokenWriter};
use super::sampling::{self, Delivery, IncludeUsage, Shared};
use super::{body, messages, refused};

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
    let Parsed {
        chat,
        logprobs,
        shared,
    } = parse(&Fields::body(&object), &model)?;
    drop(object);
    api.ready()?;
    let worker = Arc::clone(&model);
    let (prompt, reasoning) = api
        .compute(move || render_chat(&worker, &chat))
        .await?
        .map_err(|error| ApiError::prompt("messages", &error))?;
    let delivery = shared.delivery;
    let dialect = Chat::new(&model, &shared, logprobs);
    let ask = Ask {
        prompts: vec![prompt],
        choices: shared.choices,
        max_tokens: shared.max_tokens,
        default_max_tokens: None,
        min_tokens: shared.min_tokens,
        stop_ids: shared.stop_ids,
        stops: shared.stops,
        sampling: proto::step::Sampling {
            logprobs,
            ..shared.sampling
        },
        reasoning,
    };
    let answer = api.start(ask, started).await?;
    respond(answer, dialect, delivery, api.config.limits.keep_alive).await
}

struct Parsed {
    chat: ChatPrompt,
    logprobs: Option<u32>,
    shared: Shared,
}

fn parse(fields: &Fields<'_>, model: &ServedModel) -> Result<Parsed, ApiError> {
    super::api::check_model(fields, model)?;
    refused::check_chat(fields)?;
    let shared = sampling::read(fields, model)?;
    let logprobs = logprobs(fields, model)?;
    if model.template.is_none() {
        return Err(ApiError::field(
            "messages",
            crate::text::PromptError::NoTemplate.to_string(),
        ));
    }
    Ok(Parsed {
        chat: ChatPrompt {
            messages: messages::read(fields)?,
            variables: variables(fields)?,
        },
        logprobs,
        shared,
    })
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

/// The template's variables.
fn variables(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut variables = Map::new();
    match fields.text("reasoning_effort")? {
        None => {}
        Some(effort @ ("none" | "minimal" | "low" | "medium" | "high" | "xhigh")) => {
            variables.insert("enable_thinking".to_owned(), (effort != "none").into());
        }
        Some(_) => {
            return Err(ApiError::field(
                "reasoning_effort",
                "`reasoning_effort` is an unknown text; expected none, minimal, low, medium, high or xhigh",
            ));
        }
    }
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
    if let Some(thinking) = fields.flag("enable_thinking")? {
        variables.insert("enable_thinking".to_owned(), thinking.into());
    }
    Ok(variables)
}

/// Writes chats.
struct Chat {
    head: Head,
    tokens: Option<TokenWriter>,
    usage: IncludeUsage,
    choices: Vec<Choice>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    /// Absent, `null` or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: ChunkDelta,
    logprobs: Option<ChatTokens>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
}

#[derive(Serialize)]
struct Whole {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: UsageBody,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<ChatTokens>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    /// Never used; clients expect the field.
    refusal: Option<()>,
}

impl Chat {
    fn new(model: &ServedModel, shared: &Shared, logprobs: Option<u32>) -> Self {
        Self {
            head: Head::new("chatcmpl", &model.id),
            tokens: logprobs.map(|count| TokenWriter::new(&model.tokenizer, shared.labels, count)),
            usage: match shared.delivery {
                Delivery::Stream { usage } => usage,
                Delivery::Whole => IncludeUsage::No,
            },
            choices: Vec::new(),
        }
    }

    /// The log-probabilities of one delta, if they were asked for.
    fn tokens(&self, delta: &Delta) -> Option<ChatTokens> {
        let writer = self.tokens.as_ref()?;
        let mut tokens = ChatTokens::default();
        tokens
            .content
            .extend(delta.sampled.as_ref().map(|sampled| writer.chat(sampled)));
        Some(tokens)
    }

    fn chunk(
        &self,
        choices: Vec<ChunkChoice>,
        usage: Option<UsageBody>,
    ) -> serde_json::Result<String> {
        serde_json::to_string(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: (self.usage == IncludeUsage::Yes).then_some(usage),
        })
    }
}

impl Dialect for Chat {
    fn event(&self, delta: Delta) -> serde_json::Result<String> {
        let logprobs = self.tokens(&delta);
        let reasoning = !delta.reasoning.is_empty();
        let content = !delta.content.is_empty() || !reasoning;
        let choice = ChunkChoice {
            index: delta.index,
            delta: ChunkDelta {
                role: delta.first.then_some("assistant"),
                content: content.then_some(delta.content),
                reasoning_content: reasoning.then_some(delta.reasoning),
            },
            logprobs,
            finish_reason: delta.finish.map(finish_name),
        };
        self.chunk(vec![choice], None)
    }

    fn usage_event(&self, usage: Usage) -> serde_json::Result<String> {
        self.chunk(Vec::new(), Some(usage.into()))
    }

    fn add(&mut self, delta: Delta) {
        let tokens = self.tokens(&delta);
        let index = usize::try_from(delta.index).unwrap_or(usize::MAX);
        while self.choices.len() <= index {
            self.choices.push(Choice {
                index: u32::try_from(self.choices.len()).unwrap_or(u32::MAX),
                message: Message {
                    role: "assistant",
                    content: String::new(),
                    reasoning_content: String::new(),
                    refusal: None,
                },
                logprobs: self.tokens.as_ref().map(|_| ChatTokens::default()),
                finish_reason: None,
            });
        }
        if let Some(choice) = self.choices.get_mut(index) {
            choice.message.content.push_str(&delta.content);
            choice.message.reasoning_content.push_str(&delta.reasoning);
            choice.finish_reason = delta.finish.map(finish_name);
            if let (Some(all), Some(more)) = (&mut choice.logprobs, tokens) {
                all.content.extend(more.content);
            }
        }
    }

    fn whole(self, usage: Usage) -> impl Serialize {
        Whole {
            id: self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: self.head.model,
            choices: self.choices,
            usage: usage.into(),
        }
    }
}
