//! Fields that we know but cannot honour: each is a 400, never silently dropped.
//!
//! Every field has a *neutral* form that asks for nothing special; clients send it all the time and it is accepted.
//! Fields that are neither here nor read elsewhere are unknown or without effect on the answer, and are ignored:
//! `user`, `metadata`, `store`, `service_tier`, `safety_identifier`, `prompt_cache_key`.

use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, describe};

/// The form of a field that asks for nothing.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// Only `null` or nothing.
    Absent,
    /// An empty array.
    EmptyList,
    /// One of these texts.
    Texts(&'static [&'static str]),
    /// An array of exactly this text.
    ListOf(&'static str),
    /// `true` or `false`.
    Flag(bool),
    /// This number.
    Number(f64),
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        match self {
            Self::Absent => false,
            Self::EmptyList => value.as_array().is_some_and(Vec::is_empty),
            Self::Texts(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Self::ListOf(text) => {
                matches!(value.as_array().map(Vec::as_slice), Some([one]) if one == text)
            }
            Self::Flag(flag) => value.as_bool() == Some(flag),
            Self::Number(number) => value.as_f64() == Some(number),
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Absent => "nothing".to_owned(),
            Self::EmptyList => "nothing or an empty array".to_owned(),
            Self::Texts(texts) => format!("nothing or one of {texts:?}"),
            Self::ListOf(text) => format!("nothing or [{text:?}]"),
            Self::Flag(flag) => format!("nothing or {flag}"),
            Self::Number(number) => format!("nothing or {number}"),
        }
    }
}

/// Fields of any request that draws tokens.
const SAMPLING: &[(&str, Neutral)] = &[
    ("json_schema", Neutral::Absent),
    ("allowed_token_ids", Neutral::Absent),
    ("bad_words", Neutral::EmptyList),
    ("prompt_logprobs", Neutral::Absent),
    ("use_beam_search", Neutral::Flag(false)),
    ("length_penalty", Neutral::Number(1.0)),
    ("include_stop_str_in_output", Neutral::Flag(false)),
    ("skip_special_tokens", Neutral::Flag(true)),
    ("typical_p", Neutral::Number(1.0)),
    ("tfs_z", Neutral::Number(1.0)),
    ("mirostat", Neutral::Number(0.0)),
    ("dry_multiplier", Neutral::Number(0.0)),
    ("xtc_probability", Neutral::Number(0.0)),
    ("repeat_penalty", Neutral::Number(1.0)),
    ("prediction", Neutral::Absent),
];

/// Fields of chats alone.
const CHAT: &[(&str, Neutral)] = &[
    ("functions", Neutral::EmptyList),
    ("function_call", Neutral::Texts(&["none", "auto"])),
    ("audio", Neutral::Absent),
    ("modalities", Neutral::ListOf("text")),
    ("web_search_options", Neutral::Absent),
    ("verbosity", Neutral::Texts(&["medium"])),
    ("add_generation_prompt", Neutral::Flag(true)),
    ("continue_final_message", Neutral::Flag(false)),
    ("echo", Neutral::Flag(false)),
];

/// Fields of plain completions alone.
const COMPLETION: &[(&str, Neutral)] = &[("suffix", Neutral::Texts(&[""]))];

/// Refuses what a chat asks beyond what is built.
///
/// # Errors
/// 400 naming the first such field.
pub(super) fn check_chat(fields: &Fields<'_>) -> Result<(), ApiError> {
    check(fields, SAMPLING)?;
    check(fields, CHAT)
}

/// Refuses what a plain completion asks beyond what is built.
///
/// # Errors
/// 400 naming the first such field.
pub(super) fn check_completion(fields: &Fields<'_>) -> Result<(), ApiError> {
    check(fields, SAMPLING)?;
    check(fields, COMPLETION)
}

fn check(fields: &Fields<'_>, table: &[(&str, Neutral)]) -> Result<(), ApiError> {
    for (name, neutral) in table {
        if let Some(value) = fields.get(name)
            && !neutral.holds(value)
        {
            let message = format!(
                "`{name}` is {}; this service cannot honour it yet and expects {}",
                describe(value),
                neutral.expected()
            );
            return Err(ApiError::unsupported(fields.path(name), message));
        }
    }
    Ok(())
}
