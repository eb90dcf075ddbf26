//! Reads the fields of a JSON object one by one, each with its type and range.
//!
//! An absent field and `null` mean the same. Errors name the field by its path, say what came and what was
//! expected. Texts are never repeated in an error: a prompt may be in the wrong place.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The fields of one object.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Path of the object, with a dot at its end; empty for the body itself.
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of the body.
    pub(super) fn body(object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            path: String::new(),
        }
    }

    /// The fields of an object at `path`.
    pub(super) fn at(path: &str, object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            path: format!("{path}."),
        }
    }

    /// A field as it came.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The full path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The error for a field of the wrong type or range.
    pub(super) fn wrong(&self, name: &str, value: &Value, expected: &str) -> ApiError {
        wrong(&self.path(name), value, expected)
    }

    /// The error for a field that is not there.
    pub(super) fn missing(&self, name: &str, expected: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("`{path}` is missing; expected {expected}");
        ApiError::field(path, message)
    }

    /// A number in a range.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "sampling parameters are f32; the range is checked first"
    )]
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number as f32)),
            _ => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(self.wrong(name, value, &expected))
            }
        }
    }

    /// An integer in a range.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                Err(self.wrong(name, value, &expected))
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, other, "a string")),
        }
    }

    /// An array.
    pub(super) fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong(name, other, "an array")),
        }
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }
}

/// The error for a value of the wrong type or range.
pub(super) fn wrong(path: &str, value: &Value, expected: &str) -> ApiError {
    let message = format!("`{path}` is {}; expected {expected}", describe(value));
    ApiError::field(path, message)
}

/// What came, without repeating texts.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("a string of {} bytes", text.len()),
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::Object(object) => format!("an object of {}", object.len()),
    }
}
