//! Reads tools as all dialects describe them: a name, a description, a JSON schema, and whether it binds.

use std::sync::Arc;

use serde_json::Value;

use crate::text::{Strictness, Tool, ToolChoice};

use super::error::ApiError;
use super::fields::{Fields, wrong};

/// Tools of one request.
const TOOLS_MAX: usize = 512;

/// The tools of a request. `read` takes one entry of the array.
///
/// # Errors
/// 400 naming the first bad entry, or a name that comes twice.
pub(super) fn list(
    fields: &Fields<'_>,
    read: impl Fn(&Fields<'_>) -> Result<Tool, ApiError>,
) -> Result<Arc<[Tool]>, ApiError> {
    let entries = fields.array("tools")?.unwrap_or_default();
    if entries.len() > TOOLS_MAX {
        let path = fields.path("tools");
        let message = format!(
            "`{path}` is an array of {}; expected at most {TOOLS_MAX} tools",
            entries.len()
        );
        return Err(ApiError::field(path, message));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("{}[{index}]", fields.path("tools"));
        let Value::Object(object) = entry else {
            return Err(wrong(&path, entry, "an object that describes a tool"));
        };
        let tool = read(&Fields::at(&path, object))?;
        if tools.iter().any(|other| other.name == tool.name) {
            let message = format!("`{path}` has the name of a tool before it; expected each once");
            return Err(ApiError::field(path, message));
        }
        tools.push(tool);
    }
    Ok(tools.into())
}

/// One tool, its schema in the field of this name.
///
/// # Errors
/// 400 naming the bad field.
pub(super) fn tool(fields: &Fields<'_>, schema: &str) -> Result<Tool, ApiError> {
    let strict = fields.flag("strict")?.unwrap_or(false);
    Ok(Tool {
        name: name(fields)?.to_owned(),
        description: fields.text("description")?.map(str::to_owned),
        parameters: fields.object(schema)?.cloned(),
        strictness: if strict {
            Strictness::Strict
        } else {
            Strictness::Loose
        },
        place: fields.path(schema),
    })
}

/// A tool's name in the field `name`.
///
/// # Errors
/// 400 if it is missing or can be no tool's.
pub(super) fn name<'a>(fields: &Fields<'a>) -> Result<&'a str, ApiError> {
    let expected = format!("1 to {} letters, digits and _-.:/", Tool::NAME_BYTES_MAX);
    let name = fields
        .text("name")?
        .ok_or_else(|| fields.missing("name", &expected))?;
    if Tool::is_name(name) {
        Ok(name)
    } else {
        Err(fields.wrong("name", &Value::from(name), &expected))
    }
}

/// The choice of the tool that is named in the field `name`.
///
/// # Errors
/// 400 if it is none of the tools.
pub(super) fn named(fields: &Fields<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let name = name(fields)?;
    if tools.iter().any(|tool| tool.name == name) {
        return Ok(ToolChoice::Named(name.to_owned()));
    }
    let path = fields.path("name");
    let message = format!("`{path}` names no tool of `tools`; expected one of them");
    Err(ApiError::field(path, message))
}

/// The choice of some tool.
///
/// # Errors
/// 400 if there is none.
pub(super) fn some(path: &str, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    if tools.is_empty() {
        let message = format!("`{path}` demands a call; expected at least one tool in `tools`");
        return Err(ApiError::field(path, message));
    }
    Ok(ToolChoice::Required)
}
