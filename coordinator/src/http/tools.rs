//! Reads tools as all dialects describe them: a name, a description, a JSON schema, and whether it binds.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::text::{Call, Strictness, Tool, ToolChoice};

use super::error::ApiError;
use super::fields::{Fields, wrong};

/// Tools of one request.
const TOOLS_MAX: usize = 512;
/// What a choice of tools may be.
pub(super) const CHOICE_EXPECTED: &str =
    "`none`, `auto`, `required` or an object that names a function";

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

/// A choice of tools as OpenAI's dialects write it: a word, or an object that `object` reads.
///
/// # Errors
/// 400 naming what is wrong with it.
pub(super) fn choice(
    fields: &Fields<'_>,
    tools: &[Tool],
    object: impl FnOnce(&Fields<'_>, &[Tool]) -> Result<ToolChoice, ApiError>,
) -> Result<ToolChoice, ApiError> {
    match fields.get("tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => some("tool_choice", tools),
            _ => {
                let message =
                    format!("`tool_choice` is an unknown text; expected {CHOICE_EXPECTED}");
                Err(ApiError::field("tool_choice", message))
            }
        },
        Some(Value::Object(chosen)) => object(&Fields::at("tool_choice", chosen), tools),
        Some(other) => Err(fields.wrong("tool_choice", other, CHOICE_EXPECTED)),
    }
}

/// Calls that the assistant made before, as the messages of OpenAI and Ollama carry them. `arguments` reads those of a
/// function.
///
/// # Errors
/// 400 naming the first bad call.
pub(super) fn calls(
    fields: &Fields<'_>,
    arguments: impl Fn(&Fields<'_>) -> Result<Map<String, Value>, ApiError>,
) -> Result<Vec<Call>, ApiError> {
    let calls = fields.array("tool_calls")?.unwrap_or_default();
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
        checked.push(Call {
            id: outer.text("id")?.map(str::to_owned),
            name: inner
                .text("name")?
                .ok_or_else(|| inner.missing("name", "a string"))?
                .to_owned(),
            arguments: arguments(&inner)?,
        });
    }
    Ok(checked)
}
