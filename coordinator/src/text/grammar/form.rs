//! What can be asked of an answer, before it is compiled.

use serde_json::Value;

use crate::text::Strictness;

/// Bytes of a regular expression.
pub(super) const REGEX_BYTES_MAX: usize = 16 << 10;
/// Bytes of a Lark grammar, and of the texts of a list together.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 10;
/// Texts of a list.
pub(super) const TEXTS_MAX: usize = 1024;

/// Where the constrained part of an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the first token.
    AtOnce,
    /// After the closing tag of the reasoning, which the answer begins in.
    AfterReasoning,
}

/// What an answer has to look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// JSON that is valid for this schema.
    Json {
        /// The schema.
        schema: Value,
        /// What becomes of its parts that cannot be honoured.
        strictness: Strictness,
    },
    /// Text that matches this expression as a whole.
    Regex(String),
    /// Text of this Lark grammar, in the dialect of llguidance, beginning with the rule `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of these parts: calls of tools.
    Parts(Element),
}

/// A piece of a constrained answer. Not from outside: whoever builds one bounds its depth.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// This text. Where a control or added token is written in it, that token is drawn.
    Text(String),
    /// JSON that is valid for this schema.
    Json {
        /// The schema.
        schema: Value,
        /// What becomes of its parts that cannot be honoured.
        strictness: Strictness,
        /// Where the schema came from, for errors.
        path: String,
    },
    /// Text that matches this expression as a whole.
    Regex(String),
    /// Any text up to this one, and this one. No control or added token but the one that may be written in it.
    Until(String),
    /// Any text, also none, without a control or added token.
    Free,
    /// Text without a control or added token, and what follows it at once. Neither is empty as a whole.
    Words {
        /// Expressions that each match the text as a whole.
        like: Vec<String>,
        /// Expressions none of which matches it as a whole.
        unlike: Vec<String>,
        /// What follows; may be empty. No control or added token can be written in it.
        end: String,
    },
    /// One after the other.
    Sequence(Vec<Element>),
    /// One of them.
    OneOf(Vec<Element>),
    /// Nothing or this.
    Optional(Box<Element>),
    /// This once or more often, with a text between two of them.
    Several {
        /// What comes again.
        part: Box<Element>,
        /// What is between.
        between: String,
    },
}

impl Element {
    /// The schemas in it, with their paths.
    pub(super) fn schemas<'e>(&'e self, found: &mut Vec<(&'e Value, Strictness, &'e str)>) {
        match self {
            Self::Json {
                schema,
                strictness,
                path,
            } => found.push((schema, *strictness, path)),
            Self::Sequence(parts) | Self::OneOf(parts) => {
                parts.iter().for_each(|part| part.schemas(found));
            }
            Self::Optional(part) | Self::Several { part, .. } => part.schemas(found),
            Self::Text(_) | Self::Regex(_) | Self::Until(_) | Self::Free | Self::Words { .. } => {}
        }
    }
}
