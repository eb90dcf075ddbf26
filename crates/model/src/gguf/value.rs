//! Values of GGUF metadata.

use std::{fmt, path::Path};

use proto::limits::GGUF_ARRAY_MAX;

use super::cursor::Cursor;
use crate::ModelError;

/// Arrays inside arrays that are still read; no known key nests at all.
const DEPTH_MAX: u32 = 3;

/// One metadata value. Integers and floats of all widths are widened, which loses nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64
    Unsigned(u64),
    /// i8, i16, i32, i64
    Signed(i64),
    /// f32, f64
    Float(f64),
    /// bool
    Bool(bool),
    /// text
    Text(String),
    /// array, left in the file
    Array(Array),
}

/// An array that was checked and stays in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    kind: u32,
    count: u64,
    at: usize,
}

mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

impl Value {
    /// Reads type and value of `key`.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, ModelError> {
        let what = format!("metadata key `{key}`");
        let kind = cursor.u32(&what)?;
        Self::read_kind(cursor, kind, &what, 0)
    }

    fn read_kind(
        cursor: &mut Cursor<'_>,
        kind: u32,
        what: &str,
        depth: u32,
    ) -> Result<Self, ModelError> {
        Ok(match kind {
            kind::U8 => Self::Unsigned(u64::from(u8::from_le_bytes(cursor.array(what)?))),
            kind::I8 => Self::Signed(i64::from(i8::from_le_bytes(cursor.array(what)?))),
            kind::U16 => Self::Unsigned(u64::from(u16::from_le_bytes(cursor.array(what)?))),
            kind::I16 => Self::Signed(i64::from(i16::from_le_bytes(cursor.array(what)?))),
            kind::U32 => Self::Unsigned(u64::from(cursor.u32(what)?)),
            kind::I32 => Self::Signed(i64::from(i32::from_le_bytes(cursor.array(what)?))),
            kind::U64 => Self::Unsigned(cursor.u64(what)?),
            kind::I64 => Self::Signed(i64::from_le_bytes(cursor.array(what)?)),
            kind::F32 => Self::Float(f64::from(f32::from_le_bytes(cursor.array(what)?))),
            kind::F64 => Self::Float(f64::from_le_bytes(cursor.array(what)?)),
            kind::BOOL => Self::Bool(read_bool(cursor, what)?),
            kind::TEXT => Self::Text(cursor.text(what)?.to_owned()),
            kind::ARRAY => Self::Array(Array::read(cursor, what, depth)?),
            other => {
                return Err(ModelError::malformed(
                    cursor.path(),
                    format!("the type of {what}"),
                    other.to_string(),
                    "0 to 12",
                ));
            }
        })
    }

    /// The value as an unsigned number, if it is a whole number of at least 0.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as a float, from a float or a whole number.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "a whole number where a float is meant is small"
    )]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The value as text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The value as an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(text) => write!(f, "`{}`", text.chars().take(60).collect::<String>()),
            Self::Array(array) => write!(f, "an array of {}", array.count),
        }
    }
}

fn read_bool(cursor: &mut Cursor<'_>, what: &str) -> Result<bool, ModelError> {
    match cursor.array::<1>(what)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(ModelError::malformed(
            cursor.path(),
            what,
            format!("a truth value of {other}"),
            "0 or 1",
        )),
    }
}

/// Bytes of the smallest element of a type; `None` for types that do not exist.
fn element_bytes_min(kind: u32) -> Option<usize> {
    Some(match kind {
        kind::U8 | kind::I8 | kind::BOOL => 1,
        kind::U16 | kind::I16 => 2,
        kind::U32 | kind::I32 | kind::F32 => 4,
        kind::U64 | kind::I64 | kind::F64 | kind::TEXT => 8,
        kind::ARRAY => 12,
        _ => return None,
    })
}

impl Array {
    /// Walks over an array once, checking every element.
    fn read(cursor: &mut Cursor<'_>, what: &str, depth: u32) -> Result<Self, ModelError> {
        if depth >= DEPTH_MAX {
            return Err(ModelError::malformed(
                cursor.path(),
                what,
                format!("arrays nested deeper than {DEPTH_MAX}"),
                format!("at most {DEPTH_MAX} levels"),
            ));
        }
        let kind = cursor.u32(what)?;
        let count = cursor.u64(what)?;
        let Some(bytes_min) = element_bytes_min(kind) else {
            return Err(ModelError::malformed(
                cursor.path(),
                format!("the element type of {what}"),
                kind.to_string(),
                "0 to 12",
            ));
        };
        super::check_count(
            cursor,
            &format!("the element count of {what}"),
            count,
            GGUF_ARRAY_MAX,
            bytes_min,
        )?;
        let array = Self {
            kind,
            count,
            at: cursor.at(),
        };
        array.walk(cursor, what, depth)?;
        Ok(array)
    }

    fn walk(&self, cursor: &mut Cursor<'_>, what: &str, depth: u32) -> Result<(), ModelError> {
        match self.kind {
            kind::TEXT => {
                for _ in 0..self.count {
                    cursor.text(what)?;
                }
            }
            kind::ARRAY => {
                for _ in 0..self.count {
                    Self::read(cursor, what, depth.saturating_add(1))?;
                }
            }
            kind::BOOL => {
                for _ in 0..self.count {
                    read_bool(cursor, what)?;
                }
            }
            fixed => {
                let each = element_bytes_min(fixed).unwrap_or(8);
                // The count was compared with the remaining bytes: the product fits.
                let len = usize::try_from(self.count).unwrap_or(usize::MAX);
                cursor.take(len.saturating_mul(each), what)?;
            }
        }
        Ok(())
    }

    /// Number of elements.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the elements are texts.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.kind == kind::TEXT
    }

    /// Calls `each` with every text. `bytes` are those of the file that the array came from.
    ///
    /// # Errors
    /// The elements are not texts, or the file changed since it was checked.
    pub fn for_each_text<'a>(
        &self,
        path: &'a Path,
        bytes: &'a [u8],
        mut each: impl FnMut(&'a str),
    ) -> Result<(), ModelError> {
        let what = "an array of texts";
        if self.kind != kind::TEXT {
            return Err(ModelError::malformed(
                path,
                what,
                format!("an array of elements of type {}", self.kind),
                "texts (type 8)",
            ));
        }
        let mut cursor = Cursor::starting_at(path, bytes, self.at);
        for _ in 0..self.count {
            each(cursor.text(what)?);
        }
        Ok(())
    }

    /// The elements, which must not be arrays, as single values. `bytes` are those of the file that the array came from.
    ///
    /// # Errors
    /// The elements are arrays, or the file changed since it was checked.
    pub fn values(&self, path: &Path, bytes: &[u8]) -> Result<Vec<Value>, ModelError> {
        let what = "an array of values";
        let mut cursor = Cursor::starting_at(path, bytes, self.at);
        super::check_count(
            &cursor,
            what,
            self.count,
            GGUF_ARRAY_MAX,
            element_bytes_min(self.kind).unwrap_or(1),
        )?;
        let mut out = Vec::with_capacity(usize::try_from(self.count).unwrap_or(0));
        for _ in 0..self.count {
            out.push(Value::read_kind(&mut cursor, self.kind, what, 0)?);
        }
        Ok(out)
    }
}
