//! Prompts as clients write them, turned into token ids.
//!
//! Everything here is plain computation and may take a while for a long prompt, so it runs outside the async
//! threads. No error of this module contains text of a prompt.

use model::{Specials, Tokenizer};
use thiserror::Error;

/// A prompt of a plain completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// Text; gets the beginning-of-text token if the model wants one.
    Text(String),
    /// Ids, used as given.
    Ids(Vec<u32>),
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
    /// The model cannot be told of tools.
    #[error(
        "tools came, and the model's chat template writes no calls of a form that is known here; expected a request without `tools`, or a model for tools"
    )]
    NoTools,
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
