//! Responses that are kept for their people: in memory, bounded by count and bytes, the oldest goes first.
//!
//! Nothing here outlives the process. A response belongs to who asked for it; to everybody else it does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::PersonId;
use serde_json::Value;

use crate::text::Message;

/// What a store may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) count_per_owner: usize,
    pub(super) bytes_per_owner: usize,
    pub(super) bytes: usize,
}

const BOUNDS: Bounds = Bounds {
    count_per_owner: 256,
    bytes_per_owner: 16 << 20,
    bytes: 64 << 20,
};

/// A response that was given.
#[derive(Debug)]
pub(super) struct Kept {
    /// As its client got it.
    pub(super) body: Value,
    /// The whole conversation up to it, its answer included; instructions are not carried on.
    pub(super) messages: Vec<Message>,
}

impl Kept {
    /// Bytes that it takes, near enough.
    fn bytes(&self) -> usize {
        let message = |message: &Message| match message {
            Message::System(said) | Message::User(said) => said.text.len(),
            Message::Tool(result) => result.text.len(),
            Message::Assistant(turn) => {
                let calls = turn.calls.iter();
                let calls = calls.map(|call| json_bytes(&call.arguments) + call.name.len());
                turn.text.len()
                    + turn.reasoning.as_ref().map_or(0, String::len)
                    + calls.sum::<usize>()
            }
        };
        const EACH: usize = 128;
        let messages = self.messages.iter();
        let messages = messages.map(|m| message(m).saturating_add(EACH));
        json_bytes(&self.body).saturating_add(messages.sum())
    }
}

fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |bytes| bytes.len())
}

#[derive(Debug)]
struct Entry {
    owner: PersonId,
    /// When it came, counted.
    age: u64,
    bytes: usize,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<String, Entry>,
    bytes: usize,
    last_age: u64,
}

/// All kept responses.
#[derive(Debug)]
pub(in crate::http) struct Store {
    bounds: Bounds,
    entries: Mutex<Entries>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(BOUNDS)
    }
}

impl Store {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: Mutex::default(),
        }
    }

    /// Keeps a response, and lets go of as many older ones as that takes: first of its owner, then of anybody. One that
    /// is too large for all bounds is not kept.
    pub(super) fn put(&self, owner: PersonId, id: &str, kept: Kept) {
        let bytes = kept.bytes();
        let bounds = self.bounds;
        if bytes > bounds.bytes_per_owner.min(bounds.bytes) {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.count_of(owner) >= bounds.count_per_owner
            || entries.bytes_of(owner).saturating_add(bytes) > bounds.bytes_per_owner
        {
            if !entries.drop_oldest(|entry| entry.owner == owner) {
                return;
            }
        }
        while entries.bytes.saturating_add(bytes) > bounds.bytes {
            if !entries.drop_oldest(|_| true) {
                return;
            }
        }
        entries.last_age = entries.last_age.saturating_add(1);
        let entry = Entry {
            owner,
            age: entries.last_age,
            bytes,
            kept: Arc::new(kept),
        };
        entries.bytes = entries.bytes.saturating_add(bytes);
        entries.by_id.insert(id.to_owned(), entry);
    }

    /// A response of this owner.
    pub(super) fn get(&self, owner: PersonId, id: &str) -> Option<Arc<Kept>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.by_id.get(id)?;
        (entry.owner == owner).then(|| Arc::clone(&entry.kept))
    }

    /// Lets go of a response of this owner; whether there was one.
    pub(super) fn remove(&self, owner: PersonId, id: &str) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.by_id.get(id).is_some_and(|e| e.owner == owner);
        known && entries.drop_id(id)
    }
}

impl Entries {
    fn count_of(&self, owner: PersonId) -> usize {
        self.of(owner).count()
    }

    fn bytes_of(&self, owner: PersonId) -> usize {
        self.of(owner).map(|entry| entry.bytes).sum()
    }

    fn of(&self, owner: PersonId) -> impl Iterator<Item = &Entry> {
        self.by_id.values().filter(move |e| e.owner == owner)
    }

    fn drop_oldest(&mut self, which: impl Fn(&Entry) -> bool) -> bool {
        let all = self.by_id.iter().filter(|(_, entry)| which(entry));
        let oldest = all.min_by_key(|(_, entry)| entry.age);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.drop_id(&id)
    }

    fn drop_id(&mut self, id: &str) -> bool {
        let Some(entry) = self.by_id.remove(id) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Said;

    const ADA: PersonId = PersonId(1);
    const BEN: PersonId = PersonId(2);

    fn kept(bytes: usize) -> Kept {
        Kept {
            body: Value::Null,
            // The body takes 4, the message 128 beside its text.
            messages: vec![Message::User(Said::new("x".repeat(bytes - 132)))],
        }
    }

    fn store() -> Store {
        Store::new(Bounds {
            count_per_owner: 3,
            bytes_per_owner: 2000,
            bytes: 3000,
        })
    }

    fn known<'a>(store: &Store, owner: PersonId, ids: &[&'a str]) -> Vec<&'a str> {
        let here = |id: &&&str| store.get(owner, id).is_some();
        ids.iter().filter(here).copied().collect()
    }

    #[test]
    fn the_oldest_of_the_same_person_goes_first() {
        let store = store();
        store.put(BEN, "b", kept(200));
        for id in ["1", "2", "3", "4"] {
            store.put(ADA, id, kept(200));
        }
        assert_eq!(known(&store, ADA, &["1", "2", "3", "4"]), ["2", "3", "4"]);
        store.put(ADA, "5", kept(1700));
        assert_eq!(known(&store, ADA, &["2", "3", "4", "5"]), ["4", "5"]);
        assert_eq!(known(&store, BEN, &["b"]), ["b"]);
    }

    #[test]
    fn all_together_are_bounded_and_what_is_too_large_is_not_kept() {
        let store = store();
        store.put(ADA, "a", kept(1500));
        store.put(BEN, "b", kept(1400));
        store.put(BEN, "c", kept(500));
        assert_eq!(known(&store, ADA, &["a"]), [""; 0]);
        assert_eq!(known(&store, BEN, &["b", "c"]), ["b", "c"]);
        store.put(BEN, "d", kept(2001));
        assert_eq!(known(&store, BEN, &["b", "c", "d"]), ["b", "c"]);
    }

    #[test]
    fn nobody_sees_or_deletes_what_is_another_s() {
        let store = store();
        store.put(ADA, "a", kept(200));
        assert!(store.get(BEN, "a").is_none());
        assert!(!store.remove(BEN, "a"));
        assert!(store.remove(ADA, "a"));
        assert!(!store.remove(ADA, "a"));
        assert!(store.get(ADA, "a").is_none());
    }
}
