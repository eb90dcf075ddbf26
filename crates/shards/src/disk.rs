//! Small files of the store: read within bounds, written whole.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use proto::limits::CATALOGUE_BYTES_MAX;

use crate::{Catalogue, ShardError};

/// The catalogue in a file.
pub(crate) fn read_catalogue(path: &Path) -> Result<Catalogue, ShardError> {
    Catalogue::parse(read_bounded(path, CATALOGUE_BYTES_MAX)?)
}

/// A file of at most `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, ShardError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            file.take((max as u64).saturating_add(1))
                .read_to_end(&mut bytes)
        })
        .map_err(ShardError::io(path, "read the file"))?;
    if bytes.len() > max {
        let what = format!("the length of {}", path.display());
        return Err(ShardError::catalogue(
            what,
            "more",
            format!("at most {max} bytes"),
        ));
    }
    Ok(bytes)
}

/// Writes a file so that a crash leaves the old one or the new one, never half of one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ShardError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let fresh = path.with_file_name(name);
    File::create(&fresh)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(ShardError::io(path, "write the file"))
}

/// Removes a directory with all that is in it; nothing to remove is fine.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), ShardError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ShardError::io(dir, "remove the directory")(e))
        }
        _ => Ok(()),
    }
}
