//! The fields that all dialects of OpenAI's API share: sampling, stops, counts and the form of the stream.
//!
//! | field | accepted | meaning |
//! |---|---|---|
//! | `temperature` | 0 to 2 | 0 is greedy |
//! | `top_p` | above 0 to 1 | |
//! | `top_k` | -1, 0 to the vocabulary | -1 and 0 keep all |
//! | `min_p` | 0 to 1 | |
//! | `presence_penalty`, `frequency_penalty` | -2 to 2 | |
//! | `repetition_penalty` | 0.01 to 10 | 1 is off |
//! | `seed` | any 64-bit integer | left out: a random one |
//! | `logit_bias` | object of id to -100 to 100 | |
//! | `n` | 1 to 16 | |
//! | `stop` | text or array of up to 16 texts | |
//! | `stop_token_ids` | array of ids | end the answer like end ids, `ignore_eos` or not |
//! | `max_tokens`, `max_completion_tokens` | from 1 | the same thing |
//! | `min_tokens` | from 0 | no end id before |
//! | `ignore_eos` | flag | disregards every end id, not `stop` |
//! | `return_tokens_as_token_ids` | flag | every listed token is `token_id:N` |
//! | `stream`, `stream_options.include_usage` | flags | |

use proto::limits;
use proto::step::Sampling;
use serde_json::Value;

use crate::gateway::ServedModel;
use crate::text::{Ask, Labels, Reading};

use super::error::ApiError;
use super::fields::{Fields, describe, wrong};

/// Values of `top_p`: 0 would keep nothing.
pub(super) const TOP_P: std::ops::RangeInclusive<f64> = f32::MIN_POSITIVE as f64..=1.0;

/// Whether the answer comes in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// One JSON object.
    Whole,
    /// Frames as the tokens come.
    Stream,
}

/// Whether a stream ends with the token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IncludeUsage {
    /// An event of its own before the end.
    Yes,
    /// No such event.
    No,
}

/// What every kind of completion has.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) delivery: Delivery,
    pub(super) usage: IncludeUsage,
    pub(super) labels: Labels,
    pub(super) draw: Draw,
}

/// How answers are drawn, and how long they may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draw {
    /// Answers per prompt.
    pub(super) choices: u32,
    /// Most tokens of an answer, as far as the client said.
    pub(super) max_tokens: Option<u32>,
    /// What holds if it did not; lowered to what fits. `None` means up to the context.
    pub(super) default_max_tokens: Option<u32>,
    /// Tokens before which no end id is drawn.
    pub(super) min_tokens: u32,
    /// Ids that end an answer.
    pub(super) stop_ids: Vec<u32>,
    /// Texts that end an answer.
    pub(super) stops: Vec<String>,
    /// How tokens are drawn. `logprobs` is set by the dialect.
    pub(super) sampling: Sampling,
}

impl Draw {
    /// What holds for a request that says nothing: the model's recommendations, and a seed of its own.
    pub(super) fn of(model: &ServedModel) -> Self {
        let defaults = &model.defaults;
        Self {
            choices: 1,
            max_tokens: None,
            default_max_tokens: None,
            min_tokens: 0,
            stop_ids: defaults.eos_ids.clone(),
            stops: Vec::new(),
            sampling: Sampling {
                temperature: defaults.temperature.unwrap_or(1.0),
                top_k: defaults.top_k.unwrap_or(0),
                top_p: defaults.top_p.unwrap_or(1.0),
                min_p: defaults.min_p.unwrap_or(0.0),
                repetition: defaults.repetition_penalty.unwrap_or(1.0),
                presence: 0.0,
                frequency: 0.0,
                // The one place where chance enters: everything behind the API repeats exactly.
                seed: rand::random(),
                ..Sampling::default()
            },
        }
    }

    /// The request for answers to some prompts, all read alike.
    pub(super) fn ask(
        self,
        prompts: Vec<Vec<u32>>,
        reading: Reading,
        logprobs: Option<u32>,
    ) -> Ask {
        Ask {
            prompts,
            choices: self.choices,
            max_tokens: self.max_tokens,
            default_max_tokens: self.default_max_tokens,
            min_tokens: self.min_tokens,
            stop_ids: self.stop_ids,
            stops: self.stops,
            sampling: Sampling {
                logprobs,
                ..self.sampling
            },
            reading,
            constraint: None,
        }
    }
}

/// Reads the shared fields.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn read(fields: &Fields<'_>, model: &ServedModel) -> Result<Shared, ApiError> {
    let labels = match fields.flag("return_tokens_as_token_ids")? {
        Some(true) => Labels::Ids,
        Some(false) | None => Labels::Text,
    };
    let (delivery, usage) = delivery(fields)?;
    Ok(Shared {
        delivery,
        usage,
        labels,
        draw: draw(fields, model)?,
    })
}

/// How answers are drawn.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn draw(fields: &Fields<'_>, model: &ServedModel) -> Result<Draw, ApiError> {
    let defaults = Draw::of(model);
    let mut stop_ids = stop_token_ids(fields, model)?;
    if !fields.flag("ignore_eos")?.unwrap_or(false) {
        stop_ids.extend_from_slice(&defaults.stop_ids);
        stop_ids.sort_unstable();
        stop_ids.dedup();
    }
    let max_tokens = max_tokens(fields)?;
    let min_tokens = fields
        .integer("min_tokens", 0..=limits::SEQUENCE_POSITIONS_MAX)?
        .unwrap_or(0);
    if let Some(most) = max_tokens
        && min_tokens > most
    {
        return Err(ApiError::field(
            "min_tokens",
            format!("`min_tokens` is {min_tokens}; expected at most `max_tokens`, {most}"),
        ));
    }
    Ok(Draw {
        choices: fields.integer("n", 1..=limits::CHOICES_MAX)?.unwrap_or(1),
        max_tokens,
        default_max_tokens: defaults.default_max_tokens,
        min_tokens,
        stop_ids,
        stops: stop_texts(fields, "stop")?,
        sampling: sampling(fields, model, defaults.sampling)?,
    })
}

/// The most alternatives that can be reported, for a model of this vocabulary.
///
/// # Errors
/// 400 if more were asked for.
pub(super) fn alternatives(
    fields: &Fields<'_>,
    name: &str,
    model: &ServedModel,
) -> Result<Option<u32>, ApiError> {
    let count = fields.integer(name, 0..=limits::LOGPROBS_MAX)?;
    Ok(count.map(|count| count.min(model.vocab)))
}

fn sampling(
    fields: &Fields<'_>,
    model: &ServedModel,
    defaults: Sampling,
) -> Result<Sampling, ApiError> {
    let number = |name: &str, range, default| Ok(fields.number(name, range)?.unwrap_or(default));
    Ok(Sampling {
        temperature: number("temperature", 0.0..=2.0, defaults.temperature)?,
        top_k: top_k(fields, model)?.unwrap_or(defaults.top_k),
        top_p: number("top_p", TOP_P, defaults.top_p)?,
        min_p: number("min_p", 0.0..=1.0, defaults.min_p)?,
        repetition: number("repetition_penalty", 0.01..=10.0, defaults.repetition)?,
        presence: number("presence_penalty", -2.0..=2.0, defaults.presence)?,
        frequency: number("frequency_penalty", -2.0..=2.0, defaults.frequency)?,
        seed: seed(fields)?.unwrap_or(defaults.seed),
        bias: logit_bias(fields, model)?,
        ..defaults
    })
}

/// `top_k`; -1 and 0 keep all.
///
/// # Errors
/// 400 if it is no count.
pub(super) fn top_k(fields: &Fields<'_>, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    if fields.get("top_k").and_then(Value::as_i64) == Some(-1) {
        return Ok(Some(0));
    }
    let top_k = fields.integer("top_k", 0..=u32::MAX)?;
    Ok(top_k.map(|k| k.min(model.vocab)))
}

fn seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.get("seed") else {
        return Ok(None);
    };
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .map(Some)
        .ok_or_else(|| fields.wrong("seed", value, "an integer of 64 bits"))
}

fn logit_bias(fields: &Fields<'_>, model: &ServedModel) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else {
        return Ok(Vec::new());
    };
    let most = usize::try_from(limits::LOGIT_BIAS_MAX).unwrap_or(usize::MAX);
    if object.len() > most {
        let expected = format!("at most {most} entries");
        return Err(ApiError::field(
            "logit_bias",
            format!(
                "`logit_bias` is an object of {}; expected {expected}",
                object.len()
            ),
        ));
    }
    let inner = Fields::at("logit_bias", object);
    let mut bias = Vec::with_capacity(object.len());
    for (key, value) in object {
        let id = key
            .parse::<u32>()
            .ok()
            .filter(|id| *id < model.vocab)
            .ok_or_else(|| {
                let expected = format!("token ids below {}", model.vocab);
                let message =
                    format!("`logit_bias` has a key that is no token; expected {expected}");
                ApiError::field("logit_bias", message)
            })?;
        let amount = inner
            .number(key, -100.0..=100.0)?
            .ok_or_else(|| inner.wrong(key, value, "a number from -100 to 100"))?;
        bias.push((id, amount));
    }
    bias.sort_unstable_by_key(|(id, _)| *id);
    // `7` and `07` are the same token.
    if bias
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.0 == b.0))
    {
        return Err(ApiError::field(
            "logit_bias",
            "`logit_bias` names a token twice; expected each once",
        ));
    }
    Ok(bias)
}

/// Stop texts: one or several.
///
/// # Errors
/// 400 naming the one that is empty, too long or no text.
pub(super) fn stop_texts(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let expected = format!(
        "a string or an array of up to {} strings, each of 1 to {} bytes",
        limits::STOP_STRINGS_MAX,
        limits::STOP_STRING_BYTES_MAX
    );
    let one = |path: &str, value: &Value| match value {
        Value::String(text) if (1..=limits::STOP_STRING_BYTES_MAX).contains(&text.len()) => {
            Ok(text.clone())
        }
        other => Err(wrong(path, other, &expected)),
    };
    let path = fields.path(name);
    match fields.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() <= limits::STOP_STRINGS_MAX => values
            .iter()
            .enumerate()
            .map(|(index, value)| one(&format!("{path}[{index}]"), value))
            .collect(),
        Some(value) => Ok(vec![one(&path, value)?]),
    }
}

fn stop_token_ids(fields: &Fields<'_>, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let Some(values) = fields.array("stop_token_ids")? else {
        return Ok(Vec::new());
    };
    let most = usize::try_from(limits::SUPPRESS_MAX)
        .unwrap_or(usize::MAX)
        .saturating_sub(model.defaults.eos_ids.len());
    if values.len() > most {
        let message = format!(
            "`stop_token_ids` is an array of {}; expected at most {most}",
            values.len()
        );
        return Err(ApiError::field("stop_token_ids", message));
    }
    token_ids("stop_token_ids", values, model)
}

/// An array of token ids of the model.
///
/// # Errors
/// 400 naming the first entry that is none.
pub(super) fn token_ids(
    path: &str,
    values: &[Value],
    model: &ServedModel,
) -> Result<Vec<u32>, ApiError> {
    let id = |value: &Value| {
        let id = u32::try_from(value.as_u64()?).ok()?;
        (id < model.vocab).then_some(id)
    };
    let mut ids = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        ids.push(id(value).ok_or_else(|| {
            let message = format!(
                "`{path}[{index}]` is {}; expected a token id below {}",
                describe(value),
                model.vocab
            );
            ApiError::field(path, message)
        })?);
    }
    Ok(ids)
}

fn max_tokens(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let read = |name| fields.integer(name, 1..=u32::MAX);
    match (read("max_tokens")?, read("max_completion_tokens")?) {
        (Some(old), Some(new)) if old != new => Err(ApiError::field(
            "max_completion_tokens",
            format!(
                "`max_completion_tokens` is {new}; expected the same as `max_tokens`, {old}, or only one of them"
            ),
        )),
        (old, new) => Ok(new.or(old)),
    }
}

fn delivery(fields: &Fields<'_>) -> Result<(Delivery, IncludeUsage), ApiError> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if !stream {
        return match options {
            None => Ok((Delivery::Whole, IncludeUsage::No)),
            Some(_) => Err(ApiError::field(
                "stream_options",
                "`stream_options` is set; expected `stream` to be true with it",
            )),
        };
    }
    let usage = match options {
        None => None,
        Some(options) => Fields::at("stream_options", options).flag("include_usage")?,
    };
    let usage = match usage {
        Some(true) => IncludeUsage::Yes,
        Some(false) | None => IncludeUsage::No,
    };
    Ok((Delivery::Stream, usage))
}
