//! A place in a file's bytes that only moves forward and never beyond the end.

use std::path::Path;

use proto::limits::GGUF_TEXT_BYTES_MAX;

use crate::ModelError;

/// Reads little-endian values one after the other.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`, which are those of the file at `path`.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// A cursor at `at`; beyond the end nothing can be read.
    pub(super) fn starting_at(path: &'a Path, bytes: &'a [u8], at: usize) -> Self {
        Self { path, bytes, at }
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], ModelError> {
        let end = self.at.checked_add(len);
        let Some(bytes) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(ModelError::malformed(
                self.path,
                what,
                format!(
                    "cut off: {len} bytes at byte {} of {}",
                    self.at,
                    self.bytes.len()
                ),
                "a complete file; copy or download it again",
            ));
        };
        self.at = self.at.saturating_add(len);
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    /// The next 32-bit number.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number.
    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next text: a 64-bit length and UTF-8.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, ModelError> {
        let len = self.u64(what)?;
        let room = self.remaining() as u64;
        if len > GGUF_TEXT_BYTES_MAX || len > room {
            return Err(ModelError::malformed(
                self.path,
                format!("the length of {what}"),
                len.to_string(),
                format!(
                    "at most {} (the limit, and what the file still has)",
                    GGUF_TEXT_BYTES_MAX.min(room)
                ),
            ));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            ModelError::malformed(
                self.path,
                what,
                format!(
                    "text with a broken character at its byte {}",
                    e.valid_up_to()
                ),
                "UTF-8",
            )
        })
    }
}
