//! What the owner asks about keys and usage: one JSON value asks, one answers.
//!
//! The same for the local socket, for a command while no service runs, and for whoever serves the owner otherwise.

use proto::limits::PERSON_NAME_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use session::Priority;

use super::{ApiKey, DAY_S, LOCAL, OWNER, People, day, key, unix_s};
use crate::store::{KeyEntry, KeyRow, Made, Store, Used};

/// Days that one question about usage may span.
const DAYS_MAX: u32 = 400;
const WITHOUT_RECORD: &str = "this service keeps no record, and so no keys";

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    KeyCreate {
        name: String,
        #[serde(default)]
        tokens_per_day: Option<u32>,
        #[serde(default)]
        requests_at_once: Option<u32>,
        #[serde(default)]
        priority: Option<String>,
    },
    KeyList {},
    KeyRevoke {
        /// A name or a number.
        key: String,
    },
    Usage {
        #[serde(default = "one_day")]
        days: u32,
    },
}

fn one_day() -> u32 {
    1
}

/// Whether a request of the owner is about keys or usage.
#[must_use]
pub fn knows(request: &Value) -> bool {
    let what = request.get("do").and_then(Value::as_str);
    matches!(
        what,
        Some("key_create" | "key_list" | "key_revoke" | "usage")
    )
}

/// A key as its owner sees it. Never the key itself.
#[derive(Debug, Serialize)]
struct KeyFacts {
    id: i64,
    name: String,
    priority: String,
    tokens_per_day: Option<u32>,
    requests_at_once: Option<u32>,
    tokens_today: u64,
    created_unix_s: i64,
    revoked_unix_s: Option<i64>,
}

#[derive(Debug, Serialize)]
struct NewKey {
    /// Shown here and never again.
    key: String,
    /// Whether it is the first, so that from now on every request needs one.
    first: bool,
    #[serde(flatten)]
    facts: KeyFacts,
}

#[derive(Debug, Serialize)]
struct Revoked {
    #[serde(flatten)]
    facts: KeyFacts,
    /// Whether no key works any more.
    last: bool,
}

#[derive(Debug, Serialize)]
struct UsageFacts {
    days: u32,
    usage: Vec<UsedFacts>,
}

#[derive(Debug, Serialize)]
struct UsedFacts {
    day: String,
    person: String,
    model: String,
    requests: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl People {
    /// Answers a request of the owner that is about keys or usage.
    ///
    /// # Errors
    /// A sentence for the owner.
    pub async fn answer(&self, request: &Value) -> Result<Value, String> {
        let ask = Ask::deserialize(request).map_err(|error| {
            format!("the service does not understand the request ({error}). Are both of the same version?")
        })?;
        match ask {
            Ask::KeyCreate {
                name,
                tokens_per_day,
                requests_at_once,
                priority,
            } => {
                let entry = KeyEntry {
                    name: checked_name(name)?,
                    hash: [0; 32],
                    priority: checked_priority(priority.as_deref())?.name().to_owned(),
                    tokens_per_day: at_least_one("tokens a day", tokens_per_day)?,
                    requests_at_once: at_least_one("requests at once", requests_at_once)?,
                };
                json(&self.create(entry).await?)
            }
            Ask::KeyList {} => {
                let rows = self.record()?.keys().await.map_err(text)?;
                let keys: Vec<KeyFacts> = rows.into_iter().map(|row| self.facts(row)).collect();
                Ok(serde_json::json!({ "keys": keys }))
            }
            Ask::KeyRevoke { key } => json(&self.revoke(&key).await?),
            Ask::Usage { days } => json(&self.usage(days).await?),
        }
    }

    async fn create(&self, mut entry: KeyEntry) -> Result<NewKey, String> {
        let store = self.record()?;
        let secret = key::generate().map_err(text)?;
        entry.hash = ApiKey::new(&secret).hash();
        let now = unix_s();
        let name = entry.name.clone();
        let id = match store.add_key(entry.clone(), now).await.map_err(text)? {
            Made::Key(id) => id,
            Made::NameTaken => {
                return Err(format!(
                    "'{name}' has a key that works: revoke it first, or choose another name"
                ));
            }
        };
        let row = KeyRow {
            id,
            entry,
            created_unix_s: now,
            revoked_unix_s: None,
        };
        let first = !self.guarded();
        self.state().hold(row.clone());
        tracing::info!(key = id, name, "a key was made");
        Ok(NewKey {
            key: secret,
            first,
            facts: self.facts(row),
        })
    }

    async fn revoke(&self, wanted: &str) -> Result<Revoked, String> {
        let store = self.record()?;
        let mut row = {
            let state = self.state();
            let mut working = state.keys.iter().map(|held| &held.row);
            let found =
                working.find(|row| row.entry.name == wanted || row.id.to_string() == wanted);
            let found = found.cloned();
            found.ok_or_else(|| {
                let names: Vec<&str> = state
                    .keys
                    .iter()
                    .map(|h| h.row.entry.name.as_str())
                    .collect();
                format!(
                    "no key that works is called '{wanted}'; such keys are: {}",
                    names.join(", ")
                )
            })?
        };
        let now = unix_s();
        store.revoke_key(row.id, now).await.map_err(text)?;
        self.state().keys.retain(|held| held.row.id != row.id);
        tracing::info!(key = row.id, name = row.entry.name, "a key was revoked");
        row.revoked_unix_s = Some(now);
        Ok(Revoked {
            facts: self.facts(row),
            last: !self.guarded(),
        })
    }

    async fn usage(&self, days: u32) -> Result<UsageFacts, String> {
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(format!(
                "{days} days were asked for; expected 1 to {DAYS_MAX}"
            ));
        }
        let store = self.record()?;
        self.post().await.map_err(text)?;
        let first = day(unix_s().saturating_sub(i64::from(days - 1) * DAY_S));
        let used = store.usage_since(first).await.map_err(text)?;
        let usage = used.into_iter().map(|used| {
            let Used {
                date,
                person,
                model,
                requests,
                prompt_tokens,
                completion_tokens,
                ..
            } = used;
            UsedFacts {
                day: date,
                person,
                model,
                requests,
                prompt_tokens,
                completion_tokens,
            }
        });
        let usage = usage.collect();
        Ok(UsageFacts { days, usage })
    }

    fn record(&self) -> Result<&Store, String> {
        self.store().ok_or_else(|| WITHOUT_RECORD.to_owned())
    }

    fn facts(&self, row: KeyRow) -> KeyFacts {
        let tokens_today = self.state().books.today(&row.entry.name, day(unix_s()));
        KeyFacts {
            id: row.id,
            name: row.entry.name,
            priority: row.entry.priority,
            tokens_per_day: row.entry.tokens_per_day,
            requests_at_once: row.entry.requests_at_once,
            tokens_today,
            created_unix_s: row.created_unix_s,
            revoked_unix_s: row.revoked_unix_s,
        }
    }
}

fn json(value: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A name that can be typed, is no number and is not ours.
fn checked_name(name: String) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || "._-@".contains(c);
    let fits = (1..=PERSON_NAME_MAX).contains(&name.len()) && name.chars().all(plain);
    if !fits || name.chars().all(|c| c.is_ascii_digit()) || [LOCAL, OWNER].contains(&name.as_str())
    {
        let shown: String = name.chars().take(PERSON_NAME_MAX).collect();
        return Err(format!(
            "'{shown}' cannot be a person's name; expected letters, digits, '.', '_', '-' and '@', at most \
             {PERSON_NAME_MAX} bytes, not only digits, and neither '{LOCAL}' nor '{OWNER}', which are taken"
        ));
    }
    Ok(name)
}

fn checked_priority(name: Option<&str>) -> Result<Priority, String> {
    let Some(name) = name else {
        return Ok(Priority::default());
    };
    let expected = || format!("the priority '{name}' came; expected low, normal or high");
    Priority::named(name).ok_or_else(expected)
}

fn at_least_one(what: &str, limit: Option<u32>) -> Result<Option<u32>, String> {
    match limit {
        Some(0) => Err(format!(
            "0 {what} came; expected at least 1, or no such limit: revoke the key to shut somebody out"
        )),
        limit => Ok(limit),
    }
}
