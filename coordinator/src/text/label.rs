//! How a single token is written where tokens are listed.
//!
//! A token need not be whole characters. Its label must still be distinct and readable, so bytes that are no UTF-8
//! are written out.

use std::fmt::Write as _;

use model::Tokenizer;

/// How tokens are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    /// Their text; `bytes:\xNN...` if it is not whole characters.
    Text,
    /// `token_id:N`.
    Ids,
}

/// The label of one token. An id without a token is always written as an id.
pub(crate) fn token_label(tokenizer: &Tokenizer, id: u32, labels: Labels) -> String {
    let bytes = match labels {
        Labels::Text => tokenizer.token_bytes(id),
        Labels::Ids => None,
    };
    let Some(bytes) = bytes else {
        return format!("token_id:{id}");
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut label, byte| {
            // Writing to a String cannot fail.
            let _ = write!(label, "\\x{byte:02x}");
            label
        }),
    }
}
