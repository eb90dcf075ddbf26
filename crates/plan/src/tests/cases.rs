//! Tables of requests with what is expected of their plans.

use super::*;
use crate::{KvType, PlanError, check, plan};

fn layers_of(plan: &crate::Plan) -> Vec<(&str, u32, u32)> {
    let stages = plan.stages.iter();
    stages
        .map(|stage| (stage.node.as_str(), stage.first_layer, stage.end_layer))
        .collect()
}

#[test]
fn one_machine_that_holds_the_model_is_used_alone_and_says_so() {
    let nodes = vec![node("a", 64 * GIB, 20.0), node("b", 64 * GIB, 19.0)];
    let plan = plan(&request(moe(8), nodes, PlanMode::Auto)).unwrap();
    assert_eq!(layers_of(&plan), [("a", 0, 8)]);
    assert!(plan.stages[0].embedding && plan.stages[0].head);
    assert!(plan.reasons[0].contains("One machine alone is faster: 'a-box'"));
    assert_eq!(plan.left_out[0].name, "b-box");
    assert!(plan.left_out[0].reason.contains("slower with it"));
    assert_eq!(plan.context, 32_768);
    assert_eq!(plan.slots, 8);
    assert_eq!(plan.pages, 8 * 512);
    assert_eq!(plan.kv, KvType::F16);
    assert_eq!(plan.chunk_rows, 256);
}

#[test]
fn layers_uses_every_node_and_admits_that_one_would_be_faster() {
    let nodes = vec![node("a", 64 * GIB, 20.0), node("b", 64 * GIB, 20.0)];
    let plan = plan(&request(moe(16), nodes, PlanMode::Layers)).unwrap();
    assert_eq!(plan.stages.len(), 2);
    assert!(plan.left_out.is_empty());
    assert!(
        plan.reasons[0].contains("One machine alone would be faster"),
        "{:?}",
        plan.reasons
    );
    let times = &plan.prediction.stage_s_per_token;
    assert!(
        times[0] < 1.5 * times[1] && times[1] < 1.5 * times[0],
        "equal nodes get even shares: {times:?}"
    );
}

#[test]
fn three_machines_share_what_none_holds() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 9 * GIB, 15.0));
    let request = request(moe(40), nodes.to_vec(), PlanMode::Auto);
    let plan = plan(&request).unwrap();
    assert_eq!(plan.stages.len(), 3);
    check(&plan, &request.model, &request.nodes).unwrap();
    assert!(
        plan.reasons[0].contains("none holds it alone"),
        "{:?}",
        plan.reasons
    );
    assert!(plan.prediction.decode_s_per_token > 0.0);
    assert!(plan.prediction.prefill_s_per_1k_tokens > 0.0);
    assert_eq!(plan.prediction.stage_s_per_token.len(), 3);
}

#[test]
fn fast_links_decide_who_is_next_to_whom() {
    let mut request = request(
        moe(40),
        ["a", "b", "c"]
            .map(|name| node(name, 9 * GIB, 15.0))
            .to_vec(),
        PlanMode::Layers,
    );
    request.links = vec![
        link("a", "b", 0.020),
        link("a", "c", 0.0002),
        link("c", "b", 0.0002),
        link("b", "a", 0.0002),
    ];
    let plan = plan(&request).unwrap();
    let order: Vec<&str> = plan
        .stages
        .iter()
        .map(|stage| stage.node.as_str())
        .collect();
    let pairs = [(0, 1), (1, 2), (2, 0)];
    assert!(
        pairs
            .iter()
            .all(|(i, j)| (order[*i], order[*j]) != ("a", "b")),
        "the slow direction is avoided: {order:?}"
    );
}

#[test]
fn a_default_context_is_lowered_to_what_fits_and_an_asked_one_is_not() {
    let model = dense(8);
    let tight = vec![node("a", 92 * MIB, 10.0)];
    let mut request = request(model, tight, PlanMode::Auto);
    let lowered = plan(&request).unwrap();
    assert!(
        lowered.context >= 512 && lowered.context < 4096,
        "{}",
        lowered.context
    );
    assert!(
        lowered
            .reasons
            .iter()
            .any(|r| r.contains("Context lowered from 4096"))
    );
    check(&lowered, &request.model, &request.nodes).unwrap();

    request.context = Some(4096);
    match plan(&request) {
        Err(PlanError::Memory {
            missing_bytes,
            hint,
            context,
            ..
        }) => {
            assert!(missing_bytes > 0);
            assert_eq!(context, 4096);
            assert!(hint.contains("With --context"), "{hint}");
        }
        other => panic!("{other:?}"),
    }
    request.context = Some(lowered.context);
    assert_eq!(plan(&request).unwrap().context, lowered.context);
}

#[test]
fn the_least_memory_is_exactly_the_sum_of_the_documented_parts() {
    let model = dense(2);
    // Weights, one page-rounded sequence of 100 positions in f32, 16 rows, one row of logits, the ranking.
    let weights = 2 * MIB + 2 * 10 * MIB;
    let cache = 2 * (2 * 64 * 256 * 4);
    let scratch = 16 * 64 * 48 * 4 + 1000 * 4 + 1000 * 12;
    for (memory, fits) in [
        (weights + cache + scratch, true),
        (weights + cache + scratch - 1, false),
    ] {
        let mut request = request(model.clone(), vec![node("a", memory, 1.0)], PlanMode::Auto);
        request.context = Some(100);
        match plan(&request) {
            Ok(plan) => {
                assert!(fits);
                assert_eq!((plan.pages, plan.slots, plan.chunk_rows), (2, 1, 16));
                let stage = &plan.stages[0];
                assert_eq!(stage.weight_bytes, weights);
                assert_eq!(stage.cache_bytes, cache);
                assert_eq!(stage.scratch_bytes, scratch);
            }
            Err(PlanError::Memory { .. }) => assert!(!fits),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_tied_head_counts_once_on_one_node_and_twice_on_two() {
    let weights = |plan: &crate::Plan| {
        plan.stages
            .iter()
            .map(|stage| stage.weight_bytes)
            .sum::<u64>()
    };
    let one = plan(&request(
        dense(4),
        vec![node("a", GIB, 1.0)],
        PlanMode::Layers,
    ))
    .unwrap();
    let nodes = vec![node("a", GIB, 1.0), node("b", GIB, 1.0)];
    let two = plan(&request(dense(4), nodes, PlanMode::Layers)).unwrap();
    assert_eq!(weights(&one), 42 * MIB);
    assert_eq!(weights(&two), 44 * MIB);
    assert!(
        two.reasons
            .iter()
            .any(|reason| reason.contains("held twice"))
    );
}

#[test]
fn what_is_missing_is_said() {
    let few = vec![node("a", GIB, 1.0), node("b", 2 * GIB, 1.0)];
    let error = plan(&request(moe(40), few.clone(), PlanMode::Auto)).unwrap_err();
    let missing = error.missing_bytes();
    assert!(missing > 16 * GIB, "{error}");
    assert!(
        error.to_string().contains("more memory is needed"),
        "{error}"
    );
    // One more machine with just that much is enough, and one with a layer less is not.
    for (memory, fits) in [(missing, true), (missing - GIB, false)] {
        let mut nodes = few.clone();
        nodes.push(node("c", memory, 1.0));
        assert_eq!(plan(&request(moe(40), nodes, PlanMode::Auto)).is_ok(), fits);
    }
}

/// A small fast machine and a large one of half its speed.
fn unequal() -> PlanRequest {
    let nodes = vec![node("a", 4 * GIB, 20.0), node("b", 32 * GIB, 10.0)];
    let mut request = request(moe(16), nodes, PlanMode::Auto);
    request.exchange = true;
    request.links = vec![link("a", "b", 0.0003)];
    request.context = Some(4096);
    request
}

#[test]
fn a_small_fast_machine_keeps_the_trunks_and_the_large_one_holds_experts() {
    let request = unequal();
    let plan = plan(&request).unwrap();
    let trunks = plan.stages.iter().find(|stage| stage.node == id("a"));
    assert!(
        trunks.is_some_and(|stage| stage.end_layer - stage.first_layer >= 14),
        "{plan:?}"
    );
    let away = plan.experts.iter().filter(|part| part.node == id("b"));
    assert!(
        away.map(|part| part.groups.len()).max() >= Some(8),
        "{plan:?}"
    );
    check(&plan, &request.model, &request.nodes).unwrap();
    let mut layers = request.clone();
    layers.exchange = false;
    let split = crate::plan(&layers).unwrap();
    let gain = split.prediction.decode_s_per_token / plan.prediction.decode_s_per_token;
    assert!(gain > 1.15, "{gain}");
    let text = crate::table::render_table(&plan);
    assert!(
        text.contains("experts of layers")
            && text.contains("work on their experts at the same time"),
        "{text}"
    );
}

#[test]
fn a_slow_link_keeps_experts_with_their_layers_and_a_cable_is_recommended() {
    let mut request = unequal();
    request.links = vec![link("a", "b", 0.02)];
    let plan = plan(&request).unwrap();
    assert!(plan.experts.is_empty(), "{:?}", plan.experts);
    assert!(
        plan.reasons
            .iter()
            .any(|reason| reason.contains("gigabit cables")),
        "{:?}",
        plan.reasons
    );
}

#[test]
fn experts_gives_every_machine_a_part() {
    let nodes =
        [("a", 20.0), ("b", 15.0), ("c", 5.0)].map(|(name, speed)| node(name, 8 * GIB, speed));
    let mut request = request(moe(8), nodes.to_vec(), PlanMode::Experts);
    request.exchange = true;
    let plan = plan(&request).unwrap();
    assert!(plan.left_out.is_empty());
    assert!(request.nodes.iter().all(|node| plan.has(&node.id)));
    assert!(plan.exchanges());
    check(&plan, &request.model, &request.nodes).unwrap();
}

#[test]
fn the_way_over_the_coordinator_counts() {
    let mut request = request(moe(8), vec![node("a", 64 * GIB, 20.0)], PlanMode::Auto);
    let beside = plan(&request).unwrap().prediction.decode_s_per_token;
    request.coordinator = Some(id("house"));
    request.links = vec![link("a", "house", 0.004), link("house", "a", 0.004)];
    let away = plan(&request).unwrap().prediction.decode_s_per_token;
    let hops = 0.004 + 2.0 * crate::speed::HOP_SOFTWARE_S;
    assert!((away - beside - hops).abs() < 1e-9, "{away} {beside}");
}

#[test]
fn weak_nodes_are_left_out_or_refused_by_name() {
    let nodes = vec![node("a", 64 * GIB, 20.0), node("b", 100 * MIB, 20.0)];
    let auto = plan(&request(moe(8), nodes.clone(), PlanMode::Auto)).unwrap();
    assert!(auto.left_out[0].reason.contains("smallest possible part"));
    match plan(&request(moe(8), nodes, PlanMode::Layers)) {
        Err(PlanError::NodeTooSmall {
            name, needed_bytes, ..
        }) => {
            assert_eq!(name, "b-box");
            assert!(needed_bytes > 480 * MIB);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_nodes_than_layers_is_an_error_only_where_all_must_work() {
    let nodes: Vec<NodeFacts> = ["a", "b", "c"].map(|name| node(name, GIB, 1.0)).to_vec();
    assert_eq!(
        plan(&request(dense(2), nodes.clone(), PlanMode::Layers)),
        Err(PlanError::TooManyNodes {
            nodes: 3,
            layers: 2
        })
    );
    assert!(plan(&request(dense(2), nodes, PlanMode::Auto)).is_ok());
}

#[test]
fn room_for_more_sequences_never_costs_more_than_a_tenth() {
    // 'a' holds the model and one conversation; eight conversations would need 'b' over a very slow link.
    let nodes = vec![node("a", 5 * GIB, 20.0), node("b", 64 * GIB, 20.0)];
    let mut slow = request(moe(8), nodes, PlanMode::Auto);
    slow.links = vec![link("a", "b", 0.5)];
    let plan_slow = plan(&slow).unwrap();
    assert_eq!(plan_slow.stages.len(), 1);
    let mut fast = slow.clone();
    fast.nodes[1].memory_bytes = GIB;
    fast.nodes[0].memory_bytes = 5 * GIB;
    fast.links = vec![link("a", "b", 1e-6)];
    assert!(plan(&fast).unwrap().slots >= plan_slow.slots);
}

#[test]
fn requests_out_of_range_are_refused_with_the_field() {
    let good = || request(dense(4), vec![node("a", GIB, 1.0)], PlanMode::Auto);
    type Spoil = fn(&mut PlanRequest);
    let cases: [(&str, Spoil); 14] = [
        ("sequences", |r| r.sequences = 0),
        ("sequences", |r| r.sequences = u32::MAX),
        ("context", |r| r.context = Some(0)),
        ("context", |r| r.context = Some(4097)),
        ("per second", |r| r.nodes[0].read_bytes_per_s = f64::NAN),
        ("per second", |r| r.nodes[0].macs_per_s = 0.0),
        ("id", |r| r.nodes.push(r.nodes[0].clone())),
        ("number of nodes", |r| {
            r.nodes = (0..65)
                .map(|at| node(&format!("n{at}"), GIB, 1.0))
                .collect();
        }),
        ("round-trip", |r| {
            r.links = vec![link("a", "b", f64::INFINITY)]
        }),
        ("layers", |r| r.model.layers.clear()),
        ("hidden", |r| r.model.hidden = 0),
        ("layer", |r| r.model.layers[0].trunk_bytes = u64::MAX),
        ("state", |r| {
            r.model.layers[0].state_bytes_per_sequence = u64::MAX
        }),
        ("embedding or head", |r| r.model.head_bytes = u64::MAX),
    ];
    for (field, spoil) in cases {
        let mut request = good();
        spoil(&mut request);
        match plan(&request) {
            Err(PlanError::Request { what, .. }) => {
                assert!(what.contains(field), "{what}: {field}")
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut none = good();
    none.nodes.clear();
    assert_eq!(plan(&none), Err(PlanError::NoNodes));
}

#[test]
fn a_plan_is_printed_with_every_node_and_reason() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 9 * GIB, 15.0));
    let plan = plan(&request(moe(40), nodes.to_vec(), PlanMode::Auto)).unwrap();
    let text = crate::table::render_table(&plan);
    for part in [
        "a-box",
        "b-box",
        "c-box",
        "9.00 GiB",
        "embedding + 0-",
        "-39 + head",
        "tokens/s",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(plan.reasons.iter().all(|reason| text.contains(reason)));
}
