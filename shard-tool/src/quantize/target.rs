//! The file that is written: under a temporary name beside its place, renamed when it is whole and on the disk.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use plan::size::size_text;

use crate::Failure;

/// A file in the making. Dropped before [`Target::finish`], it takes the temporary file away.
pub(super) struct Target {
    file: File,
    temporary: PathBuf,
    place: PathBuf,
    bytes: u64,
    finished: bool,
}

impl Target {
    /// Begins a file of `bytes` that will be at `place`.
    ///
    /// # Errors
    /// Something is there already, or the directory cannot be written to.
    pub(super) fn create(place: &Path, bytes: u64) -> Result<Self, Failure> {
        if place.symlink_metadata().is_ok() {
            return Err(taken(place));
        }
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let temporary = place.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .with_context(|| format!("{}: cannot be created", temporary.display()))?;
        Ok(Self {
            file,
            temporary,
            place: place.to_path_buf(),
            bytes,
            finished: false,
        })
    }

    /// Writes `bytes` at byte `at`.
    ///
    /// # Errors
    /// The system refuses; a full disk is named.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        let written = self
            .file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(bytes));
        written.map_err(|error| self.failed(error))
    }

    /// Brings the file to the disk, lets `check` read it, and gives it its name.
    ///
    /// # Errors
    /// The system refuses, `check` does, or the place was taken meanwhile.
    pub(super) fn finish(
        mut self,
        check: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // The last tensor may end before the padding that belongs to the file.
        let whole = self
            .file
            .set_len(self.bytes)
            .and_then(|()| self.file.sync_all());
        whole.map_err(|error| self.failed(error))?;
        check(&self.temporary)?;
        // Unlike renaming, linking never replaces a file; where links are not to be had, look once more and rename.
        match std::fs::hard_link(&self.temporary, &self.place) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(taken(&self.place));
            }
            Err(_) => {}
        }
        if self.place.symlink_metadata().is_ok() {
            return Err(taken(&self.place));
        }
        std::fs::rename(&self.temporary, &self.place).map_err(|error| self.failed(error))?;
        self.finished = true;
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        let place = self.place.display();
        let whole = size_text(self.bytes);
        Failure::Failed(if error.kind() == ErrorKind::StorageFull {
            anyhow!(
                "{place}: the disk is full; the file needs {whole}: free that much or choose another place"
            )
        } else {
            anyhow!("{place}: cannot be written ({whole}): {error}")
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is left under a name that says what it is.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn taken(place: &Path) -> Failure {
    Failure::Failed(anyhow!(
        "{}: is there already; remove it or choose another name",
        place.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new.gguf");
        let entries = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut dropped = Target::create(&place, 10).ok().unwrap();
        assert!(dropped.put(0, b"half").is_ok());
        assert_eq!((place.exists(), entries()), (false, 1));
        drop(dropped);
        assert_eq!(entries(), 0);
        let refused = Target::create(&place, 10).ok().unwrap();
        let failed = refused.finish(|_| Err(Failure::Failed(anyhow!("no"))));
        assert!(failed.is_err());
        assert_eq!(entries(), 0);
        let mut whole = Target::create(&place, 10).ok().unwrap();
        assert!(whole.put(4, b"abc").is_ok());
        assert!(whole.finish(|_| Ok(())).is_ok());
        assert_eq!(std::fs::read(&place).unwrap(), b"\0\0\0\0abc\0\0\0");
        assert_eq!(entries(), 1);
        assert!(Target::create(&place, 10).is_err());
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new.gguf");
        let target = Target::create(&place, 3).ok().unwrap();
        std::fs::write(&place, "other").unwrap();
        assert!(target.finish(|_| Ok(())).is_err());
        assert_eq!(std::fs::read(&place).unwrap(), b"other");
    }
}
