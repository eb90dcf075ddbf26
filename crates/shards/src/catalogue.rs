//! The catalogue of a model: every shard, where its bytes lie in the model's files, and the hashes of them.
//!
//! A pure description, as JSON. It is checked once, when it is read; afterwards every range lies inside its file, no byte
//! belongs to two shards, and every shard has as many piece hashes as pieces.

use std::collections::HashSet;
use std::ops::Range;

use model::{FileRange, Identity};
use proto::limits::{self, CATALOGUE_BYTES_MAX, MODEL_FILES_MAX, SHARD_RANGES_MAX, SHARDS_MAX};
use serde::{Deserialize, Serialize};

use crate::{Digest, ShardError, Unit};

/// The form of catalogue that this program writes and reads.
const FORMAT: u32 = 1;
/// Smallest and largest piece.
const PIECE_BYTES: Range<u32> = 4 << 10..limits::PIECE_BYTES + 1;
/// Bytes of a file name.
const NAME_BYTES_MAX: usize = 255;
/// Files beside those with tensors.
const SIDE_FILES_MAX: usize = 8;

/// A file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// What it is for.
    pub unit: Unit,
    /// BLAKE3 of its bytes: its ranges one after the other.
    pub digest: Digest,
    /// Number of bytes.
    pub bytes: u64,
    /// Where it lies in the model's files, in order, without overlap.
    pub ranges: Vec<FileRange>,
    /// BLAKE3 of each piece; all have the same length but the last.
    pub pieces: Vec<Digest>,
    /// Number of pieces of the shards before this one.
    pub first_piece: usize,
}

impl Shard {
    /// The bytes of one piece, counted from the shard's start; empty for a piece that it does not have.
    #[must_use]
    pub fn piece(&self, piece: u32, piece_bytes: u32) -> Range<u64> {
        let at = |n: u64| n.saturating_mul(u64::from(piece_bytes)).min(self.bytes);
        at(u64::from(piece))..at(u64::from(piece).saturating_add(1))
    }

    /// Number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.pieces.len()).unwrap_or(u32::MAX)
    }

    /// Where a part of the shard, counted from its start, lies in the model's files.
    #[must_use]
    pub fn places(&self, part: Range<u64>) -> Vec<FileRange> {
        let mut places = Vec::new();
        let mut before = 0u64;
        for range in &self.ranges {
            let end = before.saturating_add(range.len);
            let (from, to) = (part.start.max(before), part.end.min(end));
            if from < to {
                places.push(FileRange {
                    file: range.file,
                    start: range.start.saturating_add(from - before),
                    len: to - from,
                });
            }
            before = end;
        }
        places
    }
}

/// A checked catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    identity: Identity,
    piece_bytes: u32,
    files: Vec<ModelFile>,
    shards: Vec<Shard>,
    encoded: Vec<u8>,
    digest: Digest,
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    model: ModelRecord,
    piece_bytes: u32,
    files: Vec<ModelFile>,
    shards: Vec<ShardRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelRecord {
    bytes: u64,
    head_blake3: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardRecord {
    unit: Unit,
    blake3: Digest,
    bytes: u64,
    ranges: Vec<(usize, u64, u64)>,
    pieces: String,
}

/// What a catalogue is made of.
pub(crate) struct Parts {
    pub identity: Identity,
    pub piece_bytes: u32,
    pub files: Vec<ModelFile>,
    pub shards: Vec<Shard>,
}

impl Catalogue {
    /// Writes the parts down and reads them back, so that what we make passes what we check.
    pub(crate) fn of(parts: Parts) -> Result<Self, ShardError> {
        let shard = |shard: Shard| ShardRecord {
            unit: shard.unit,
            blake3: shard.digest,
            bytes: shard.bytes,
            ranges: shard
                .ranges
                .iter()
                .map(|r| (r.file, r.start, r.len))
                .collect(),
            pieces: shard.pieces.iter().map(Digest::to_string).collect(),
        };
        let record = Record {
            format: FORMAT,
            model: ModelRecord {
                bytes: parts.identity.size_bytes,
                head_blake3: Digest(parts.identity.blake3),
            },
            piece_bytes: parts.piece_bytes,
            files: parts.files,
            shards: parts.shards.into_iter().map(shard).collect(),
        };
        let encoded = serde_json::to_vec(&record)
            .map_err(|e| ShardError::catalogue("the JSON", e, "a catalogue that can be written"))?;
        Self::parse(encoded)
    }

    /// Reads and checks the JSON form.
    ///
    /// # Errors
    /// [`ShardError::Catalogue`] names the first field that cannot be.
    pub fn parse(encoded: Vec<u8>) -> Result<Self, ShardError> {
        if encoded.len() > CATALOGUE_BYTES_MAX {
            let expected = format!("at most {CATALOGUE_BYTES_MAX} bytes");
            return Err(ShardError::catalogue("the length", encoded.len(), expected));
        }
        let record: Record = serde_json::from_slice(&encoded).map_err(|e| {
            ShardError::catalogue("the JSON", e, "a catalogue as `shard-tool split` writes it")
        })?;
        if record.format != FORMAT {
            let expected = format!("{FORMAT}: both programs need the same version of Hearth");
            return Err(ShardError::catalogue("the format", record.format, expected));
        }
        let piece_bytes = record.piece_bytes;
        if !piece_bytes.is_power_of_two() || !PIECE_BYTES.contains(&piece_bytes) {
            return Err(ShardError::catalogue(
                "piece_bytes",
                piece_bytes,
                "a power of two from 4096 to 1048576",
            ));
        }
        check_files(&record.files)?;
        let shards = check_shards(record.shards, &record.files, piece_bytes)?;
        Ok(Self {
            identity: Identity {
                size_bytes: record.model.bytes,
                blake3: record.model.head_blake3.0,
            },
            piece_bytes,
            files: record.files,
            shards,
            digest: Digest::of(&encoded),
            encoded,
        })
    }

    /// The JSON form.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// BLAKE3 of the JSON form: names the catalogue.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Which model it describes.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Bytes of every piece but a shard's last.
    #[must_use]
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// The model's files.
    #[must_use]
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Pieces of all shards.
    #[must_use]
    pub fn piece_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.pieces.len()).sum()
    }

    /// The places of the shards whose unit is wanted, in order.
    pub fn pick(&self, wanted: impl Fn(Unit) -> bool) -> Vec<usize> {
        let shards = self.shards.iter().enumerate();
        shards
            .filter(|(_, shard)| wanted(shard.unit))
            .map(|(at, _)| at)
            .collect()
    }

    /// The hash that a piece must have.
    #[must_use]
    pub fn piece_digest(&self, shard: usize, piece: u32) -> Option<Digest> {
        let piece = usize::try_from(piece).ok()?;
        self.shards.get(shard)?.pieces.get(piece).copied()
    }
}

fn check_files(files: &[ModelFile]) -> Result<(), ShardError> {
    let most = MODEL_FILES_MAX as usize + SIDE_FILES_MAX;
    if files.is_empty() || files.len() > most {
        let got = format!("{} files", files.len());
        return Err(ShardError::catalogue("files", got, format!("1 to {most}")));
    }
    let mut names = HashSet::new();
    for file in files {
        // A name becomes a file of ours: it must not lead anywhere else, on any system.
        let plain = !file.name.starts_with('.')
            && !file.name.ends_with(['.', ' '])
            && file.name.len() <= NAME_BYTES_MAX
            && file
                .name
                .chars()
                .all(|c| !c.is_control() && !"/\\:*?\"<>|".contains(c));
        if file.name.is_empty() || !plain || !names.insert(file.name.to_lowercase()) {
            let got = format!("'{}'", file.name.escape_debug());
            let expected = "a plain file name that no other file has";
            return Err(ShardError::catalogue("a file's name", got, expected));
        }
    }
    Ok(())
}

fn check_shards(
    records: Vec<ShardRecord>,
    files: &[ModelFile],
    piece_bytes: u32,
) -> Result<Vec<Shard>, ShardError> {
    if records.len() > SHARDS_MAX {
        let expected = format!("at most {SHARDS_MAX}");
        return Err(ShardError::catalogue(
            "the number of shards",
            records.len(),
            expected,
        ));
    }
    let mut shards = Vec::with_capacity(records.len());
    let mut units = HashSet::new();
    let (mut first_piece, mut ranges) = (0, Vec::new());
    for record in records {
        if !units.insert(record.unit) {
            return Err(ShardError::catalogue(
                "a shard",
                record.unit,
                "each unit once",
            ));
        }
        let shard = check_shard(record, files, piece_bytes, first_piece)?;
        first_piece = first_piece.saturating_add(shard.pieces.len());
        ranges.extend_from_slice(&shard.ranges);
        shards.push(shard);
    }
    if !units.contains(&Unit::Base) {
        return Err(ShardError::catalogue(
            "the list of shards",
            "without a base",
            "one base",
        ));
    }
    if ranges.len() > SHARD_RANGES_MAX {
        let expected = format!("at most {SHARD_RANGES_MAX}");
        return Err(ShardError::catalogue(
            "the number of ranges",
            ranges.len(),
            expected,
        ));
    }
    ranges.sort_unstable();
    refuse_overlap(&ranges)?;
    Ok(shards)
}

/// Ranges in order must not share a byte.
fn refuse_overlap(ranges: &[FileRange]) -> Result<(), ShardError> {
    let overlap = ranges.windows(2).find(|pair| match pair {
        [one, next] => one.file == next.file && one.start.saturating_add(one.len) > next.start,
        _ => false,
    });
    match overlap {
        None => Ok(()),
        Some(pair) => Err(ShardError::catalogue(
            "two ranges",
            format!("{pair:?}"),
            "ranges in order that share no byte",
        )),
    }
}

fn check_shard(
    record: ShardRecord,
    files: &[ModelFile],
    piece_bytes: u32,
    first_piece: usize,
) -> Result<Shard, ShardError> {
    let unit = record.unit;
    let mut ranges = Vec::with_capacity(record.ranges.len());
    let mut sum = 0u64;
    for (file, start, len) in record.ranges {
        let inside = files.get(file).is_some_and(|entry| {
            len > 0 && start.checked_add(len).is_some_and(|end| end <= entry.bytes)
        });
        if !inside {
            let got = format!("{len} bytes from {start} of file {file}");
            let what = format!("a range of {unit}");
            return Err(ShardError::catalogue(
                what,
                got,
                "bytes inside a file of the model",
            ));
        }
        sum = sum.saturating_add(len);
        ranges.push(FileRange { file, start, len });
    }
    refuse_overlap(&ranges)?;
    if sum != record.bytes || sum == 0 || !ranges.is_sorted() {
        let what = format!("the bytes of {unit}");
        return Err(ShardError::catalogue(
            what,
            record.bytes,
            format!("{sum}, above 0, in order"),
        ));
    }
    let pieces = digests(&record.pieces)
        .filter(|pieces| pieces.len() as u64 == sum.div_ceil(u64::from(piece_bytes)));
    let Some(pieces) = pieces else {
        let what = format!("the piece hashes of {unit}");
        let got = format!("{} digits", record.pieces.len());
        let expected = format!(
            "64 for each of {} pieces",
            sum.div_ceil(u64::from(piece_bytes))
        );
        return Err(ShardError::catalogue(what, got, expected));
    };
    Ok(Shard {
        unit,
        digest: record.blake3,
        bytes: sum,
        ranges,
        pieces,
        first_piece,
    })
}

fn digests(text: &str) -> Option<Vec<Digest>> {
    let bytes = hex::decode(text).ok()?;
    let (whole, rest) = bytes.as_chunks::<32>();
    rest.is_empty()
        .then(|| whole.iter().copied().map(Digest).collect())
}

#[cfg(test)]
mod tests;
