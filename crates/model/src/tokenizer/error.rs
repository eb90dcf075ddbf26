//! Why a tokenizer is refused. No text that is being encoded ever appears in an error.

/// Why a tokenizer cannot be built, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Something is longer than it may be.
    #[error("{what} has a size of {got}; at most {max} is accepted")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size: bytes of a file or text, entries of a list.
        got: usize,
        /// The largest size accepted.
        max: usize,
    },
    /// A file is no JSON, or not of the expected shape.
    #[error("{file} cannot be read: {source}")]
    Json {
        /// The file.
        file: &'static str,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// A part that must be there is not.
    #[error("the tokenizer has no {what}; the file is incomplete")]
    Missing {
        /// The part.
        what: String,
    },
    /// A part is of a kind that is not known here. It is refused, since guessing would give wrong tokens.
    #[error("the tokenizer's {what} is {got}, which is not supported; supported: {expected}")]
    Unsupported {
        /// The part.
        what: &'static str,
        /// What the file asks for.
        got: String,
        /// What is known.
        expected: &'static str,
    },
    /// An id is too large, or given to two tokens.
    #[error("token {token:?} has id {id}: {reason}")]
    Id {
        /// The token as written in the file.
        token: String,
        /// Its id.
        id: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A merge cannot be used.
    #[error("merge {index} ({merge:?}): {reason}")]
    Merge {
        /// Place in the list, from 0.
        index: usize,
        /// The merge as written.
        merge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token is named by a text or an id that the vocabulary does not have.
    #[error("the tokenizer's {what} is {got}, which is no token of its vocabulary")]
    UnknownToken {
        /// Which token: `bos_token`, `eos_token` ...
        what: &'static str,
        /// Its name or id.
        got: String,
    },
    /// The lists of a GGUF file do not belong together.
    #[error("{what} has {got} entries; expected {expected}, one for each token")]
    Lengths {
        /// The list.
        what: &'static str,
        /// Its entries.
        got: usize,
        /// Number of tokens.
        expected: usize,
    },
    /// The added tokens cannot be searched for.
    #[error("the added tokens cannot be prepared for searching: {source}")]
    Search {
        /// What the search library says.
        source: aho_corasick::BuildError,
    },
    /// The tables of Unicode classes cannot be built.
    #[error("the Unicode class {class} cannot be built")]
    Class {
        /// The class, as in a regular expression.
        class: &'static str,
    },
}

/// A name from a file, cut to a length fit for an error text.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 200;
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}
