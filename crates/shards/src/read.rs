//! Reading parts of shards out of files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use model::FileRange;

use crate::ShardError;

/// Files of a model, opened when they are first read.
#[derive(Debug)]
pub struct Reader {
    paths: Vec<PathBuf>,
    open: HashMap<usize, File>,
}

impl Reader {
    /// A reader of these files, in the order of the catalogue.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            open: HashMap::new(),
        }
    }

    /// Appends the bytes of `places` to `out`. The caller has bounded their length.
    ///
    /// # Errors
    /// When a file cannot be opened or is shorter than it should be.
    pub fn read(&mut self, places: &[FileRange], out: &mut Vec<u8>) -> Result<(), ShardError> {
        for place in places {
            let before = out.len();
            let (path, file) = self.file(place.file)?;
            let failed = |source| ShardError::io(&path, "read the file")(source);
            file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
            file.take(place.len).read_to_end(out).map_err(failed)?;
            if (out.len() - before) as u64 != place.len {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    fn file(&mut self, index: usize) -> Result<(PathBuf, &mut File), ShardError> {
        use std::collections::hash_map::Entry;
        let Some(path) = self.paths.get(index).cloned() else {
            let expected = format!("below {}", self.paths.len());
            return Err(ShardError::catalogue("a file's number", index, expected));
        };
        let file = match self.open.entry(index) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(File::open(&path).map_err(ShardError::io(&path, "open the file"))?)
            }
        };
        Ok((path, file))
    }
}
