//! Reads `tools`, `tool_choice` and `parallel_tool_calls` of a response.
//!
//! Functions are honoured. Custom tools become functions of one text; a grammar of theirs is shown to the model and not
//! enforced. Tools that a server would run (`web_search` and the like) and groups of tools are left out: clients send
//! them always, and an answer without them is what they expect of a service that has none.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};
use crate::http::tools::{CHOICE_EXPECTED, choice, named, tool};
use crate::text::{Parallel, Strictness, Tool, ToolChoice, ToolUse};

use super::input::CUSTOM_INPUT;

/// Tools of one request.
const TOOLS_MAX: usize = 512;

/// Kinds that are left out.
const LEFT_OUT: [&str; 14] = [
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "file_search",
    "code_interpreter",
    "computer_use_preview",
    "computer",
    "image_generation",
    "local_shell",
    "shell",
    "mcp",
    "namespace",
    "tool_search",
];

/// The tools of a request.
#[derive(Debug)]
pub(super) struct Tools {
    /// As the model sees them.
    pub(super) uses: ToolUse,
    /// Names of those that are custom tools to the client.
    pub(super) custom: BTreeSet<String>,
}

/// Reads the tools and how they may be used.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn read(fields: &Fields<'_>) -> Result<Tools, ApiError> {
    let entries = fields.array("tools")?.unwrap_or_default();
    if entries.len() > TOOLS_MAX {
        let message = format!(
            "`tools` is an array of {}; expected at most {TOOLS_MAX} tools",
            entries.len()
        );
        return Err(ApiError::field("tools", message));
    }
    let (mut tools, mut custom) = (Vec::<Tool>::new(), BTreeSet::new());
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("tools[{index}]");
        let Value::Object(object) = entry else {
            return Err(wrong(&path, entry, "an object that describes a tool"));
        };
        let fields = Fields::at(&path, object);
        let read = match fields.text("type")? {
            Some("function") => tool(&fields, "parameters")?,
            Some("custom") => {
                let read = custom_tool(&fields)?;
                custom.insert(read.name.clone());
                read
            }
            Some(kind) if LEFT_OUT.contains(&kind) => continue,
            Some(_) => {
                let path = fields.path("type");
                let message = format!(
                    "`{path}` names an unknown kind of tool; expected `function` or `custom`"
                );
                return Err(ApiError::unsupported(path, message));
            }
            None => return Err(fields.missing("type", "`function` or `custom`")),
        };
        if tools.iter().any(|other| other.name == read.name) {
            let message = format!("`{path}` has the name of a tool before it; expected each once");
            return Err(ApiError::field(path, message));
        }
        tools.push(read);
    }
    let choice = choice(fields, &tools, chosen)?;
    let parallel = match fields.flag("parallel_tool_calls")? {
        Some(false) => Parallel::One,
        Some(true) | None => Parallel::Any,
    };
    Ok(Tools {
        uses: ToolUse {
            tools: tools.into(),
            choice,
            parallel,
        },
        custom,
    })
}

/// A tool that takes any text.
fn custom_tool(fields: &Fields<'_>) -> Result<Tool, ApiError> {
    let mut read = tool(fields, "parameters")?;
    if let Some(format) = fields.object("format")? {
        let format = Fields::at(&fields.path("format"), format);
        if let Some(grammar) = format.text("definition")? {
            let text = read.description.get_or_insert_default();
            text.push_str("\nThe input follows this grammar:\n");
            text.push_str(grammar);
        }
    }
    let schema = json!({
        "type": "object",
        "properties": { CUSTOM_INPUT: { "type": "string", "description": "The whole input." } },
        "required": [CUSTOM_INPUT],
    });
    read.parameters = schema.as_object().cloned();
    read.strictness = Strictness::Loose;
    Ok(read)
}

/// A tool that is chosen by an object.
fn chosen(choice: &Fields<'_>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    match choice.text("type")? {
        Some("function" | "custom") => named(choice, tools),
        None => Err(choice.missing("type", "`function`")),
        Some(_) => {
            let message = format!(
                "`tool_choice.type` names what this service cannot honour yet; expected {CHOICE_EXPECTED}"
            );
            Err(ApiError::unsupported("tool_choice.type", message))
        }
    }
}
