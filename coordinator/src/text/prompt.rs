//! Prompts as clients write them, turned into token ids.
//!
//! Everything here is plain computation and may take a while for a long prompt, so it runs outside the async
//! threads. No error of this module contains text of a prompt.

use model::{Specials, Tokenizer};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::gateway::ServedModel;

use super::reasoning::Reasoning;

/// A prompt of a plain completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// Text; gets the beginning-of-text token if the model wants one.
    Text(String),
    /// Ids, used as given.
    Ids(Vec<u32>),
}

/// A chat, checked: messages as templates want them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatPrompt {
    /// An array of objects with `role` and text `content`.
    pub(crate) messages: Value,
    /// Further variables of the template.
    pub(crate) variables: Map<String, Value>,
}

/// Why a prompt cannot be turned into ids.
#[derive(Debug, Error)]
pub(crate) enum PromptError {
    /// The model answers completions only.
    #[error(
        "the model has no chat template; expected a request to /v1/completions, or a model that has one"
    )]
    NoTemplate,
    /// The template does not take these messages.
    #[error("the model's chat template refuses these messages: {0}")]
    Template(String),
    /// The text cannot be tokenised.
    #[error("the prompt cannot be tokenised: {0}")]
    Tokenizer(#[from] model::TokenizerError),
}

/// The ids of plain prompts.
///
/// # Errors
/// A text is too long for the tokenizer.
pub(crate) fn encode_prompts(
    tokenizer: &Tokenizer,
    prompts: Vec<Prompt>,
) -> Result<Vec<Vec<u32>>, PromptError> {
    prompts
        .into_iter()
        .map(|prompt| match prompt {
            Prompt::Ids(ids) => Ok(ids),
            Prompt::Text(text) => Ok(tokenizer.encode_prompt(&text, Specials::Parse)?),
        })
        .collect()
}

/// The ids of a rendered chat, and how its answer begins.
///
/// # Errors
/// The model has no template, or the template refuses the messages.
pub(crate) fn render_chat(
    model: &ServedModel,
    chat: &ChatPrompt,
) -> Result<(Vec<u32>, Reasoning), PromptError> {
    let template = model.template.as_ref().ok_or(PromptError::NoTemplate)?;
    let text = template
        .render(&model::RenderInput {
            messages: &chat.messages,
            tools: None,
            add_generation_prompt: true,
            extra: &chat.variables,
        })
        .map_err(|error| PromptError::Template(shortened(&error.to_string())))?;
    let ids = model.tokenizer.encode(&text, Specials::Parse)?;
    Ok((ids, Reasoning::after(&text)))
}

/// A template's own words, no longer than fits an error.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars().take(CHARS_MAX).collect()
}
