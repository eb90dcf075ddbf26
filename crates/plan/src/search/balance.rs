//! Evening out the cuts of a chosen order.
//!
//! For one conversation alone the stages of equally fast nodes may be cut anywhere: the sum is the same. Several
//! conversations, and the chunks of a prompt, overlap on different stages, and then the slowest stage counts. So once
//! nodes and order are chosen, the cuts minimise seconds per token plus [`SLOWEST_WEIGHT`] times the slowest stage: a
//! node up to a quarter slower than the fastest still gets an even share. Nodes and order are never changed here.

use super::ordered::{Order, Use, cut};
use super::{Placement, Problem};

/// What a second of the slowest stage counts beside a second per token.
pub(crate) const SLOWEST_WEIGHT: f64 = 0.25;
const HALVINGS: u32 = 24;
const STEPS: u32 = 32;

/// The placement with its cuts evened out.
pub(crate) fn balance(problem: &Problem<'_>, placement: Placement) -> Placement {
    if placement.parts.len() < 2 {
        return placement;
    }
    let nodes: Vec<usize> = placement.parts.iter().map(|part| part.node).collect();
    let mut evaluated = 0;
    let mut within = |stage_s_max: f64| {
        let order = Order {
            nodes: &nodes,
            uses: Use::All,
            stage_s_max,
        };
        cut(problem, &order, &mut evaluated)
    };
    let widest_s = slowest_s(problem, &placement);
    let (mut low_s, mut high_s) = (0.0, widest_s);
    for _ in 0..HALVINGS {
        let middle_s = low_s + (high_s - low_s) / 2.0;
        if within(middle_s).is_some() {
            high_s = middle_s;
        } else {
            low_s = middle_s;
        }
    }
    let mut best_score = score(problem, &placement);
    let mut best = placement;
    for step in 0..=STEPS {
        let limit_s = high_s + (widest_s - high_s) * f64::from(step) / f64::from(STEPS);
        if let Some(candidate) = within(limit_s) {
            let candidate_score = score(problem, &candidate);
            if candidate_score < best_score {
                best_score = candidate_score;
                best = candidate;
            }
        }
    }
    best
}

/// Seconds of the slowest stage.
pub(crate) fn slowest_s(problem: &Problem<'_>, placement: &Placement) -> f64 {
    let times = placement
        .parts
        .iter()
        .map(|part| problem.stage_s(part.node, part.first, part.end));
    times.fold(0.0, f64::max)
}

/// What [`balance`] minimises.
pub(crate) fn score(problem: &Problem<'_>, placement: &Placement) -> f64 {
    placement.decode_s + SLOWEST_WEIGHT * slowest_s(problem, placement)
}
