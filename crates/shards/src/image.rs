//! One model in the store: its files at full length with holes, and a journal of the pieces that are there.
//!
//! ```text
//! catalogue.json     the catalogue
//! held               one bit for each piece of all shards: set once the piece was checked and written
//! used               8 bytes for each shard: when it was last needed, for eviction
//! files/             the model's files, with holes
//! ```
//!
//! A piece is written before its bit, so a process that ends at any moment loses the piece that it was writing and no
//! other. The bit may survive a power cut that the piece does not; therefore what an earlier process wrote is read and
//! checked once before it is used.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{FileRange, merge_ranges};

use crate::disk::{read_bounded, read_catalogue, remove_dir, write_whole};
use crate::split::CATALOGUE_FILE;
use crate::{Bits, Catalogue, Digest, Reader, ShardError};

pub(crate) const HELD_FILE: &str = "held";
const USED_FILE: &str = "used";
const FILES_DIR: &str = "files";
/// Bytes of one shard's entry in the list of last uses.
const USED_BYTES: usize = 8;

/// What became of a piece that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is kept now.
    New,
    /// It was here already.
    Already,
}

/// One model of the store.
#[derive(Debug)]
pub struct Image {
    dir: PathBuf,
    catalogue: Arc<Catalogue>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Pieces that are here.
    held: Bits,
    /// Pieces whose hash was compared since this process began.
    checked: Bits,
    /// When each shard was last needed; larger is later.
    used: Vec<u64>,
    journal: File,
}

impl Image {
    /// Lays out the files of a model without any weight; a process that ends meanwhile leaves nothing behind that
    /// looks whole.
    pub(crate) fn create(dir: &Path, catalogue: Arc<Catalogue>) -> Result<Self, ShardError> {
        let fresh = dir.with_extension("new");
        remove_dir(&fresh)?;
        let files = fresh.join(FILES_DIR);
        std::fs::create_dir_all(&files).map_err(ShardError::io(&files, "make the directory"))?;
        for file in catalogue.files() {
            let path = files.join(&file.name);
            let out = File::create(&path).map_err(ShardError::io(&path, "make the file"))?;
            out.set_len(file.bytes)
                .and_then(|()| out.sync_all())
                .map_err(ShardError::io(&path, "set the length of the file"))?;
        }
        let none = Bits::none(catalogue.piece_count());
        let used = vec![0; catalogue.shards().len() * USED_BYTES];
        write_whole(&fresh.join(CATALOGUE_FILE), catalogue.encoded())?;
        write_whole(&fresh.join(HELD_FILE), none.as_bytes())?;
        write_whole(&fresh.join(USED_FILE), &used)?;
        std::fs::rename(&fresh, dir).map_err(ShardError::io(dir, "name the directory"))?;
        Self::open(dir)
    }

    /// Opens what was created before.
    pub(crate) fn open(dir: &Path) -> Result<Self, ShardError> {
        let catalogue = read_catalogue(&dir.join(CATALOGUE_FILE))?;
        let held = read_held(dir, &catalogue)?;
        let used = read_bounded(&dir.join(USED_FILE), catalogue.shards().len() * USED_BYTES)?;
        let (used, _) = used.as_chunks::<USED_BYTES>();
        let mut used: Vec<u64> = used
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        used.resize(catalogue.shards().len(), 0);
        let path = dir.join(HELD_FILE);
        let journal = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(ShardError::io(&path, "open the file"))?;
        let checked = Bits::none(catalogue.piece_count());
        Ok(Self {
            dir: dir.to_owned(),
            catalogue: Arc::new(catalogue),
            state: Mutex::new(State {
                held,
                checked,
                used,
                journal,
            }),
        })
    }

    /// What the model consists of.
    #[must_use]
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// The path under which the model is opened: the first `.gguf` file, or the directory of safetensors files.
    #[must_use]
    pub fn model_path(&self) -> PathBuf {
        let files = self.dir.join(FILES_DIR);
        match self.catalogue.files().first() {
            Some(first) if first.name.ends_with(".gguf") => files.join(&first.name),
            _ => files,
        }
    }

    /// Whether the whole shard is here.
    #[must_use]
    pub fn holds(&self, shard: usize) -> bool {
        self.missing(shard).is_empty()
    }

    /// The shards that are here whole.
    #[must_use]
    pub fn held(&self) -> Bits {
        let count = self.catalogue.shards().len();
        let mut whole = Bits::none(count);
        (0..count)
            .filter(|at| self.holds(*at))
            .for_each(|at| whole.set(at));
        whole
    }

    /// The pieces of a shard that are not here.
    #[must_use]
    pub fn missing(&self, shard: usize) -> Vec<u32> {
        let state = self.state();
        let pieces = self.pieces(shard);
        pieces
            .filter(|(_, at)| !state.held.has(*at))
            .map(|(piece, _)| piece)
            .collect()
    }

    /// Bytes of a shard that are here.
    #[must_use]
    pub fn held_bytes(&self, shard: usize) -> u64 {
        self.bytes_of(shard, |state, at| state.held.has(at))
    }

    /// Whether all of `places` (bytes of the model's files, merged) lie in shards that are here.
    #[must_use]
    pub fn covers(&self, places: &[FileRange]) -> bool {
        let shards = self.catalogue.shards().iter().enumerate();
        let here = shards.filter(|(at, _)| self.holds(*at));
        let here = merge_ranges(here.flat_map(|(_, shard)| shard.ranges.clone()).collect());
        places.iter().all(|place| {
            let after = here
                .partition_point(|range| (range.file, range.start) <= (place.file, place.start));
            let before = after.checked_sub(1).and_then(|at| here.get(at));
            before.is_some_and(|range| {
                let end = |range: &FileRange| range.start.saturating_add(range.len);
                range.file == place.file && end(place) <= end(range)
            })
        })
    }

    /// Bytes of a shard that an earlier process wrote and that were not compared yet.
    #[must_use]
    pub fn unchecked_bytes(&self, shard: usize) -> u64 {
        self.bytes_of(shard, |state, at| {
            state.held.has(at) && !state.checked.has(at)
        })
    }

    fn bytes_of(&self, shard: usize, counts: impl Fn(&State, usize) -> bool) -> u64 {
        let Some(entry) = self.catalogue.shards().get(shard) else {
            return 0;
        };
        let state = self.state();
        let counted = self.pieces(shard).filter(|(_, at)| counts(&state, *at));
        counted
            .map(|(piece, _)| {
                let part = entry.piece(piece, self.catalogue.piece_bytes());
                part.end - part.start
            })
            .sum()
    }

    /// Checks a piece against its hash and keeps it.
    ///
    /// # Errors
    /// When the bytes are not those of the piece, or cannot be written.
    pub fn write(&self, shard: usize, piece: u32, bytes: &[u8]) -> Result<Written, ShardError> {
        let (expected, got) = (self.catalogue.piece_digest(shard, piece), Digest::of(bytes));
        let (Some(expected), Some(entry)) = (expected, self.catalogue.shards().get(shard)) else {
            let end = piece.saturating_add(1);
            return Err(ShardError::NotHere {
                shard,
                first: piece,
                end,
            });
        };
        if got != expected {
            let unit = entry.unit;
            return Err(ShardError::Damaged {
                unit,
                piece,
                got,
                expected,
            });
        }
        let at = entry.first_piece.saturating_add(piece as usize);
        if self.state().held.has(at) {
            return Ok(Written::Already);
        }
        let part = entry.piece(piece, self.catalogue.piece_bytes());
        let mut rest = bytes;
        for place in entry.places(part) {
            let path = self.file(place.file);
            let here = usize::try_from(place.len)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (now, later) = rest.split_at(here);
            rest = later;
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| {
                    file.seek(SeekFrom::Start(place.start))?;
                    file.write_all(now)
                })
                .map_err(ShardError::io(&path, "write the file"))?;
        }
        let mut state = self.state();
        state.checked.set(at);
        self.journal(&mut state, at, Bits::set)?;
        Ok(Written::New)
    }

    /// Reads pieces `first` to `end` of a shard, which the caller has bounded.
    ///
    /// # Errors
    /// When one of them is not here, or the files cannot be read.
    pub fn read(&self, shard: usize, first: u32, end: u32) -> Result<Vec<u8>, ShardError> {
        let not_here = || ShardError::NotHere { shard, first, end };
        let entry = self.catalogue.shards().get(shard).ok_or_else(not_here)?;
        {
            let state = self.state();
            let wanted = self
                .pieces(shard)
                .filter(|(piece, _)| (first..end).contains(piece));
            let here = wanted.filter(|(_, at)| state.held.has(*at)).count();
            if first >= end || here != (end - first) as usize {
                return Err(not_here());
            }
        }
        let piece_bytes = self.catalogue.piece_bytes();
        let part = entry.piece(first, piece_bytes).start..entry.piece(end - 1, piece_bytes).end;
        let mut bytes = Vec::new();
        self.reader().read(&entry.places(part), &mut bytes)?;
        Ok(bytes)
    }

    /// Reads what an earlier process wrote of a shard and compares its hashes; pieces that differ are given up, to be
    /// fetched again, and returned. What was compared once is not read again.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn check(&self, shard: usize) -> Result<Vec<u32>, ShardError> {
        let Some(entry) = self.catalogue.shards().get(shard) else {
            return Ok(Vec::new());
        };
        let unchecked: Vec<(u32, usize)> = {
            let state = self.state();
            let open = |at: usize| state.held.has(at) && !state.checked.has(at);
            self.pieces(shard).filter(|(_, at)| open(*at)).collect()
        };
        let (mut reader, mut bytes, mut damaged) = (self.reader(), Vec::new(), Vec::new());
        for (piece, at) in unchecked {
            bytes.clear();
            let part = entry.piece(piece, self.catalogue.piece_bytes());
            reader.read(&entry.places(part), &mut bytes)?;
            let mut state = self.state();
            if Some(Digest::of(&bytes)) == self.catalogue.piece_digest(shard, piece) {
                state.checked.set(at);
            } else {
                self.journal(&mut state, at, Bits::clear)?;
                damaged.push(piece);
            }
        }
        Ok(damaged)
    }

    /// Makes sure that all that was written so far survives a power cut.
    ///
    /// # Errors
    /// When the system cannot write.
    pub fn seal(&self) -> Result<(), ShardError> {
        for file in 0..self.catalogue.files().len() {
            let path = self.file(file);
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(ShardError::io(&path, "write the file out"))?;
        }
        let path = self.dir.join(HELD_FILE);
        let state = self.state();
        state
            .journal
            .sync_all()
            .map_err(ShardError::io(&path, "write the file out"))
    }

    /// Gives the disk space of a shard back. `false`: this system or file system cannot, and nothing has changed.
    pub(crate) fn free(&self, shard: usize) -> Result<bool, ShardError> {
        let Some(entry) = self.catalogue.shards().get(shard) else {
            return Ok(true);
        };
        if !self.can_punch(entry)? {
            return Ok(false);
        }
        {
            let mut state = self.state();
            for (_, at) in self.pieces(shard) {
                if state.held.has(at) {
                    self.journal(&mut state, at, Bits::clear)?;
                    state.checked.clear(at);
                }
            }
        }
        for place in &entry.ranges {
            self.punch(place)?;
        }
        Ok(true)
    }

    /// Whether holes can be made, tried on bytes that are not here.
    fn can_punch(&self, entry: &crate::Shard) -> Result<bool, ShardError> {
        let Some(first) = entry.ranges.first() else {
            return Ok(false);
        };
        self.punch(&FileRange {
            start: self
                .catalogue
                .files()
                .get(first.file)
                .map_or(0, |file| file.bytes),
            len: 1,
            ..*first
        })
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, place: &FileRange) -> Result<bool, ShardError> {
        use rustix::fs::{FallocateFlags, fallocate};
        let path = self.file(place.file);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(ShardError::io(&path, "open the file"))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&file, flags, place.start, place.len) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
            Err(error) => Err(ShardError::io(&path, "give disk space back")(error.into())),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as where holes can be made"
    )]
    fn punch(&self, _place: &FileRange) -> Result<bool, ShardError> {
        Ok(false)
    }

    /// When a shard was last needed.
    pub(crate) fn used(&self, shard: usize) -> u64 {
        self.state().used.get(shard).copied().unwrap_or(0)
    }

    /// Remembers that these shards are needed at `now`.
    pub(crate) fn touch(&self, shards: &[usize], now: u64) -> Result<(), ShardError> {
        let bytes: Vec<u8> = {
            let mut state = self.state();
            for shard in shards {
                if let Some(used) = state.used.get_mut(*shard) {
                    *used = now;
                }
            }
            state
                .used
                .iter()
                .flat_map(|used| used.to_le_bytes())
                .collect()
        };
        write_whole(&self.dir.join(USED_FILE), &bytes)
    }

    /// Removes the model from the disk.
    pub(crate) fn remove(&self) -> Result<(), ShardError> {
        remove_dir(&self.dir)
    }

    fn reader(&self) -> Reader {
        Reader::new(files(&self.dir, &self.catalogue))
    }

    fn file(&self, index: usize) -> PathBuf {
        let name = self
            .catalogue
            .files()
            .get(index)
            .map_or("", |file| file.name.as_str());
        self.dir.join(FILES_DIR).join(name)
    }

    /// The pieces of a shard with their places in the journal.
    fn pieces(&self, shard: usize) -> impl Iterator<Item = (u32, usize)> + use<> {
        let entry = self.catalogue.shards().get(shard);
        let (first, count) = entry.map_or((0, 0), |entry| (entry.first_piece, entry.piece_count()));
        (0..count).zip(first..)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one bit, in memory and on disk.
    fn journal(
        &self,
        state: &mut State,
        at: usize,
        change: impl FnOnce(&mut Bits, usize),
    ) -> Result<(), ShardError> {
        change(&mut state.held, at);
        let byte = at / 8;
        let value = state.held.as_bytes().get(byte).copied().unwrap_or(0);
        let path = self.dir.join(HELD_FILE);
        state
            .journal
            .seek(SeekFrom::Start(byte as u64))
            .and_then(|_| state.journal.write_all(&[value]))
            .map_err(ShardError::io(&path, "write the file"))
    }
}

/// The paths of a model's files in the store.
pub(crate) fn files(dir: &Path, catalogue: &Catalogue) -> Vec<PathBuf> {
    let names = catalogue.files().iter();
    names
        .map(|file| dir.join(FILES_DIR).join(&file.name))
        .collect()
}

/// The journal of the image in `dir`.
pub(crate) fn read_held(dir: &Path, catalogue: &Catalogue) -> Result<Bits, ShardError> {
    let count = catalogue.piece_count();
    let bytes = read_bounded(&dir.join(HELD_FILE), count.div_ceil(8))?;
    let got = bytes.len();
    Bits::from_bytes(bytes, count).ok_or_else(|| {
        let expected = format!("{count} bits; remove {} to fetch anew", dir.display());
        ShardError::catalogue(
            "the journal of held pieces",
            format!("{got} bytes"),
            expected,
        )
    })
}
