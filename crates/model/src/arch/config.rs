//! Typed questions to config.json; each error names the key, what it holds and what was expected.

use std::path::Path;

use serde_json::Value;

use super::metadata::DIM_MAX;
use crate::ModelError;

/// The object that describes the text model, with the file's path for messages.
pub(super) struct Config<'a> {
    /// The config file.
    pub(super) path: &'a Path,
    /// Fields of the text model.
    pub(super) text: &'a Value,
    /// The whole file, where a field may lie one level up.
    pub(super) outer: &'a Value,
}

impl<'a> Config<'a> {
    /// A field of the text model; null counts as missing.
    pub(super) fn field(&self, key: &str) -> Option<&'a Value> {
        self.text.get(key).filter(|value| !value.is_null())
    }

    /// A field at either level.
    pub(super) fn field_anywhere(&self, key: &str) -> Option<&'a Value> {
        self.field(key)
            .or_else(|| self.outer.get(key).filter(|value| !value.is_null()))
    }

    /// An error about a key.
    pub(super) fn bad(
        &self,
        key: &str,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::malformed(self.path, format!("`{key}`"), got, expected)
    }

    /// A refusal of a setting.
    pub(super) fn unsupported(
        &self,
        key: &str,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::unsupported(self.path, format!("`{key}`"), got, expected)
    }

    /// A number from 1 to `max`, if it is there.
    pub(super) fn dim_if(&self, key: &str, max: u64) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.field(key) else {
            return Ok(None);
        };
        value
            .as_u64()
            .filter(|n| (1..=max).contains(n))
            .and_then(|n| usize::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| self.bad(key, brief(value), format!("a whole number from 1 to {max}")))
    }

    /// A dimension that must be there.
    pub(super) fn dim(&self, key: &str) -> Result<usize, ModelError> {
        self.dim_if(key, DIM_MAX)?.ok_or_else(|| {
            self.bad(
                key,
                "missing",
                format!("a whole number from 1 to {DIM_MAX}"),
            )
        })
    }

    /// A truth value, if it is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.field(key) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.bad(key, brief(value), "true or false"))
    }

    /// A finite float inside `object`, if it is there.
    pub(super) fn float_in(&self, object: &Value, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|x| x.is_finite())
            .map(Some)
            .ok_or_else(|| self.bad(key, brief(value), "a finite number"))
    }

    /// Refuses a truth value of `true`.
    pub(super) fn refuse_flag(&self, key: &str) -> Result<(), ModelError> {
        match self.flag(key)? {
            Some(true) => Err(self.unsupported(key, "true", "false")),
            _ => Ok(()),
        }
    }
}

/// A value short enough for a message.
pub(super) fn brief(value: &Value) -> String {
    let mut text: String = value.to_string().chars().take(80).collect();
    if text.is_empty() {
        text.push_str("empty");
    }
    text
}
