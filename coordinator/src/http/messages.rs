//! Checks the messages of a chat and brings them into the form that templates want.
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

use super::error::ApiError;
use super::fields::{Fields, describe, wrong};

/// The messages, checked.
///
/// # Errors
/// 400 naming the first bad place.
pub(super) fn read(fields: &Fields<'_>) -> Result<Value, ApiError> {
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
        checked.push(Value::Object(self::message(&Fields::at(&path, object))?));
    }
    Ok(Value::Array(checked))
}

fn message(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    const ROLES: &str = "one of `system`, `developer`, `user`, `assistant`, `tool`";
    let role = match fields.text("role")? {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        Some(_) => {
            let path = fields.path("role");
            let message = format!("`{path}` is not a known role; expected {ROLES}");
            return Err(ApiError::field(path, message));
        }
        None => return Err(fields.missing("role", ROLES)),
    };
    let mut checked = Map::new();
    checked.insert("role".to_owned(), role.into());
    let mut calls = None;
    if role == "assistant" {
        if let Some(reasoning) = fields.text("reasoning_content")? {
            checked.insert("reasoning_content".to_owned(), reasoning.into());
        }
        calls = tool_calls(fields)?;
    }
    let content = match fields.get("content") {
        Some(content) => content_text(fields, content)?,
        None if calls.is_some() => String::new(),
        None => return Err(fields.missing("content", "a string or an array of text parts")),
    };
    checked.insert("content".to_owned(), content.into());
    if let Some(calls) = calls {
        checked.insert("tool_calls".to_owned(), calls);
    }
    for name in ["name", "tool_call_id"] {
        if let Some(text) = fields.text(name)? {
            checked.insert(name.to_owned(), text.into());
        }
    }
    Ok(checked)
}

fn content_text(fields: &Fields<'_>, content: &Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(fields.wrong("content", other, "a string or an array of text parts"));
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

/// Calls that the assistant made before, with their arguments as objects.
fn tool_calls(fields: &Fields<'_>) -> Result<Option<Value>, ApiError> {
    let Some(calls) = fields.array("tool_calls")? else {
        return Ok(None);
    };
    if calls.is_empty() {
        return Ok(None);
    }
    let mut checked = Vec::with_capacity(calls.len());
    for (index, call) in calls.iter().enumerate() {
        let path = format!("{}[{index}]", fields.path("tool_calls"));
        let Value::Object(object) = call else {
            return Err(wrong(&path, call, "an object with `function`"));
        };
        let outer = Fields::at(&path, object);
        let function = outer
            .object("function")?
            .ok_or_else(|| outer.missing("function", "an object with `name` and `arguments`"))?;
        let inner = Fields::at(&outer.path("function"), function);
        let name = inner
            .text("name")?
            .ok_or_else(|| inner.missing("name", "a string"))?;
        let arguments = arguments(&inner)?;
        let mut function = Map::new();
        function.insert("name".to_owned(), name.into());
        function.insert("arguments".to_owned(), arguments);
        let mut call = Map::new();
        call.insert("type".to_owned(), "function".into());
        if let Some(id) = outer.text("id")? {
            call.insert("id".to_owned(), id.into());
        }
        call.insert("function".to_owned(), Value::Object(function));
        checked.push(Value::Object(call));
    }
    Ok(Some(Value::Array(checked)))
}

/// Arguments travel as a JSON text; templates want the object.
fn arguments(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let wrong = |came: String| {
        let path = fields.path("arguments");
        let message = format!("`{path}` is {came}; expected a JSON object as a string");
        ApiError::field(path, message)
    };
    match fields.get("arguments") {
        None => Ok(Value::Object(Map::new())),
        Some(Value::Object(object)) => Ok(Value::Object(object.clone())),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Value::Object(object)),
            Ok(_) | Err(_) => Err(wrong("a string that is no JSON object".to_owned())),
        },
        Some(other) => Err(wrong(describe(other))),
    }
}
