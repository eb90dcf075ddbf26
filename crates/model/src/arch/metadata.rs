//! Typed questions to GGUF metadata; each error names the key, what it holds and what was expected.

use std::path::Path;

use crate::{
    ModelError,
    gguf::{Gguf, Value},
};

/// Largest dimension of a model, so that products of three fit into 64 bits.
pub(super) const DIM_MAX: u64 = 1 << 20;
/// Largest vocabulary.
pub(super) const VOCAB_MAX: u64 = 1 << 24;
/// Largest number of positions.
pub(super) const CONTEXT_MAX: u64 = 1 << 30;

/// The metadata of one model, asked by the part of a key after the architecture's name.
pub(super) struct Metadata<'a> {
    /// The file, for messages.
    pub(super) path: &'a Path,
    /// Its head.
    pub(super) gguf: &'a Gguf,
    /// Its bytes, in which arrays lie.
    pub(super) bytes: &'a [u8],
    /// The architecture's name.
    pub(super) arch: &'a str,
}

impl<'a> Metadata<'a> {
    /// The full key.
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    /// The raw value.
    pub(super) fn value(&self, suffix: &str) -> Option<&'a Value> {
        self.gguf.value(&self.key(suffix))
    }

    /// An error about a key.
    pub(super) fn bad(
        &self,
        suffix: &str,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::malformed(self.path, self.key(suffix), got, expected)
    }

    /// A whole number, if the key is there.
    pub(super) fn number(&self, suffix: &str) -> Result<Option<u64>, ModelError> {
        let Some(value) = self.value(suffix) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n) => Ok(Some(n)),
            None => Err(self.bad(suffix, value.to_string(), "a whole number")),
        }
    }

    /// A float, if the key is there.
    pub(super) fn float(&self, suffix: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(suffix) else {
            return Ok(None);
        };
        match value.as_f64().filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(x)),
            None => Err(self.bad(suffix, value.to_string(), "a finite number")),
        }
    }

    /// A dimension, if the key is there.
    pub(super) fn dim_if(&self, suffix: &str, max: u64) -> Result<Option<usize>, ModelError> {
        match self.number(suffix)? {
            None => Ok(None),
            Some(n) => self.checked_dim(suffix, n, max).map(Some),
        }
    }

    /// A dimension that must be there.
    pub(super) fn dim(&self, suffix: &str) -> Result<usize, ModelError> {
        self.dim_if(suffix, DIM_MAX)?
            .ok_or_else(|| self.bad(suffix, "missing", format!("a number from 1 to {DIM_MAX}")))
    }

    fn checked_dim(&self, suffix: &str, n: u64, max: u64) -> Result<usize, ModelError> {
        usize::try_from(n)
            .ok()
            .filter(|_| (1..=max).contains(&n))
            .ok_or_else(|| self.bad(suffix, n.to_string(), format!("a number from 1 to {max}")))
    }

    /// A value per block, written as an array or as one number for all; `None` if the key is missing.
    pub(super) fn per_block(
        &self,
        suffix: &str,
        blocks: usize,
    ) -> Result<Option<Vec<u64>>, ModelError> {
        let Some(value) = self.value(suffix) else {
            return Ok(None);
        };
        let Some(array) = value.as_array() else {
            return Ok(self.number(suffix)?.map(|n| vec![n; blocks]));
        };
        if array.count() != blocks as u64 {
            return Err(self.bad(
                suffix,
                value.to_string(),
                format!("one number, or one for each of the {blocks} blocks"),
            ));
        }
        let mut out = Vec::with_capacity(blocks);
        for element in array.values(self.path, self.bytes)? {
            let n = match element {
                Value::Bool(b) => Some(u64::from(b)),
                ref other => other.as_u64(),
            };
            out.push(n.ok_or_else(|| {
                self.bad(suffix, element.to_string(), "whole numbers of at least 0")
            })?);
        }
        Ok(Some(out))
    }

    /// Refuses a number that is there and is none of `neutral`.
    pub(super) fn only(&self, suffix: &str, neutral: &[f64]) -> Result<(), ModelError> {
        match self.float(suffix)? {
            Some(x) if !neutral.contains(&x) => Err(ModelError::unsupported(
                self.path,
                self.key(suffix),
                x.to_string(),
                format!("{neutral:?}, or the key left out"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a truth value that is there and is not `neutral`.
    pub(super) fn only_bool(&self, suffix: &str, neutral: &Value) -> Result<(), ModelError> {
        match self.value(suffix) {
            Some(value) if value != neutral => Err(ModelError::unsupported(
                self.path,
                self.key(suffix),
                value.to_string(),
                neutral.to_string(),
            )),
            _ => Ok(()),
        }
    }
}
