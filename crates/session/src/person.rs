//! For whom a request is computed, and how much of the household that person may have beside others.

use proto::PersonId;

/// Whose request it is. The default is nobody in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Person {
    /// Requests with the same id share one turn.
    pub id: PersonId,
    /// How large that turn is.
    pub priority: Priority,
}

/// How much of the household a person gets while others wait: twice as much with each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Half of what is normal.
    Low,
    /// As much as others.
    #[default]
    Normal,
    /// Twice what is normal.
    High,
}

impl Priority {
    /// The word that people use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }

    /// The priority with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Priority::Low, Priority::Normal, Priority::High]
            .into_iter()
            .find(|priority| priority.name() == name)
    }

    /// Its part beside others.
    pub(crate) fn weight(self) -> u64 {
        match self {
            Priority::Low => 1,
            Priority::Normal => 2,
            Priority::High => 4,
        }
    }
}
