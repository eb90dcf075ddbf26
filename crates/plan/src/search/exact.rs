//! All orders of up to six nodes at once.
//!
//! Owns the table over (set of nodes used, last of them, layers done), once for each first node, because the token's way
//! back depends on it. Every order and every cut is covered: an entry holds the fastest way to get there, and what
//! follows depends on nothing else.

use crate::PlanMode;

use super::{Found, Part, Placement, Problem, better};

#[derive(Clone, Copy)]
struct Entry {
    cost_s: f64,
    /// Node before the last one; the last one itself where it is the first.
    before: u8,
    /// Where the last node begins.
    first: u16,
}

const EMPTY: Entry = Entry {
    cost_s: f64::INFINITY,
    before: 0,
    first: 0,
};

/// Whether `new` is less than `old` by more than rounding. Of equal ways the first one found stays, and the loops run so
/// that equal nodes come in the order of their ids.
fn clearly_less(new: f64, old: f64) -> bool {
    new < old * (1.0 - 1e-12)
}

struct Table<'p, 'a> {
    problem: &'p Problem<'a>,
    entries: Vec<Entry>,
    evaluated: u64,
}

/// The fastest split; in [`PlanMode::Layers`] over all nodes, else over any of them.
pub(super) fn search(problem: &Problem<'_>, mode: PlanMode) -> Option<Found> {
    let count = problem.nodes.len();
    let sets = 1usize << count;
    let mut by_set: Vec<Option<Placement>> = vec![None; sets];
    let mut evaluated = 0;
    for first in 0..count {
        let mut table = Table::new(problem, first);
        for (set, best) in by_set.iter_mut().enumerate() {
            if set & (1 << first) != 0 {
                table.extend(set, first);
                table.finish(set, first, best);
            }
        }
        evaluated += table.evaluated;
    }
    let allowed = |set: usize| mode == PlanMode::Auto || set == sets - 1;
    let pick = |wanted: &dyn Fn(usize) -> bool| {
        let mut best: Option<&Placement> = None;
        for (set, placement) in by_set.iter().enumerate() {
            if let Some(placement) = placement.as_ref().filter(|_| wanted(set))
                && best.is_none_or(|best| better(placement, best))
            {
                best = Some(placement);
            }
        }
        best.cloned()
    };
    Some(Found {
        best: pick(&allowed)?,
        best_split: pick(&|set| set.count_ones() > 1),
        without: None,
        too_close: None,
        best_with: (0..count)
            .map(|node| pick(&|set| set & (1 << node) != 0).map(|best| best.decode_s))
            .collect(),
        evaluated,
    })
}

impl<'p, 'a> Table<'p, 'a> {
    fn new(problem: &'p Problem<'a>, first: usize) -> Self {
        let count = problem.nodes.len();
        let mut table = Self {
            problem,
            entries: vec![EMPTY; (1 << count) * count * (problem.cuts() + 1)],
            evaluated: 0,
        };
        table.place(1 << first, first, 0, (0.0, first));
        table
    }

    fn at(&self, set: usize, last: usize, done: usize) -> usize {
        (set * self.problem.nodes.len() + last) * (self.problem.cuts() + 1) + done
    }

    /// Puts `node` behind `before`, from `first` to every end that fits.
    fn place(&mut self, set: usize, node: usize, first: usize, (so_far_s, before): (f64, usize)) {
        for end in first + 1..=self.problem.cuts() {
            if !self.problem.fits(node, first, end) {
                break;
            }
            self.evaluated += 1;
            let cost_s = so_far_s + self.problem.stage_s(node, first, end);
            let at = self.at(set, node, end);
            if clearly_less(cost_s, self.entries[at].cost_s) {
                self.entries[at] = Entry {
                    cost_s,
                    before: u8::try_from(before).unwrap_or(u8::MAX),
                    first: u16::try_from(first).unwrap_or(u16::MAX),
                };
            }
        }
    }

    /// Adds each node that is not in `set` behind the best way to every cut place.
    fn extend(&mut self, set: usize, first_node: usize) {
        let count = self.problem.nodes.len();
        for next in (0..count).filter(|next| set & (1 << next) == 0) {
            for done in 1..self.problem.cuts() {
                let mut best = (f64::INFINITY, first_node);
                for last in (0..count).rev().filter(|last| set & (1 << last) != 0) {
                    let so_far = self.entries[self.at(set, last, done)].cost_s;
                    let with_hop = so_far + self.problem.hop_s(last, next);
                    if clearly_less(with_hop, best.0) {
                        best = (with_hop, last);
                    }
                }
                if best.0.is_finite() {
                    self.place(set | (1 << next), next, done, best);
                }
            }
        }
    }

    /// Compares the complete ways over exactly `set` with the best one known.
    fn finish(&self, set: usize, first: usize, best: &mut Option<Placement>) {
        let cuts = self.problem.cuts();
        let nodes = 0..self.problem.nodes.len();
        for last in nodes.rev().filter(|last| set & (1 << last) != 0) {
            let cost_s = self.entries[self.at(set, last, cuts)].cost_s;
            let decode_s = cost_s + self.problem.links.token_s(last, first);
            let known_s = best.as_ref().map_or(f64::INFINITY, |best| best.decode_s);
            if clearly_less(decode_s, known_s) {
                *best = Some(Placement {
                    parts: self.way_back(set, last),
                    spread: None,
                    decode_s,
                });
            }
        }
    }

    fn way_back(&self, set: usize, last: usize) -> Vec<Part> {
        let (mut set, mut node, mut end) = (set, last, self.problem.cuts());
        let mut parts = Vec::with_capacity(self.problem.nodes.len());
        loop {
            let entry = self.entries[self.at(set, node, end)];
            let first = usize::from(entry.first);
            parts.push(Part { node, first, end });
            if first == 0 {
                break;
            }
            set &= !(1 << node);
            node = usize::from(entry.before);
            end = first;
        }
        parts.reverse();
        parts
    }
}
