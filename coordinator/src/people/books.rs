//! What people have used and have under way, in memory. Knows no clock and no key: days are an argument.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto::PersonId;

use crate::store::Used;

/// What was used, of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.requests = self.requests.saturating_add(more.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(more.completion_tokens);
    }

    fn tokens(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

type Place = (i64, Arc<str>, Arc<str>);

/// The counts of this process.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// People who have come since the start; as many as there were keys.
    people: HashMap<Arc<str>, PersonId>,
    /// Requests under way, of those who have any.
    under_way: HashMap<PersonId, u32>,
    /// The day that `used` is about.
    day: i64,
    /// Tokens of that day.
    used: HashMap<Arc<str>, u64>,
    /// By day, person and model, what is not in the record yet.
    pending: BTreeMap<Place, Counts>,
}

impl Books {
    /// The person of this name, who is known from now on.
    pub fn person(&mut self, name: &str) -> (Arc<str>, PersonId) {
        if let Some((name, id)) = self.people.get_key_value(name) {
            return (Arc::clone(name), *id);
        }
        let name: Arc<str> = Arc::from(name);
        let id = PersonId(u64::try_from(self.people.len()).unwrap_or(u64::MAX)).next();
        self.people.insert(Arc::clone(&name), id);
        (name, id)
    }

    /// Tokens that somebody has used on a day, the newest that was asked for.
    pub fn today(&mut self, name: &str, day: i64) -> u64 {
        self.turn_to(day);
        self.used.get(name).copied().unwrap_or_default()
    }

    pub fn under_way(&self, person: PersonId) -> u32 {
        self.under_way.get(&person).copied().unwrap_or_default()
    }

    pub fn enter(&mut self, person: PersonId) {
        let under_way = self.under_way.entry(person).or_default();
        *under_way = under_way.saturating_add(1);
    }

    pub fn leave(&mut self, person: PersonId) {
        if let Some(under_way) = self.under_way.get_mut(&person) {
            *under_way = under_way.saturating_sub(1);
        }
        self.under_way.retain(|_, under_way| *under_way > 0);
    }

    /// Counts what was used now.
    pub fn add(&mut self, day: i64, person: &Arc<str>, model: &Arc<str>, more: Counts) {
        self.use_up(day, person, more.tokens());
        let place = (day, Arc::clone(person), Arc::clone(model));
        self.pending.entry(place).or_default().add(more);
    }

    /// Counts what the record says about a day.
    pub fn recall(&mut self, used: &Used) {
        let tokens = used.prompt_tokens.saturating_add(used.completion_tokens);
        self.use_up(used.day, &Arc::from(used.person.as_str()), tokens);
    }

    fn use_up(&mut self, day: i64, person: &Arc<str>, tokens: u64) {
        self.turn_to(day);
        let used = self.used.entry(Arc::clone(person)).or_default();
        *used = used.saturating_add(tokens);
    }

    /// A clock that was set back does not give back what was used.
    fn turn_to(&mut self, day: i64) {
        if day > self.day {
            self.day = day;
            self.used.clear();
        }
    }

    /// What is not in the record yet. To be put back if it cannot be written.
    pub fn take(&mut self) -> Vec<Used> {
        let pending = std::mem::take(&mut self.pending);
        let used = pending
            .into_iter()
            .map(|((day, person, model), counts)| Used {
                day,
                date: String::new(),
                person: person.to_string(),
                model: model.to_string(),
                requests: counts.requests,
                prompt_tokens: counts.prompt_tokens,
                completion_tokens: counts.completion_tokens,
            });
        used.collect()
    }

    pub fn put_back(&mut self, counts: Vec<Used>) {
        for used in counts {
            let place = (used.day, Arc::from(used.person), Arc::from(used.model));
            self.pending.entry(place).or_default().add(Counts {
                requests: used.requests,
                prompt_tokens: used.prompt_tokens,
                completion_tokens: used.completion_tokens,
            });
        }
    }
}
