//! The search over stage orders, layer cuts, expert groups and head blocks.
//!
//! Owns the question "which nodes, in which order, cut where, and who holds which groups and blocks": the least predicted
//! decode seconds per token among all plans that fit. It must never know why a budget was chosen, nor print.
//!
//! What is covered for up to [`EXACT_NODES_MAX`] nodes, so that the best of it is found:
//! - every layer split, up to [`CUTS_MAX`] cut places ([`exact`]);
//! - every plan with one stage whose expert groups (the same of all layers) and head blocks are on any nodes
//!   ([`spread`]).
//!
//! A plan with groups or blocks away from their stages has to gain something, [`EXCHANGE_GAIN_MIN`], unless every node
//! must have a part. Groups and blocks of several stages are looked for from the best split, and from the best split of the trunks alone;
//! that finds good plans and proves nothing. Over more nodes all of it is bounded. Always the same request takes the same
//! steps.
//!
//! The one idea: for a given order of nodes the best cuts follow from a table over (node, layers done), so orders are
//! all that has to be searched; and for few nodes a table over sets of nodes covers all orders at once.

mod balance;
mod exact;
mod large;
mod ordered;
pub(crate) mod spread;
mod sums;

pub(crate) use balance::balance;
pub(crate) use sums::{Problem, unplaced_bytes};

use crate::PlanMode;
use proto::facts::expert_groups;
use spread::{Layout, Spread, Tables, Wanted};

/// Most nodes for which all orders are tried.
pub(crate) const EXACT_NODES_MAX: usize = 6;
/// Most places where a model may be cut in the exact search; models with more layers are cut every few layers.
pub(crate) const CUTS_MAX: usize = 256;
/// The same in the search over many nodes.
pub(crate) const CUTS_LARGE_MAX: usize = 128;
/// Nodes that are tried as the one stage over many nodes.
const TRUNK_NODES_LARGE: usize = 4;
/// How much faster than the best layer split a plan with groups or blocks away from their stages has to be, as a factor of
/// tokens per second. Predictions are not exact, and such a plan asks the network in every layer where a split passes one
/// row on, so that a link which is sometimes slow costs it far more.
pub(crate) const EXCHANGE_GAIN_MIN: f64 = 1.05;

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
    /// Groups and blocks, where some are away from their stages.
    pub spread: Option<Spread>,
    /// Predicted seconds per generated token.
    pub decode_s: f64,
}

impl Placement {
    /// How many nodes have a part.
    pub(crate) fn nodes(&self) -> usize {
        let Some(spread) = &self.spread else {
            return self.parts.len();
        };
        let stage = |node: &usize| self.parts.iter().any(|part| part.node == *node);
        let owners = (0..spread.groups.len()).filter(|node| !stage(node) && spread.gives(*node));
        self.parts.len() + owners.count()
    }
}

/// Which plans are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub mode: PlanMode,
    /// Whether groups and blocks may leave their stages.
    pub exchange: bool,
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
    /// The best layer split, where `best` is not one and there is one.
    pub without: Option<Placement>,
    /// A plan with groups or blocks away from their stages that is faster than `best`, but by too little.
    pub too_close: Option<Placement>,
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
        new.nodes() < old.nodes()
    } else {
        new.decode_s < old.decode_s
    }
}

/// Finds the fastest plan of `problem` in a space; None where none fits. A plan with groups or blocks away from their stages
/// is taken in [`PlanMode::Auto`] if it is faster by [`EXCHANGE_GAIN_MIN`].
pub(crate) fn search(problem: &Problem<'_>, space: Space, effort: Effort) -> Option<Found> {
    let split = match space.mode {
        PlanMode::Auto | PlanMode::Layers => layer_search(problem, space.mode, effort),
        PlanMode::Experts => layer_search(problem, PlanMode::Layers, effort),
    };
    if space.mode == PlanMode::Layers
        || !space.exchange
        || effort == Effort::AnyFit && split.is_some()
    {
        return split;
    }
    let everyone: Vec<usize> = (0..problem.nodes.len()).collect();
    let must = match space.mode {
        PlanMode::Experts => everyone.as_slice(),
        PlanMode::Auto | PlanMode::Layers => &[],
    };
    let best = split.as_ref().map(|found| &found.best);
    // The first stages that fit may take groups where better ones do not.
    let (spread, evaluated) = match spread_search(problem, best, must, effort) {
        (None, evaluated) if split.is_none() && effort == Effort::Best => {
            let (spread, more) = spread_search(problem, best, must, Effort::AnyFit);
            (spread, evaluated + more)
        }
        found => found,
    };
    let gain_min = if must.is_empty() {
        EXCHANGE_GAIN_MIN
    } else {
        1.0
    };
    choose(problem, split, spread, gain_min).map(|found| Found {
        evaluated: found.evaluated + evaluated,
        ..found
    })
}

/// Of the best split and the best plan with groups and blocks elsewhere the one to take.
fn choose(
    problem: &Problem<'_>,
    split: Option<Found>,
    spread: Option<Placement>,
    gain_min: f64,
) -> Option<Found> {
    let Some(split) = split else {
        let best = spread?;
        return Some(Found {
            best_split: (best.nodes() > 1).then(|| best.clone()),
            best,
            without: None,
            too_close: None,
            best_with: vec![None; problem.nodes.len()],
            evaluated: 0,
        });
    };
    let Some(spread) = spread.filter(|spread| better(spread, &split.best)) else {
        return Some(split);
    };
    if spread.spread.is_some() && spread.decode_s * gain_min > split.best.decode_s {
        return Some(Found {
            too_close: Some(spread),
            ..split
        });
    }
    let best_split = if spread.nodes() > 1 {
        Some(spread.clone())
    } else {
        split.best_split
    };
    Some(Found {
        best_split,
        without: spread.spread.is_some().then_some(split.best),
        best: spread,
        ..split
    })
}

/// The fastest plan that gives `node` a part, in seconds per token, where groups and blocks may leave their stages.
pub(crate) fn best_with(problem: &Problem<'_>, node: usize) -> Option<f64> {
    let (found, _) = spread_search(problem, None, &[node], Effort::Best);
    Some(found?.decode_s)
}

/// What groups and blocks elsewhere make of several choices of stages: the fastest plan that is faster than `split`, with
/// the layers evaluated. Lending is the last resort over few nodes, where everything else is covered.
fn spread_search(
    problem: &Problem<'_>,
    split: Option<&Placement>,
    must: &[usize],
    effort: Effort,
) -> (Option<Placement>, u64) {
    let mut evaluated = 0;
    let mut best: Option<Placement> = None;
    let mut tables = Tables::default();
    let choices = stage_choices(problem, split, must, effort);
    let few = problem.nodes.len() <= EXACT_NODES_MAX;
    let lending: &[bool] = match (must.is_empty(), few) {
        (true, _) => &[false],
        (false, true) => &[false, true],
        (false, false) => &[true],
    };
    for lend in lending {
        for parts in &choices {
            let Some(layout) = Layout::new(problem, parts.clone(), &mut tables) else {
                continue;
            };
            let known = best.as_ref().or(split);
            let wanted = Wanted {
                must,
                lend: *lend,
                any_fit: effort == Effort::AnyFit || *lend && few,
                below_s: known.map_or(f64::INFINITY, |known| known.decode_s),
            };
            if let Some((spread, decode_s)) = layout.spread(wanted, &mut evaluated) {
                let placement = Placement {
                    parts: layout.parts.clone(),
                    spread: layout.moved(spread),
                    decode_s,
                };
                let known = best.as_ref().or(split);
                if known.is_none_or(|known| better(&placement, known)) {
                    best = Some(placement);
                }
                if effort == Effort::AnyFit {
                    break;
                }
            }
        }
        if best.is_some() || split.is_some() {
            break;
        }
    }
    (best, evaluated)
}

/// Stages whose groups and blocks are worth handing out.
fn stage_choices(
    problem: &Problem<'_>,
    split: Option<&Placement>,
    must: &[usize],
    effort: Effort,
) -> Vec<Vec<Part>> {
    let whole = |node: usize| {
        vec![Part {
            node,
            first: 0,
            end: problem.cuts(),
        }]
    };
    let mut nodes: Vec<usize> = (0..problem.nodes.len()).collect();
    if nodes.len() > EXACT_NODES_MAX {
        let seconds = |node: &usize| problem.stage_s(*node, 0, problem.cuts());
        nodes.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        nodes.truncate(TRUNK_NODES_LARGE);
    }
    let mut choices: Vec<Vec<Part>> = nodes.into_iter().map(whole).collect();
    let trunks = problem.trunks();
    let several = layer_search(&trunks, PlanMode::Auto, effort)
        .into_iter()
        .chain(layer_search(&trunks, PlanMode::Layers, effort))
        .map(|found| found.best.parts);
    let several = several
        .chain(split.map(|split| split.parts.clone()))
        .chain(enough_stages(problem, must.len(), effort));
    for parts in several.filter(|parts| parts.len() > 1) {
        if !choices.contains(&parts) {
            choices.push(parts);
        }
    }
    choices
}

/// Stages over the fastest nodes, just so many that groups of all layers and head blocks are enough for the others. None
/// where one stage is enough for that, or not even a layer for each.
fn enough_stages(problem: &Problem<'_>, must: usize, effort: Effort) -> Option<Vec<Part>> {
    let model = problem.model;
    let groups = model.layers.iter().map(|layer| layer.group_bytes.len());
    let others = groups.sum::<usize>() + expert_groups(model.vocab) as usize;
    let count = must.saturating_sub(others);
    if count < 2 || count > problem.cuts() || count >= problem.nodes.len() {
        return None;
    }
    let least = problem.least_stage_bytes();
    let seconds = |node: &usize| problem.stage_s(*node, 0, problem.cuts());
    let large = |node: &usize| problem.nodes[*node].memory_bytes >= least;
    let mut chosen: Vec<usize> = (0..problem.nodes.len()).filter(large).collect();
    chosen.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    chosen.truncate(count);
    chosen.sort_unstable();
    let nodes: Vec<crate::NodeFacts> = chosen
        .iter()
        .map(|node| problem.nodes[*node].clone())
        .collect();
    let found = layer_search(&problem.over(&nodes, &chosen), PlanMode::Layers, effort)?;
    let parts = found.best.parts.iter().map(|part| Part {
        node: chosen[part.node],
        ..*part
    });
    Some(parts.collect())
}

/// Finds the fastest layer split; None where none fits. Every node gets layers in [`PlanMode::Layers`].
fn layer_search(problem: &Problem<'_>, mode: PlanMode, effort: Effort) -> Option<Found> {
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
            spread: None,
            decode_s: problem.stage_s(node, 0, problem.cuts()) + problem.links.token_s(node, node),
        };
        if best.as_ref().is_none_or(|best| better(&alone, best)) {
            best = Some(alone);
        }
    }
    best
}

#[cfg(test)]
mod tests;
