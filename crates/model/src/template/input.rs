//! The variables of a rendering, from messages in the shape of OpenAI's chat API.
//!
//! Templates expect what Hugging Face gives them, which is a little different: contents that are texts, and tool
//! calls whose arguments are mappings. This is where the one becomes the other.

use minijinja::Value as Template;
use serde_json::{Map, Value};

use super::RenderInput;
use super::error::TemplateError;

/// Depth of the lists and mappings of an input.
const DEPTH_MAX: u32 = 100;
/// Messages of one chat.
const MESSAGES_MAX: usize = 1 << 16;

/// Everything a template can see, and how much it is.
pub(super) struct Variables {
    pub(super) root: Template,
    /// Bytes of all texts, and some for each value.
    pub(super) bytes: u64,
    /// Number of values: messages, their fields, elements.
    pub(super) values: u64,
}

/// The variables of one rendering.
pub(super) fn variables(
    input: &RenderInput<'_>,
    bos: Option<&str>,
    eos: Option<&str>,
) -> Result<Variables, TemplateError> {
    let mut count = Count::default();
    let messages = count.messages(input.messages)?;
    let tools = match input.tools {
        Some(tools) => count.value(tools, 0, "tools")?,
        None => Template::from(()),
    };
    let mut pairs = vec![
        ("messages".to_owned(), messages),
        ("tools".to_owned(), tools),
        ("documents".to_owned(), Template::from(())),
        (
            "add_generation_prompt".to_owned(),
            Template::from(input.add_generation_prompt),
        ),
    ];
    for (name, text) in [("bos_token", bos), ("eos_token", eos)] {
        if let Some(text) = text {
            pairs.push((name.to_owned(), Template::from(text)));
        }
    }
    for (name, value) in input.extra {
        if !is_name(name) || ["messages", "tools", "add_generation_prompt"].contains(&name.as_str())
        {
            return Err(shape(
                "a variable of the chat template",
                format!("named {:?}", name.chars().take(64).collect::<String>()),
                "a name of letters, digits and underscores that is not already taken",
            ));
        }
        let value = count.value(value, 0, name)?;
        pairs.push((name.clone(), value));
    }
    Ok(Variables {
        root: Template::from_pairs(pairs),
        bytes: count.bytes,
        values: count.values,
    })
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn shape(place: impl Into<String>, got: String, expected: &'static str) -> TemplateError {
    TemplateError::Shape {
        place: place.into(),
        got,
        expected,
    }
}

/// What a JSON value is, without its content.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
    .to_owned()
}

/// Turns JSON into values of the template engine, and measures it.
#[derive(Default)]
struct Count {
    bytes: u64,
    values: u64,
}

impl Count {
    fn messages(&mut self, messages: &Value) -> Result<Template, TemplateError> {
        let Value::Array(messages) = messages else {
            return Err(shape("`messages`", kind(messages), "a list of messages"));
        };
        if messages.len() > MESSAGES_MAX {
            return Err(TemplateError::TooLarge {
                what: "list of messages",
                got: messages.len(),
                max: MESSAGES_MAX,
            });
        }
        let mut all = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let Value::Object(message) = message else {
                let place = format!("message {index}");
                return Err(shape(
                    place,
                    kind(message),
                    "a mapping with role and content",
                ));
            };
            all.push(self.message(index, message)?);
        }
        Ok(Template::from(all))
    }

    fn message(
        &mut self,
        index: usize,
        message: &Map<String, Value>,
    ) -> Result<Template, TemplateError> {
        let mut pairs = Vec::with_capacity(message.len() + 1);
        for (key, value) in message {
            let value = match key.as_str() {
                "content" => Template::from(self.content(index, value)?),
                "tool_calls" => self.tool_calls(index, value)?,
                _ => self.value(value, 0, key)?,
            };
            pairs.push((key.clone(), value));
        }
        if !message.contains_key("content") {
            pairs.push(("content".to_owned(), Template::from("")));
        }
        Ok(Template::from_pairs(pairs))
    }

    /// The text of a content: itself, or all its text parts one after the other. No content is an empty text.
    fn content(&mut self, index: usize, content: &Value) -> Result<String, TemplateError> {
        let place = || format!("the content of message {index}");
        let text = match content {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part_text(part) {
                        Ok(part) => text.push_str(part),
                        Err(got) => return Err(shape(place(), got, "text parts only")),
                    }
                }
                text
            }
            other => {
                return Err(shape(
                    place(),
                    kind(other),
                    "a text or a list of text parts",
                ));
            }
        };
        self.count(text.len());
        Ok(text)
    }

    fn tool_calls(&mut self, index: usize, calls: &Value) -> Result<Template, TemplateError> {
        let Value::Array(calls) = calls else {
            return self.value(calls, 0, "tool_calls");
        };
        let mut all = Vec::with_capacity(calls.len());
        for call in calls {
            let mut call = call.clone();
            let function = match call.get_mut("function") {
                Some(function) => Some(function),
                None => Some(&mut call),
            };
            if let Some(arguments) = function.and_then(|f| f.get_mut("arguments"))
                && let Value::String(text) = arguments
            {
                *arguments = parse_arguments(text).map_err(|got| {
                    let place = format!("the arguments of a tool call in message {index}");
                    shape(place, got, "a JSON object")
                })?;
            }
            all.push(self.value(&call, 0, "tool_calls")?);
        }
        Ok(Template::from(all))
    }

    fn value(&mut self, value: &Value, depth: u32, place: &str) -> Result<Template, TemplateError> {
        if depth > DEPTH_MAX {
            let got = format!("nested more than {DEPTH_MAX} deep");
            return Err(shape(format!("`{place}`"), got, "a flatter structure"));
        }
        self.count(0);
        Ok(match value {
            Value::Null => Template::from(()),
            Value::Bool(yes) => Template::from(*yes),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Template::from(number),
                (None, Some(number)) => Template::from(number),
                (None, None) => Template::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => {
                self.count(text.len());
                Template::from(text.as_str())
            }
            Value::Array(items) => {
                let mut all = Vec::with_capacity(items.len());
                for item in items {
                    all.push(self.value(item, depth + 1, place)?);
                }
                Template::from(all)
            }
            Value::Object(fields) => {
                let mut pairs = Vec::with_capacity(fields.len());
                for (key, field) in fields {
                    self.count(key.len());
                    pairs.push((key.clone(), self.value(field, depth + 1, place)?));
                }
                Template::from_pairs(pairs)
            }
        })
    }

    fn count(&mut self, text_bytes: usize) {
        const VALUE_BYTES: u64 = 16;
        self.values = self.values.saturating_add(1);
        self.bytes = self
            .bytes
            .saturating_add(super::budget::bytes(text_bytes))
            .saturating_add(VALUE_BYTES);
    }
}

/// The text of one part of a content, or what else it is.
fn part_text(part: &Value) -> Result<&str, String> {
    let typed = part.get("type").and_then(Value::as_str);
    match (part, typed, part.get("text")) {
        (Value::String(text), _, _) => Ok(text),
        (_, Some("text" | "input_text" | "output_text") | None, Some(Value::String(text))) => {
            Ok(text)
        }
        (_, Some(kind), _) => Err(format!(
            "a list with a part of type {:?}",
            kind.chars().take(64).collect::<String>()
        )),
        _ => Err("a list with a part without a type".to_owned()),
    }
}

/// The mapping behind the JSON text of a tool call's arguments. No text is an empty mapping.
fn parse_arguments(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(other) => Err(format!("a JSON text of {}", kind(&other))),
        Err(error) => Err(format!(
            "no JSON text (column {} of line {})",
            error.column(),
            error.line()
        )),
    }
}
