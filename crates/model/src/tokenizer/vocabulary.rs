//! The tokens: bytes and kind of every id, and the way back from bytes to ids.
//!
//! It never lets two tokens share an id, nor an id exceed the bound. Added tokens and ordinary tokens live in
//! separate tables, so that no ordinary text finds an added token by its bytes.

use std::collections::HashMap;

use super::TOKEN_IDS_MAX;
use super::error::{TokenizerError, shown};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A piece of text.
    Ordinary,
    /// Added beside the vocabulary, shown to readers: `<think>`.
    Added,
    /// A control token, never shown to readers: `<|im_end|>`.
    Special,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    kind: TokenKind,
    start: usize,
    end: usize,
}

/// All tokens by id. An id may be without a token.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    slots: Vec<Option<Slot>>,
    text: Vec<u8>,
    ordinary: HashMap<Box<[u8]>, u32>,
    added: HashMap<Box<str>, u32>,
}

impl Vocabulary {
    /// An empty vocabulary with room for `tokens`, a number already compared with a bound.
    pub(super) fn with_capacity(tokens: usize) -> Self {
        Self {
            slots: Vec::with_capacity(tokens),
            text: Vec::with_capacity(tokens.saturating_mul(8)),
            ordinary: HashMap::with_capacity(tokens),
            added: HashMap::new(),
        }
    }

    /// An ordinary token. With `bytes: None` it is one that no text encodes to; it decodes as it is written.
    pub(super) fn insert_ordinary(
        &mut self,
        id: u32,
        written: &str,
        bytes: Option<Vec<u8>>,
    ) -> Result<(), TokenizerError> {
        let Some(bytes) = bytes else {
            return self.place(id, TokenKind::Ordinary, written, written.as_bytes());
        };
        self.place(id, TokenKind::Ordinary, written, &bytes)?;
        self.ordinary.insert(bytes.into_boxed_slice(), id);
        Ok(())
    }

    /// An added or control token.
    pub(super) fn insert_added(
        &mut self,
        id: u32,
        written: &str,
        kind: TokenKind,
    ) -> Result<(), TokenizerError> {
        self.place(id, kind, written, written.as_bytes())?;
        if self.added.insert(written.into(), id).is_some() {
            return Err(id_error(
                written,
                id,
                "the same token is already there under another id",
            ));
        }
        Ok(())
    }

    fn place(
        &mut self,
        id: u32,
        kind: TokenKind,
        written: &str,
        bytes: &[u8],
    ) -> Result<(), TokenizerError> {
        let index = match usize::try_from(id) {
            Ok(index) if id < TOKEN_IDS_MAX => index,
            _ => return Err(id_error(written, id, "the id is out of bounds")),
        };
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        let slot = Slot {
            kind,
            start,
            end: self.text.len(),
        };
        match self.slots.get_mut(index) {
            Some(free @ None) => *free = Some(slot),
            _ => return Err(id_error(written, id, "the id belongs to another token")),
        }
        Ok(())
    }

    fn slot(&self, id: u32) -> Option<Slot> {
        *self.slots.get(usize::try_from(id).ok()?)?
    }

    /// The bytes of a token.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let slot = self.slot(id)?;
        self.text.get(slot.start..slot.end)
    }

    /// What a token is for.
    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.slot(id).map(|slot| slot.kind)
    }

    /// The ordinary token with exactly these bytes.
    pub(super) fn ordinary_id(&self, bytes: &[u8]) -> Option<u32> {
        self.ordinary.get(bytes).copied()
    }

    /// The added or control token written so.
    pub(super) fn added_id(&self, written: &str) -> Option<u32> {
        self.added.get(written).copied()
    }

    /// One more than the highest id in use.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// An error about one token.
fn id_error(token: &str, id: u32, reason: &'static str) -> TokenizerError {
    TokenizerError::Id {
        token: shown(token),
        id,
        reason,
    }
}
