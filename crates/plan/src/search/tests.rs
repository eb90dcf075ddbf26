//! The searches against trying everything.

use super::*;
use crate::memory::CacheBudget;
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
        let problem = Problem::new(&model, &nodes, &links, BUDGET);
        for mode in [PlanMode::Auto, PlanMode::Layers] {
            let found = search(&problem, mode, Effort::Best).map(|found| found.best);
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
        let problem = Problem::new(&model, &nodes, &links, BUDGET);
        let Some(found) = search(&problem, PlanMode::Layers, Effort::Best) else { return Ok(()); };
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
        let problem = Problem::new(&model, &nodes, &[], BUDGET);
        let found = search(&problem, PlanMode::Auto, Effort::Best).map(|found| found.best);
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

#[test]
fn seven_equal_nodes_are_searched_as_well_as_six() {
    let model = dense(12);
    let nodes: Vec<NodeFacts> = (0..7)
        .map(|at| node(&format!("n{at}"), 45 * MIB, 10.0))
        .collect();
    let many = Problem::new(&model, &nodes, &[], BUDGET);
    let few = Problem::new(&model, &nodes[..6], &[], BUDGET);
    let many = search(&many, PlanMode::Auto, Effort::Best).unwrap().best;
    let few = search(&few, PlanMode::Auto, Effort::Best).unwrap().best;
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
        let problem = Problem::new(&model, &nodes, &[], BUDGET);
        for mode in [PlanMode::Auto, PlanMode::Layers] {
            let found = search(&problem, mode, Effort::Best).unwrap();
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
    let problem = Problem::new(&model, &nodes, &[], BUDGET);
    let found = search(&problem, PlanMode::Auto, Effort::Best).unwrap();
    assert!(found.evaluated < 20_000_000, "{}", found.evaluated);
}
