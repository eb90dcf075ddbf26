//! Chat templates: messages to the one text that the model was trained to continue.
//!
//! A template is a program that came with the weights, written by strangers. It is rendered as Hugging Face renders
//! it (Jinja with `trim_blocks` and `lstrip_blocks`, Python's spelling of values, `tojson`, `raise_exception`), but
//! it sees no clock, no file and no environment, and its steps, depth, and the bytes it makes are bounded: one that
//! runs away ends in an error. `strftime_now` does not exist here; templates ask whether it does.
//!
//! The one idea: everything that can make a value larger goes through one `budget`.

mod budget;
mod error;
mod filters;
mod input;
mod machine;
mod operators;
mod python;
mod source;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value};

pub use error::TemplateError;

/// Bytes of a template's source. The longest known ones have 20 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 128 << 10;

/// What a chat is rendered from.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    /// A list of messages in the shape of OpenAI's chat API. Content may be a text or a list of text parts; the
    /// `arguments` of tool calls may be JSON texts.
    pub messages: &'a Value,
    /// The tools that the model may call, in the shape of OpenAI's chat API.
    pub tools: Option<&'a Value>,
    /// Whether the text ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Further variables of the template, `enable_thinking` for example.
    pub extra: &'a Map<String, Value>,
}

/// A checked chat template. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    bos: Option<Arc<str>>,
    eos: Option<Arc<str>>,
}

impl ChatTemplate {
    /// Checks a template. `bos` and `eos` are the texts of the tokens that templates call `bos_token` and
    /// `eos_token`.
    ///
    /// # Errors
    /// The source is too long or is no valid template.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLarge {
                what: "source",
                got: source.len(),
                max: TEMPLATE_BYTES_MAX,
            });
        }
        machine::check(source)?;
        Ok(Self {
            source: source.into(),
            bos: bos.map(Arc::from),
            eos: eos.map(Arc::from),
        })
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// The input is not of the expected shape, the template refuses it or fails, or the template runs away.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        let variables = input::variables(input, self.bos.as_deref(), self.eos.as_deref())?;
        machine::render(&self.source, variables)
    }

    /// Whether the template's source contains `name`, `tools` or `enable_thinking` for example: a cheap sign that
    /// it knows what to do with it.
    pub fn mentions(&self, name: &str) -> bool {
        self.source.contains(name)
    }
}
