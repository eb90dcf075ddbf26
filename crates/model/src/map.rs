//! Files as memory. The only `unsafe` of this crate is here.
//!
//! A mapped file is read-only. What another process writes into it shows through and a truncated file faults on
//! access; [`MappedFile::unchanged`] tells both before a result is trusted. The one idea: only ranges that
//! were asked for become resident, so a machine holds its own part of a model and nothing else.
#![allow(
    unsafe_code,
    reason = "mapping a file and dropping its pages are unsafe calls by nature"
)]

use std::{
    fs::File,
    hint::black_box,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use memmap2::Mmap;

use crate::ModelError;

/// Bytes that are touched between two calls of a progress function.
const PREFAULT_CHUNK_BYTES: usize = 8 << 20;
/// Smallest page of the systems we run on; touching more often than needed is harmless.
const PAGE_BYTES: usize = 4096;

/// A file of a model, mapped whole.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    stamp: Stamp,
}

/// What must stay the same while a file is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    modified: Option<SystemTime>,
    /// Device and file number, where the system has them.
    place: Option<(u64, u64)>,
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        #[cfg(unix)]
        let place = {
            use std::os::unix::fs::MetadataExt;
            Some((meta.dev(), meta.ino()))
        };
        #[cfg(not(unix))]
        let place = None;
        Self {
            size_bytes: meta.len(),
            modified: meta.modified().ok(),
            place,
        }
    }

    fn difference(&self, now: &Self) -> Option<String> {
        if now.size_bytes != self.size_bytes {
            return Some(format!(
                "it has {} bytes, it had {} when it was opened",
                now.size_bytes, self.size_bytes
            ));
        }
        if now.place != self.place {
            return Some("another file lies under its name".to_owned());
        }
        (now.modified != self.modified).then(|| "it was written to".to_owned())
    }
}

impl MappedFile {
    /// Maps the regular file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io(path, "open the file"))?;
        let meta = file
            .metadata()
            .map_err(ModelError::io(path, "read the size of the file"))?;
        if !meta.is_file() {
            return Err(ModelError::NotAModel {
                path: path.to_path_buf(),
                got: "not a regular file".to_owned(),
                expected: "a model file".to_owned(),
            });
        }
        if meta.len() == 0 || usize::try_from(meta.len()).is_err() {
            return Err(ModelError::malformed(
                path,
                "the file's size",
                format!("{} bytes", meta.len()),
                "at least a header, and no more than this machine can address",
            ));
        }
        // SAFETY: the map is read-only and private to this value. A writer elsewhere can change the bytes under us;
        // every value read from it is checked when it is read, any bit pattern is a valid u8, and `unchanged` detects it.
        let map = unsafe { Mmap::map(&file) }
            .map_err(ModelError::io(path, "map the file into memory"))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            map,
            stamp: Stamp::of(&meta),
        })
    }

    /// Where the file was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Bytes in the file when it was opened.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.stamp.size_bytes
    }

    /// Whether the open file and the file under its name are still what was opened.
    pub(crate) fn unchanged(&self) -> Result<(), ModelError> {
        let changed = |detail: String| ModelError::Changed {
            path: self.path.clone(),
            detail,
        };
        let open = self
            .file
            .metadata()
            .map_err(ModelError::io(&self.path, "read the size of the file"))?;
        if let Some(detail) = self.stamp.difference(&Stamp::of(&open)) {
            return Err(changed(detail));
        }
        let named = std::fs::metadata(&self.path)
            .map_err(|e| changed(format!("it can no longer be read under its name: {e}")))?;
        match self.stamp.difference(&Stamp::of(&named)) {
            Some(detail) => Err(changed(detail)),
            None => Ok(()),
        }
    }

    /// Reads `range` into memory; `progress` gets the bytes done since its last call. Parts beyond the file are left out.
    pub(crate) fn prefault(&self, range: Range<usize>, progress: &mut dyn FnMut(u64)) {
        let end = range.end.min(self.map.len());
        let mut at = range.start.min(end);
        while at < end {
            let stop = at.saturating_add(PREFAULT_CHUNK_BYTES).min(end);
            #[cfg(unix)]
            {
                let ahead = stop.saturating_add(PREFAULT_CHUNK_BYTES).min(end);
                // Losing the advice only costs speed.
                let _ = self
                    .map
                    .advise_range(memmap2::Advice::WillNeed, at, ahead - at);
            }
            if let Some(chunk) = self.map.get(at..stop) {
                for page in chunk.chunks(PAGE_BYTES) {
                    black_box(page.first());
                }
                black_box(chunk.last());
            }
            progress((stop - at) as u64);
            at = stop;
        }
    }

    /// Lets go of the pages that lie wholly inside `range`; they come back from the file when they are read again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let start = range.start.next_multiple_of(PAGE_BYTES);
            let end = range.end.min(self.map.len()) / PAGE_BYTES * PAGE_BYTES;
            if start < end {
                // SAFETY: the map is read-only and backed by a file: dropped pages are read from it again with the same
                // content, so no reference into the map ever sees other bytes than the file's.
                let dropped = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
                // Keeping the pages is harmless: the system drops them under pressure.
                let _ = dropped;
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scratch(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn prefault_reports_every_byte_and_release_keeps_the_content() {
        let bytes: Vec<u8> = (0..PREFAULT_CHUNK_BYTES + 12_345)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let (_dir, path) = scratch("f", &bytes);
        let file = MappedFile::open(&path).unwrap();
        let mut done = 0;
        let mut calls = 0;
        file.prefault(100..usize::MAX, &mut |n| {
            done += n;
            calls += 1;
        });
        assert_eq!((done, calls), (bytes.len() as u64 - 100, 2));
        file.release(0..usize::MAX);
        assert!(file.bytes() == bytes);
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let (_dir, path) = scratch("f", &[7; 9000]);
        let file = MappedFile::open(&path).unwrap();
        file.unchanged().unwrap();

        let mut grown = File::options().append(true).open(&path).unwrap();
        grown.write_all(b"more").unwrap();
        let text = file.unchanged().unwrap_err().to_string();
        assert!(text.contains("changed under the running program"), "{text}");
        assert!(text.contains("9004") && text.contains("9000"), "{text}");
        grown.set_len(10).unwrap();
        assert!(file.unchanged().is_err());
    }

    #[test]
    fn a_rewritten_file_of_equal_size_is_noticed() {
        let (_dir, path) = scratch("f", &[7; 9000]);
        let file = MappedFile::open(&path).unwrap();
        let write = File::options().write(true).open(&path).unwrap();
        write.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(file.unchanged().is_err());
    }

    #[test]
    fn a_replaced_or_deleted_file_is_noticed() {
        let (dir, path) = scratch("f", &[7; 9000]);
        let file = MappedFile::open(&path).unwrap();
        let other = dir.path().join("g");
        std::fs::write(&other, [7; 9000]).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(file.unchanged().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(file.unchanged().is_err());
    }

    #[test]
    fn empty_files_and_directories_are_refused() {
        let (dir, path) = scratch("f", b"");
        assert!(MappedFile::open(&path).is_err());
        assert!(MappedFile::open(dir.path()).is_err());
        assert!(MappedFile::open(&dir.path().join("absent")).is_err());
    }
}
