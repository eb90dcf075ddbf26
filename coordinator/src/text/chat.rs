//! The internal chat request: what every dialect that talks in messages is read into.
//!
//! Owns checked values only. The one idea: a dialect parses into these types and knows nothing of templates; the
//! template's form is made from them in one place ([`super::prompt`]).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::grammar::Form;

/// A conversation to be continued.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    /// What was said so far; at least one message.
    pub(crate) messages: Vec<Message>,
    /// What the model may call.
    pub(crate) tools: ToolUse,
    /// Whether the model reasons before it answers.
    pub(crate) thinking: Thinking,
    /// What the answer has to look like.
    pub(crate) format: OutputFormat,
    /// Further variables of the model's chat template.
    pub(crate) variables: Map<String, Value>,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// Instructions.
    System(Said),
    /// What a person or program asks.
    User(Said),
    /// What the model answered before.
    Assistant(Turn),
    /// What a tool that the model called gave back.
    Tool(ToolResult),
}

/// A text of somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The text.
    pub(crate) text: String,
    /// Who says it, for templates that know names.
    pub(crate) name: Option<String>,
}

impl Said {
    /// A text without a name.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            name: None,
        }
    }
}

/// An earlier answer of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Turn {
    /// Its reasoning, if the client kept it.
    pub(crate) reasoning: Option<String>,
    /// Its text; may be empty.
    pub(crate) text: String,
    /// What it called, in order.
    pub(crate) calls: Vec<Call>,
    /// For templates that know names.
    pub(crate) name: Option<String>,
}

/// A call that the model made before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// Under which its result comes back.
    pub(crate) id: Option<String>,
    /// The tool's name.
    pub(crate) name: String,
    /// What it was called with.
    pub(crate) arguments: Map<String, Value>,
}

/// What came back from a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ToolResult {
    /// Which call it belongs to.
    pub(crate) call_id: Option<String>,
    /// The tool's name, if the client says it.
    pub(crate) name: Option<String>,
    /// The result.
    pub(crate) text: String,
}

/// The tools of a request, and how they may be used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolUse {
    /// The tools; names differ.
    pub(crate) tools: Arc<[Tool]>,
    /// Whether one is called.
    pub(crate) choice: ToolChoice,
    /// How many are called in one answer.
    pub(crate) parallel: Parallel,
}

impl Default for ToolUse {
    /// No tool.
    fn default() -> Self {
        Self {
            tools: Arc::new([]),
            choice: ToolChoice::Auto,
            parallel: Parallel::Any,
        }
    }
}

impl ToolUse {
    /// Whether answers are held to more than what the model writes by itself.
    pub(crate) fn binds(&self) -> bool {
        match self.choice {
            ToolChoice::None => false,
            ToolChoice::Required | ToolChoice::Named(_) => true,
            ToolChoice::Auto => {
                let mut tools = self.tools.iter();
                tools.any(|tool| tool.strictness == Strictness::Strict)
            }
        }
    }

    /// Whether an answer may contain calls at all.
    pub(crate) fn offered(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    /// 1 to [`Tool::NAME_BYTES_MAX`] letters, digits and `_-.:/`.
    pub(crate) name: String,
    /// What it does.
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments; `None` if it takes none.
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Whether calls have to follow the schema.
    pub(crate) strictness: Strictness,
    /// Path of the schema in the request, for errors.
    pub(crate) place: String,
}

impl Tool {
    /// Bytes of a name.
    pub(crate) const NAME_BYTES_MAX: usize = 128;

    /// Whether a text can be a tool's name.
    pub(crate) fn is_name(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
        (1..=Self::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
    }
}

/// Whether a schema, of a tool's arguments or of an answer, has to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As far as it goes: what cannot be followed is left out.
    Loose,
    /// Nothing else can be written, and a schema that cannot be followed is refused.
    Strict,
}

/// Whether a tool is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// The model decides.
    Auto,
    /// None is; what looks like a call is text.
    None,
    /// At least one is.
    Required,
    /// This one is. It is among the tools.
    Named(String),
}

/// How many calls one answer may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parallel {
    /// As many as the model likes.
    Any,
    /// One: the answer ends with it.
    One,
}

/// Whether the model reasons before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// As its template has it.
    Default,
    /// Yes, if the template can say so.
    On,
    /// No, if the template can say so.
    Off,
}

/// What an answer has to look like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OutputFormat {
    /// Any text.
    Text,
    /// Of this form, after the reasoning if there is one.
    Form {
        /// The form.
        form: Form,
        /// Path of the field that asks for it, for errors.
        field: String,
    },
}
