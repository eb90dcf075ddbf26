//! Who may ask, how much, and what they have used.
//!
//! Owns keys, limits and counts: in memory for every request, in the household's record for good. Must never know a
//! text, a prompt or a route. A key is shown once, when it is made; kept is its BLAKE3 hash, which is enough for a secret
//! of 160 random bits.
//!
//! The one idea: whoever was recognised carries a [`Caller`], a request that was let in carries a [`Visit`], and what the
//! visit counts reaches the record in batches, all of it when the service ends well.

mod books;
mod key;
mod office;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::PersonId;
use session::{Person, Priority};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::store::{KeyRow, Store, StoreError};
use books::Books;

pub use key::ApiKey;
pub use office::knows;

/// Who comes without a key.
const LOCAL: &str = "local";
/// Who comes with the key of a file.
const OWNER: &str = "owner";
/// Counts reach the record this often.
const POST_EVERY: Duration = Duration::from_secs(5);
/// When to come back if one's requests take all places.
const BUSY_RETRY_S: u32 = 2;
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// All who may ask. Clones share everything; the default knows no key and keeps nothing.
#[derive(Clone, Default)]
pub struct People(Arc<Shared>);

#[derive(Default)]
struct Shared {
    store: Option<Store>,
    /// The key of a file, beside those of the record.
    file_key: Option<ApiKey>,
    /// Held for moments, never while waiting.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keys that work.
    keys: Vec<Held>,
    books: Books,
}

struct Held {
    key: ApiKey,
    row: KeyRow,
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("People(***)")
    }
}

/// What somebody may use; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Tokens of prompts and answers in a day, which ends at midnight UTC. An answer under way is finished.
    pub tokens_per_day: Option<u32>,
    /// Requests under way.
    pub requests_at_once: Option<u32>,
}

/// Why nobody was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Stranger {
    /// There are keys, and none came.
    #[error("no key came")]
    NoKey,
    /// What came is no key, or one that was revoked.
    #[error("the key that came is unknown or was revoked")]
    WrongKey,
}

/// Why somebody who was recognised has to wait.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OverLimit {
    /// The tokens of this day are used up.
    #[error(
        "{person} has used {used} of {limit} tokens of this day; the next day begins at midnight UTC, in {retry_after_s} s"
    )]
    Day {
        /// Who.
        person: Arc<str>,
        /// Tokens so far.
        used: u64,
        /// Tokens of a day.
        limit: u32,
        /// When to come back.
        retry_after_s: u32,
    },
    /// As many requests as allowed are under way.
    #[error(
        "{person} has {limit} requests under way, as many as allowed at once; try again when one has been answered"
    )]
    AtOnce {
        /// Who.
        person: Arc<str>,
        /// Requests at once.
        limit: u32,
    },
}

impl OverLimit {
    /// A stable name of the limit.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            OverLimit::Day { .. } => "tokens_per_day",
            OverLimit::AtOnce { .. } => "requests_at_once",
        }
    }

    /// Seconds after which asking again can help.
    #[must_use]
    pub fn retry_after_s(&self) -> u32 {
        match self {
            OverLimit::Day { retry_after_s, .. } => *retry_after_s,
            OverLimit::AtOnce { .. } => BUSY_RETRY_S,
        }
    }
}

impl People {
    /// Reads the keys and today's counts of a household, whose record is made if it is not there.
    ///
    /// # Errors
    /// When the record cannot be used.
    pub async fn open(data_dir: &Path, file_key: Option<ApiKey>) -> Result<Self, StoreError> {
        let store = Store::open(data_dir).await?;
        let mut state = State::default();
        for row in store.keys().await? {
            if row.revoked_unix_s.is_none() {
                state.hold(row);
            }
        }
        let today = day(unix_s());
        for used in store.usage_since(today).await? {
            state.books.recall(&used);
        }
        Ok(Self(Arc::new(Shared {
            store: Some(store),
            file_key,
            state: Mutex::new(state),
        })))
    }

    /// People who are known by one key alone, and of whom nothing is kept.
    #[must_use]
    pub fn with_key(key: ApiKey) -> Self {
        Self(Arc::new(Shared {
            file_key: Some(key),
            ..Shared::default()
        }))
    }

    /// The household's record, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    /// Whether any key works, so that one is asked for.
    #[must_use]
    pub fn guarded(&self) -> bool {
        self.0.file_key.is_some() || !self.state().keys.is_empty()
    }

    /// Who this is, by the key that came. Where no key works, everybody is the same person, without limits.
    ///
    /// # Errors
    /// There are keys, and none or none of them came.
    pub fn recognise(&self, offered: Option<&[u8]>) -> Result<Caller, Stranger> {
        if !self.guarded() {
            return Ok(self.caller(LOCAL, Priority::Normal, Limits::default()));
        }
        let offered = ApiKey::of(offered.ok_or(Stranger::NoKey)?);
        let mut found = None;
        // All keys are compared, so that the time says nothing about which were close.
        for held in &self.state().keys {
            if held.key.same(&offered) {
                found = Some(held.row.clone());
            }
        }
        let by_file = self
            .0
            .file_key
            .as_ref()
            .is_some_and(|key| key.same(&offered));
        match found {
            Some(row) => {
                let limits = Limits {
                    tokens_per_day: row.entry.tokens_per_day,
                    requests_at_once: row.entry.requests_at_once,
                };
                let priority = Priority::named(&row.entry.priority).unwrap_or_default();
                Ok(self.caller(&row.entry.name, priority, limits))
            }
            None if by_file => Ok(self.caller(OWNER, Priority::Normal, Limits::default())),
            None => Err(Stranger::WrongKey),
        }
    }

    fn caller(&self, name: &str, priority: Priority, limits: Limits) -> Caller {
        let (name, id) = self.state().books.person(name);
        Caller {
            people: self.clone(),
            name,
            person: Person { id, priority },
            limits,
        }
    }

    /// Writes counts into the record now and then, until it is told to end.
    #[must_use]
    pub fn keep_books(&self) -> Bookkeeper {
        let (end, mut ended) = oneshot::channel::<()>();
        let people = self.clone();
        let task = tokio::spawn(async move {
            let mut due = tokio::time::interval(POST_EVERY);
            loop {
                let last = tokio::select! {
                    _ = due.tick() => false,
                    // A sender that is gone ends it as well.
                    _ = &mut ended => true,
                };
                if let Err(error) = people.post().await {
                    tracing::warn!(%error, "what people used could not be written down; it is tried again");
                }
                if last {
                    return;
                }
            }
        });
        Bookkeeper { end, task }
    }

    /// Writes all counts into the record.
    ///
    /// # Errors
    /// When it cannot be written: the counts are kept for the next time.
    pub async fn post(&self) -> Result<(), StoreError> {
        let Some(store) = &self.0.store else {
            return Ok(());
        };
        let counts = self.state().books.take();
        if counts.is_empty() {
            return Ok(());
        }
        let added = store.add_usage(counts.clone()).await;
        if added.is_err() {
            self.state().books.put_back(counts);
        }
        added
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are whole after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, row: KeyRow) {
        let key = ApiKey::of_hash(row.entry.hash);
        self.keys.push(Held { key, row });
    }
}

/// Somebody who was recognised.
#[derive(Debug, Clone)]
pub struct Caller {
    people: People,
    name: Arc<str>,
    person: Person,
    limits: Limits,
}

impl Caller {
    /// Whose requests these are, for the session.
    #[must_use]
    pub fn person(&self) -> Person {
        self.person
    }

    /// The name in the household's record.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets one request in, for as long as the visit is held.
    ///
    /// # Errors
    /// A limit is reached.
    pub fn enter(&self, model: &str) -> Result<Visit, OverLimit> {
        self.enter_at(unix_s(), model)
    }

    fn enter_at(&self, now_unix_s: i64, model: &str) -> Result<Visit, OverLimit> {
        let mut state = self.people.state();
        let used = state.books.today(&self.name, day(now_unix_s));
        if let Some(limit) = self.limits.tokens_per_day.filter(|l| used >= u64::from(*l)) {
            return Err(OverLimit::Day {
                person: Arc::clone(&self.name),
                used,
                limit,
                retry_after_s: until_midnight_s(now_unix_s),
            });
        }
        let under_way = state.books.under_way(self.person.id);
        if let Some(limit) = self.limits.requests_at_once.filter(|l| under_way >= *l) {
            return Err(OverLimit::AtOnce {
                person: Arc::clone(&self.name),
                limit,
            });
        }
        state.books.enter(self.person.id);
        Ok(Visit {
            people: self.people.clone(),
            id: self.person.id,
            name: Arc::clone(&self.name),
            model: Arc::from(model),
        })
    }
}

/// A request that was let in. Dropping it makes place for the next one.
#[derive(Debug)]
pub struct Visit {
    people: People,
    id: PersonId,
    name: Arc<str>,
    model: Arc<str>,
}

impl Visit {
    /// The household has taken the request on.
    pub fn begin(&self, prompt_tokens: u64) {
        self.count(1, prompt_tokens, 0);
    }

    /// So many tokens of the answer have come.
    pub fn answered(&self, tokens: u64) {
        self.count(0, 0, tokens);
    }

    fn count(&self, requests: u64, prompt_tokens: u64, completion_tokens: u64) {
        let day = day(unix_s());
        let counts = books::Counts {
            requests,
            prompt_tokens,
            completion_tokens,
        };
        let mut state = self.people.state();
        state.books.add(day, &self.name, &self.model, counts);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.people.state().books.leave(self.id);
    }
}

/// The task that writes counts down.
#[derive(Debug)]
pub struct Bookkeeper {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Bookkeeper {
    /// Writes down what is left and ends.
    pub async fn close(self) {
        // It is gone already if nobody hears it.
        let _heard = self.end.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that writes down what people use broke off");
        }
    }
}

/// Seconds since 1970 by this machine's clock.
fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// Days since 1970, in UTC.
fn day(unix_s: i64) -> i64 {
    unix_s.div_euclid(DAY_S)
}

fn until_midnight_s(unix_s: i64) -> u32 {
    u32::try_from(DAY_S - unix_s.rem_euclid(DAY_S)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
