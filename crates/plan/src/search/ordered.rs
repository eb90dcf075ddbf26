//! The best cuts for a given order of nodes.
//!
//! Owns the table over (position in the order, layers done). With [`Use::Any`] nodes of the order may be passed over, with
//! [`Use::All`] each takes a part.

use super::{Part, Placement, Problem};

/// Whether nodes of the order may be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Any,
    All,
}

#[derive(Clone, Copy)]
struct Entry {
    cost_s: f64,
    /// Position in the order of the stage before; `usize::MAX` for none.
    before: usize,
    /// Where this stage begins.
    first: usize,
    /// The node of stage 0 on this way.
    first_node: usize,
}

const NONE: usize = usize::MAX;
const EMPTY: Entry = Entry {
    cost_s: f64::INFINITY,
    before: NONE,
    first: 0,
    first_node: 0,
};

/// The order of nodes and the rules under which it is cut.
pub(super) struct Order<'o> {
    pub nodes: &'o [usize],
    pub uses: Use,
    /// No stage may take longer than this, in seconds.
    pub stage_s_max: f64,
}

/// The fastest cuts of `order`; None where none fits. Adds the table entries computed to `evaluated`.
///
/// With [`Use::Any`] and links of different speed the token's way back is counted for the way that reached each entry
/// first at least cost, so the result is a good split rather than a proven best.
pub(super) fn cut(
    problem: &Problem<'_>,
    order: &Order<'_>,
    evaluated: &mut u64,
) -> Option<Placement> {
    let cuts = problem.cuts();
    let width = cuts + 1;
    let mut entries = vec![EMPTY; order.nodes.len() * width];
    for (position, &node) in order.nodes.iter().enumerate() {
        for first in 0..cuts {
            let start = if first == 0 {
                (order.uses == Use::Any || position == 0).then_some((0.0, NONE, node))
            } else {
                best_before(problem, order, &entries, (position, first))
            };
            let Some((so_far_s, before, first_node)) = start else {
                continue;
            };
            for end in first + 1..=cuts {
                if !problem.fits(node, first, end) {
                    break;
                }
                let stage_s = problem.stage_s(node, first, end);
                if stage_s > order.stage_s_max {
                    break;
                }
                *evaluated += 1;
                let entry = &mut entries[position * width + end];
                if so_far_s + stage_s < entry.cost_s {
                    *entry = Entry {
                        cost_s: so_far_s + stage_s,
                        before,
                        first,
                        first_node,
                    };
                }
            }
        }
    }
    best_end(problem, order, &entries)
}

/// The cheapest way to have the layers before `first` done and the row at the node in `position`.
fn best_before(
    problem: &Problem<'_>,
    order: &Order<'_>,
    entries: &[Entry],
    (position, first): (usize, usize),
) -> Option<(f64, usize, usize)> {
    let width = problem.cuts() + 1;
    let from = match order.uses {
        Use::Any => 0,
        Use::All => position.saturating_sub(1),
    };
    let mut best: Option<(f64, usize, usize)> = None;
    for before in from..position {
        let entry = entries[before * width + first];
        let cost_s = entry.cost_s + problem.hop_s(order.nodes[before], order.nodes[position]);
        if cost_s < best.map_or(f64::INFINITY, |best| best.0) {
            best = Some((cost_s, before, entry.first_node));
        }
    }
    best
}

fn best_end(problem: &Problem<'_>, order: &Order<'_>, entries: &[Entry]) -> Option<Placement> {
    let cuts = problem.cuts();
    let width = cuts + 1;
    let from = match order.uses {
        Use::Any => 0,
        Use::All => order.nodes.len().saturating_sub(1),
    };
    let mut best: Option<(f64, usize)> = None;
    for position in from..order.nodes.len() {
        let entry = entries[position * width + cuts];
        let back_s = problem
            .links
            .token_s(order.nodes[position], entry.first_node);
        let decode_s = entry.cost_s + back_s;
        if decode_s < best.map_or(f64::INFINITY, |best| best.0) {
            best = Some((decode_s, position));
        }
    }
    let (decode_s, mut position) = best?;
    let mut parts = Vec::new();
    let mut end = cuts;
    while position != NONE {
        let entry = entries[position * width + end];
        parts.push(Part {
            node: order.nodes[position],
            first: entry.first,
            end,
        });
        (position, end) = (entry.before, entry.first);
    }
    parts.reverse();
    Some(Placement {
        parts,
        spread: None,
        decode_s,
    })
}
