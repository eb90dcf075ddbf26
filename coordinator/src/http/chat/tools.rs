//! Reads `tools`, `tool_choice` and `parallel_tool_calls` as OpenAI's chat clients send them.

use crate::text::{Parallel, Tool, ToolChoice, ToolUse};

use super::super::error::ApiError;
use super::super::fields::Fields;
use super::super::tools::{choice, list, named, tool};

/// The tools of a request, and how they may be used.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn read(fields: &Fields<'_>) -> Result<ToolUse, ApiError> {
    let tools = list(fields, entry)?;
    let choice = choice(fields, &tools, chosen)?;
    let parallel = match fields.flag("parallel_tool_calls")? {
        Some(false) => Parallel::One,
        Some(true) | None => Parallel::Any,
    };
    Ok(ToolUse {
        tools,
        choice,
        parallel,
    })
}

fn entry(fields: &Fields<'_>) -> Result<Tool, ApiError> {
    kind(fields)?;
    let function = fields
        .object("function")?
        .ok_or_else(|| fields.missing("function", "an object with `name`"))?;
    tool(
        &Fields::at(&fields.path("function"), function),
        "parameters",
    )
}

/// Everything but functions is refused.
fn kind(fields: &Fields<'_>) -> Result<(), ApiError> {
    match fields.text("type")? {
        Some("function") => Ok(()),
        None => Err(fields.missing("type", "`function`")),
        Some(_) => {
            let path = fields.path("type");
            let message = format!(
                "`{path}` is no `function`; this service cannot honour it yet and expects functions"
            );
            Err(ApiError::unsupported(path, message))
        }
    }
}

/// A function that is chosen by an object.
fn chosen(outer: &Fields<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    kind(outer)?;
    let function = outer
        .object("function")?
        .ok_or_else(|| outer.missing("function", "an object with `name`"))?;
    named(&Fields::at(&outer.path("function"), function), tools)
}
