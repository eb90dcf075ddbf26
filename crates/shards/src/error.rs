//! What can go wrong with shards, in words for the person who has to do something about it.

use std::path::{Path, PathBuf};

use crate::{Digest, Unit};

/// A shard, a catalogue or a store that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The disk is full. What was written before stays.
    #[error("{}: the disk is full: free some space, or give the store less with --store-limit; what was fetched is kept", path.display())]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// The store may not take so much.
    #[error(
        "{needed} bytes of shards are needed here, the store may take {limit}; raise --store-limit, free disk space, or take more machines"
    )]
    Limit {
        /// Bytes of all shards that are needed.
        needed: u64,
        /// What the owner gives.
        limit: u64,
    },
    /// A catalogue says what none may say.
    #[error("the shard catalogue: {what} is {got}; expected {expected}")]
    Catalogue {
        /// The field.
        what: String,
        /// What it says.
        got: String,
        /// What was expected.
        expected: String,
    },
    /// Bytes that are not what the catalogue says.
    #[error("piece {piece} of {unit} is damaged: its hash is {got}, expected {expected}")]
    Damaged {
        /// The shard.
        unit: Unit,
        /// The piece.
        piece: u32,
        /// The hash of what came.
        got: Digest,
        /// The hash in the catalogue.
        expected: Digest,
    },
    /// Pieces that are not here were asked for.
    #[error("pieces {first} to {end} of shard {shard} are not here")]
    NotHere {
        /// The shard's place in the catalogue.
        shard: usize,
        /// The first piece.
        first: u32,
        /// One past the last.
        end: u32,
    },
    /// The path holds nothing that can be checked.
    #[error("{}: {got}; expected {expected}", path.display())]
    NotShards {
        /// The path.
        path: PathBuf,
        /// What is there.
        got: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] model::ModelError),
}

impl ShardError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::DiskFull { .. } => "disk_full",
            Self::Limit { .. } => "store_limit",
            Self::Catalogue { .. } => "bad_catalogue",
            Self::Damaged { .. } => "damaged",
            Self::NotHere { .. } => "not_here",
            Self::NotShards { .. } => "not_shards",
            Self::Model(_) => "model_unreadable",
        }
    }

    /// A system error on `path`; a full disk has a word of its own.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path }
            }
            _ => Self::Io {
                path,
                action,
                source,
            },
        }
    }

    pub(crate) fn catalogue(
        what: impl Into<String>,
        got: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Catalogue {
            what: what.into(),
            got: got.to_string().chars().take(120).collect(),
            expected: expected.into(),
        }
    }
}
