//! A part for every node, where there are many.

use super::*;
use crate::{Plan, PlanError, check, plan};

/// Nodes of 8 to 16 GiB and unequal speeds, with names as long as they may be.
fn household(count: u32) -> Vec<NodeFacts> {
    let facts = |at: u32| {
        let memory = (8 + u64::from(at * 5 % 9)) * GIB;
        let mut facts = node(&format!("n{at:02}"), memory, f64::from(8 + at * 7 % 23));
        facts.name = format!("{at:02}-{}", "x".repeat(61));
        facts
    };
    (0..count).map(facts).collect()
}

fn experts(model: ModelFacts, nodes: Vec<NodeFacts>) -> PlanRequest {
    let mut request = request(model, nodes, PlanMode::Experts);
    request.exchange = true;
    request
}

#[test]
fn sixty_four_nodes_all_have_a_part_of_forty_layers() {
    for measured in [false, true] {
        let mut request = experts(moe(40), household(64));
        if measured {
            let pairs = (0u32..64).flat_map(|from| (0u32..64).map(move |to| (from, to)));
            request.links = pairs
                .filter(|(from, to)| from != to)
                .map(|(from, to)| {
                    let rtt_s = f64::from(200 + (from * 31 + to * 17) % 400) * 1e-6;
                    link(&format!("n{from:02}"), &format!("n{to:02}"), rtt_s)
                })
                .collect();
        }
        let made = plan(&request).unwrap();
        assert!(made.left_out.is_empty());
        assert!(request.nodes.iter().all(|node| made.has(&node.id)));
        check(&made, &request.model, &request.nodes).unwrap();
        assert!(made.stages.len() < 10, "few stages: {}", made.stages.len());
        // Everybody is in, and still it is about as fast as with the nodes of its own choice.
        let mut free = request.clone();
        free.mode = PlanMode::Auto;
        let free = plan(&free).unwrap().prediction.decode_s_per_token;
        let all = made.prediction.decode_s_per_token;
        assert!(all < 1.5 * free, "{all} {free}");
        // What is printed for so many is still a plan that can be read.
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(Plan::from_json(&text).unwrap(), made);
        request.nodes.reverse();
        assert_eq!(
            plan(&request).unwrap(),
            made,
            "whatever the order of the list"
        );
    }
}

#[test]
fn groups_of_single_layers_are_lent_where_groups_and_blocks_are_too_few() {
    // One stage, 16 groups and 16 blocks are parts for 33 nodes.
    let nodes = (0u32..40).map(|at| node(&format!("n{at:02}"), 32 * GIB, 20.0));
    let request = experts(moe(4), nodes.collect());
    let plan = plan(&request).unwrap();
    assert!(request.nodes.iter().all(|node| plan.has(&node.id)));
    check(&plan, &request.model, &request.nodes).unwrap();
    let single = plan
        .experts
        .iter()
        .filter(|entry| entry.end_layer - entry.first_layer == 1 && entry.groups.len() == 1);
    assert!(single.count() >= 7, "{:?}", plan.experts);
}

#[test]
fn more_nodes_than_parts_is_said_with_the_number_that_can_have_one() {
    // Four layers and sixteen head blocks, and no experts.
    let nodes = |count: u32| -> Vec<NodeFacts> {
        let facts = |at: u32| node(&format!("n{at:02}"), GIB, f64::from(1 + at % 3));
        (0..count).map(facts).collect()
    };
    let enough = experts(dense(4), nodes(20));
    let plan20 = plan(&enough).unwrap();
    assert!(enough.nodes.iter().all(|node| plan20.has(&node.id)));
    let error = plan(&experts(dense(4), nodes(21))).unwrap_err();
    assert!(matches!(
        error,
        PlanError::TooFewParts {
            nodes: 21,
            most: 20,
            ..
        }
    ));
    let text = error.to_string();
    assert!(text.contains("enough for at most 20 nodes"), "{text}");
    assert_eq!(error.code(), "plan_too_few_parts");
}

#[test]
fn the_number_of_nodes_that_fit_is_said_where_memory_ends_it() {
    // Only one can hold layers; sixteen others can hold a head block, the last finds nothing.
    let mut nodes = vec![node("big", GIB, 10.0)];
    nodes.extend((0u32..17).map(|at| node(&format!("n{at:02}"), 2 * MIB, 1.0)));
    let mut request = experts(dense(2), nodes);
    request.context = Some(512);
    let error = plan(&request).unwrap_err();
    assert_eq!(
        error,
        PlanError::NotEverybody {
            nodes: 18,
            most: 17
        }
    );
    assert!(
        error.to_string().contains("found for the 17 nodes"),
        "{error}"
    );
    request.nodes.pop();
    assert!(plan(&request).is_ok());
    request.nodes[1].memory_bytes = 1024;
    let error = plan(&request).unwrap_err();
    assert_eq!(error.code(), "plan_node_too_small");
    assert!(
        error.to_string().contains("one block of the output head"),
        "{error}"
    );
}
