//! The items that an answer consists of, and how clients see them.

use serde_json::{Map, Value, json};

use crate::text::{Call, Turn};

use super::input::CUSTOM_INPUT;
use super::sealed;

/// An item under way.
#[derive(Debug)]
pub(super) enum Item {
    /// What the model thinks.
    Reasoning {
        /// Its text so far.
        text: String,
        /// Whether it is also given in the form that clients carry back.
        seal: Seal,
    },
    /// What it says.
    Message {
        /// Its text so far.
        text: String,
    },
    /// A call of a function.
    Function(Called),
    /// A call of a custom tool.
    Custom(Called),
}

/// Whether reasoning is also given packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Yes,
    No,
}

/// A call so far.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) call_id: String,
    pub(super) name: String,
    /// The JSON text of its arguments.
    pub(super) arguments: String,
}

/// How an item ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// The answer broke off inside.
    Incomplete,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Called {
    /// The text that a custom tool gets; of a call that broke off, nothing.
    pub(super) fn input(&self) -> String {
        let arguments: Map<String, Value> =
            serde_json::from_str(&self.arguments).unwrap_or_default();
        match arguments.get(CUSTOM_INPUT) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        }
    }
}

impl Item {
    /// What its id begins with.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning { .. } => "rs",
            Self::Message { .. } => "msg",
            Self::Function(_) => "fc",
            Self::Custom(_) => "ctc",
        }
    }

    /// The part that its text is in, where it has one.
    pub(super) fn part(&self) -> Option<Value> {
        match self {
            Self::Reasoning { text, .. } => Some(json!({ "type": "reasoning_text", "text": text })),
            Self::Message { text } => Some(json!({
                "type": "output_text", "text": text, "annotations": [], "logprobs": [],
            })),
            Self::Function(_) | Self::Custom(_) => None,
        }
    }

    /// As clients see it. Without a text yet there is no part.
    pub(super) fn body(&self, id: &str, status: Status) -> Value {
        let parts = match status {
            Status::InProgress => Vec::new(),
            Status::Completed | Status::Incomplete => self.part().into_iter().collect(),
        };
        let status = status.name();
        match self {
            Self::Reasoning { text, seal } => {
                let packed = (*seal == Seal::Yes && !parts.is_empty()).then(|| sealed::seal(text));
                let mut body = json!({
                    "id": id, "type": "reasoning", "status": status, "summary": [], "content": parts,
                });
                if let Some(packed) = packed {
                    body["encrypted_content"] = packed.into();
                }
                body
            }
            Self::Message { .. } => json!({
                "id": id, "type": "message", "status": status, "role": "assistant", "content": parts,
            }),
            Self::Function(call) => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call.call_id,
                "name": call.name, "arguments": call.arguments,
            }),
            Self::Custom(call) => json!({
                "id": id, "type": "custom_tool_call", "status": status, "call_id": call.call_id,
                "name": call.name, "input": call.input(),
            }),
        }
    }

    /// Adds it to the turn as the model will see it again. A call that broke off is no call.
    pub(super) fn remember(self, turn: &mut Turn) {
        match self {
            Self::Reasoning { text, .. } => turn.reasoning.get_or_insert_default().push_str(&text),
            Self::Message { text } => turn.text.push_str(&text),
            Self::Function(call) | Self::Custom(call) => {
                if let Ok(arguments) = serde_json::from_str(&call.arguments) {
                    turn.calls.push(Call {
                        id: Some(call.call_id),
                        name: call.name,
                        arguments,
                    });
                }
            }
        }
    }
}
