//! GGUF, versions 2 and 3: metadata and tensor table of one file, read strictly.
//!
//! Reading never allocates by a length that the file claims before it was compared with a cap and with the bytes
//! that remain, and never trusts a tensor range before it lies inside the file and overlaps no other. Arrays stay where
//! they are: a [`Array`] remembers its place, was checked once, and is walked again when somebody asks.

mod cursor;
mod tensors;
mod value;
pub mod write;

use std::{collections::BTreeMap, ops::Range, path::Path};

use proto::limits::{GGUF_KEYS_MAX, TENSORS_MAX};

pub use value::{Array, Value};

use crate::{ModelError, store::Tensor};
use cursor::Cursor;

/// Alignment of tensor data where the file names none.
const ALIGNMENT_DEFAULT: u64 = 32;
/// Largest alignment that a real file could want (a huge page).
const ALIGNMENT_MAX: u64 = 2 << 20;
/// Bytes of the smallest metadata entry: key length, type, one byte of value.
const KEY_BYTES_MIN: usize = 8 + 4 + 1;
/// Bytes of the smallest tensor entry: name length, dimension count, one dimension, type, offset.
const TENSOR_BYTES_MIN: usize = 8 + 4 + 8 + 4 + 8;
/// Characters of a metadata key, by the format's specification.
const KEY_CHARS_MAX: usize = 65_535;

/// Header, metadata and tensor table of one GGUF file.
#[derive(Debug)]
pub struct Gguf {
    /// Version of the format.
    pub version: u32,
    /// Bytes that tensor offsets are multiples of.
    pub alignment: u64,
    /// Bytes of header, metadata and tensor table; tensor data begins at the next multiple of the alignment.
    pub header_bytes: u64,
    metadata: BTreeMap<String, Entry>,
    tensors: Vec<Tensor>,
}

/// A metadata value with the bytes of its type and value.
#[derive(Debug)]
struct Entry {
    value: Value,
    at: Range<usize>,
}

impl Gguf {
    /// Reads the head of the file whose whole content is `bytes`; `path` is for messages alone, `file` is the index
    /// that its tensors get.
    ///
    /// # Errors
    /// Whatever breaks the format, named by key or tensor.
    pub fn parse(path: &Path, bytes: &[u8], file: usize) -> Result<Self, ModelError> {
        let mut cursor = Cursor::new(path, bytes);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("the tensor count")?;
        let key_count = cursor.u64("the metadata count")?;
        check_count(
            &cursor,
            "the metadata count",
            key_count,
            GGUF_KEYS_MAX,
            KEY_BYTES_MIN,
        )?;
        check_count(
            &cursor,
            "the tensor count",
            tensor_count,
            TENSORS_MAX,
            TENSOR_BYTES_MIN,
        )?;
        let metadata = read_metadata(&mut cursor, key_count)?;
        let alignment = read_alignment(path, &metadata)?;
        let raw = tensors::read_table(&mut cursor, tensor_count)?;
        let header_bytes = cursor.at() as u64;
        let tensors = tensors::place(
            path,
            raw,
            &tensors::Area {
                file,
                file_bytes: bytes.len() as u64,
                header_bytes,
                alignment,
            },
        )?;
        Ok(Self {
            version,
            alignment,
            header_bytes,
            metadata,
            tensors,
        })
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key).map(|entry| &entry.value)
    }

    /// Type and value of a key as they stand in the file whose whole content is `bytes`.
    #[must_use]
    pub fn raw<'b>(&self, key: &str, bytes: &'b [u8]) -> Option<&'b [u8]> {
        bytes.get(self.metadata.get(key)?.at.clone())
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The tensors in the order of the table.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Hands the tensors over.
    pub(crate) fn take_tensors(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.tensors)
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, ModelError> {
    let magic = cursor.take(4, "the magic bytes")?;
    let path = cursor.path();
    if magic == b"FUGG" {
        return Err(big_endian(path));
    }
    if magic != b"GGUF" {
        return Err(ModelError::malformed(
            path,
            "the start of the file",
            format!("{magic:02x?}"),
            "the bytes of `GGUF`: this is no GGUF file",
        ));
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        other if (1..=3).contains(&other.swap_bytes()) => Err(big_endian(path)),
        other => Err(ModelError::malformed(
            path,
            "the GGUF version",
            other.to_string(),
            "2 or 3; convert the model again with a current tool",
        )),
    }
}

fn big_endian(path: &Path) -> ModelError {
    ModelError::malformed(
        path,
        "the byte order",
        "big-endian",
        "little-endian: the file was made for another kind of machine, convert the model again",
    )
}

/// Compares a count with its cap and with what the remaining bytes could hold.
fn check_count(
    cursor: &Cursor<'_>,
    what: &str,
    count: u64,
    max: u64,
    bytes_min: usize,
) -> Result<(), ModelError> {
    let room = (cursor.remaining() / bytes_min) as u64;
    if count <= max && count <= room {
        return Ok(());
    }
    Err(ModelError::malformed(
        cursor.path(),
        what,
        count.to_string(),
        format!(
            "at most {} (the limit, and what the rest of the file could hold)",
            max.min(room)
        ),
    ))
}

fn read_metadata(
    cursor: &mut Cursor<'_>,
    count: u64,
) -> Result<BTreeMap<String, Entry>, ModelError> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor.text(&format!("metadata key {index}"))?;
        if key.is_empty() || key.len() > KEY_CHARS_MAX {
            return Err(ModelError::malformed(
                cursor.path(),
                format!("the length of metadata key {index}"),
                key.len().to_string(),
                format!("1 to {KEY_CHARS_MAX}"),
            ));
        }
        let start = cursor.at();
        let value = Value::read(cursor, key)?;
        let at = start..cursor.at();
        let entry = Entry { value, at };
        if metadata.insert(key.to_owned(), entry).is_some() {
            return Err(ModelError::malformed(
                cursor.path(),
                format!("metadata key `{key}`"),
                "there twice",
                "each key once",
            ));
        }
    }
    Ok(metadata)
}

fn read_alignment(path: &Path, metadata: &BTreeMap<String, Entry>) -> Result<u64, ModelError> {
    let Some(Entry { value, .. }) = metadata.get("general.alignment") else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    match value.as_u64() {
        Some(n) if n.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&n) => Ok(n),
        _ => Err(ModelError::malformed(
            path,
            "general.alignment",
            value.to_string(),
            format!("a power of two from 8 to {ALIGNMENT_MAX}"),
        )),
    }
}
