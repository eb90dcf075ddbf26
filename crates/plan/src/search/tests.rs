//! The searches against trying everything.

use super::*;
use crate::memory::CacheBudget;
use crate::speed::Links;
use crate::tests::{GIB, MIB, dense, link, moe, node};
use crate::{KvType, LinkFacts, NodeFacts};
use proptest::prelude::*;
use proto::facts::ModelFacts;

const BUDGET: CacheBudget = CacheBudget {
    kv: KvType::F16,
    pages: 16,
    slots: 1,
    chunk_rows: 16,
};

fn over<'a>(model: &'a ModelFacts, nodes: &'a [NodeFacts], links: &[LinkFacts]) -> Problem<'a> {
    Problem::new(model, nodes, Links::new(model, nodes, links, None), BUDGET)
}

fn splits(mode: PlanMode) -> Space {
    Space {
        mode,
        exchange: false,
    }
}

/// All splits by recursion: every order of every subset, every cut.
fn brute_force(
    problem: &Problem<'_>,
    mode: PlanMode,
    best_score: &dyn Fn(&Placement) -> f64,
) -> Option<f64> {
    fn go(
        problem: &Problem<'_>,
        mode: PlanMode,
        parts: &mut Vec<Part>,
        best: &mut Option<f64>,
        of: &dyn Fn(&Placement) -> f64,
    ) {
        let done = parts.last().map_or(0, |part| part.end);
        if done == problem.cuts() {
            if mode == PlanMode::Auto || parts.len() == problem.nodes.len() {
                let decode_s = cost(problem, parts);
                let value = of(&Placement {
                    parts: parts.clone(),
                    spread: None,
                    decode_s,
                });
                if best.is_none_or(|best| value < best) {
                    *best = Some(value);
                }
            }
            return;
        }
        for node in 0..problem.nodes.len() {
            if parts.iter().any(|part| part.node == node) {
                continue;
            }
            for end in done + 1..=problem.cuts() {
                if problem.fits(node, done, end) {
                    parts.push(Part {
                        node,
                        first: done,
                        end,
                    });
                    go(problem, mode, parts, best, of);
                    parts.pop();
                }
            }
        }
    }
    let mut best = None;
    go(problem, mode, &mut Vec::new(), &mut best, best_score);
    best
}

fn cost(problem: &Problem<'_>, parts: &[Part]) -> f64 {
    let stages: f64 = parts
        .iter()
        .map(|part| problem.stage_s(part.node, part.first, part.end))
        .sum();
    let hops: f64 = parts
        .windows(2)
        .map(|pair| problem.hop_s(pair[0].node, pair[1].node))
        .sum();
    let back = problem
        .links
        .token_s(parts[parts.len() - 1].node, parts[0].node);
    stages + hops + back
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

prop_compose! {
    fn small()(
        layers in 1usize..6,
        nodes in prop::collection::vec((30u64..3500, 1u32..40, 1u32..40), 1..5),
        rtts in prop::collection::vec(0u32..30_000, 12),
        tied in any::<bool>(),
    ) -> (ModelFacts, Vec<NodeFacts>, Vec<LinkFacts>) {
        let mut model = moe(layers);
        model.tied_head = tied;
        let names: Vec<String> = (0..nodes.len()).map(|at| format!("n{at}")).collect();
        let nodes: Vec<NodeFacts> = nodes.iter().zip(&names).map(|((memory, read, macs), name)| NodeFacts {
            read_bytes_per_s: f64::from(*read) * 1e9,
            macs_per_s: f64::from(*macs) * 1e9,
            ..node(name, memory * MIB, 1.0)
        }).collect();
        let mut links = Vec::new();
        for (at, rtt) in rtts.iter().enumerate() {
            let (from, to) = (at / 3 % names.len(), (at / 3 + 1 + at % 3) % names.len());
            links.push(link(&names[from], &names[to], f64::from(*rtt) * 1e-6));
        }
        (model, nodes, links)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_exact_search_finds_the_best_of_all((model, nodes, links) in small()) {
        let problem = over(&model, &nodes, &links);
        for mode in [PlanMode::Auto, PlanMode::Layers] {
            let found = search(&problem, splits(mode), Effort::Best).map(|found| found.best);
            let best = brute_force(&problem, mode, &|placement| placement.decode_s);
            match (found, best) {
                (Some(found), Some(best)) => {
                    prop_assert!(close(found.decode_s, best), "{} {best}", found.decode_s);
                    prop_assert!(close(found.decode_s, cost(&problem, &found.parts)));
                    prop_assert!(found.parts.iter().all(|part| problem.fits(part.node, part.first, part.end)));
                }
                (None, None) => {}
                (found, best) => prop_assert!(false, "{found:?} {best:?}"),
            }
        }
    }

    #[test]
    fn balancing_keeps_the_order_and_nearly_finds_the_best_cuts((model, nodes, links) in small()) {
        let problem = over(&model, &nodes, &links);
        let Some(found) = search(&problem, splits(PlanMode::Layers), Effort::Best) else { return Ok(()); };
        let order: Vec<usize> = found.best.parts.iter().map(|part| part.node).collect();
        let balanced = balance(&problem, found.best.clone());
        let after: Vec<usize> = balanced.parts.iter().map(|part| part.node).collect();
        prop_assert_eq!(&order, &after);
        let same_order = |placement: &Placement| {
            let same = placement.parts.iter().map(|part| part.node).eq(order.iter().copied());
            if same { balance::score(&problem, placement) } else { f64::INFINITY }
        };
        let best = brute_force(&problem, PlanMode::Layers, &same_order).unwrap();
        prop_assert!(balance::score(&problem, &balanced) <= best * 1.02);
    }

    #[test]
    fn many_nodes_are_never_worse_than_the_best_one_alone(
        nodes in prop::collection::vec((600u64..9000, 1u32..40), 7..20),
    ) {
        let model = moe(8);
        let nodes: Vec<NodeFacts> = nodes.iter().enumerate()
            .map(|(at, (memory, speed))| node(&format!("n{at}"), memory * MIB, f64::from(*speed)))
            .collect();
        let problem = over(&model, &nodes, &[]);
        let found = search(&problem, splits(PlanMode::Auto), Effort::Best).map(|found| found.best);
        if let Some(alone) = best_alone(&problem) {
            prop_assert!(found.as_ref().unwrap().decode_s <= alone.decode_s * (1.0 + 1e-9));
        }
        if let Some(found) = found {
            prop_assert!(close(found.decode_s, cost(&problem, &found.parts)));
            let mut used: Vec<usize> = found.parts.iter().map(|part| part.node).collect();
            used.sort_unstable();
            used.dedup();
            prop_assert_eq!(used.len(), found.parts.len());
        }
    }
}

/// All ways to hand out `all` to the nodes.
fn ways(nodes: usize, all: u32) -> Vec<Vec<u32>> {
    if nodes == 1 {
        return vec![vec![all]];
    }
    let first = (0..=all).flat_map(|first| {
        let rest = ways(nodes - 1, all - first);
        rest.into_iter().map(move |mut rest| {
            rest.insert(0, first);
            rest
        })
    });
    first.collect()
}

/// The fastest plan with one stage, by trying every stage, every way to hand out groups and every way for blocks.
fn brute_spread(problem: &Problem<'_>, groups: u32, blocks: u32, all: bool) -> Option<f64> {
    let nodes = problem.nodes.len();
    let (groups, blocks) = (ways(nodes, groups), ways(nodes, blocks));
    let mut best: Option<f64> = None;
    let mut tables = Tables::default();
    for node in 0..nodes {
        let stage = vec![Part {
            node,
            first: 0,
            end: problem.cuts(),
        }];
        let layout = Layout::new(problem, stage, &mut tables).unwrap();
        for groups in &groups {
            for blocks in &blocks {
                let idle = |at: usize| at != node && groups[at] == 0 && blocks[at] == 0;
                if all && (0..nodes).any(idle) {
                    continue;
                }
                let spread = Spread {
                    groups: groups.clone(),
                    blocks: blocks.clone(),
                    lent: Vec::new(),
                };
                if layout.holds(&spread) {
                    let decode_s = layout.decode_s(&spread);
                    best = Some(best.map_or(decode_s, |best| best.min(decode_s)));
                }
            }
        }
    }
    best
}

/// A small model with four groups and four head blocks.
fn four_groups(layers: usize) -> ModelFacts {
    let mut model = moe(layers);
    (model.experts, model.experts_used, model.vocab) = (4, 2, 4);
    for layer in &mut model.layers {
        layer.group_bytes = vec![120 * MIB; 4];
        layer.expert_bytes = 120 * MIB;
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_and_blocks_are_handed_out_as_well_as_by_trying_all(
        (_, nodes, links) in small(),
        count in 1usize..4,
        layers in 1usize..4,
        all in any::<bool>(),
    ) {
        let model = four_groups(layers);
        let nodes = &nodes[..count.min(nodes.len())];
        let problem = over(&model, nodes, &links);
        let mode = if all { PlanMode::Experts } else { PlanMode::Auto };
        let space = Space { mode, exchange: true };
        let found = search(&problem, space, Effort::Best).map(|found| found.best);
        let tried = brute_spread(&problem, 4, 4, all);
        let split_mode = if all { PlanMode::Layers } else { PlanMode::Auto };
        let split = brute_force(&problem, split_mode, &|placement| placement.decode_s);
        if let Some(tried) = tried {
            let found = found.as_ref().map_or(f64::INFINITY, |found| found.decode_s);
            // A layer split is kept where the gain is small.
            let kept = split.filter(|split| !all && *split < tried * EXCHANGE_GAIN_MIN);
            prop_assert!(found <= kept.unwrap_or(tried) * (1.0 + 1e-9), "{found} {tried} {split:?}");
        }
        if let (Some(found), Some(split)) = (&found, split) {
            prop_assert!(found.decode_s <= split * (1.0 + 1e-9));
        }
        prop_assert!(found.is_some() || tried.is_none() && split.is_none());
        prop_assert_eq!(search(&problem, space, Effort::AnyFit).is_some(), found.is_some());
        if let Some(Placement { parts, spread: Some(spread), decode_s }) = found {
            if let Some(split) = split.filter(|_| !all) {
                prop_assert!(decode_s * EXCHANGE_GAIN_MIN <= split * (1.0 + 1e-9), "{decode_s} {split}");
            }
            let layout = Layout::new(&problem, parts, &mut Tables::default()).unwrap();
            prop_assert!(layout.holds(&spread), "it fits");
            prop_assert!(close(layout.decode_s(&spread), decode_s));
            prop_assert_eq!(spread.groups.iter().sum::<u32>(), 4);
            prop_assert_eq!(spread.blocks.iter().sum::<u32>(), 4);
        }
    }

    #[test]
    fn more_memory_or_speed_is_never_slower(
        (_, nodes, links) in small(),
        layers in 1usize..4,
        at in 0usize..4,
        (memory, read, rtt) in (0u64..900, 1.0f64..3.0, 0.3f64..1.0),
    ) {
        let model = four_groups(layers);
        let nodes = &nodes[..nodes.len().min(3)];
        let mut better = nodes.to_vec();
        let place = at % better.len();
        better[place].memory_bytes += memory * MIB;
        better[place].read_bytes_per_s *= read;
        better[place].macs_per_s *= read;
        let mut closer = links.clone();
        for link in &mut closer {
            link.rtt_s *= rtt;
        }
        for mode in [PlanMode::Auto, PlanMode::Layers] {
            // Over one stage and over layer splits, where the best is found for certain.
            let space = Space { mode, exchange: mode == PlanMode::Auto };
            let before = search(&over(&model, nodes, &links), space, Effort::Best);
            let after = search(&over(&model, &better, &closer), space, Effort::Best);
            if let Some(before) = before.map(|found| found.best).filter(|best| {
                best.spread.is_none() || best.parts.len() == 1
            }) {
                let after = after.expect("what fitted fits");
                // A layer split that became nearly as fast as sharing experts is taken in its place.
                let kept = if before.spread.is_some() { EXCHANGE_GAIN_MIN } else { 1.0 };
                prop_assert!(after.best.decode_s <= before.decode_s * kept * (1.0 + 1e-9));
            }
        }
    }
}

#[test]
fn sixty_four_nodes_share_experts_within_bounds() {
    let model = moe(40);
    let nodes: Vec<NodeFacts> = (0u32..64)
        .map(|at| node(&format!("n{at}"), 4 * GIB, f64::from(10 + at % 7)))
        .collect();
    let problem = over(&model, &nodes, &[]);
    let space = Space {
        mode: PlanMode::Auto,
        exchange: true,
    };
    let found = search(&problem, space, Effort::Best).unwrap();
    assert!(found.evaluated < 60_000_000, "{}", found.evaluated);
    let split = search(&problem, splits(PlanMode::Auto), Effort::Best).unwrap();
    assert!(found.best.decode_s <= split.best.decode_s);
}

#[test]
fn lent_groups_cost_what_the_layout_says_and_find_room() {
    let model = moe(40);
    let nodes: Vec<NodeFacts> = (0u32..64)
        .map(|at| {
            let memory = (8 + u64::from(at) % 9) * GIB;
            node(&format!("n{at:02}"), memory, f64::from(8 + at % 7))
        })
        .collect();
    let problem = over(&model, &nodes, &[]);
    let space = Space {
        mode: PlanMode::Experts,
        exchange: true,
    };
    let found = search(&problem, space, Effort::Best).unwrap();
    assert!(found.evaluated < 1_000_000, "{}", found.evaluated);
    assert_eq!(found.best.nodes(), 64);
    let Placement {
        parts,
        spread: Some(spread),
        decode_s,
    } = found.best
    else {
        panic!("more nodes than layers");
    };
    assert!(parts.len() < 10, "{}", parts.len());
    let layout = Layout::new(&problem, parts, &mut Tables::default()).unwrap();
    assert!(layout.holds(&spread) && !spread.lent.is_empty());
    assert!(close(layout.decode_s(&spread), decode_s));
    for layer in 0..40 {
        let mut held: Vec<u32> = spread.groups_of(layer, 16).concat();
        held.sort_unstable();
        assert_eq!(held, (0..16).collect::<Vec<u32>>(), "layer {layer}");
    }
}

#[test]
fn seven_equal_nodes_are_searched_as_well_as_six() {
    let model = dense(12);
    let nodes: Vec<NodeFacts> = (0..7)
        .map(|at| node(&format!("n{at}"), 45 * MIB, 10.0))
        .collect();
    let many = over(&model, &nodes, &[]);
    let few = over(&model, &nodes[..6], &[]);
    let many = search(&many, splits(PlanMode::Auto), Effort::Best)
        .unwrap()
        .best;
    let few = search(&few, splits(PlanMode::Auto), Effort::Best)
        .unwrap()
        .best;
    assert!(close(many.decode_s, few.decode_s));
}

#[test]
fn sixty_four_nodes_take_a_bounded_number_of_steps() {
    for (layers, memory) in [(94, 2 * GIB), (94, 200 * GIB), (1024, 12 * GIB)] {
        let model = moe(layers);
        let nodes: Vec<NodeFacts> = (0u32..64)
            .map(|at| {
                node(
                    &format!("n{at}"),
                    memory + u64::from(at) * MIB,
                    f64::from(10 + at % 7),
                )
            })
            .collect();
        let problem = over(&model, &nodes, &[]);
        for mode in [PlanMode::Auto, PlanMode::Layers] {
            let found = search(&problem, splits(mode), Effort::Best).unwrap();
            assert!(
                found.evaluated < 60_000_000,
                "{layers} {mode}: {}",
                found.evaluated
            );
        }
    }
    let model = moe(256);
    let nodes: Vec<NodeFacts> = (0..6)
        .map(|at| node(&format!("n{at}"), 500 * GIB, 10.0))
        .collect();
    let problem = over(&model, &nodes, &[]);
    let found = search(&problem, splits(PlanMode::Auto), Effort::Best).unwrap();
    assert!(found.evaluated < 20_000_000, "{}", found.evaluated);
}
