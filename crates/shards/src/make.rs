//! From an opened model to its catalogue: the same shards for everybody who has the same files.

use std::path::{Path, PathBuf};

use model::{Checkpoint, FileRange, Identity, ModelError, Part, Role, merge_ranges};
use proto::facts::head_block_rows;
use proto::limits::HEAD_BLOCKS_MAX;

use crate::catalogue::Parts;
use crate::{Catalogue, Digest, ModelFile, Reader, Shard, ShardError, Unit};

/// The files of a model as shards see them, and where each shard lies in them.
#[derive(Debug, Clone)]
pub struct Source {
    identity: Identity,
    paths: Vec<PathBuf>,
    files: Vec<ModelFile>,
    shards: Vec<(Unit, Vec<FileRange>)>,
}

impl Source {
    /// Looks at an opened model. Reads no weight.
    ///
    /// # Errors
    /// When a small file beside the weights cannot be read, or has a name that cannot be written down.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ShardError> {
        let mut paths: Vec<PathBuf> = checkpoint.tensor_files().map(Path::to_owned).collect();
        let tensor_files = paths.len();
        paths.extend(checkpoint.side_files());
        let mut files = Vec::with_capacity(paths.len());
        for path in &paths {
            let meta = std::fs::metadata(path)
                .map_err(ShardError::io(path, "read the size of the file"))?;
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| {
                ShardError::catalogue("a file's name", path.display(), "plain text")
            })?;
            files.push(ModelFile {
                name: name.to_owned(),
                bytes: meta.len(),
            });
        }
        let side = files.iter().enumerate().skip(tensor_files);
        let side = side.map(|(file, entry)| FileRange {
            file,
            start: 0,
            len: entry.bytes,
        });
        Ok(Self {
            identity: *checkpoint.identity(),
            shards: units(checkpoint, side.collect())?,
            paths,
            files,
        })
    }

    /// Where the files are, in the order of the catalogue.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether a catalogue cuts the model as this program does, so that what its shards hold is what a slice reads.
    ///
    /// # Errors
    /// [`ShardError::Catalogue`] names the first shard that lies elsewhere.
    pub fn agrees(&self, catalogue: &Catalogue) -> Result<(), ShardError> {
        let theirs = catalogue
            .shards()
            .iter()
            .map(|shard| (shard.unit, &shard.ranges));
        let theirs: std::collections::HashMap<_, _> = theirs.collect();
        let differs = self
            .shards
            .iter()
            .find(|(unit, ranges)| theirs.get(unit) != Some(&ranges));
        match differs {
            None => Ok(()),
            Some((unit, _)) => Err(ShardError::catalogue(
                format!("the place of {unit}"),
                "another",
                "as this program cuts the model: both programs need the same version of Hearth",
            )),
        }
    }

    /// Bytes of all shards.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let ranges = self.shards.iter().flat_map(|(_, ranges)| ranges);
        ranges.fold(0, |sum, range| sum.saturating_add(range.len))
    }
}

/// Where every shard of a model lies.
fn units(
    checkpoint: &Checkpoint,
    side: Vec<FileRange>,
) -> Result<Vec<(Unit, Vec<FileRange>)>, ModelError> {
    let arch = checkpoint.arch();
    let mut base = checkpoint.head_ranges();
    base.extend(side);
    base.extend(checkpoint.ranges(&Part::OutputNorm)?);
    if let Ok(factors) = checkpoint.role_range(Role::RopeFactors) {
        base.push(factors);
    }
    let mut units = vec![(Unit::Base, merge_ranges(base))];
    if !arch.tied_head {
        units.push((Unit::Embedding, checkpoint.ranges(&Part::Embedding)?));
    }
    for layer in 0..u32::try_from(arch.layers.len()).unwrap_or(u32::MAX) {
        units.push((Unit::Trunk(layer), checkpoint.ranges(&Part::Trunk(layer))?));
        for group in 0..checkpoint.groups(layer) {
            let part = Part::ExpertGroup { layer, group };
            units.push((Unit::Group { layer, group }, checkpoint.ranges(&part)?));
        }
    }
    let rows = u32::try_from(arch.vocab).unwrap_or(u32::MAX);
    for block in 0..HEAD_BLOCKS_MAX {
        let part = Part::HeadRows(head_block_rows(rows, block));
        let ranges = checkpoint.ranges(&part)?;
        if ranges.iter().any(|range| range.len > 0) {
            units.push((Unit::Head(block), ranges));
        }
    }
    Ok(units)
}

/// Hashes every shard of an opened model; `progress` gets the bytes done since its last call.
///
/// # Errors
/// When the files cannot be read or change meanwhile.
pub fn make(
    checkpoint: &Checkpoint,
    piece_bytes: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<Catalogue, ShardError> {
    let source = Source::of(checkpoint)?;
    let mut reader = Reader::new(source.paths);
    let mut shards = Vec::with_capacity(source.shards.len());
    let mut first_piece = 0usize;
    for (unit, ranges) in source.shards {
        let bytes = ranges
            .iter()
            .fold(0u64, |sum, range| sum.saturating_add(range.len));
        let mut shard = Shard {
            unit,
            digest: Digest([0; 32]),
            bytes,
            ranges,
            pieces: Vec::new(),
            first_piece,
        };
        hash(&mut shard, piece_bytes, &mut reader, progress)?;
        first_piece = first_piece.saturating_add(shard.pieces.len());
        shards.push(shard);
    }
    // What was hashed must be what was opened.
    checkpoint.unchanged()?;
    Catalogue::of(Parts {
        identity: source.identity,
        piece_bytes,
        files: source.files,
        shards,
    })
}

/// Fills in the hashes of a shard.
fn hash(
    shard: &mut Shard,
    piece_bytes: u32,
    reader: &mut Reader,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ShardError> {
    let mut whole = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for piece in 0.. {
        let part = shard.piece(piece, piece_bytes);
        if part.is_empty() {
            break;
        }
        bytes.clear();
        reader.read(&shard.places(part), &mut bytes)?;
        whole.update(&bytes);
        shard.pieces.push(Digest::of(&bytes));
        progress(bytes.len() as u64);
    }
    shard.digest = Digest(*whole.finalize().as_bytes());
    Ok(())
}
