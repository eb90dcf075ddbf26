//! Reads `tools` and `tool_choice` as Anthropic's clients send them.
//!
//! Tools that Anthropic's own service runs, or whose schema only Anthropic's models know, are refused.

use crate::text::{Parallel, Tool, ToolChoice, ToolUse};

use super::super::error::ApiError;
use super::super::fields::Fields;
use super::super::tools::{list, named, some, tool};

/// The tools of a request, and how they may be used.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn read(fields: &Fields<'_>) -> Result<ToolUse, ApiError> {
    let tools = list(fields, entry)?;
    let Some(object) = fields.object("tool_choice")? else {
        return Ok(ToolUse {
            tools,
            ..ToolUse::default()
        });
    };
    let inner = Fields::at(&fields.path("tool_choice"), object);
    let choice = match inner.text("type")? {
        Some("auto") => ToolChoice::Auto,
        Some("none") => ToolChoice::None,
        Some("any") => some(&fields.path("tool_choice"), &tools)?,
        Some("tool") => named(&inner, &tools)?,
        Some(_) => {
            let path = inner.path("type");
            let message =
                format!("`{path}` is an unknown text; expected `auto`, `any`, `tool` or `none`");
            return Err(ApiError::field(path, message));
        }
        None => return Err(inner.missing("type", "`auto`, `any`, `tool` or `none`")),
    };
    let parallel = match inner.flag("disable_parallel_tool_use")? {
        Some(true) => Parallel::One,
        Some(false) | None => Parallel::Any,
    };
    Ok(ToolUse {
        tools,
        choice,
        parallel,
    })
}

fn entry(fields: &Fields<'_>) -> Result<Tool, ApiError> {
    match fields.text("type")? {
        None | Some("custom") => {}
        Some(_) => {
            let path = fields.path("type");
            let message = format!(
                "`{path}` names a tool of another service; this service cannot honour it yet and expects `custom` or nothing"
            );
            return Err(ApiError::unsupported(path, message));
        }
    }
    if fields.get("input_schema").is_none() {
        return Err(fields.missing("input_schema", "a JSON schema of an object"));
    }
    tool(fields, "input_schema")
}
