//! Calls of tools, as models write them.
//!
//! Every model family has a form of its own for calls inside its text; which one is seen from its chat template. Owns
//! the forms, the readers that turn text into calls while it arrives, and the description of what a call has to look
//! like. Knows neither tokens nor dialects.
//!
//! The one idea: whatever is not a call stays text, and what was given out is never taken back. Where a call goes
//! wrong decides what becomes of it:
//!
//! | the text | becomes |
//! |---|---|
//! | markup without a call behind it, before a name was read | text, markup included |
//! | a call of a tool that was not offered | a call: its client answers that there is no such tool, and the model can mend it |
//! | arguments that stop being JSON | a call without end, and text from there on |
//! | an answer that ends inside the arguments | a call without end, with what is there: nobody may take half a file for a whole one |
//! | a complete call whose closing markup is missing | a call |

mod events;
mod grammar;
mod json;
mod json_call;
mod reader;
mod typed;
mod xml_call;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::ChatTemplate;

use super::chat::{Parallel, Tool};

pub(super) use events::{CallEvent, Ending};
pub(super) use grammar::{CallBody, CallForm, CallGrammar};
pub(super) use reader::CallReader;
pub(super) use typed::{Kinds, resolve};

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallStyle {
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`, with line breaks: Qwen3.5,
    /// Qwen3-Coder.
    Xml,
    /// `<tool_call>{"name": NAME, "arguments": {..}}</tool_call>`: Hermes, Qwen2.5, Qwen3.
    Hermes,
    /// `{"name": NAME, "parameters": {..}}`, alone or after `<|python_tag|>`: Llama 3.
    Llama,
}

const TOOL_CALL: &str = "<tool_call>";
const TOOL_CALL_END: &str = "</tool_call>";
const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
const PYTHON_TAG: &str = "<|python_tag|>";

impl CallStyle {
    /// The style that a template teaches; `None` if it knows no tools, or calls of a form that is not known here.
    pub(crate) fn of(template: &ChatTemplate) -> Option<Self> {
        if !template.mentions("tools") {
            None
        } else if template.mentions(FUNCTION) {
            Some(Self::Xml)
        } else if template.mentions(TOOL_CALL) {
            Some(Self::Hermes)
        } else if template.mentions(PYTHON_TAG)
            || (template.mentions("<|start_header_id|>") && template.mentions("parameters"))
        {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// Texts that are control tokens in some vocabularies and have to be seen all the same.
    pub(super) fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Xml | Self::Hermes => &[TOOL_CALL, TOOL_CALL_END],
            Self::Llama => &[PYTHON_TAG],
        }
    }
}

/// How the calls of an answer are read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallReading {
    /// How the model writes them.
    pub(crate) style: CallStyle,
    /// The tools that were offered.
    pub(crate) tools: Arc<[Tool]>,
    /// How many there may be.
    pub(crate) parallel: Parallel,
}

impl CallReading {
    /// The tool of a name.
    fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}
