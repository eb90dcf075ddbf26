//! Reads the messages of a chat as OpenAI's clients send them.
//!
//! | role | content | also |
//! |---|---|---|
//! | `system`, `developer` (becomes `system`) | text or text parts | `name` |
//! | `user` | text or text parts | `name` |
//! | `assistant` | text, text parts, or nothing with `tool_calls` | `reasoning_content`, `tool_calls`, `name` |
//! | `tool` | text or text parts | `tool_call_id`, `name` |
//!
//! Parts that are not text (images, audio, files) are refused.

use serde_json::{Map, Value};

use crate::text::{Message, Said, ToolResult, Turn};

use super::super::error::ApiError;
use super::super::fields::{Fields, describe, wrong};
use super::super::tools;

const ROLES: &str = "one of `system`, `developer`, `user`, `assistant`, `tool`";
const CONTENT: &str = "a string or an array of text parts";

/// The messages, checked.
///
/// # Errors
/// 400 naming the first bad place.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let expected = "an array of at least one message";
    let messages = match fields.array("messages")? {
        Some(messages) if !messages.is_empty() => messages,
        Some(_) => {
            return Err(wrong("messages", &Value::Array(Vec::new()), expected));
        }
        None => return Err(fields.missing("messages", expected)),
    };
    let mut checked = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages[{index}]");
        let Value::Object(object) = message else {
            return Err(wrong(&path, message, "an object with `role` and `content`"));
        };
        checked.push(self::message(&Fields::at(&path, object))?);
    }
    Ok(checked)
}

fn message(fields: &Fields<'_>) -> Result<Message, ApiError> {
    match fields.text("role")? {
        Some("system" | "developer") => Ok(Message::System(said(fields)?)),
        Some("user") => Ok(Message::User(said(fields)?)),
        Some("assistant") => Ok(Message::Assistant(turn(fields)?)),
        Some("tool") => Ok(Message::Tool(ToolResult {
            text: content(fields)?,
            call_id: owned(fields, "tool_call_id")?,
            name: owned(fields, "name")?,
        })),
        Some(_) => {
            let path = fields.path("role");
            let message = format!("`{path}` is not a known role; expected {ROLES}");
            Err(ApiError::field(path, message))
        }
        None => Err(fields.missing("role", ROLES)),
    }
}

fn owned(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ApiError> {
    Ok(fields.text(name)?.map(str::to_owned))
}

fn said(fields: &Fields<'_>) -> Result<Said, ApiError> {
    Ok(Said {
        text: content(fields)?,
        name: owned(fields, "name")?,
    })
}

fn turn(fields: &Fields<'_>) -> Result<Turn, ApiError> {
    let reasoning = owned(fields, "reasoning_content")?;
    let calls = tools::calls(fields, arguments)?;
    Ok(Turn {
        reasoning,
        text: match fields.get("content") {
            None if !calls.is_empty() => String::new(),
            _ => content(fields)?,
        },
        calls,
        name: owned(fields, "name")?,
    })
}

fn content(fields: &Fields<'_>) -> Result<String, ApiError> {
    match fields.get("content") {
        Some(content) => content_text(fields, content),
        None => Err(fields.missing("content", CONTENT)),
    }
}

fn content_text(fields: &Fields<'_>, content: &Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(fields.wrong("content", other, CONTENT));
        }
    };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{}[{index}]", fields.path("content"));
        let Value::Object(object) = part else {
            return Err(wrong(&path, part, "an object with `type` and `text`"));
        };
        let part = Fields::at(&path, object);
        match part.text("type")? {
            Some("text") => text.push_str(
                part.text("text")?
                    .ok_or_else(|| part.missing("text", "a string"))?,
            ),
            Some("refusal") => text.push_str(part.text("refusal")?.unwrap_or_default()),
            Some(_) => {
                let path = part.path("type");
                let message = format!(
                    "`{path}` names a part that is not text; this service cannot honour it yet and expects `text`"
                );
                return Err(ApiError::unsupported(path, message));
            }
            None => return Err(part.missing("type", "`text`")),
        }
    }
    Ok(text)
}

/// Arguments travel as a JSON text.
fn arguments(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let wrong = |came: String| {
        let path = fields.path("arguments");
        let message = format!("`{path}` is {came}; expected a JSON object as a string");
        ApiError::field(path, message)
    };
    match fields.get("arguments") {
        None => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Map::new()),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) | Err(_) => Err(wrong("a string that is no JSON object".to_owned())),
        },
        Some(other) => Err(wrong(describe(other))),
    }
}
