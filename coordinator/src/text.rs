//! Between text and token ids: prompts on the way in, deltas of answers on the way out.
//!
//! Owns chat rendering, tokenising, incremental text, stop texts, the split of reasoning from content, and the
//! counting of tokens. Never names an HTTP type and never touches a node.
//!
//! The one idea: there is one internal request ([`ChatRequest`], or bare prompts, which become an [`Ask`]) and one
//! internal stream ([`Answer`], of [`Part`]s); every dialect of the API is a thin translation to the one and from the
//! other.

mod answer;
mod ask;
mod bound;
mod chat;
mod choice;
mod embed;
mod grammar;
mod label;
mod part;
mod prompt;
mod reasoning;
mod render;
mod stops;
mod tools;

pub(crate) use answer::{Answer, Delta, Usage};
pub(crate) use ask::{Ask, AskError};
pub(crate) use bound::bound;
pub use chat::Strictness;
pub(crate) use chat::{
    Call, ChatRequest, Message, OutputFormat, Parallel, Said, Thinking, Tool, ToolChoice,
    ToolResult, ToolUse, Turn,
};
pub(crate) use choice::{Finish, Reading};
pub(crate) use embed::{Embed, EmbedError, Vectors};
pub use grammar::{Begin, Constraint, Element, Form, GrammarError, Grammars, Walk, WalkError};
pub(crate) use label::{Labels, token_label};
pub(crate) use part::Part;
pub(crate) use prompt::{Prompt, PromptError, encode_prompts};
pub(crate) use reasoning::Reasoning;
pub(crate) use render::{Rendered, render_chat};
