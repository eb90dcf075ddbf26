//! Which bytes of which file a part of the model is: for reading them in, letting them go, and counting them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use proto::facts::{expert_groups, group_experts};

use super::{Checkpoint, Meta};
use crate::{ModelError, Proj, Role, bind::Place, files, map::MappedFile};

/// A part of a model that is placed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The token embedding.
    Embedding,
    /// A layer without its experts.
    Trunk(u32),
    /// One expert group of a layer.
    ExpertGroup {
        /// The layer.
        layer: u32,
        /// The group.
        group: u32,
    },
    /// The head's weight rows in this range.
    HeadRows(Range<u32>),
    /// The norm before the head.
    OutputNorm,
}

/// Bytes of one file of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRange {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl FileRange {
    pub(super) fn of(place: Place) -> Self {
        Self {
            file: place.file,
            start: place.start,
            len: place.len,
        }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    pub(super) fn bytes(&self) -> Range<usize> {
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        at(self.start)..at(self.end())
    }
}

/// Sorts ranges and joins those that touch or overlap, so that no byte is counted twice.
#[must_use]
pub fn merge_ranges(mut ranges: Vec<FileRange>) -> Vec<FileRange> {
    ranges.sort_unstable();
    let mut merged: Vec<FileRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.file == range.file && range.start <= last.end() => {
                last.len = range.end().max(last.end()).saturating_sub(last.start);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Checkpoint {
    /// The bytes of a part, merged.
    ///
    /// # Errors
    /// The model has no such part.
    pub fn ranges(&self, part: &Part) -> Result<Vec<FileRange>, ModelError> {
        let ranges = match part {
            Part::Embedding => vec![self.role_range(Role::Embedding)?],
            Part::OutputNorm => vec![self.role_range(Role::OutputNorm)?],
            Part::HeadRows(rows) => vec![self.head_rows(rows)?],
            Part::Trunk(layer) => self.trunk(*layer)?,
            Part::ExpertGroup { layer, group } => self.expert_group(*layer, *group)?,
        };
        Ok(merge_ranges(ranges))
    }

    /// The bytes of the tensor of one role.
    ///
    /// # Errors
    /// The model has no such role.
    pub fn role_range(&self, role: Role) -> Result<FileRange, ModelError> {
        match self.bound().role(role) {
            Some((place, _)) => Ok(FileRange::of(place)),
            None => Err(self.no_role(role.to_string())),
        }
    }

    /// Number of expert groups of a layer, 0 for a dense one.
    #[must_use]
    pub fn groups(&self, layer: u32) -> u32 {
        match self.bound().experts(layer) {
            Some(_) => expert_groups(self.experts()),
            None => 0,
        }
    }

    /// Reads `ranges` (merged) into memory; `progress` gets the bytes done since its last call.
    pub fn prefault(&self, ranges: &[FileRange], progress: &mut dyn FnMut(u64)) {
        for range in ranges {
            if let Some(file) = self.files().get(range.file) {
                file.prefault(range.bytes(), progress);
            }
        }
    }

    /// Lets the pages of `ranges` go; they are read again when they are used again.
    pub fn release(&self, ranges: &[FileRange]) {
        for range in ranges {
            if let Some(file) = self.files().get(range.file) {
                file.release(range.bytes());
            }
        }
    }

    /// The heads of all files: metadata and tensor tables, without which the model cannot be opened.
    #[must_use]
    pub fn head_ranges(&self) -> Vec<FileRange> {
        let ranges = self.header_bytes.iter().enumerate();
        ranges
            .map(|(file, len)| FileRange {
                file,
                start: 0,
                len: *len,
            })
            .collect()
    }

    /// The files that hold tensors, in the order of [`FileRange::file`].
    pub fn tensor_files(&self) -> impl Iterator<Item = &Path> {
        self.files().iter().map(MappedFile::path)
    }

    /// Small files beside those with tensors without which the model cannot be opened: configuration and index of a
    /// safetensors directory.
    #[must_use]
    pub fn side_files(&self) -> Vec<PathBuf> {
        match self.meta() {
            Meta::Gguf(_) => Vec::new(),
            Meta::Hf { dir, .. } => ["config.json", files::INDEX_NAME]
                .map(|name| dir.join(name))
                .into_iter()
                .filter(|path| path.is_file())
                .collect(),
        }
    }

    fn experts(&self) -> u32 {
        let experts = self.arch().moe.map_or(0, |moe| moe.experts);
        u32::try_from(experts).unwrap_or(u32::MAX)
    }

    fn trunk(&self, layer: u32) -> Result<Vec<FileRange>, ModelError> {
        let roles = self.layer_roles(layer);
        if roles.is_empty() {
            return Err(self.no_role(format!("layer {layer}")));
        }
        roles
            .into_iter()
            .map(|role| self.role_range(Role::Layer(layer, role)))
            .collect()
    }

    fn expert_group(&self, layer: u32, group: u32) -> Result<Vec<FileRange>, ModelError> {
        if group >= self.groups(layer) {
            return Err(self.no_role(format!("expert group {group} in layer {layer}")));
        }
        let mut ranges = Vec::new();
        for proj in Proj::ALL {
            for expert in group_experts(self.experts(), group) {
                ranges.push(FileRange::of(self.expert_place(layer, proj, expert)?));
            }
        }
        Ok(ranges)
    }

    fn head_rows(&self, rows: &Range<u32>) -> Result<FileRange, ModelError> {
        let whole = self.bound().role(Role::Head).map(|(place, _)| place);
        let end = usize::try_from(rows.end).unwrap_or(usize::MAX);
        let Some(head) = whole.filter(|head| rows.start <= rows.end && end <= head.rows) else {
            return Err(self.no_role(format!("head rows {} to {}", rows.start, rows.end)));
        };
        let row_bytes = head.len / (head.rows.max(1) as u64);
        Ok(FileRange {
            file: head.file,
            start: head
                .start
                .saturating_add(row_bytes.saturating_mul(u64::from(rows.start))),
            len: row_bytes.saturating_mul(u64::from(rows.end - rows.start)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_joins_neighbours_and_counts_no_byte_twice() {
        let range = |file, start, len| FileRange { file, start, len };
        let merged = merge_ranges(vec![
            range(1, 0, 5),
            range(0, 10, 10),
            range(0, 0, 10),
            range(0, 15, 2),
            range(0, 30, 1),
            range(0, 10, 10),
        ]);
        assert_eq!(merged, [range(0, 0, 20), range(0, 30, 1), range(1, 0, 5)]);
    }
}
