//! Shards as files of their own, named by their hash, beside their catalogue: what `shard-tool split` writes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use model::Checkpoint;

use crate::disk::write_whole;
use crate::{Catalogue, Digest, Reader, Shard, ShardError, Source, make};

/// The name of a catalogue in a directory of shards or of the store.
pub const CATALOGUE_FILE: &str = "catalogue.json";

/// The name of a shard's own file.
#[must_use]
pub fn shard_file(shard: &Shard) -> String {
    format!("{}.shard", shard.digest)
}

/// What a split has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitReport {
    /// The catalogue's own hash.
    pub catalogue: Digest,
    /// Shards of the model.
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Bytes written now; shards that were there whole are not written again.
    pub written_bytes: u64,
}

/// Writes every shard of a model and its catalogue into `out`, which is made if it is not there. `progress` gets the
/// bytes done since its last call; all shards are gone through twice, once for their hashes, once to write them.
///
/// # Errors
/// When the model cannot be read or the directory cannot be written.
pub fn split(
    checkpoint: &Checkpoint,
    out: &Path,
    piece_bytes: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<SplitReport, ShardError> {
    let catalogue = make(checkpoint, piece_bytes, progress)?;
    std::fs::create_dir_all(out).map_err(ShardError::io(out, "make the directory"))?;
    let mut reader = Reader::new(Source::of(checkpoint)?.paths().to_vec());
    let mut report = SplitReport {
        catalogue: catalogue.digest(),
        shards: catalogue.shards().len(),
        bytes: 0,
        written_bytes: 0,
    };
    for shard in catalogue.shards() {
        let path = out.join(shard_file(shard));
        report.bytes = report.bytes.saturating_add(shard.bytes);
        // Its name is its content: what is whole was written by an earlier run.
        if !path.exists() {
            write_shard(&catalogue, shard, &mut reader, &path)?;
            report.written_bytes = report.written_bytes.saturating_add(shard.bytes);
        }
        progress(shard.bytes);
    }
    checkpoint.unchanged()?;
    write_whole(&out.join(CATALOGUE_FILE), catalogue.encoded())?;
    Ok(report)
}

fn write_shard(
    catalogue: &Catalogue,
    shard: &Shard,
    reader: &mut Reader,
    path: &Path,
) -> Result<(), ShardError> {
    let fresh: PathBuf = path.with_extension("part");
    let mut file = File::create(&fresh).map_err(ShardError::io(&fresh, "make the file"))?;
    let mut bytes = Vec::new();
    for piece in 0..shard.piece_count() {
        bytes.clear();
        let part = shard.piece(piece, catalogue.piece_bytes());
        reader.read(&shard.places(part), &mut bytes)?;
        file.write_all(&bytes)
            .map_err(ShardError::io(&fresh, "write the file"))?;
    }
    file.sync_all()
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(ShardError::io(path, "write the file"))
}
