//! Catalogues that were made before: hashing a large model takes as long as reading it.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use model::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::disk::{read_bounded, read_catalogue, write_whole};
use crate::{Catalogue, Digest, ShardError, Source, make};

/// Bytes of a list of stamps.
const STAMPS_BYTES_MAX: usize = 16 << 20;

/// What must be the same for a catalogue to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    bytes: u64,
    modified_ns: Option<u64>,
}

/// The catalogue of an opened model out of `dir`, if its files are as they were when it was made; else it is made now,
/// which takes as long as reading the model, and kept there. A catalogue that cannot be kept is still given.
///
/// # Errors
/// When the model's files cannot be read or change meanwhile.
pub fn catalogue_of(
    checkpoint: &Checkpoint,
    dir: &Path,
    piece_bytes: u32,
) -> Result<Catalogue, ShardError> {
    let name = Digest(checkpoint.identity().blake3).to_string();
    let (kept, stamps) = (
        dir.join(format!("{name}.json")),
        dir.join(format!("{name}.stamps")),
    );
    let now = look(checkpoint)?;
    let same = read_bounded(&stamps, STAMPS_BYTES_MAX)
        .ok()
        .and_then(|text| serde_json::from_slice::<Vec<Stamp>>(&text).ok())
        .is_some_and(|before| before == now);
    if same
        && let Ok(catalogue) = read_catalogue(&kept)
        && catalogue.identity() == *checkpoint.identity()
        && catalogue.piece_bytes() == piece_bytes
    {
        return Ok(catalogue);
    }
    let catalogue = make(checkpoint, piece_bytes, &mut |_| {})?;
    // What cannot be kept is made again next time.
    let _kept = keep(&catalogue, &now, (&kept, &stamps));
    Ok(catalogue)
}

fn keep(
    catalogue: &Catalogue,
    now: &[Stamp],
    (kept, stamps): (&Path, &Path),
) -> Result<(), ShardError> {
    if let Some(dir) = kept.parent() {
        std::fs::create_dir_all(dir).map_err(ShardError::io(dir, "make the directory"))?;
    }
    let text = serde_json::to_vec(now)
        .map_err(|e| ShardError::catalogue("the stamps", e, "what can be written as JSON"))?;
    write_whole(kept, catalogue.encoded())?;
    // Last: a catalogue without its stamps is not believed.
    write_whole(stamps, &text)
}

fn look(checkpoint: &Checkpoint) -> Result<Vec<Stamp>, ShardError> {
    let source = Source::of(checkpoint)?;
    let stamp = |path: &PathBuf| {
        let meta =
            std::fs::metadata(path).map_err(ShardError::io(path, "read the size of the file"))?;
        let modified = meta.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Stamp {
            path: path.clone(),
            bytes: meta.len(),
            modified_ns: since.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        })
    };
    source.paths().iter().map(stamp).collect()
}
