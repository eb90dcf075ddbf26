//! All models of which a machine keeps shards, and how much of the disk they may take.
//!
//! Owns the bound: before anything is fetched, room is made by giving up what was needed longest ago. What the current
//! plan needs is pinned. Must be used by one process at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::remove_dir;
use crate::{Catalogue, Digest, Image, ShardError, Unit};

/// The limit where the system does not tell how much is free.
const LIMIT_UNKNOWN: u64 = 64 << 30;

/// The store in a directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Arc<Image>>,
    /// What the current plan needs.
    pinned: Option<(Digest, BTreeSet<usize>)>,
}

/// The limit where the owner names none: half of the disk space that is free, counting what the store already has.
#[must_use]
pub fn default_limit(dir: &Path, held_bytes: u64) -> u64 {
    free_bytes(dir).map_or(LIMIT_UNKNOWN, |free| free.saturating_add(held_bytes) / 2)
}

/// Bytes that this user could still write in `dir`, where the system tells.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}

/// Something that could be given up.
struct Candidate {
    used: u64,
    model: Digest,
    shard: usize,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is not there; it may take `limit` bytes. A model that cannot be read
    /// any more is removed: it is fetched again when it is needed.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, ShardError> {
        std::fs::create_dir_all(dir).map_err(ShardError::io(dir, "make the directory"))?;
        let mut images = BTreeMap::new();
        let entries = std::fs::read_dir(dir).map_err(ShardError::io(dir, "list the directory"))?;
        for entry in entries {
            let path = entry
                .map_err(ShardError::io(dir, "list the directory"))?
                .path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let stem = name.strip_suffix(".new").unwrap_or(name);
            // Only what this store has made is ever removed.
            let Ok(digest) = stem.parse::<Digest>() else {
                continue;
            };
            match Image::open(&path) {
                Ok(image) if stem == name && image.catalogue().digest() == digest => {
                    images.insert(digest, Arc::new(image));
                }
                _ => remove_dir(&path)?,
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            limit,
            state: Mutex::new(State {
                images,
                pinned: None,
            }),
        })
    }

    /// The same store with another limit.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// What the store may take.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes of all pieces that are here.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        held_bytes(&self.state())
    }

    /// A model of which something may be here.
    #[must_use]
    pub fn find(&self, catalogue: Digest) -> Option<Arc<Image>> {
        self.state().images.get(&catalogue).cloned()
    }

    /// All models of which something may be here.
    #[must_use]
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.state().images.values().cloned().collect()
    }

    /// The model of a catalogue, laid out if it is not there yet.
    ///
    /// # Errors
    /// When files cannot be made.
    pub fn image(&self, catalogue: Arc<Catalogue>) -> Result<Arc<Image>, ShardError> {
        let digest = catalogue.digest();
        let mut state = self.state();
        if let Some(image) = state.images.get(&digest) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(Image::create(
            &self.dir.join(digest.to_string()),
            catalogue,
        )?);
        state.images.insert(digest, Arc::clone(&image));
        Ok(image)
    }

    /// Pins `shards` of a model instead of what was pinned before, and makes room for those of their pieces that are
    /// missing.
    ///
    /// # Errors
    /// [`ShardError::Limit`] when they alone are more than the store may take; nothing was given up then.
    pub fn reserve(&self, image: &Arc<Image>, shards: &[usize]) -> Result<(), ShardError> {
        let model = image.catalogue().digest();
        let entries = image.catalogue().shards();
        let bytes = |at: &usize| entries.get(*at).map_or(0, |shard| shard.bytes);
        let needed: u64 = shards.iter().map(bytes).sum();
        if needed > self.limit {
            let limit = self.limit;
            return Err(ShardError::Limit { needed, limit });
        }
        let mut state = self.state();
        state.pinned = Some((model, shards.iter().copied().collect()));
        let images: Vec<_> = state.images.values().cloned().collect();
        let last = images
            .iter()
            .flat_map(|image| (0..image.catalogue().shards().len()).map(|shard| image.used(shard)));
        let now = last.max().unwrap_or(0).saturating_add(1);
        image.touch(shards, now)?;
        let here: u64 = shards.iter().map(|at| image.held_bytes(*at)).sum();
        self.make_room(&mut state, needed - here)
    }

    /// Lets everything be given up again.
    pub fn unpin(&self) {
        self.state().pinned = None;
    }

    /// Gives up what was needed longest ago until `bytes` more fit.
    fn make_room(&self, state: &mut State, bytes: u64) -> Result<(), ShardError> {
        let mut held = held_bytes(state);
        let fits = |held: u64| held.saturating_add(bytes) <= self.limit;
        let mut candidates = candidates(state);
        candidates.sort_by_key(|candidate| (candidate.used, candidate.model, candidate.shard));
        for candidate in candidates {
            if fits(held) {
                break;
            }
            let Some(image) = state.images.get(&candidate.model).cloned() else {
                continue;
            };
            let pinned = state
                .pinned
                .as_ref()
                .is_some_and(|(model, _)| *model == candidate.model);
            let freed = image.free(candidate.shard)?;
            let rest = (0..image.catalogue().shards().len()).any(|at| {
                image
                    .catalogue()
                    .shards()
                    .get(at)
                    .is_some_and(|s| s.unit != Unit::Base)
                    && image.held_bytes(at) > 0
            });
            if !pinned && (!freed || !rest) {
                state.images.remove(&candidate.model);
                image.remove()?;
            }
            held = held_bytes(state);
        }
        if fits(held) {
            return Ok(());
        }
        Err(ShardError::Limit {
            needed: held.saturating_add(bytes),
            limit: self.limit,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn held_bytes(state: &State) -> u64 {
    let of = |image: &Arc<Image>| -> u64 {
        (0..image.catalogue().shards().len())
            .map(|shard| image.held_bytes(shard))
            .sum()
    };
    state.images.values().map(of).sum()
}

/// All shards of which something is here and that are not pinned. A model's base goes with its last shard.
fn candidates(state: &State) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (model, image) in &state.images {
        for (shard, entry) in image.catalogue().shards().iter().enumerate() {
            let pinned = state
                .pinned
                .as_ref()
                .is_some_and(|(pinned, shards)| pinned == model && shards.contains(&shard));
            if entry.unit != Unit::Base && !pinned && image.held_bytes(shard) > 0 {
                found.push(Candidate {
                    used: image.used(shard),
                    model: *model,
                    shard,
                });
            }
        }
    }
    found
}
