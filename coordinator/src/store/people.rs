//! Keys and what people have used, in the household's record.
//!
//! A key is kept as its hash. Counts are added in batches; a day is the number of days since 1970, in UTC.

use proto::limits;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Store, StoreError, Trouble};

/// What the second form of the record adds.
pub(super) const TABLES: &str = "
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        priority TEXT NOT NULL,
        tokens_per_day INTEGER,
        requests_at_once INTEGER,
        created_at INTEGER NOT NULL,
        revoked_at INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX keys_that_work ON keys (name) WHERE revoked_at IS NULL;
    CREATE TABLE usage (
        day INTEGER NOT NULL,
        person TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        PRIMARY KEY (day, person, model)
    ) STRICT, WITHOUT ROWID;
";

/// Revoked keys that are remembered, so that the owner sees when they ended.
const REVOKED_MAX: i64 = 256;
/// Days for which counts are kept.
const DAYS_KEPT: i64 = 400;
/// Rows that one question about usage is answered with.
const ROWS_MAX: i64 = 10_000;

/// A key as it is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Whose it is; of the keys that work, one has this name.
    pub name: String,
    /// Of the secret.
    pub hash: [u8; 32],
    /// The name of a priority.
    pub priority: String,
    /// Tokens that its person may use in a day.
    pub tokens_per_day: Option<u32>,
    /// Requests that its person may have under way.
    pub requests_at_once: Option<u32>,
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its number, given out once.
    pub id: i64,
    /// The key.
    pub entry: KeyEntry,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: i64,
    /// When it was revoked, in seconds since 1970.
    pub revoked_unix_s: Option<i64>,
}

/// What came of making a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It works from now on, under this number.
    Key(i64),
    /// A key of this name works already.
    NameTaken,
}

/// What one person used of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Days since 1970.
    pub day: i64,
    /// That day as YYYY-MM-DD; not read when counts are added.
    pub date: String,
    /// Whose.
    pub person: String,
    /// Of which model.
    pub model: String,
    /// Requests that were taken on.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
}

impl Store {
    /// Keeps a new key.
    ///
    /// # Errors
    /// When too many keys work, or the file cannot be used: then it does not work.
    pub async fn add_key(&self, entry: KeyEntry, now_unix_s: i64) -> Result<Made, StoreError> {
        self.change(move |t| add_key(t, &entry, now_unix_s)).await
    }

    /// All keys, those that work first, the oldest of them first.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.change(|t| {
            let mut rows = t.prepare(
                "SELECT id, name, hash, priority, tokens_per_day, requests_at_once, created_at, revoked_at
                 FROM keys ORDER BY revoked_at IS NOT NULL, id",
            )?;
            let rows = rows.query_map([], key_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Ends a key for good. False if no key that works has this number.
    ///
    /// # Errors
    /// When the file cannot be used: then it works still.
    pub async fn revoke_key(&self, id: i64, now_unix_s: i64) -> Result<bool, StoreError> {
        self.change(move |t| {
            let revoked = t.execute(
                "UPDATE keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                [id, now_unix_s],
            )?;
            t.execute(
                "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE revoked_at IS NOT NULL
                 ORDER BY revoked_at DESC, id DESC LIMIT -1 OFFSET ?1)",
                [REVOKED_MAX],
            )?;
            Ok(revoked > 0)
        })
        .await
    }

    /// Adds counts to those that are there, all or none.
    ///
    /// # Errors
    /// When the file cannot be used: then nothing was added.
    pub async fn add_usage(&self, counts: Vec<Used>) -> Result<(), StoreError> {
        self.change(move |t| {
            let mut add = t.prepare(
                "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (day, person, model) DO UPDATE SET
                 requests = requests + ?4, prompt_tokens = prompt_tokens + ?5,
                 completion_tokens = completion_tokens + ?6",
            )?;
            let newest = counts.iter().map(|used| used.day).max();
            for used in &counts {
                let (requests, prompt) = (signed(used.requests), signed(used.prompt_tokens));
                let completion = signed(used.completion_tokens);
                add.execute(params![used.day, used.person, used.model, requests, prompt, completion])?;
            }
            if let Some(newest) = newest {
                t.execute("DELETE FROM usage WHERE day < ?1", [newest.saturating_sub(DAYS_KEPT)])?;
            }
            Ok(())
        })
        .await
    }

    /// What was used from a day on, the newest day first.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn usage_since(&self, day: i64) -> Result<Vec<Used>, StoreError> {
        self.change(move |t| {
            let mut rows = t.prepare(
                "SELECT day, date(day * 86400, 'unixepoch'), person, model, requests, prompt_tokens, completion_tokens
                 FROM usage WHERE day >= ?1 ORDER BY day DESC, person, model LIMIT ?2",
            )?;
            let rows = rows.query_map([day, ROWS_MAX], used_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn add_key(t: &Transaction<'_>, entry: &KeyEntry, now_unix_s: i64) -> Result<Made, Trouble> {
    let same = "SELECT id FROM keys WHERE name = ?1 AND revoked_at IS NULL";
    let same: Option<i64> = t
        .query_row(same, [&entry.name], |row| row.get(0))
        .optional()?;
    if same.is_some() {
        return Ok(Made::NameTaken);
    }
    let working = "SELECT count(*) FROM keys WHERE revoked_at IS NULL";
    let working: i64 = t.query_row(working, [], |row| row.get(0))?;
    if usize::try_from(working).unwrap_or(usize::MAX) >= limits::KEYS_MAX {
        return Err(Trouble::TooManyKeys(working));
    }
    t.execute(
        "INSERT INTO keys (name, hash, priority, tokens_per_day, requests_at_once, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            entry.name,
            entry.hash,
            entry.priority,
            entry.tokens_per_day,
            entry.requests_at_once,
            now_unix_s
        ],
    )?;
    Ok(Made::Key(t.last_insert_rowid()))
}

fn key_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: row.get(0)?,
        entry: KeyEntry {
            name: row.get(1)?,
            hash: row.get(2)?,
            priority: row.get(3)?,
            tokens_per_day: row.get(4)?,
            requests_at_once: row.get(5)?,
        },
        created_unix_s: row.get(6)?,
        revoked_unix_s: row.get(7)?,
    })
}

fn used_row(row: &Row<'_>) -> rusqlite::Result<Used> {
    let count = |at| {
        row.get(at)
            .map(|n: i64| u64::try_from(n).unwrap_or_default())
    };
    Ok(Used {
        day: row.get(0)?,
        date: row.get(1)?,
        person: row.get(2)?,
        model: row.get(3)?,
        requests: count(4)?,
        prompt_tokens: count(5)?,
        completion_tokens: count(6)?,
    })
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
