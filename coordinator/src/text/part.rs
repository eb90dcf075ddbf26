//! What an answer consists of, in the order in which it was written.

/// A piece of an answer. Pieces of one kind that follow each other are one text.
///
/// Calls are numbered from 0 within their choice and never overlap: [`Part::CallBegin`], any number of
/// [`Part::CallArguments`], [`Part::CallEnd`]. A call without its end is not complete: the answer broke off inside,
/// and its arguments are what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Reasoning before or between texts; never empty.
    Reasoning(String),
    /// The answer itself; never empty.
    Text(String),
    /// The model calls a tool.
    CallBegin {
        /// Which call of the choice.
        call: u32,
        /// Under which id its result comes back.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of the JSON text of a call's arguments; never empty.
    CallArguments {
        /// Which call of the choice.
        call: u32,
        /// The text.
        json: String,
    },
    /// A call is complete: its arguments are a JSON object.
    CallEnd {
        /// Which call of the choice.
        call: u32,
    },
}
