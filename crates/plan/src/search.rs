//! The search over stage orders and layer cuts.
//!
//! Owns the question "which nodes, in which order, cut where": the least predicted decode seconds per token among all
//! splits that fit. Exact for up to [`EXACT_NODES_MAX`] nodes and [`CUTS_MAX`] cut places, bounded and deterministic
//! beyond. It must never know why a budget was chosen, nor print.
//!
//! The one idea: for a given order of nodes the best cuts follow from a table over (node, layers done), so orders are
//! all that has to be searched; and for few nodes a table over sets of nodes covers all orders at once.

mod balance;
mod exact;
mod large;
mod ordered;
mod sums;

pub(crate) use balance::balance;
pub(crate) use sums::{Problem, unplaced_bytes};

use crate::PlanMode;

/// Most nodes for which all orders are tried.
pub(crate) const EXACT_NODES_MAX: usize = 6;
/// Most places where a model may be cut in the exact search; models with more layers are cut every few layers.
pub(crate) const CUTS_MAX: usize = 256;
/// The same in the search over many nodes.
pub(crate) const CUTS_LARGE_MAX: usize = 128;

/// One stage of a placement, in indices of the problem's nodes and cut places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub node: usize,
    pub first: usize,
    pub end: usize,
}

/// A split that fits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placement {
    pub parts: Vec<Part>,
    /// Predicted seconds per generated token.
    pub decode_s: f64,
}

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Stop at the first split that fits.
    AnyFit,
    /// Look for the best.
    Best,
}

/// What a search found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub best: Placement,
    /// The best split over two nodes or more, where the search knows it.
    pub best_split: Option<Placement>,
    /// For each node the seconds per token of the best split that uses it, where the search knows it.
    pub best_with: Vec<Option<f64>>,
    /// Table entries computed.
    pub evaluated: u64,
}

/// Differences below this share are ties; then fewer nodes win, and then the order of ids.
const TIE: f64 = 1e-9;

/// Whether `new` is better than `old` by more than rounding, or equal with fewer stages.
pub(crate) fn better(new: &Placement, old: &Placement) -> bool {
    let margin = old.decode_s * TIE;
    if (new.decode_s - old.decode_s).abs() <= margin {
        new.parts.len() < old.parts.len()
    } else {
        new.decode_s < old.decode_s
    }
}

/// Finds the fastest split of `problem`; None where none fits.
pub(crate) fn search(problem: &Problem<'_>, mode: PlanMode, effort: Effort) -> Option<Found> {
    if problem.nodes.len() <= EXACT_NODES_MAX {
        exact::search(problem, mode)
    } else {
        large::search(problem, mode, effort)
    }
}

/// The fastest single node that can hold everything.
pub(crate) fn best_alone(problem: &Problem<'_>) -> Option<Placement> {
    let mut best: Option<Placement> = None;
    for node in 0..problem.nodes.len() {
        if !problem.fits(node, 0, problem.cuts()) {
            continue;
        }
        let alone = Placement {
            parts: vec![Part {
                node,
                first: 0,
                end: problem.cuts(),
            }],
            decode_s: problem.stage_s(node, 0, problem.cuts()),
        };
        if best.as_ref().is_none_or(|best| better(&alone, best)) {
            best = Some(alone);
        }
    }
    best
}

#[cfg(test)]
mod tests;
