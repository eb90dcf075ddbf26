//! What must hold for every request.

use proptest::prelude::*;

use super::*;
use crate::{PlanError, check, plan};

prop_compose! {
    fn any_node()(memory in 1u64..6000, read in 1u32..100, macs in 1u32..100) -> (u64, f64, f64) {
        (memory * MIB, f64::from(read) * 1e9, f64::from(macs) * 1e9)
    }
}

prop_compose! {
    fn any_request()(
        layers in 1usize..14,
        hybrid in any::<bool>(),
        tied in any::<bool>(),
        nodes in prop::collection::vec(any_node(), 1..9),
        rtts in prop::collection::vec(0u32..20_000, 0..10),
        context in prop::option::of(1u32..4096),
        sequences in 1u32..20,
        mode in 0usize..3,
        exchange in any::<bool>(),
    ) -> PlanRequest {
        let mut model = if hybrid { moe(layers) } else { dense(layers) };
        model.tied_head = tied;
        let names: Vec<String> = (0..nodes.len()).map(|at| format!("n{at}")).collect();
        let count = names.len();
        PlanRequest {
            model,
            nodes: nodes.iter().zip(&names).map(|((memory, read, macs), name)| NodeFacts {
                read_bytes_per_s: *read,
                macs_per_s: *macs,
                ..node(name, *memory, 1.0)
            }).collect(),
            links: rtts.iter().enumerate().map(|(at, rtt)| {
                link(&names[at % count], &names[(at * 7 + 1) % count], f64::from(*rtt) * 1e-6)
            }).collect(),
            context,
            sequences,
            kv: None,
            mode: [PlanMode::Auto, PlanMode::Layers, PlanMode::Experts][mode],
            exchange: exchange || mode == 2,
            coordinator: None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_covers_the_layers_and_fits(request in any_request()) {
        let Ok(plan) = plan(&request) else { return Ok(()); };
        prop_assert_eq!(check(&plan, &request.model, &request.nodes), Ok(()));
        let mut covered = vec![0u32; request.model.layers.len()];
        for stage in &plan.stages {
            let node = request.nodes.iter().find(|node| node.id == stage.node).unwrap();
            prop_assert!(stage.bytes().total() <= node.memory_bytes);
            prop_assert_eq!(stage.allowance_bytes, node.memory_bytes);
            for layer in stage.first_layer..stage.end_layer {
                covered[layer as usize] += 1;
            }
        }
        prop_assert!(covered.iter().all(|times| *times == 1));
        let used = request.nodes.iter().filter(|node| plan.has(&node.id)).count();
        prop_assert_eq!(used + plan.left_out.len(), request.nodes.len());
        if request.mode != PlanMode::Auto {
            prop_assert!(plan.left_out.is_empty());
        }
        prop_assert!(request.exchange || !plan.exchanges());
        prop_assert!(plan.slots >= 1 && plan.slots <= request.sequences);
        prop_assert!(u64::from(plan.pages) * 64 >= u64::from(plan.context));
        if let Some(context) = request.context {
            prop_assert_eq!(plan.context, context);
        }
        let stages: f64 = plan.prediction.stage_s_per_token.iter().sum();
        let whole = stages + plan.prediction.hops_s_per_token;
        prop_assert!((whole - plan.prediction.decode_s_per_token).abs() <= 1e-9 * whole);
    }

    #[test]
    fn the_order_of_the_lists_does_not_matter(request in any_request(), turn in 0usize..8) {
        let mut turned = request.clone();
        let count = turned.nodes.len();
        turned.nodes.rotate_left(turn % count);
        turned.nodes.reverse();
        turned.links.reverse();
        prop_assert_eq!(plan(&request), plan(&turned));
    }

    #[test]
    fn more_memory_never_means_more_missing(request in any_request(), at in 0usize..8, more in 0u64..4000) {
        let mut request = request;
        request.mode = PlanMode::Auto;
        let mut larger = request.clone();
        let count = larger.nodes.len();
        larger.nodes[at % count].memory_bytes += more * MIB;
        match (plan(&request), plan(&larger)) {
            (Err(before), Err(after)) => {
                prop_assert!(after.missing_bytes() <= before.missing_bytes());
                prop_assert!(after.missing_bytes() > 0);
            }
            (Ok(_), after) => prop_assert!(after.is_ok(), "{after:?}"),
            (Err(_), Ok(_)) => {}
        }
    }

    #[test]
    fn one_more_machine_with_what_is_missing_is_enough(request in any_request()) {
        let mut request = request;
        request.mode = PlanMode::Auto;
        if let Err(error @ PlanError::Memory { .. }) = plan(&request) {
            request.nodes.push(node("z", error.missing_bytes(), 1.0));
            prop_assert!(plan(&request).is_ok());
        }
    }
}
