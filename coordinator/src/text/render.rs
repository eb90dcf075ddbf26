//! A chat request turned into the ids that the model continues.
//!
//! Brings messages and tools into the form that templates want (OpenAI's, with arguments as objects), renders and
//! tokenises. No error of this module contains text of a message.

use std::collections::HashMap;
use std::sync::Arc;

use model::Specials;
use serde_json::{Map, Value, json};

use crate::gateway::ServedModel;

use super::chat::{ChatRequest, Message, Said, Thinking, Tool, ToolResult, Turn};
use super::choice::Reading;
use super::prompt::PromptError;
use super::reasoning::Reasoning;
use super::tools::{CallReading, CallStyle};

/// Between instructions that become one.
const JOINT: &str = "\n\n";

/// A chat as the model gets it.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    /// The prompt.
    pub(crate) ids: Vec<u32>,
    /// How its answer is read.
    pub(crate) reading: Reading,
}

/// Renders a chat and turns it into ids.
///
/// # Errors
/// The model has no template, or the template refuses the messages.
pub(crate) fn render_chat(
    model: &ServedModel,
    chat: &ChatRequest,
) -> Result<Rendered, PromptError> {
    let calls = calls(model, chat)?;
    let text = render(model, chat, &chat.messages).or_else(|refused| {
        // Many templates take one system message, at the beginning. Agents send several.
        let gathered = gather(&chat.messages).ok_or(refused)?;
        render(model, chat, &gathered)
    })?;
    let ids = model.tokenizer.encode(&text, Specials::Parse)?;
    Ok(Rendered {
        ids,
        reading: Reading {
            reasoning: Reasoning::after(&text),
            calls,
        },
    })
}

/// How calls will be read; `None` if there can be none.
fn calls(model: &ServedModel, chat: &ChatRequest) -> Result<Option<CallReading>, PromptError> {
    if !chat.tools.offered() {
        return Ok(None);
    }
    let template = model.template.as_ref().ok_or(PromptError::NoTemplate)?;
    let reading = CallReading {
        style: CallStyle::of(template).ok_or(PromptError::NoTools)?,
        tools: Arc::clone(&chat.tools.tools),
        parallel: chat.tools.parallel,
    };
    Ok(Some(reading))
}

fn render(
    model: &ServedModel,
    chat: &ChatRequest,
    messages: &[Message],
) -> Result<String, PromptError> {
    let template = model.template.as_ref().ok_or(PromptError::NoTemplate)?;
    let mut variables = chat.variables.clone();
    match chat.thinking {
        Thinking::Default => None,
        Thinking::On => variables.insert("enable_thinking".to_owned(), true.into()),
        Thinking::Off => variables.insert("enable_thinking".to_owned(), false.into()),
    };
    let tools = chat
        .tools
        .offered()
        .then(|| Value::Array(chat.tools.tools.iter().map(tool).collect()));
    template
        .render(&model::RenderInput {
            messages: &template_messages(messages),
            tools: tools.as_ref(),
            add_generation_prompt: true,
            extra: &variables,
        })
        .map_err(|error| PromptError::Template(shortened(&error.to_string())))
}

/// The same chat with one system message: the first ones become one, later ones are said by the user. `None` if there
/// is nothing to gather.
fn gather(messages: &[Message]) -> Option<Vec<Message>> {
    let leading = messages
        .iter()
        .take_while(|message| matches!(message, Message::System(_)))
        .count();
    let (first, rest) = messages.split_at_checked(leading)?;
    let late = |message: &Message| matches!(message, Message::System(_));
    if leading < 2 && !rest.iter().any(late) {
        return None;
    }
    let texts: Vec<&str> = first
        .iter()
        .filter_map(|message| match message {
            Message::System(said) => Some(said.text.as_str()),
            _ => None,
        })
        .collect();
    let mut gathered = Vec::with_capacity(rest.len().saturating_add(1));
    if !texts.is_empty() {
        gathered.push(Message::System(Said::new(texts.join(JOINT))));
    }
    gathered.extend(rest.iter().map(|message| match message {
        Message::System(said) => Message::User(said.clone()),
        other => other.clone(),
    }));
    Some(gathered)
}

fn template_messages(messages: &[Message]) -> Value {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut list = Vec::with_capacity(messages.len());
    for message in messages {
        list.push(Value::Object(match message {
            Message::System(text) => said("system", text),
            Message::User(text) => said("user", text),
            Message::Assistant(answer) => {
                for call in &answer.calls {
                    if let Some(id) = &call.id {
                        names.insert(id, &call.name);
                    }
                }
                turn(answer)
            }
            Message::Tool(answer) => result(answer, &names),
        }));
    }
    Value::Array(list)
}

fn entry(role: &str) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("role".to_owned(), role.into());
    map
}

fn put(map: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        map.insert(name.to_owned(), text.into());
    }
}

fn said(role: &str, said: &Said) -> Map<String, Value> {
    let mut map = entry(role);
    put(&mut map, "content", Some(&said.text));
    put(&mut map, "name", said.name.as_deref());
    map
}

fn turn(turn: &Turn) -> Map<String, Value> {
    let mut map = entry("assistant");
    put(&mut map, "reasoning_content", turn.reasoning.as_deref());
    put(&mut map, "content", Some(&turn.text));
    if !turn.calls.is_empty() {
        let calls = turn.calls.iter().map(|call| {
            let mut map = Map::new();
            map.insert("type".to_owned(), "function".into());
            put(&mut map, "id", call.id.as_deref());
            let function = json!({ "name": call.name, "arguments": call.arguments });
            map.insert("function".to_owned(), function);
            Value::Object(map)
        });
        map.insert("tool_calls".to_owned(), calls.collect());
    }
    put(&mut map, "name", turn.name.as_deref());
    map
}

/// A result; without a name of its own it gets that of its call, which some templates want.
fn result(result: &ToolResult, names: &HashMap<&str, &str>) -> Map<String, Value> {
    let mut map = entry("tool");
    let id = result.call_id.as_deref();
    let called = id.and_then(|id| names.get(id).copied());
    put(&mut map, "content", Some(&result.text));
    put(&mut map, "name", result.name.as_deref().or(called));
    put(&mut map, "tool_call_id", id);
    map
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    put(&mut function, "name", Some(&tool.name));
    put(&mut function, "description", tool.description.as_deref());
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".to_owned(), Value::Object(parameters.clone()));
    }
    json!({ "type": "function", "function": function })
}

/// A template's own words, no longer than fits an error.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars().take(CHARS_MAX).collect()
}
