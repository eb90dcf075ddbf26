//! A plan in plain language.
//!
//! Owns the sentences: why so many nodes, what limits the speed, what was lowered, who was left out. Each states facts
//! that the search or the memory model computed; none is a guess.

use crate::search::{EXACT_NODES_MAX, Effort, Found, Placement, Problem, Space, best_with, search};
use crate::size::size_text;
use crate::speed::{DEFAULT_LINK_BYTES_PER_S, DEFAULT_RTT_S};
use crate::{LeftOut, NodeFacts, Plan, PlanMode};
use proto::NodeId;

/// What the sentences are made from.
pub(crate) struct Facts<'f> {
    /// The request with room for one sequence.
    pub base: &'f Problem<'f>,
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
            Some(split) => format!(
                "One machine alone is faster: '{name}' reaches {now}; the best split over {} machines would reach {}.",
                split.nodes(),
                rate(split.decode_s)
            ),
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
    let held = plan.parts(facts.base.model).into_iter().filter_map(|part| {
        let groups = part.holding.groups.values().map(|set| set.len()).max()?;
        let bytes = crate::holding_bytes(facts.base.model, &part.holding, &budget).ok()?;
        Some(format!(
            "'{}' {groups} ({})",
            part.name,
            size_text(bytes.total())
        ))
    });
    let held: Vec<String> = held.collect();
    let mut reasons = Vec::new();
    if !plan.experts.is_empty() {
        reasons.push(format!(
            "Each layer's rows go once to all machines that hold its expert groups, and these work at the same time. Groups of a layer, with the memory taken in all: {}.",
            held.join(", ")
        ));
    }
    let blocks = plan.head_blocks.iter();
    let blocks: Vec<String> = blocks
        .map(|part| format!("'{}' {}", part.name, part.blocks.len()))
        .collect();
    if !blocks.is_empty() {
        reasons.push(format!(
            "The output head is computed by several machines at once; beside the last stage: {} of {} blocks.",
            blocks.join(", "),
            proto::facts::expert_groups(facts.base.model.vocab)
        ));
    }
    let seconds = &plan.prediction;
    let waits: f64 = facts.base.trunks_s(plan);
    let share = (1.0 - (waits + seconds.hops_s_per_token) / seconds.decode_s_per_token) * 100.0;
    if share.is_finite() && share > 0.0 {
        reasons.push(format!(
            "Of a token's time {share:.0} % are experts and head with the ways to them; the rest are the layers' trunks."
        ));
    }
    reasons
}

/// What a cable or one more machine would change, where that can be said for sure.
fn what_would_change(facts: &Facts<'_>) -> Vec<String> {
    let base = facts.base;
    if base.nodes.len() > EXACT_NODES_MAX {
        return Vec::new();
    }
    let now_s = facts.found.best.decode_s;
    let space = Space {
        mode: PlanMode::Auto,
        ..facts.space
    };
    let mut reasons = Vec::new();
    if base
        .links
        .slower_than(DEFAULT_RTT_S, DEFAULT_LINK_BYTES_PER_S)
    {
        let wired = base.with_links(base.links.at_least(DEFAULT_RTT_S, DEFAULT_LINK_BYTES_PER_S));
        if let Some(found) = search(&wired, space, Effort::Best)
            && found.best.decode_s < now_s / GAIN_WORTH_SAYING
        {
            reasons.push(format!(
                "With gigabit cables between the machines one conversation would run at {}.",
                rate(found.best.decode_s)
            ));
        }
    }
    let seconds = |node: &usize| base.stage_s(*node, 0, base.cuts());
    let fastest = (0..base.nodes.len()).min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    if let Some(fastest) = fastest
        && base.nodes.len() < EXACT_NODES_MAX
    {
        let name = &base.nodes[fastest].name;
        let nodes = base.nodes.iter().chain([&base.nodes[fastest]]).cloned();
        let nodes: Vec<NodeFacts> = nodes.collect();
        let grown = base.with_one_more(&nodes, fastest);
        if let Some(found) = search(&grown, space, Effort::Best) {
            reasons.push(if found.best.decode_s < now_s / GAIN_WORTH_SAYING {
                format!(
                    "One more machine like '{name}' on a gigabit cable would make one conversation faster: {}.",
                    rate(found.best.decode_s)
                )
            } else {
                format!("One more machine like '{name}' would not make one conversation faster.")
            });
        }
    }
    reasons
}

fn what_limits(facts: &Facts<'_>) -> Vec<String> {
    let prediction = &facts.plan.prediction;
    let whole = prediction.decode_s_per_token;
    if facts.plan.stages.len() < 2 || facts.plan.exchanges() || whole <= 0.0 {
        return Vec::new();
    }
    let percent = |part: f64| format!("{:.0} %", 100.0 * part / whole);
    let stages = facts.plan.stages.iter().zip(&prediction.stage_s_per_token);
    let slowest = stages.max_by(|a, b| a.1.total_cmp(b.1));
    let mut reasons = Vec::new();
    if let Some((stage, seconds)) = slowest {
        reasons.push(format!(
            "Of a token's time '{}' takes the most, {}; {} passes between the machines.",
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
        reasons.push(format!(
            "The cache holds {full} conversation(s) of full length at once, or up to {} shorter ones; {} of full length were wanted.",
            plan.slots, facts.sequences_wanted
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
    base: &Problem<'_>,
    plan: &Plan,
    found: &Found,
    exchange: bool,
) -> Vec<LeftOut> {
    let least = base.least_stage_bytes();
    let idle = base
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| !plan.has(&node.id));
    let why = |at: usize| {
        let node = &base.nodes[at];
        if node.memory_bytes < least {
            return format!(
                "it offers {}, and the smallest possible part, one layer with caches and scratch, takes {}",
                size_text(node.memory_bytes),
                size_text(least)
            );
        }
        let mut with_s = found.best_with.get(at).copied().flatten();
        if exchange && base.nodes.len() <= EXACT_NODES_MAX {
            let spread_s = best_with(base, at);
            with_s = with_s.into_iter().chain(spread_s).min_by(f64::total_cmp);
        }
        match with_s {
            Some(with_s) if with_s > found.best.decode_s * 1.0005 => format!(
                "one conversation would be slower with it: {} against {}",
                rate(with_s),
                rate(found.best.decode_s)
            ),
            Some(_) => "it is not needed: no split with it is faster".to_owned(),
            None if base.nodes.len() > EXACT_NODES_MAX => {
                "no faster split with it was found".to_owned()
            }
            None => "no split with it fits the memory".to_owned(),
        }
    };
    idle.map(|(at, node)| LeftOut {
        node: node.id.clone(),
        name: node.name.clone(),
        reason: why(at),
    })
    .collect()
}
