//! Reads the messages of `/api/chat`.
//!
//! | role | content | also |
//! |---|---|---|
//! | `system`, `user` | text | |
//! | `assistant` | text, or nothing with `tool_calls` | `thinking`, `tool_calls` (arguments are objects) |
//! | `tool` | text | `tool_name`, `tool_call_id` |
//!
//! Images are refused.

use serde_json::Value;

use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};
use crate::http::tools;
use crate::text::{Message, Said, ToolResult, Turn};

const ROLES: &str = "one of `system`, `user`, `assistant`, `tool`";

/// The messages, checked; none where the client only wants the model to be loaded.
///
/// # Errors
/// 400 naming the first bad place.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let messages = fields.array("messages")?.unwrap_or_default();
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
    no_images(fields)?;
    match fields.text("role")? {
        Some("system") => Ok(Message::System(Said::new(content(fields)?))),
        Some("user") => Ok(Message::User(Said::new(content(fields)?))),
        Some("assistant") => {
            let calls = tools::calls(fields, |function| {
                Ok(function.object("arguments")?.cloned().unwrap_or_default())
            })?;
            Ok(Message::Assistant(Turn {
                reasoning: owned(fields, "thinking")?.filter(|text| !text.is_empty()),
                text: match fields.get("content") {
                    None if !calls.is_empty() => String::new(),
                    _ => content(fields)?,
                },
                calls,
                name: None,
            }))
        }
        Some("tool") => Ok(Message::Tool(ToolResult {
            text: content(fields)?,
            call_id: owned(fields, "tool_call_id")?,
            name: match owned(fields, "tool_name")? {
                Some(name) => Some(name),
                // The old name of the field.
                None => owned(fields, "name")?,
            },
        })),
        Some(_) => {
            let path = fields.path("role");
            let message = format!("`{path}` is not a known role; expected {ROLES}");
            Err(ApiError::field(path, message))
        }
        None => Err(fields.missing("role", ROLES)),
    }
}

/// Refuses pictures.
///
/// # Errors
/// 400 if there is one.
pub(super) fn no_images(fields: &Fields<'_>) -> Result<(), ApiError> {
    match fields.array("images")? {
        None | Some([]) => Ok(()),
        Some(images) => {
            let path = fields.path("images");
            let message = format!(
                "`{path}` is an array of {}; this service reads no images yet and expects nothing",
                images.len()
            );
            Err(ApiError::unsupported(path, message))
        }
    }
}

fn owned(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ApiError> {
    Ok(fields.text(name)?.map(str::to_owned))
}

fn content(fields: &Fields<'_>) -> Result<String, ApiError> {
    owned(fields, "content")?.ok_or_else(|| fields.missing("content", "a string"))
}
