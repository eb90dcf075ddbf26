//! What the household must not forget: members, open invites, the highest epoch ever used, keys, and what people used.
//!
//! One SQLite file, every change one transaction, written through to the disk before it is acknowledged. Secrets are
//! kept as hashes only. Must never decide who is welcome: it burns an invite and admits its bearer, or says why not.
//!
//! The one idea: what a caller was told is on the disk. A killed process or a full disk loses nothing that was
//! acknowledged and invents nothing that was not.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto::{Epoch, NodeId, limits};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use thiserror::Error;

use admission::{admit, forget_closed, has_room, redeem};

pub use people::{KeyEntry, KeyRow, Made, Used};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "coordinator.db";
/// The form of the tables that this program writes.
const SCHEMA: i64 = 2;
/// Marks the file as ours: `Hrth`.
const APPLICATION: i64 = 0x4872_7468;
/// Former members that are told why they are refused.
const REMOVED_MAX: i64 = 1024;

const TABLES: &str = "
    CREATE TABLE household (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL,
        epoch INTEGER NOT NULL CHECK (epoch >= 0)
    ) STRICT;
    CREATE TABLE members (
        node_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        joined_at INTEGER NOT NULL,
        removed_at INTEGER
    ) STRICT;
    CREATE TABLE invites (
        fingerprint BLOB PRIMARY KEY,
        expires_at INTEGER NOT NULL,
        used_at INTEGER,
        used_by TEXT
    ) STRICT;
";

/// What can go wrong with the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is no database, or a page of it is damaged.
    #[error(
        "the household's record {path} is damaged ({text}): restore it from a backup, or move it away and invite all machines again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader met.
        text: String,
    },
    /// A later version of Hearth wrote it.
    #[error(
        "the household's record {path} has form {got}, this program knows forms up to {known}: use the version of Hearth that wrote it, or a newer one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its form.
        got: i64,
        /// The newest form that is known here.
        known: i64,
    },
    /// It is a database of another program.
    #[error("{path} belongs to another program: move it away, or choose another --data-dir")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written: permissions, a full disk, another process.
    #[error("the household's record {path} cannot be used: {source}")]
    Use {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Too many invites are open.
    #[error(
        "{open} invites are open, at most {max} may be: wait until one is used or expires",
        max = limits::INVITES_MAX
    )]
    TooManyInvites {
        /// How many.
        open: i64,
    },
    /// Too many keys work.
    #[error("{working} keys work, at most {max} may: revoke one that nobody uses", max = limits::KEYS_MAX)]
    TooManyKeys {
        /// How many.
        working: i64,
    },
    /// The task that was to do the work was ended.
    #[error("the household's record was closed before it could be used")]
    Closed,
}

impl StoreError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::Damaged { .. } => "store_damaged",
            StoreError::Newer { .. } => "store_newer",
            StoreError::Foreign { .. } => "store_foreign",
            StoreError::Use { .. } => "store_unusable",
            StoreError::TooManyInvites { .. } => "too_many_invites",
            StoreError::TooManyKeys { .. } => "too_many_keys",
            StoreError::Closed => "store_closed",
        }
    }
}

/// A machine of the household.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// The name under which it was paired.
    pub name: String,
    /// When, in seconds since 1970.
    pub joined_unix_s: i64,
}

/// What came of showing an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    /// The invite is used up and its bearer is a member.
    Admitted,
    /// No invite has this secret.
    Unknown,
    /// Somebody has used it.
    Used,
    /// It is too old.
    Expired,
    /// The household has all the members that it can have; the invite stays good.
    Full,
}

/// Who shows an invite, and when.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Hash of the secret that was shown.
    pub fingerprint: [u8; 32],
    /// The key that was proven.
    pub node: NodeId,
    /// What its owner calls the machine.
    pub name: String,
}

/// The open file. Clones share it; each call runs on a thread where it may block.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens the record of a data directory, or makes it.
    ///
    /// # Errors
    /// When the file is damaged, of another program, of a later version, or cannot be used.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = Arc::new(data_dir.join(FILE_NAME));
        let theirs = Arc::clone(&path);
        let opened = tokio::task::spawn_blocking(move || {
            open(&theirs).map_err(|trouble| trouble.at(&theirs))
        });
        let connection = opened.await.map_err(|_| StoreError::Closed)??;
        Ok(Self {
            path,
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Runs one transaction: all of it is on the disk, or nothing.
    async fn change<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    {
        let (path, connection) = (Arc::clone(&self.path), Arc::clone(&self.connection));
        let done = tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| Trouble::Sql(error).at(&path))?;
            let value = work(&transaction).map_err(|trouble| trouble.at(&path))?;
            transaction
                .commit()
                .map_err(|error| Trouble::Sql(error).at(&path))?;
            Ok(value)
        });
        done.await.map_err(|_| StoreError::Closed)?
    }

    /// The household's id, the same since its record was made.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn household(&self) -> Result<String, StoreError> {
        self.change(|t| Ok(t.query_row("SELECT id FROM household", [], |row| row.get(0))?))
            .await
    }

    /// The highest epoch that was ever given out; 0 before the first.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn last_epoch(&self) -> Result<Epoch, StoreError> {
        self.change(|t| epoch_of(t.query_row("SELECT epoch FROM household", [], |row| row.get(0))?))
            .await
    }

    /// An epoch that was never given out before, by this process or an earlier one.
    ///
    /// # Errors
    /// When it cannot be written: then none was given out.
    pub async fn next_epoch(&self) -> Result<Epoch, StoreError> {
        let next = "UPDATE household SET epoch = epoch + 1 RETURNING epoch";
        self.change(move |t| epoch_of(t.query_row(next, [], |row| row.get(0))?))
            .await
    }

    /// Opens an invite.
    ///
    /// # Errors
    /// When too many are open, or the file cannot be used.
    pub async fn issue(
        &self,
        fingerprint: [u8; 32],
        now_unix_s: i64,
        expires_unix_s: i64,
    ) -> Result<(), StoreError> {
        self.change(move |t| {
            forget_closed(t, now_unix_s)?;
            let open: i64 = t.query_row(
                "SELECT count(*) FROM invites WHERE used_at IS NULL AND expires_at > ?1",
                [now_unix_s],
                |row| row.get(0),
            )?;
            if usize::try_from(open).unwrap_or(usize::MAX) >= limits::INVITES_MAX {
                return Err(Trouble::TooManyInvites(open));
            }
            t.execute(
                "INSERT INTO invites (fingerprint, expires_at) VALUES (?1, ?2)",
                params![fingerprint, expires_unix_s],
            )?;
            Ok(())
        })
        .await
    }

    /// Burns an invite and admits its bearer, both or neither.
    ///
    /// # Errors
    /// When the file cannot be used: then nothing has happened.
    pub async fn redeem(&self, bearer: Bearer, now_unix_s: i64) -> Result<Redeemed, StoreError> {
        self.change(move |t| redeem(t, &bearer, now_unix_s)).await
    }

    /// All members, in the order of their keys.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn members(&self) -> Result<Vec<Member>, StoreError> {
        self.change(|t| {
            let mut rows = t.prepare(
                "SELECT node_id, name, joined_at FROM members WHERE removed_at IS NULL ORDER BY node_id",
            )?;
            let mut rows = rows.query([])?;
            let mut members = Vec::new();
            while let Some(row) = rows.next()? {
                let node: String = row.get(0)?;
                let node = NodeId::new(node).map_err(|error| Trouble::Content(error.to_string()))?;
                members.push(Member { node, name: row.get(1)?, joined_unix_s: row.get(2)? });
            }
            Ok(members)
        })
        .await
    }

    /// Admits a machine that its owner has approved. False if there is no room.
    ///
    /// # Errors
    /// When the file cannot be used: then nothing has happened.
    pub async fn admit(
        &self,
        node: NodeId,
        name: String,
        now_unix_s: i64,
    ) -> Result<bool, StoreError> {
        self.change(move |t| {
            let room = has_room(t, &node)?;
            if room {
                admit(t, &node, &name, now_unix_s)?;
            }
            Ok(room)
        })
        .await
    }

    /// Keys that were members and are none any more, the latest first, at most `REMOVED_MAX`.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn removed(&self) -> Result<Vec<NodeId>, StoreError> {
        self.change(|t| {
            let mut rows = t.prepare(
                "SELECT node_id FROM members WHERE removed_at IS NOT NULL ORDER BY removed_at DESC LIMIT ?1",
            )?;
            let mut rows = rows.query([REMOVED_MAX])?;
            let mut removed = Vec::new();
            while let Some(row) = rows.next()? {
                let node: String = row.get(0)?;
                removed.push(NodeId::new(node).map_err(|error| Trouble::Content(error.to_string()))?);
            }
            Ok(removed)
        })
        .await
    }

    /// Ends a membership for good, and withdraws every open invite: whoever is put out may have seen one. False if there
    /// was no such member.
    ///
    /// # Errors
    /// When the file cannot be used: then it is a member still.
    pub async fn remove(&self, node: NodeId, now_unix_s: i64) -> Result<bool, StoreError> {
        self.change(move |t| {
            let removed = t.execute(
                "UPDATE members SET removed_at = ?2 WHERE node_id = ?1 AND removed_at IS NULL",
                params![node.as_str(), now_unix_s],
            )?;
            if removed > 0 {
                t.execute(
                    "UPDATE invites SET expires_at = ?1 WHERE used_at IS NULL AND expires_at > ?1",
                    [now_unix_s],
                )?;
            }
            Ok(removed > 0)
        })
        .await
    }
}

/// An error before it knows its file.
#[derive(Debug)]
enum Trouble {
    Sql(rusqlite::Error),
    Content(String),
    Newer(i64),
    Foreign,
    TooManyInvites(i64),
    TooManyKeys(i64),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Trouble::Sql(error)
    }
}

impl Trouble {
    fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Trouble::Content(text) => StoreError::Damaged { path, text },
            Trouble::Newer(got) => StoreError::Newer {
                path,
                got,
                known: SCHEMA,
            },
            Trouble::Foreign => StoreError::Foreign { path },
            Trouble::TooManyInvites(open) => StoreError::TooManyInvites { open },
            Trouble::TooManyKeys(working) => StoreError::TooManyKeys { working },
            Trouble::Sql(source) => match source.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
                    path,
                    text: source.to_string(),
                },
                _ => StoreError::Use { path, source },
            },
        }
    }
}

fn open(path: &Path) -> Result<Connection, Trouble> {
    let mut connection = Connection::open(path)?;
    // Another process that reads the file (a backup) is waited for.
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let (application, form): (i64, i64) = (
        pragma(&connection, "application_id")?,
        pragma(&connection, "user_version")?,
    );
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (tables > 0 || application != 0) {
        return Err(Trouble::Foreign);
    }
    if form > SCHEMA {
        return Err(Trouble::Newer(form));
    }
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(Trouble::Content(check));
    }
    // The journal mode answers with a row; FULL makes a commit wait for the disk.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    if form < SCHEMA {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if form == 0 {
            make(&transaction)?;
        }
        transaction.execute_batch(people::TABLES)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
        transaction.commit()?;
    }
    Ok(connection)
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Makes the tables of a new household. The marks are part of the transaction.
fn make(transaction: &Transaction<'_>) -> Result<(), Trouble> {
    let id: [u8; 8] = rand::random();
    let id = id
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    transaction.execute_batch(TABLES)?;
    transaction.execute(
        "INSERT INTO household (one, id, epoch) VALUES (1, ?1, 0)",
        [id],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    Ok(())
}

fn epoch_of(stored: i64) -> Result<Epoch, Trouble> {
    u64::try_from(stored)
        .map(Epoch)
        .map_err(|_| Trouble::Content(format!("the epoch is {stored}, expected 0 or more")))
}

mod admission;
mod people;
#[cfg(test)]
mod tests;
