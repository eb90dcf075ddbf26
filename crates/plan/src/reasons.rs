//! A plan in plain language.
//!
//! Owns the sentences: why so many nodes, what limits the speed, what was lowered, who was left out. Each states facts
//! that the search or the memory model computed; none is a guess.

use crate::search::{
    EXACT_NODES_MAX, EXCHANGE_GAIN_MIN, Effort, Found, Placement, Problem, Space, best_with, search,
};
use crate::size::size_text;
use crate::speed::{DEFAULT_LINK_BYTES_PER_S, DEFAULT_RTT_S};
use crate::{LeftOut, NodeFacts, Plan, PlanMode};
use proto::NodeId;

/// What the sentences are made from.
pub(crate) struct Facts<'f> {
    /// The request with room for one sequence.
    pub base: &'f Problem<'f>,
    /// What was found for it.
    pub base_found: &'f Found,
    pub plan: &'f Plan,
    pub found: &'f Found,
    /// The fastest single node that holds everything.
    pub alone: Option<&'f Placement>,
    pub space: Space,
    pub context_wanted: u32,
    pub sequences_wanted: u32,
}

/// A change that makes a token faster by less than this factor is not worth a sentence.
const GAIN_WORTH_SAYING: f64 = 1.05;
/// Speeds that differ by less than this factor are called equal.
const AS_FAST: f64 = 1.01;
/// Machines that one sentence names; a household may have many, and a text has an end.
const NAMED_MAX: usize = 8;

fn rate(seconds: f64) -> String {
    let rate = if seconds > 0.0 { 1.0 / seconds } else { 0.0 };
    if rate < 9.95 {
        format!("{rate:.2} tokens/s")
    } else {
        format!("{rate:.1} tokens/s")
    }
}

/// All sentences of a plan, the most important first.
pub(crate) fn explain(facts: &Facts<'_>) -> Vec<String> {
    let mut reasons = vec![why_these_nodes(facts)];
    reasons.extend(who_holds_experts(facts));
    reasons.extend(what_was_not_worth_it(facts));
    reasons.extend(what_limits(facts));
    reasons.extend(what_would_change(facts));
    reasons.extend(what_was_lowered(facts));
    reasons.extend(about_ends(facts));
    reasons
}

fn why_these_nodes(facts: &Facts<'_>) -> String {
    let plan = facts.plan;
    let now = rate(plan.prediction.decode_s_per_token);
    if plan.stages.len() == 1 && !plan.exchanges() {
        let name = &plan.stages[0].name;
        return match &facts.found.best_split {
            None => format!("'{name}' runs the whole model alone."),
            Some(split) => {
                let slower = split.decode_s > plan.prediction.decode_s_per_token * AS_FAST;
                format!(
                    "One machine alone is {}: '{name}' reaches {now}; layers split over {} machines would reach {}.",
                    if slower { "faster" } else { "as fast" },
                    split.nodes(),
                    rate(split.decode_s)
                )
            }
        };
    }
    let count = nodes_of(plan);
    let Some(alone) = facts.alone else {
        let nodes = facts.base.nodes.iter();
        let largest = nodes.map(|node| node.memory_bytes).max().unwrap_or(0);
        return format!(
            "{count} machines share the model, because none holds it alone: with the caches of one conversation it takes {}, and the largest allowance is {}.",
            size_text(facts.base.stage_bytes(0, facts.base.cuts())),
            size_text(largest)
        );
    };
    let name = &facts.base.nodes[alone.parts[0].node].name;
    let single = rate(alone.decode_s);
    if facts.space.mode != PlanMode::Auto && alone.decode_s < plan.prediction.decode_s_per_token {
        return format!(
            "One machine alone would be faster for one conversation: '{name}' would reach {single}, these {count} reach {now}. All are used because the plan asks for every node."
        );
    }
    format!(
        "{count} machines share the model: one conversation runs at {now} (on '{name}' alone at {single}), and there is room for {} conversations at once.",
        plan.slots
    )
}

fn nodes_of(plan: &Plan) -> usize {
    let mut nodes: Vec<&NodeId> = plan.stages.iter().map(|stage| &stage.node).collect();
    nodes.extend(plan.experts.iter().map(|part| &part.node));
    nodes.extend(plan.head_blocks.iter().map(|part| &part.node));
    nodes.sort_unstable();
    nodes.dedup();
    nodes.len()
}

/// Groups and blocks away from their stages, and what of the time is spent on them.
fn who_holds_experts(facts: &Facts<'_>) -> Vec<String> {
    let plan = facts.plan;
    if !plan.exchanges() {
        return Vec::new();
    }
    let budget = plan.budget();
    let parts = plan.parts(facts.base.model);
    let mut held: Vec<(u32, String)> = parts
        .iter()
        .filter_map(|part| {
            let groups = part.holding.groups.values().map(|set| set.len()).max()?;
            let bytes = crate::holding_bytes(facts.base.model, &part.holding, &budget).ok()?;
            let text = format!("'{}' {groups} ({})", part.name, size_text(bytes.total()));
            (groups > 0).then_some((groups, text))
        })
        .collect();
    // Those with most first; equal ones in the order of the plan.
    held.sort_by_key(|(groups, _)| std::cmp::Reverse(*groups));
    let mut reasons = Vec::new();
    if !plan.experts.is_empty() {
        reasons.push(format!(
            "In every layer that is shared several machines work on their experts at the same time. Expert groups that each holds of a layer at most, and its memory in all: {}.",
            names(held.into_iter().map(|(_, text)| text).collect())
        ));
    }
    if !plan.head_blocks.is_empty() {
        let held = parts
            .iter()
            .map(|part| (&part.name, part.holding.head_blocks.len()));
        let held = held.filter(|(_, blocks)| *blocks > 0);
        reasons.push(format!(
            "The output head, the last step of every token, is computed by several machines at once. Blocks of it: {}.",
            names(held.map(|(name, blocks)| format!("'{name}' {blocks}")).collect())
        ));
    }
    let seconds = &plan.prediction;
    let waits: f64 = facts.base.trunks_s(plan);
    let share = (1.0 - (waits + seconds.hops_s_per_token) / seconds.decode_s_per_token) * 100.0;
    if share.is_finite() && share > 0.0 {
        reasons.push(format!(
            "Of a token's time {share:.0} % goes to experts and output head, the waiting for other machines included; the rest to what a layer needs beside its experts."
        ));
    }
    reasons
}

/// A list of machines, cut short where it is long.
fn names(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}

/// Experts elsewhere that would gain too little.
fn what_was_not_worth_it(facts: &Facts<'_>) -> Option<String> {
    let close = facts.base_found.too_close.as_ref()?;
    let percent = (EXCHANGE_GAIN_MIN - 1.0) * 100.0;
    Some(format!(
        "Experts or output head shared among {} machines might reach {}. That is less than {percent:.0} % more, too little for a prediction to be relied on, so every layer stays whole.",
        close.nodes(),
        rate(close.decode_s)
    ))
}

/// What a cable or one more machine would change, where that can be said for sure. Both are compared with the fastest plan of
/// the machines at hand, with room for one conversation each time: what a wish for every node or for more room costs is
/// no reason to buy anything.
fn what_would_change(facts: &Facts<'_>) -> Vec<String> {
    let base = facts.base;
    if base.nodes.len() > EXACT_NODES_MAX {
        return Vec::new();
    }
    let space = Space {
        mode: PlanMode::Auto,
        ..facts.space
    };
    let best = |problem: &Problem<'_>| search(problem, space, Effort::Best).map(|found| found.best);
    let Some(now) = best(base) else {
        return Vec::new();
    };
    let mut reasons = Vec::new();
    let slow_links = base
        .links
        .slower_than(DEFAULT_RTT_S, DEFAULT_LINK_BYTES_PER_S);
    let wired = base.with_links(base.links.at_least(DEFAULT_RTT_S, DEFAULT_LINK_BYTES_PER_S));
    let with_cables = if slow_links { best(&wired) } else { None };
    let cables_gain = with_cables.filter(|found| gains(found, &now));
    if let Some(found) = &cables_gain {
        reasons.push(format!(
            "With gigabit cables between the machines one conversation could run at {} instead of {}{}.",
            rate(found.decode_s),
            rate(now.decode_s),
            by_sharing(found, &now)
        ));
    }
    let seconds = |node: &usize| base.stage_s(*node, 0, base.cuts());
    let fastest = (0..base.nodes.len()).min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    if let Some(fastest) = fastest
        && base.nodes.len() < EXACT_NODES_MAX
    {
        let name = &base.nodes[fastest].name;
        let nodes = base.nodes.iter().chain([&base.nodes[fastest]]).cloned();
        let nodes: Vec<NodeFacts> = nodes.collect();
        // A new machine on a cable reaches the others as fast as they are wired themselves.
        let grown = wired.with_one_more(&nodes, fastest);
        let known = cables_gain.as_ref().unwrap_or(&now);
        if let Some(found) = best(&grown) {
            let cables = if slow_links && base.nodes.len() > 1 {
                ", all on gigabit cables,"
            } else {
                " on a gigabit cable"
            };
            reasons.push(if gains(&found, known) {
                format!(
                    "One more machine like '{name}'{cables} could make one conversation faster: {} instead of {}{}.",
                    rate(found.decode_s),
                    rate(known.decode_s),
                    by_sharing(&found, known)
                )
            } else {
                format!("One more machine like '{name}' would not make one conversation faster.")
            });
        }
    }
    reasons
}

fn gains(new: &Placement, old: &Placement) -> bool {
    new.decode_s < old.decode_s / GAIN_WORTH_SAYING
}

/// Says so where a gain comes from a way of working that the plan at hand does not have.
fn by_sharing(new: &Placement, old: &Placement) -> &'static str {
    match (&new.spread, &old.spread) {
        (Some(_), None) => ", by sharing experts or output head",
        _ => "",
    }
}

fn what_limits(facts: &Facts<'_>) -> Vec<String> {
    let prediction = &facts.plan.prediction;
    let whole = prediction.decode_s_per_token;
    if facts.plan.stages.len() < 2 || facts.plan.exchanges() || whole <= 0.0 {
        return Vec::new();
    }
    let percent = |part: f64| match 100.0 * part / whole {
        percent if percent < 1.0 => "less than 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    };
    let stages = facts.plan.stages.iter().zip(&prediction.stage_s_per_token);
    let slowest = stages.max_by(|a, b| a.1.total_cmp(b.1));
    let mut reasons = Vec::new();
    if let Some((stage, seconds)) = slowest {
        reasons.push(format!(
            "Of a token's time '{}' takes the largest part, {}; the network takes {}.",
            stage.name,
            percent(*seconds),
            percent(prediction.hops_s_per_token)
        ));
    }
    if prediction.hops_s_per_token > whole / 2.0 {
        reasons.push(
            "More than half of the time is the network: links with less delay would help most."
                .to_owned(),
        );
    }
    reasons
}

fn what_was_lowered(facts: &Facts<'_>) -> Vec<String> {
    let plan = facts.plan;
    let mut reasons = Vec::new();
    if plan.context < facts.context_wanted {
        reasons.push(format!(
            "Context lowered from {} to {} positions: that is what the memory leaves beside the weights.",
            facts.context_wanted, plan.context
        ));
    }
    let full = plan.pages / crate::fill::pages_of(plan.context).max(1);
    if full < facts.sequences_wanted {
        let shorter = if plan.slots > full {
            format!(", or up to {} shorter ones", plan.slots)
        } else {
            String::new()
        };
        reasons.push(format!(
            "The cache holds {full} conversation(s) of full length at once{shorter}; {} of full length were wanted.",
            facts.sequences_wanted
        ));
    }
    reasons
}

fn about_ends(facts: &Facts<'_>) -> Option<String> {
    let model = facts.base.model;
    (model.tied_head && facts.plan.stages.len() > 1).then(|| {
        format!(
            "Embedding and head are one matrix of {}; it is held twice, by the first and the last stage.",
            size_text(model.embedding_bytes)
        )
    })
}

/// The nodes without a part, each with the reason.
pub(crate) fn left_out(
    problem: &Problem<'_>,
    plan: &Plan,
    found: &Found,
    exchange: bool,
) -> Vec<LeftOut> {
    let least = problem.least_stage_bytes();
    let idle = problem
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| !plan.has(&node.id));
    let why = |at: usize| {
        let node = &problem.nodes[at];
        if node.memory_bytes < least {
            return format!(
                "it offers {}, and the smallest possible part, one layer with caches and scratch, takes {}",
                size_text(node.memory_bytes),
                size_text(least)
            );
        }
        let mut with_s = found.best_with.get(at).copied().flatten();
        if exchange && problem.nodes.len() <= EXACT_NODES_MAX {
            let spread_s = best_with(problem, at);
            with_s = with_s.into_iter().chain(spread_s).min_by(f64::total_cmp);
        }
        let now_s = found.best.decode_s;
        let rates = |with_s: f64| format!("{} against {}", rate(with_s), rate(now_s));
        match with_s {
            Some(with_s) if with_s > now_s * AS_FAST => {
                format!(
                    "one conversation would be slower with it: {}",
                    rates(with_s)
                )
            }
            Some(with_s) if with_s < now_s / AS_FAST => {
                format!(
                    "one conversation would hardly be faster with it: {}",
                    rates(with_s)
                )
            }
            Some(_) => "it is not needed: no plan with it is faster".to_owned(),
            None if problem.nodes.len() > EXACT_NODES_MAX => {
                "no faster plan with it was found".to_owned()
            }
            None => "no plan with it fits the memory".to_owned(),
        }
    };
    idle.map(|(at, node)| LeftOut {
        node: node.id.clone(),
        name: node.name.clone(),
        reason: why(at),
    })
    .collect()
}
