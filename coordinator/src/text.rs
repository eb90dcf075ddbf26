//! Between text and token ids: prompts on the way in, deltas of answers on the way out.
//!
//! Owns chat rendering, tokenising, incremental text, stop texts, the split of reasoning from content, and the
//! counting of tokens. Never names an HTTP type and never touches a node.
//!
//! The one idea: there is one internal request ([`Ask`]) and one internal stream ([`Answer`]); every dialect of
//! the API is a thin translation to the one and from the other.

mod answer;
mod ask;
mod choice;
mod label;
mod prompt;
mod reasoning;
mod stops;

pub(crate) use answer::{Answer, Delta, Usage};
pub(crate) use ask::{Ask, AskError};
pub(crate) use choice::Finish;
pub(crate) use label::{Labels, token_label};
pub(crate) use prompt::{ChatPrompt, Prompt, PromptError, encode_prompts, render_chat};
pub(crate) use reasoning::Reasoning;
