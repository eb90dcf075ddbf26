//! Many nodes: good orders instead of all orders.
//!
//! Owns a fixed list of orders to begin with (by id, by speed, by memory, along the fastest links), an improvement by
//! moving one node at a time under a fixed number of trials, and a last exact look at the few nodes that were chosen. The
//! same request always takes the same steps.

use crate::{NodeFacts, PlanMode};

use super::ordered::{Order, Use, cut};
use super::{EXACT_NODES_MAX, Effort, Found, Part, Placement, Problem, better, exact};

/// Orders tried while improving.
const TRIALS_MAX: usize = 48;
/// Chains along the fastest links.
const CHAINS: usize = 4;

/// A good split over more than six nodes.
pub(super) fn search(problem: &Problem<'_>, mode: PlanMode, effort: Effort) -> Option<Found> {
    let uses = match mode {
        PlanMode::Auto | PlanMode::Experts => Use::Any,
        PlanMode::Layers => Use::All,
    };
    let mut evaluated = 0;
    let mut best: Option<Candidate> = None;
    for order in first_orders(problem) {
        let candidate = attempt(problem, order, uses, &mut evaluated);
        best = faster(best, candidate);
        if effort == Effort::AnyFit && best.is_some() {
            break;
        }
    }
    let mut best = best?;
    if effort == Effort::Best {
        best = improve(problem, best, uses, &mut evaluated);
        if mode == PlanMode::Auto {
            best.placement = look_closer(problem, best.placement, &mut evaluated);
        }
    }
    let placement = best.placement;
    Some(Found {
        best_split: (placement.parts.len() > 1).then(|| placement.clone()),
        without: None,
        too_close: None,
        best_with: vec![None; problem.nodes.len()],
        best: placement,
        evaluated,
    })
}

/// A split and the order that it came from.
struct Candidate {
    placement: Placement,
    order: Vec<usize>,
}

fn attempt(
    problem: &Problem<'_>,
    order: Vec<usize>,
    uses: Use,
    evaluated: &mut u64,
) -> Option<Candidate> {
    let wanted = Order {
        nodes: &order,
        uses,
        stage_s_max: f64::INFINITY,
    };
    cut(problem, &wanted, evaluated).map(|placement| Candidate { placement, order })
}

fn faster(old: Option<Candidate>, new: Option<Candidate>) -> Option<Candidate> {
    match (old, new) {
        (Some(old), Some(new)) if better(&new.placement, &old.placement) => Some(new),
        (None, new) => new,
        (old, _) => old,
    }
}

/// Seconds that each node would take for the whole model: the measure of its speed.
fn whole_model_s(problem: &Problem<'_>) -> Vec<f64> {
    (0..problem.nodes.len())
        .map(|node| problem.stage_s(node, 0, problem.cuts()))
        .collect()
}

fn first_orders(problem: &Problem<'_>) -> Vec<Vec<usize>> {
    let by_id: Vec<usize> = (0..problem.nodes.len()).collect();
    let seconds = whole_model_s(problem);
    let mut by_speed = by_id.clone();
    by_speed.sort_by(|a, b| seconds[*a].total_cmp(&seconds[*b]));
    let memory = |node: &usize| problem.nodes[*node].memory_bytes;
    let mut by_memory = by_id.clone();
    by_memory.sort_by_key(|node| std::cmp::Reverse(memory(node)));
    let chains: Vec<Vec<usize>> = by_speed
        .iter()
        .take(CHAINS)
        .map(|start| chain(problem, *start, &seconds))
        .collect();
    let backwards = |order: &Vec<usize>| order.iter().rev().copied().collect::<Vec<usize>>();
    let mut orders = vec![
        by_id,
        backwards(&by_speed),
        backwards(&by_memory),
        by_speed,
        by_memory,
    ];
    orders.extend(chains);
    orders
}

/// From `start` always on to the node that is cheapest to reach, the faster one where that is equal.
fn chain(problem: &Problem<'_>, start: usize, seconds: &[f64]) -> Vec<usize> {
    let mut order = vec![start];
    let mut left: Vec<usize> = (0..problem.nodes.len())
        .filter(|node| *node != start)
        .collect();
    let mut at = start;
    while !left.is_empty() {
        let nearest = (0..left.len()).min_by(|a, b| {
            let cost =
                |index: usize| problem.hop_s(at, left[index]) + problem.hop_s(left[index], at);
            cost(*a)
                .total_cmp(&cost(*b))
                .then(seconds[left[*a]].total_cmp(&seconds[left[*b]]))
        });
        at = left.remove(nearest.unwrap_or(0));
        order.push(at);
    }
    order
}

/// Moves nodes of the placement to other positions while that helps and trials are left.
fn improve(problem: &Problem<'_>, start: Candidate, uses: Use, evaluated: &mut u64) -> Candidate {
    let count = start.order.len();
    let mut best = start;
    for trial in 0..TRIALS_MAX {
        let parts = &best.placement.parts;
        let node = parts[trial % parts.len()].node;
        let from = best
            .order
            .iter()
            .position(|other| *other == node)
            .unwrap_or(0);
        let to = (from + 1 + trial / parts.len()) % count;
        let mut moved = best.order.clone();
        moved.remove(from);
        moved.insert(to, node);
        if let Some(candidate) = attempt(problem, moved, uses, evaluated)
            && better(&candidate.placement, &best.placement)
        {
            best = candidate;
        }
    }
    best
}

/// Where few nodes were chosen: all orders of these and the fastest others, six in all.
fn look_closer(problem: &Problem<'_>, placement: Placement, evaluated: &mut u64) -> Placement {
    if placement.parts.len() > EXACT_NODES_MAX {
        return placement;
    }
    let mut chosen: Vec<usize> = placement.parts.iter().map(|part| part.node).collect();
    let seconds = whole_model_s(problem);
    let mut others: Vec<usize> = (0..problem.nodes.len())
        .filter(|node| !chosen.contains(node))
        .collect();
    others.sort_by(|a, b| seconds[*a].total_cmp(&seconds[*b]));
    chosen.extend(others.into_iter().take(EXACT_NODES_MAX - chosen.len()));
    chosen.sort_unstable();
    let nodes: Vec<NodeFacts> = chosen
        .iter()
        .map(|node| problem.nodes[*node].clone())
        .collect();
    let closer = problem.over(&nodes, &chosen);
    let Some(found) = exact::search(&closer, PlanMode::Auto) else {
        return placement;
    };
    *evaluated += found.evaluated;
    let parts = found.best.parts.iter().map(|part| Part {
        node: chosen[part.node],
        ..*part
    });
    let candidate = Placement {
        parts: parts.collect(),
        spread: None,
        decode_s: found.best.decode_s,
    };
    if better(&candidate, &placement) {
        candidate
    } else {
        placement
    }
}
