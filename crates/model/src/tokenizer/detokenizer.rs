//! Text from ids that arrive one by one.
//!
//! A character may be spread over several tokens. It is held back until it is whole, so that every piece of text
//! given out is final: the pieces together are exactly what decoding all ids at once gives.

use super::{SpecialText, Tokenizer};

/// Turns ids into text as they come.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    special: SpecialText,
    /// The start of a character whose end has not come, at most three bytes between calls.
    held: Vec<u8>,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Tokenizer, special: SpecialText) -> Self {
        Self {
            tokenizer,
            special,
            held: Vec::new(),
        }
    }

    /// The text that is final now that `id` has come; often empty. Bytes that can be no character are U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.held
            .extend_from_slice(self.tokenizer.shown_bytes(id, self.special));
        let mut text = String::new();
        let mut used = 0;
        while let Some(rest) = self.held.get(used..) {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    used = self.held.len();
                    break;
                }
                Err(error) => error,
            };
            let (valid, broken) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            used += valid.len();
            match error.error_len() {
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    used += length.min(broken.len());
                }
                None => break,
            }
        }
        self.held.drain(..used.min(self.held.len()));
        text
    }

    /// Bytes held back: whether the text so far ends inside a character.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// What is still held back, now that nothing more comes: U+FFFD for a character that never became whole.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}
