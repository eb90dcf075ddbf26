//! How many bytes one rendering may make in all.
//!
//! Steps are counted by the template engine; a single step can still copy a value of any size. So every operation
//! that makes a text or a list is charged for what it takes in and gives out, and the sum is bounded. Since nothing
//! is given back, no value can ever be larger than the budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::error::Exhausted;

/// Bytes that a rendering may make whatever its input.
const BYTES_BASE: u64 = 32 << 20;
/// Bytes more for each byte of the input.
const BYTES_PER_INPUT_BYTE: u64 = 64;
/// What an element of a list is charged as.
const ELEMENT_BYTES: u64 = 24;

/// The bytes left for one rendering. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    left: Arc<AtomicU64>,
}

impl Budget {
    /// The budget for an input of `input_bytes`.
    pub(super) fn for_input(input_bytes: u64) -> Self {
        let bytes = BYTES_BASE.saturating_add(input_bytes.saturating_mul(BYTES_PER_INPUT_BYTE));
        Self {
            left: Arc::new(AtomicU64::new(bytes)),
        }
    }

    /// Takes `bytes`, before they are made.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), Error> {
        let take = |left: u64| left.checked_sub(bytes);
        match self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::InvalidOperation, "out of memory")
                .with_source(Exhausted("memory"))),
        }
    }

    /// Takes the size of a value.
    pub(super) fn charge_value(&self, value: &Value) -> Result<(), Error> {
        self.charge(size(value))
    }
}

/// Bytes of a value itself, not of the elements that it refers to.
pub(super) fn size(value: &Value) -> u64 {
    let elements = |value: &Value| length(value).saturating_mul(ELEMENT_BYTES);
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, |text| bytes(text.len())),
        ValueKind::Bytes => value.as_bytes().map_or(0, |b| bytes(b.len())),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => elements(value),
        _ => ELEMENT_BYTES,
    }
}

/// Elements of a value.
pub(super) fn length(value: &Value) -> u64 {
    value.len().map_or(1, bytes)
}

/// A number of bytes in memory as a number to charge.
pub(super) fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
