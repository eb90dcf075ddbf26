//! What a call has to look like, for a decoder that may write nothing else.
//!
//! A pure description; nothing here knows tokens. Texts are exact: what a model writes by itself when it calls.

use serde_json::{Map, Value, json};

use super::{CallReading, CallStyle, FUNCTION, PARAMETER, PARAMETER_END, TOOL_CALL};
use crate::text::chat::{Parallel, Tool};

/// Every call that may be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallGrammar {
    /// The text at which a call begins, whichever tool it is: where constraint sets in if text may come before.
    pub(crate) trigger: &'static str,
    /// One form per tool.
    pub(crate) forms: Vec<CallForm>,
    /// What stands between two calls.
    pub(crate) between: &'static str,
    /// How many calls there may be.
    pub(crate) parallel: Parallel,
}

/// A call of one tool: `begin`, then the body, then `end`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallForm {
    /// The tool's name.
    pub(crate) tool: String,
    /// The text before the arguments; begins with the trigger.
    pub(crate) begin: String,
    /// The arguments.
    pub(crate) body: CallBody,
    /// The text behind them.
    pub(crate) end: &'static str,
}

/// How arguments are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallBody {
    /// One JSON object of this schema.
    Json(Value),
    /// Parameters one after the other, in any order, each at most once.
    Tags {
        /// Those that the schema names.
        parameters: Vec<TagParameter>,
        /// The whole schema, for what its parts refer to.
        schema: Value,
    },
}

/// One parameter: `begin`, then a value that does not contain `end`, then `end`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TagParameter {
    /// Its name.
    pub(crate) name: String,
    /// Whether every call has it.
    pub(crate) required: bool,
    /// The text before the value.
    pub(crate) begin: String,
    /// What the value has to be. Strings are written without quotes and escapes.
    pub(crate) schema: Value,
    /// The text behind the value.
    pub(crate) end: String,
}

impl CallReading {
    /// The calls that may be written: of all tools, or of the one of that name.
    pub(crate) fn grammar(&self, only: Option<&str>) -> CallGrammar {
        let tools = self.tools.iter();
        let tools = tools.filter(|tool| only.is_none_or(|name| tool.name == name));
        CallGrammar {
            trigger: match self.style {
                CallStyle::Xml | CallStyle::Hermes => TOOL_CALL,
                CallStyle::Llama => "{",
            },
            forms: tools.map(|tool| form(self.style, tool)).collect(),
            between: match self.style {
                CallStyle::Xml | CallStyle::Hermes => "\n",
                CallStyle::Llama => "; ",
            },
            parallel: self.parallel,
        }
    }
}

fn form(style: CallStyle, tool: &Tool) -> CallForm {
    let name = &tool.name;
    let schema = schema(tool);
    let (begin, body, end) = match style {
        CallStyle::Xml => (
            format!("{TOOL_CALL}\n{FUNCTION}{name}>\n"),
            CallBody::Tags {
                parameters: parameters(&schema),
                schema: Value::Object(schema),
            },
            "</function>\n</tool_call>",
        ),
        CallStyle::Hermes => (
            format!("{TOOL_CALL}\n{{\"name\": \"{name}\", \"arguments\": "),
            CallBody::Json(Value::Object(schema)),
            "}\n</tool_call>",
        ),
        CallStyle::Llama => (
            format!("{{\"name\": \"{name}\", \"parameters\": "),
            CallBody::Json(Value::Object(schema)),
            "}",
        ),
    };
    CallForm {
        tool: name.clone(),
        begin,
        body,
        end,
    }
}

/// A tool without a schema takes nothing.
fn schema(tool: &Tool) -> Map<String, Value> {
    match &tool.parameters {
        Some(schema) => schema.clone(),
        None => {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), "object".into());
            schema.insert("properties".to_owned(), json!({}));
            schema.insert("additionalProperties".to_owned(), false.into());
            schema
        }
    }
}

fn parameters(schema: &Map<String, Value>) -> Vec<TagParameter> {
    let required = schema.get("required").and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| TagParameter {
            name: name.clone(),
            required: required.is_some_and(|all| all.iter().any(|one| one == name)),
            begin: format!("{PARAMETER}{name}>\n"),
            schema: schema.clone(),
            end: format!("\n{PARAMETER_END}\n"),
        })
        .collect()
}
