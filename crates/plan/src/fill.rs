//! How much cache and scratch a plan keeps.
//!
//! Owns the ladder of budgets from "one sequence at the smallest step" to "all sequences at full context", and the
//! filling up of what a chosen placement leaves free. It must never make a placement too large for a node.

use proto::facts::ModelFacts;
use proto::limits::PAGE_POSITIONS;

use crate::KvType;
use crate::memory::{CacheBudget, Holding, holding_bytes};

/// Rows of a step where memory is short.
pub(crate) const CHUNK_ROWS_LEAST: u32 = 16;
/// Rows of a step that are worth more than a longer default context.
pub(crate) const CHUNK_ROWS_SMALL: u32 = 64;
/// Rows of a step that are worth more than room for more sequences.
pub(crate) const CHUNK_ROWS_GOOD: u32 = 128;
/// Most rows of a step that a plan asks for.
pub(crate) const CHUNK_ROWS_MOST: u32 = 256;

/// What the caches have to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub kv: KvType,
    /// Positions per sequence.
    pub context: u32,
    /// Sequences of that length at a time.
    pub sequences: u32,
    pub chunk_rows: u32,
}

/// Pages of a sequence of `context` positions.
pub(crate) fn pages_of(context: u32) -> u32 {
    context.div_ceil(PAGE_POSITIONS)
}

impl Room {
    pub(crate) fn budget(self) -> CacheBudget {
        CacheBudget {
            kv: self.kv,
            pages: pages_of(self.context).saturating_mul(self.sequences),
            slots: self.sequences,
            chunk_rows: self.chunk_rows,
        }
    }
}

/// Raises `budget` towards `wanted` sequences of full context as far as the allowance of each of `parts` goes: first slots, so
/// that several short conversations can share the pages, then steps of a good size, then pages, then larger steps.
pub(crate) fn fill(
    model: &ModelFacts,
    parts: &[(Holding, u64)],
    budget: CacheBudget,
    wanted: Room,
) -> CacheBudget {
    let fits = |budget: &CacheBudget| {
        parts.iter().all(|(holding, allowance_bytes)| {
            holding_bytes(model, holding, budget)
                .is_ok_and(|bytes| bytes.total() <= *allowance_bytes)
        })
    };
    let mut filled = budget;
    filled.slots = most(filled.slots, wanted.sequences, |slots| {
        fits(&CacheBudget { slots, ..filled })
    });
    filled = grow_chunks(filled, CHUNK_ROWS_GOOD, &fits);
    let pages_max = pages_of(wanted.context).saturating_mul(filled.slots);
    filled.pages = most(filled.pages, pages_max, |pages| {
        fits(&CacheBudget { pages, ..filled })
    });
    grow_chunks(filled, CHUNK_ROWS_MOST, &fits)
}

fn grow_chunks(
    mut budget: CacheBudget,
    rows_max: u32,
    fits: &dyn Fn(&CacheBudget) -> bool,
) -> CacheBudget {
    while budget.chunk_rows < rows_max {
        let chunk_rows = (budget.chunk_rows * 2).min(rows_max);
        let larger = CacheBudget {
            chunk_rows,
            ..budget
        };
        if !fits(&larger) {
            break;
        }
        budget = larger;
    }
    budget
}

/// The largest number in `least..=most` that fits, where `least` is known to fit and what is larger fits less.
pub(crate) fn most(least: u32, most: u32, fits: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (least, most.max(least));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
