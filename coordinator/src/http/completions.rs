//! `POST /v1/completions`: plain text continued.
//!
//! Beside the shared fields: `prompt` (text, array of texts, token ids, array of token ids; several prompts give
//! choices in the order of prompts), `logprobs: k`, `echo` (not with `logprobs`), `best_of` (only equal to `n`).

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use serde::Serialize;
use serde_json::Value;

use crate::gateway::ServedModel;
use crate::text::{Ask, Delta, OutputFormat, Prompt, Reading, Usage, encode_prompts};

use super::api::Api;
use super::dialect::{DONE, Dialect, Head, UsageBody, finish_name, respond};
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::frames::{Frames, Written};
use super::logprobs::{CompletionTokens, TokenWriter};
use super::sampling::{self, Draw, IncludeUsage, Shared};
use super::{body, format, refused};

/// What OpenAI's API takes if the request does not say.
const MAX_TOKENS_DEFAULT: u32 = 16;
/// Prompts of one request.
const PROMPTS_MAX: usize = 64;
/// Choices of one request over all prompts.
const TOTAL_CHOICES_MAX: usize = 128;

/// The route.
pub(super) async fn handle(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let parsed = parse(&Fields::body(&object), &model)?;
    drop(object);
    api.ready()?;
    let Parsed {
        prompts,
        logprobs,
        echo,
        format,
        shared,
    } = parsed;
    let worker = Arc::clone(&model);
    let (prompts, echo) = api
        .compute(move || {
            let echo = echo.then(|| echoes(&worker, &prompts));
            encode_prompts(&worker.tokenizer, prompts).map(|prompts| (prompts, echo))
        })
        .await?
        .map_err(|error| ApiError::prompt("prompt", &error))?;
    let reading = Reading::plain();
    let constraint = api
        .constraint(format::Binding::of(format), &reading)
        .await?;
    let delivery = shared.delivery;
    let dialect = Completion::new(&model, &shared, logprobs, echo.unwrap_or_default());
    let draw = Draw {
        default_max_tokens: Some(MAX_TOKENS_DEFAULT),
        ..shared.draw
    };
    let ask = Ask {
        constraint,
        ..draw.ask(prompts, reading, logprobs)
    };
    let answer = api.start(ask, started).await?;
    respond(answer, dialect, delivery, api.config.limits.keep_alive).await
}

struct Parsed {
    prompts: Vec<Prompt>,
    logprobs: Option<u32>,
    echo: bool,
    format: OutputFormat,
    shared: Shared,
}

fn parse(fields: &Fields<'_>, model: &ServedModel) -> Result<Parsed, ApiError> {
    super::api::check_model(fields, model)?;
    refused::check_completion(fields)?;
    let shared = sampling::read(fields, model)?;
    let logprobs = sampling::alternatives(fields, "logprobs", model)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        return Err(ApiError::unsupported(
            "echo",
            "`echo` is true together with `logprobs`; this service has no log-probabilities of prompts yet and expects one of the two",
        ));
    }
    if let Some(best_of) = fields.integer("best_of", 1..=u32::MAX)?
        && best_of != shared.draw.choices
    {
        let message = format!(
            "`best_of` is {best_of}; this service cannot rank answers yet and expects nothing or `n`, {}",
            shared.draw.choices
        );
        return Err(ApiError::unsupported("best_of", message));
    }
    let prompts = prompts(fields, model)?;
    let choices = usize::try_from(shared.draw.choices).unwrap_or(usize::MAX);
    if prompts.len().saturating_mul(choices) > TOTAL_CHOICES_MAX {
        let message = format!(
            "{} prompts with `n` {choices} make more than {TOTAL_CHOICES_MAX} choices; send several requests",
            prompts.len()
        );
        return Err(ApiError::field("n", message));
    }
    Ok(Parsed {
        prompts,
        logprobs,
        echo,
        format: format::read(fields)?,
        shared,
    })
}

fn prompts(fields: &Fields<'_>, model: &ServedModel) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str =
        "a string, an array of token ids, an array of strings, or an array of arrays of token ids";
    let value = fields
        .get("prompt")
        .ok_or_else(|| fields.missing("prompt", EXPECTED))?;
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) if !list.is_empty() => list,
        other => return Err(wrong("prompt", other, EXPECTED)),
    };
    if list.first().is_some_and(Value::is_number) {
        let ids = sampling::token_ids("prompt", list, model)?;
        return Ok(vec![Prompt::Ids(ids)]);
    }
    if list.len() > PROMPTS_MAX {
        let expected = format!("at most {PROMPTS_MAX} prompts");
        return Err(wrong("prompt", value, &expected));
    }
    let mut prompts = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let path = format!("prompt[{index}]");
        prompts.push(match entry {
            Value::String(text) => Prompt::Text(text.clone()),
            Value::Array(ids) => Prompt::Ids(sampling::token_ids(&path, ids, model)?),
            other => return Err(wrong(&path, other, "a string or an array of token ids")),
        });
    }
    Ok(prompts)
}

/// The prompts as text, to be repeated before the answers.
fn echoes(model: &ServedModel, prompts: &[Prompt]) -> Vec<String> {
    prompts
        .iter()
        .map(|prompt| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Ids(ids) => model.tokenizer.decode(ids, model::SpecialText::Keep),
        })
        .collect()
}

/// Writes plain completions.
struct Completion {
    head: Head,
    tokens: Option<TokenWriter>,
    usage: IncludeUsage,
    choices_per_prompt: usize,
    /// One text per prompt, or none at all.
    echo: Vec<String>,
    choices: Vec<Choice>,
}

#[derive(Debug, Default, Serialize)]
struct Choice {
    index: u32,
    text: String,
    logprobs: Option<CompletionTokens>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Object<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    /// Absent, `null` or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
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

impl Completion {
    fn new(model: &ServedModel, shared: &Shared, logprobs: Option<u32>, echo: Vec<String>) -> Self {
        Self {
            head: Head::new("cmpl", &model.id),
            tokens: logprobs.map(|count| TokenWriter::new(&model.tokenizer, shared.labels, count)),
            usage: shared.usage,
            choices_per_prompt: usize::try_from(shared.draw.choices).unwrap_or(1).max(1),
            echo,
            choices: Vec::new(),
        }
    }

    /// The prompt's text if it is to be repeated before this choice.
    fn echo(&self, choice: u32) -> &str {
        let prompt = usize::try_from(choice).unwrap_or(usize::MAX) / self.choices_per_prompt;
        self.echo.get(prompt).map_or("", String::as_str)
    }

    fn choice(&self, delta: Delta) -> Choice {
        let mut text = delta.text();
        if delta.first {
            text.insert_str(0, self.echo(delta.index));
        }
        let logprobs = self.tokens.as_ref().map(|writer| {
            let mut list = CompletionTokens::default();
            if let Some(sampled) = &delta.sampled {
                writer.append(&mut list, sampled, delta.offset);
            }
            list
        });
        Choice {
            index: delta.index,
            text,
            logprobs,
            finish_reason: delta.finish.map(finish_name),
        }
    }

    fn object(&self, choices: Vec<Choice>, usage: Option<UsageBody>) -> impl Serialize {
        Object {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: (self.usage == IncludeUsage::Yes).then_some(usage),
        }
    }
}

impl Dialect for Completion {
    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written {
        frames.value(&self.object(vec![self.choice(delta)], None))
    }

    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        if self.usage == IncludeUsage::Yes {
            frames.value(&self.object(Vec::new(), Some(usage.into())))?;
        }
        frames.fixed(DONE);
        Ok(())
    }

    fn add(&mut self, delta: Delta) {
        let piece = self.choice(delta);
        let index = usize::try_from(piece.index).unwrap_or(usize::MAX);
        while self.choices.len() <= index {
            self.choices.push(Choice {
                index: u32::try_from(self.choices.len()).unwrap_or(u32::MAX),
                logprobs: self.tokens.as_ref().map(|_| CompletionTokens::default()),
                ..Choice::default()
            });
        }
        if let Some(choice) = self.choices.get_mut(index) {
            choice.text.push_str(&piece.text);
            choice.finish_reason = piece.finish_reason;
            if let (Some(all), Some(more)) = (&mut choice.logprobs, piece.logprobs) {
                all.extend(more);
            }
        }
    }

    fn whole(self, usage: Usage) -> impl Serialize {
        Whole {
            id: self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: self.head.model,
            choices: self.choices,
            usage: usage.into(),
        }
    }
}
