//! Safetensors: the header of one file, and the index of a sharded model, read strictly.
//!
//! The header is JSON of a fixed shape, so nesting is bounded by construction; names must differ, ranges must lie in
//! the file, follow each other without gap or overlap and fit type and shape.

use std::{collections::BTreeMap, fmt, path::Path};

use proto::limits::{MODEL_FILES_MAX, SAFETENSORS_HEADER_BYTES_MAX, TENSORS_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{
    ModelError,
    dtype::Storage,
    store::{Tensor, show_shape},
};

/// Dimensions of a tensor.
const DIMS_MAX: usize = 8;
/// Characters of a tensor's name.
const NAME_CHARS_MAX: usize = 512;

/// The head of one file.
#[derive(Debug)]
pub struct Header {
    /// Bytes before the data: the length field and the JSON text.
    pub header_bytes: u64,
    /// The tensors in file order.
    pub tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The JSON text of a header.
#[derive(Default)]
struct Table(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
                let mut table = Table::default();
                let mut notes = 0_u32;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        notes = notes.saturating_add(1);
                        if notes > 1 {
                            return Err(A::Error::custom("`__metadata__` is there twice"));
                        }
                        continue;
                    }
                    if table.0.len() as u64 >= TENSORS_MAX {
                        return Err(A::Error::custom(format!("more than {TENSORS_MAX} tensors")));
                    }
                    let entry = map.next_value::<Entry>()?;
                    if table.0.insert(name.clone(), entry).is_some() {
                        return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                }
                Ok(table)
            }
        }
        from.deserialize_map(Entries)
    }
}

impl Header {
    /// Reads the head of the file whose whole content is `bytes`; `path` is for messages alone, `file` is the index
    /// that its tensors get.
    ///
    /// # Errors
    /// Whatever breaks the format, named by tensor where there is one.
    pub fn parse(path: &Path, bytes: &[u8], file: usize) -> Result<Self, ModelError> {
        let text = header_text(path, bytes)?;
        let header_bytes = (text.len() as u64).saturating_add(8);
        let table: Table = serde_json::from_slice(text).map_err(|e| {
            ModelError::malformed(
                path,
                "the header",
                e.to_string(),
                "an object of tensors, as JSON",
            )
        })?;
        let data_bytes = (bytes.len() as u64).saturating_sub(header_bytes);
        let mut tensors = Vec::with_capacity(table.0.len());
        for (name, entry) in table.0 {
            let mut tensor = checked(path, name, &entry, data_bytes)?;
            tensor.file = file;
            tensor.start = tensor.start.saturating_add(header_bytes);
            tensors.push(tensor);
        }
        tensors.sort_by(|a, b| (a.start, a.len, &a.name).cmp(&(b.start, b.len, &b.name)));
        check_contiguous(path, &tensors, header_bytes, bytes.len() as u64)?;
        Ok(Self {
            header_bytes,
            tensors,
        })
    }
}

fn header_text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8], ModelError> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(ModelError::malformed(
            path,
            "the file",
            format!("{} bytes long", bytes.len()),
            "at least the 8 bytes of the header's length",
        ));
    };
    let length = u64::from_le_bytes(*length);
    let max = SAFETENSORS_HEADER_BYTES_MAX.min(rest.len() as u64);
    let text = usize::try_from(length)
        .ok()
        .filter(|_| length <= max)
        .and_then(|length| rest.get(..length));
    let Some(text) = text else {
        return Err(ModelError::malformed(
            path,
            "the header's length",
            length.to_string(),
            format!("at most {max} (the limit, and what the file has)"),
        ));
    };
    if text.first() != Some(&b'{') {
        return Err(ModelError::malformed(
            path,
            "the header's first byte",
            format!("{:?}", text.first().map(|byte| char::from(*byte))),
            "`{`: this is no safetensors file",
        ));
    }
    Ok(text)
}

/// The tensor with its start counted from the beginning of the data.
fn checked(
    path: &Path,
    name: String,
    entry: &Entry,
    data_bytes: u64,
) -> Result<Tensor, ModelError> {
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        let shown: String = name.chars().take(40).collect();
        return Err(ModelError::tensor(
            path,
            shown,
            format!("a name of {} characters", name.len()),
            format!("1 to {NAME_CHARS_MAX}"),
        ));
    }
    let Some(storage) = Storage::from_safetensors(&entry.dtype) else {
        let shown: String = entry.dtype.chars().take(40).collect();
        return Err(ModelError::tensor(
            path,
            name,
            format!("type `{shown}`"),
            "a known type, for example BF16",
        ));
    };
    let (begin, end) = entry.data_offsets;
    if begin > end || end > data_bytes {
        return Err(ModelError::tensor(
            path,
            name,
            format!("data from {begin} to {end}"),
            format!(
                "a range inside the {data_bytes} bytes of data; the file may be cut off, copy or download it again"
            ),
        ));
    }
    let len = end - begin;
    let values = entry
        .shape
        .iter()
        .try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let wanted = values.and_then(|values| values.checked_mul(storage.block_bytes));
    if entry.shape.len() > DIMS_MAX || wanted != Some(len) {
        return Err(ModelError::tensor(
            path,
            name,
            format!(
                "shape {} of type {} in {len} bytes",
                show_shape(&entry.shape),
                storage.name
            ),
            format!("at most {DIMS_MAX} dimensions whose product fills the data exactly"),
        ));
    }
    Ok(Tensor {
        name,
        storage,
        shape: entry.shape.clone(),
        file: 0,
        start: begin,
        len,
    })
}

/// Tensors are in order of their start: each must begin where the one before ended, the last must end the file.
fn check_contiguous(
    path: &Path,
    tensors: &[Tensor],
    header_bytes: u64,
    file_bytes: u64,
) -> Result<(), ModelError> {
    let mut next = header_bytes;
    for tensor in tensors {
        if tensor.start != next {
            return Err(ModelError::tensor(
                path,
                tensor.name.as_str(),
                format!("data that begins at byte {} of the file", tensor.start),
                format!("{next}, where the tensor before it ends: no gap, no overlap"),
            ));
        }
        next = next.saturating_add(tensor.len);
    }
    if next == file_bytes {
        return Ok(());
    }
    Err(ModelError::malformed(
        path,
        "the data after the last tensor",
        format!("{} bytes long", file_bytes.saturating_sub(next)),
        "nothing",
    ))
}

/// Which file each tensor of a sharded model is in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Tensor name to file name.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads `model.safetensors.index.json`.
    ///
    /// # Errors
    /// Not the expected JSON, a tensor named twice, too many files, or a file name that leads out of the directory.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct File {
            weight_map: Unique,
        }
        let bad = |got: String| {
            ModelError::malformed(
                path,
                "the index",
                got,
                "`weight_map`, an object of file names by tensor",
            )
        };
        let file: File = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        let weight_map = file.weight_map.0;
        if weight_map.is_empty() {
            return Err(bad("without tensors".to_owned()));
        }
        for (tensor, name) in &weight_map {
            if !is_plain_file_name(name) {
                let shown: String = name.chars().take(80).collect();
                return Err(ModelError::tensor(
                    path,
                    tensor.as_str(),
                    format!("the file name `{shown}`"),
                    "the plain name of a .safetensors file beside the index",
                ));
            }
        }
        let index = Self { weight_map };
        let files = index.files().len();
        if files > usize::try_from(MODEL_FILES_MAX).unwrap_or(usize::MAX) {
            return Err(bad(format!("of {files} files (at most {MODEL_FILES_MAX})")));
        }
        Ok(index)
    }

    /// The files in order of their names, each once.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Compares the index with what a file really holds.
    pub(crate) fn check_file(
        &self,
        path: &Path,
        file: &str,
        tensors: &[Tensor],
    ) -> Result<(), ModelError> {
        let mut found = 0_usize;
        for tensor in tensors {
            match self.weight_map.get(&tensor.name) {
                Some(named) if named == file => found = found.saturating_add(1),
                other => {
                    return Err(ModelError::tensor(
                        path,
                        tensor.name.as_str(),
                        format!(
                            "the index places it in {}",
                            other.map_or("no file", String::as_str)
                        ),
                        "the file that holds it",
                    ));
                }
            }
        }
        let named = self.weight_map.iter().filter(|(_, named)| *named == file);
        if named.clone().count() == found {
            return Ok(());
        }
        let have: std::collections::HashSet<&str> =
            tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let missing = named
            .map(|(name, _)| name)
            .find(|name| !have.contains(name.as_str()));
        Err(ModelError::tensor(
            path,
            missing.map_or("", String::as_str),
            "not in this file",
            "in this file, as the index says",
        ))
    }
}

fn is_plain_file_name(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name.chars().all(|c| !matches!(c, '/' | '\\' | ':' | '\0'))
}

/// An object of texts whose keys all differ.
struct Unique(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if out.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{key}` is there twice")));
                    }
                    out.insert(key, value);
                }
                Ok(Unique(out))
            }
        }
        from.deserialize_map(Texts)
    }
}
