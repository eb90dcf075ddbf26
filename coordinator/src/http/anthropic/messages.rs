//! Reads `system` and `messages` as Anthropic's clients send them.
//!
//! | role | blocks |
//! |---|---|
//! | `user` | `text`, `tool_result` (text or text blocks; `is_error` is said to the model) |
//! | `assistant` | `text`, `thinking`, `redacted_thinking` (unreadable here, passed over), `tool_use` |
//!
//! Images, documents and everything that Anthropic's own service runs are refused. Blocks of text that follow each other
//! are paragraphs of one.

use serde_json::Value;

use crate::text::{Call, Message, Said, ToolResult, Turn};

use super::super::error::ApiError;
use super::super::fields::{Fields, wrong};

const BLOCKS: &str = "a string or an array of content blocks";
/// Between blocks of text.
const JOINT: &str = "\n\n";

/// All of the conversation, checked.
///
/// # Errors
/// 400 naming the first bad place.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let mut all = Vec::new();
    if let Some(system) = fields.get("system") {
        let text = texts(&fields.path("system"), system)?;
        if !text.is_empty() {
            all.push(Message::System(Said::new(text)));
        }
    }
    let expected = "an array of at least one message";
    let messages = match fields.array("messages")? {
        Some(messages) if !messages.is_empty() => messages,
        Some(_) => return Err(wrong("messages", &Value::Array(Vec::new()), expected)),
        None => return Err(fields.missing("messages", expected)),
    };
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages[{index}]");
        let Value::Object(object) = message else {
            return Err(wrong(&path, message, "an object with `role` and `content`"));
        };
        let fields = Fields::at(&path, object);
        match fields.text("role")? {
            Some("user") => user(&fields, &mut all)?,
            Some("assistant") => all.push(Message::Assistant(assistant(&fields)?)),
            Some(_) => {
                let path = fields.path("role");
                let message =
                    format!("`{path}` is not a known role; expected `user` or `assistant`");
                return Err(ApiError::field(path, message));
            }
            None => return Err(fields.missing("role", "`user` or `assistant`")),
        }
    }
    if let Some(Message::Assistant(_)) = all.last() {
        let path = format!("messages[{}].role", messages.len().saturating_sub(1));
        let message = format!(
            "`{path}` is `assistant` in the last message; this service cannot honour it yet, since it cannot go on with an answer that was begun, and expects `user`"
        );
        return Err(ApiError::unsupported(path, message));
    }
    Ok(all)
}

/// One content block.
struct Block<'a> {
    fields: Fields<'a>,
    kind: &'a str,
}

impl Block<'_> {
    fn text(&self) -> Result<String, ApiError> {
        self.owned("text")
    }

    fn owned(&self, name: &str) -> Result<String, ApiError> {
        let text = self.fields.text(name)?;
        text.map(str::to_owned)
            .ok_or_else(|| self.fields.missing(name, "a string"))
    }

    /// The error for a block that cannot stand here.
    fn refused(&self, expected: &str) -> ApiError {
        let path = self.fields.path("type");
        let message = format!(
            "`{path}` names a block that is not text; this service cannot honour it yet and expects {expected}"
        );
        ApiError::unsupported(path, message)
    }
}

/// The blocks of a content that is no plain text.
fn blocks<'a>(path: &str, content: &'a Value) -> Result<Vec<Block<'a>>, ApiError> {
    let Value::Array(list) = content else {
        return Err(wrong(path, content, BLOCKS));
    };
    let mut blocks = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Object(object) = entry else {
            return Err(wrong(&path, entry, "a content block with `type`"));
        };
        let fields = Fields::at(&path, object);
        let kind = fields
            .text("type")?
            .ok_or_else(|| fields.missing("type", "the kind of the block"))?;
        blocks.push(Block { fields, kind });
    }
    Ok(blocks)
}

/// A content of texts alone.
fn texts(path: &str, content: &Value) -> Result<String, ApiError> {
    if let Value::String(text) = content {
        return Ok(text.clone());
    }
    let mut texts = Vec::new();
    for block in blocks(path, content)? {
        match block.kind {
            "text" => texts.push(block.text()?),
            _ => return Err(block.refused("`text`")),
        }
    }
    Ok(texts.join(JOINT))
}

fn content<'a>(fields: &Fields<'a>) -> Result<&'a Value, ApiError> {
    fields
        .get("content")
        .ok_or_else(|| fields.missing("content", BLOCKS))
}

fn user(fields: &Fields<'_>, all: &mut Vec<Message>) -> Result<(), ApiError> {
    let content = content(fields)?;
    if let Value::String(text) = content {
        all.push(Message::User(Said::new(text.clone())));
        return Ok(());
    }
    let mut texts: Vec<String> = Vec::new();
    let said = |texts: &mut Vec<String>, all: &mut Vec<Message>| {
        if !texts.is_empty() {
            all.push(Message::User(Said::new(texts.join(JOINT))));
            texts.clear();
        }
    };
    for block in blocks(&fields.path("content"), content)? {
        match block.kind {
            "text" => texts.push(block.text()?),
            "tool_result" => {
                said(&mut texts, all);
                all.push(Message::Tool(result(&block)?));
            }
            _ => return Err(block.refused("`text` or `tool_result`")),
        }
    }
    said(&mut texts, all);
    Ok(())
}

fn result(block: &Block<'_>) -> Result<ToolResult, ApiError> {
    let fields = &block.fields;
    let mut text = match fields.get("content") {
        None => String::new(),
        Some(content) => texts(&fields.path("content"), content)?,
    };
    if fields.flag("is_error")? == Some(true) {
        text.insert_str(0, "Error: ");
    }
    Ok(ToolResult {
        call_id: Some(block.owned("tool_use_id")?),
        name: None,
        text,
    })
}

fn assistant(fields: &Fields<'_>) -> Result<Turn, ApiError> {
    let content = content(fields)?;
    if let Value::String(text) = content {
        return Ok(Turn {
            text: text.clone(),
            ..Turn::default()
        });
    }
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks(&fields.path("content"), content)? {
        match block.kind {
            "text" => texts.push(block.text()?),
            "thinking" => {
                // Ours says nothing, and that of another service cannot be checked here.
                block.fields.text("signature")?;
                thoughts.push(block.owned("thinking")?);
            }
            "redacted_thinking" => drop(block.owned("data")?),
            "tool_use" => calls.push(call(&block)?),
            _ => return Err(block.refused("`text`, `thinking`, `redacted_thinking` or `tool_use`")),
        }
    }
    thoughts.retain(|thought| !thought.is_empty());
    Ok(Turn {
        reasoning: (!thoughts.is_empty()).then(|| thoughts.join(JOINT)),
        text: texts.join(JOINT),
        calls,
        name: None,
    })
}

fn call(block: &Block<'_>) -> Result<Call, ApiError> {
    let fields = &block.fields;
    let input = fields
        .object("input")?
        .ok_or_else(|| fields.missing("input", "an object"))?;
    Ok(Call {
        id: Some(block.owned("id")?),
        name: block.owned("name")?,
        arguments: input.clone(),
    })
}
