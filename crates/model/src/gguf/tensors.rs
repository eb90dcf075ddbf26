//! The tensor table of a GGUF file: entries are read first, then placed and checked against the file and each other.

use std::{collections::HashSet, path::Path};

use super::cursor::Cursor;
use crate::{
    ModelError,
    dtype::Storage,
    store::{Tensor, show_shape},
};

/// Characters of a tensor's name; the format's own limit is 64, some tools write longer ones.
const NAME_CHARS_MAX: usize = 512;
/// Dimensions of a tensor.
const DIMS_MAX: u32 = 4;

/// One entry as it stands in the table.
pub(super) struct Entry {
    name: String,
    /// Fastest dimension first, as the file has it.
    dims: Vec<u64>,
    storage: Storage,
    offset: u64,
}

/// Where tensor data may lie.
pub(super) struct Area {
    /// Index of the file.
    pub(super) file: usize,
    /// Bytes of the whole file.
    pub(super) file_bytes: u64,
    /// Bytes before the padding that precedes the data.
    pub(super) header_bytes: u64,
    /// Checked power of two.
    pub(super) alignment: u64,
}

/// Reads `count` entries; the count was compared with the remaining bytes.
pub(super) fn read_table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>, ModelError> {
    let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for index in 0..count {
        entries.push(read_entry(cursor, index)?);
    }
    let mut names = HashSet::with_capacity(entries.len());
    for entry in &entries {
        if !names.insert(entry.name.as_str()) {
            return Err(ModelError::tensor(
                cursor.path(),
                entry.name.as_str(),
                "the name is used twice",
                "each name once",
            ));
        }
    }
    Ok(entries)
}

fn read_entry(cursor: &mut Cursor<'_>, index: u64) -> Result<Entry, ModelError> {
    let path = cursor.path();
    let name = cursor
        .text(&format!("the name of tensor {index}"))?
        .to_owned();
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        return Err(ModelError::malformed(
            path,
            format!("the length of the name of tensor {index}"),
            name.len().to_string(),
            format!("1 to {NAME_CHARS_MAX}"),
        ));
    }
    let what = format!("the entry of tensor `{name}`");
    let n_dims = cursor.u32(&what)?;
    if !(1..=DIMS_MAX).contains(&n_dims) {
        return Err(ModelError::tensor(
            path,
            name,
            format!("{n_dims} dimensions"),
            format!("1 to {DIMS_MAX}"),
        ));
    }
    let mut dims = Vec::with_capacity(4);
    for _ in 0..n_dims {
        dims.push(cursor.u64(&what)?);
    }
    let number = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    let Some(storage) = Storage::from_ggml(number) else {
        return Err(ModelError::tensor(
            path,
            name,
            format!("storage type number {number}"),
            "a known storage type; convert the model with a current tool, or update this program",
        ));
    };
    Ok(Entry {
        name,
        dims,
        storage,
        offset,
    })
}

/// Bytes of a tensor, checked; `None` if dimensions are zero, overflow or do not fill whole blocks.
pub(crate) fn stored_bytes(storage: &Storage, fastest: u64, shape: &[u64]) -> Option<u64> {
    if fastest == 0 || !fastest.is_multiple_of(storage.block_len) {
        return None;
    }
    let mut values: u64 = 1;
    for dim in shape {
        values = values.checked_mul(*dim).filter(|n| *n > 0)?;
    }
    (values / storage.block_len).checked_mul(storage.block_bytes)
}

/// Turns entries into tensors whose bytes are inside the file and belong to no other tensor.
pub(super) fn place(
    path: &Path,
    entries: Vec<Entry>,
    area: &Area,
) -> Result<Vec<Tensor>, ModelError> {
    let data_start = area
        .header_bytes
        .checked_next_multiple_of(area.alignment)
        .unwrap_or(u64::MAX);
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        tensors.push(place_one(path, entry, area, data_start)?);
    }
    check_overlaps(path, &tensors)?;
    Ok(tensors)
}

fn place_one(
    path: &Path,
    entry: Entry,
    area: &Area,
    data_start: u64,
) -> Result<Tensor, ModelError> {
    let Entry {
        name,
        dims,
        storage,
        offset,
    } = entry;
    let fastest = dims.first().copied().unwrap_or(0);
    let Some(len) = stored_bytes(&storage, fastest, &dims) else {
        return Err(ModelError::tensor(
            path,
            name,
            format!("dimensions {} of type {}", show_shape(&dims), storage.name),
            format!(
                "dimensions above zero, the first a multiple of {}, with a product that fits",
                storage.block_len
            ),
        ));
    };
    if !offset.is_multiple_of(area.alignment) {
        return Err(ModelError::tensor(
            path,
            name,
            format!("data offset {offset}"),
            format!("a multiple of the file's alignment {}", area.alignment),
        ));
    }
    let start = data_start.checked_add(offset);
    let end = start.and_then(|start| start.checked_add(len));
    let (Some(start), Some(_)) = (start, end.filter(|end| *end <= area.file_bytes)) else {
        return Err(ModelError::tensor(
            path,
            name,
            format!(
                "{len} bytes of data at offset {offset} of the data that begins at {data_start}"
            ),
            format!(
                "data inside the file of {} bytes; the file is cut off, copy or download it again",
                area.file_bytes
            ),
        ));
    };
    let shape = dims.into_iter().rev().collect();
    Ok(Tensor {
        name,
        storage,
        shape,
        file: area.file,
        start,
        len,
    })
}

fn check_overlaps(path: &Path, tensors: &[Tensor]) -> Result<(), ModelError> {
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.start);
    for pair in order.windows(2) {
        let [before, after] = pair else { continue };
        if before.start.saturating_add(before.len) > after.start {
            return Err(ModelError::tensor(
                path,
                after.name.as_str(),
                format!("its data shares bytes with tensor `{}`", before.name),
                "data of its own",
            ));
        }
    }
    Ok(())
}
