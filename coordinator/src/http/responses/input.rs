//! Reads the input of a response: a text, or items that say what happened so far.
//!
//! | item | becomes |
//! |---|---|
//! | `message` of `user` | what the user says |
//! | `message` of `system`, `developer` | instructions |
//! | `message` of `assistant`, `reasoning`, `function_call`, `custom_tool_call` | one turn of the model, as long as they follow each other in this order |
//! | `function_call_output`, `custom_tool_call_output` | what a tool gave back |
//!
//! Images, files, references to items, and calls of tools that a server runs are refused.

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};
use crate::text::{Call, Message, Said, ToolResult, Turn};

use super::sealed;

/// The field of custom tools' only argument, in the schema that the model sees.
pub(super) const CUSTOM_INPUT: &str = "input";

const ROLES: &str = "one of `user`, `assistant`, `system`, `developer`";
const ITEMS: &str = "one of `message`, `reasoning`, `function_call`, `function_call_output`, `custom_tool_call`, `custom_tool_call_output`";

/// The messages of the input, checked.
///
/// # Errors
/// 400 naming the first bad place.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    const EXPECTED: &str = "a string or an array of at least one item";
    match fields.get("input") {
        None => Err(fields.missing("input", EXPECTED)),
        Some(Value::String(text)) => Ok(vec![Message::User(Said::new(text.as_str()))]),
        Some(Value::Array(items)) if !items.is_empty() => {
            let mut gathered = Gathered::default();
            for (index, item) in items.iter().enumerate() {
                let path = format!("input[{index}]");
                let Value::Object(object) = item else {
                    return Err(wrong(&path, item, "an object with `type`"));
                };
                gathered.item(&Fields::at(&path, object))?;
            }
            Ok(gathered.finish())
        }
        Some(other) => Err(wrong("input", other, EXPECTED)),
    }
}

/// Messages so far, and the model's turn that is not over.
#[derive(Default)]
struct Gathered {
    messages: Vec<Message>,
    turn: Option<Turn>,
}

impl Gathered {
    fn item(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        match fields.text("type")? {
            None | Some("message") => self.message(fields),
            Some("reasoning") => {
                let text = reasoning(fields)?;
                if self
                    .turn
                    .as_ref()
                    .is_some_and(|turn| !turn.text.is_empty() || !turn.calls.is_empty())
                {
                    self.end_turn();
                }
                if let Some(text) = text {
                    let turn = self.turn.get_or_insert_default();
                    turn.reasoning.get_or_insert_default().push_str(&text);
                }
                Ok(())
            }
            Some("function_call") => {
                let arguments = arguments(fields)?;
                self.call(fields, arguments)
            }
            Some("custom_tool_call") => {
                let input = needed(fields, "input")?;
                let arguments = Map::from_iter([(CUSTOM_INPUT.to_owned(), input.into())]);
                self.call(fields, arguments)
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                let result = ToolResult {
                    call_id: Some(needed(fields, "call_id")?),
                    name: None,
                    text: text_of(fields, "output", &["input_text", "output_text", "text"])?,
                };
                self.push(Message::Tool(result));
                Ok(())
            }
            Some(_) => {
                let path = fields.path("type");
                let message = format!(
                    "`{path}` names an item that this service cannot honour yet; expected {ITEMS}"
                );
                Err(ApiError::unsupported(path, message))
            }
        }
    }

    fn message(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        let text = |kinds| text_of(fields, "content", kinds);
        match fields.text("role")? {
            Some("user") => self.push(Message::User(Said::new(text(&["input_text", "text"])?))),
            Some("system" | "developer") => {
                self.push(Message::System(Said::new(text(&["input_text", "text"])?)));
            }
            Some("assistant") => {
                let text = text(&["output_text", "input_text", "text"])?;
                if self
                    .turn
                    .as_ref()
                    .is_some_and(|turn| !turn.calls.is_empty())
                {
                    self.end_turn();
                }
                self.turn.get_or_insert_default().text.push_str(&text);
            }
            Some(_) => {
                let path = fields.path("role");
                let message = format!("`{path}` is not a known role; expected {ROLES}");
                return Err(ApiError::field(path, message));
            }
            None => return Err(fields.missing("role", ROLES)),
        }
        Ok(())
    }

    fn call(&mut self, fields: &Fields<'_>, arguments: Map<String, Value>) -> Result<(), ApiError> {
        let call = Call {
            id: Some(needed(fields, "call_id")?),
            name: needed(fields, "name")?,
            arguments,
        };
        self.turn.get_or_insert_default().calls.push(call);
        Ok(())
    }

    fn push(&mut self, message: Message) {
        self.end_turn();
        self.messages.push(message);
    }

    fn end_turn(&mut self) {
        self.messages
            .extend(self.turn.take().map(Message::Assistant));
    }

    fn finish(mut self) -> Vec<Message> {
        self.end_turn();
        self.messages
    }
}

fn needed(fields: &Fields<'_>, name: &str) -> Result<String, ApiError> {
    let text = fields.text(name)?;
    text.map(str::to_owned)
        .ok_or_else(|| fields.missing(name, "a string"))
}

/// A text, or the texts of parts of these kinds.
fn text_of(fields: &Fields<'_>, name: &str, kinds: &[&str]) -> Result<String, ApiError> {
    const EXPECTED: &str = "a string or an array of text parts";
    let parts = match fields.get(name) {
        None => return Err(fields.missing(name, EXPECTED)),
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(fields.wrong(name, other, EXPECTED)),
    };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{}[{index}]", fields.path(name));
        let Value::Object(object) = part else {
            return Err(wrong(&path, part, "an object with `type` and `text`"));
        };
        let part = Fields::at(&path, object);
        match part.text("type")? {
            Some(kind) if kinds.contains(&kind) => text.push_str(&needed(&part, "text")?),
            Some("refusal") => text.push_str(&needed(&part, "refusal")?),
            Some(_) => {
                let path = part.path("type");
                let message = format!(
                    "`{path}` names a part that is not text here; this service cannot honour it yet and expects {}",
                    kinds.join(" or ")
                );
                return Err(ApiError::unsupported(path, message));
            }
            None => return Err(part.missing("type", "the kind of the part")),
        }
    }
    Ok(text)
}

/// The reasoning of an item: what is said openly, else what we sealed ourselves. What others sealed cannot be read and is
/// left out.
fn reasoning(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let open = match fields.get("content") {
        None => String::new(),
        Some(_) => text_of(fields, "content", &["reasoning_text", "text"])?,
    };
    // Summaries are for people: they are checked and left out.
    if fields.get("summary").is_some() {
        text_of(fields, "summary", &["summary_text"])?;
    }
    let sealed = fields.text("encrypted_content")?;
    if !open.is_empty() {
        return Ok(Some(open));
    }
    Ok(sealed
        .and_then(sealed::open)
        .filter(|text| !text.is_empty()))
}

/// Arguments travel as a JSON text.
fn arguments(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let text = needed(fields, "arguments")?;
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => {
            let path = fields.path("arguments");
            let message = format!(
                "`{path}` is a string that is no JSON object; expected a JSON object as a string"
            );
            Err(ApiError::field(path, message))
        }
    }
}
