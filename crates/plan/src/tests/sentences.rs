//! What a person reads: no sentence promises what the plan does not bear out.

use super::*;
use crate::{Plan, plan};

fn says(plan: &Plan, words: &str) -> bool {
    plan.reasons.iter().any(|reason| reason.contains(words))
}

fn pair(speeds: [f64; 2], rtt_s: f64, exchange: bool) -> PlanRequest {
    let nodes = vec![
        node("a", 64 * GIB, speeds[0]),
        node("b", 64 * GIB, speeds[1]),
    ];
    let mut request = request(moe(40), nodes, PlanMode::Auto);
    request.links = vec![link("a", "b", rtt_s), link("b", "a", rtt_s)];
    request.exchange = exchange;
    request
}

#[test]
fn a_machine_that_stands_idle_is_not_recommended_again() {
    for rtt_s in [0.0004, 0.004] {
        let plan = plan(&pair([20.0, 20.0], rtt_s, false)).unwrap();
        assert_eq!(plan.stages.len(), 1);
        assert!(says(&plan, "One machine alone is"), "{:?}", plan.reasons);
        assert!(
            says(&plan, "One more machine like 'a-box' would not make"),
            "{:?}",
            plan.reasons
        );
        assert_eq!(
            plan.left_out[0].reason,
            "it is not needed: no plan with it is faster"
        );
    }
}

#[test]
fn a_wish_for_every_node_is_no_reason_to_buy_one() {
    // With 'b' it is slow because 'b' must take part: a second 'a' would change nothing that leaving 'b' out does not.
    let mut request = pair([20.0, 2.0], 0.0004, false);
    request.mode = PlanMode::Layers;
    let plan = plan(&request).unwrap();
    assert!(says(&plan, "One machine alone would be faster"));
    assert!(
        says(&plan, "One more machine like 'a-box' would not make"),
        "{:?}",
        plan.reasons
    );
}

#[test]
fn a_machine_on_a_cable_does_not_make_a_radio_link_a_cable() {
    let plan = plan(&pair([20.0, 20.0], 0.02, true)).unwrap();
    assert!(says(&plan, "With gigabit cables"), "{:?}", plan.reasons);
    let more = plan
        .reasons
        .iter()
        .filter(|reason| reason.contains("One more machine"));
    for reason in more {
        let all = reason.contains("all on gigabit cables") && reason.contains("instead of");
        assert!(all || reason.contains("would not make"), "{reason}");
    }
}

#[test]
fn a_gain_by_sharing_says_that_it_is_one() {
    let mut request = request(moe(40), vec![node("a", 64 * GIB, 20.0)], PlanMode::Auto);
    let alone = plan(&request).unwrap();
    assert!(says(&alone, "runs the whole model alone"));
    assert!(
        says(&alone, "would not make one conversation faster"),
        "layers alone gain nothing: {:?}",
        alone.reasons
    );
    request.exchange = true;
    let sharing = plan(&request).unwrap();
    assert!(
        says(&sharing, "by sharing experts or output head"),
        "{:?}",
        sharing.reasons
    );
}

#[test]
fn sharing_that_gains_little_is_not_done_and_is_mentioned() {
    let request = pair([60.0, 12.0], 0.0004, true);
    let plan = plan(&request).unwrap();
    assert!(!plan.exchanges() && plan.stages.len() == 1, "{plan:?}");
    assert!(
        says(&plan, "That is less than 5 % more"),
        "{:?}",
        plan.reasons
    );
    let reason = &plan.left_out[0].reason;
    assert!(!reason.contains("slower"), "{reason}");
    let mut every = request.clone();
    every.mode = PlanMode::Experts;
    let every = crate::plan(&every).unwrap();
    assert!(every.exchanges(), "where both must work they do");
    let gain = plan.prediction.decode_s_per_token / every.prediction.decode_s_per_token;
    assert!(
        gain > 1.0 && gain < crate::search::EXCHANGE_GAIN_MIN,
        "{gain}"
    );
}

#[test]
fn as_many_full_conversations_as_slots_are_not_told_twice() {
    let mut request = request(moe(40), vec![node("a", 22 * GIB, 20.0)], PlanMode::Auto);
    request.sequences = 8;
    for memory in [21 * GIB + 500 * MIB, 22 * GIB, 23 * GIB] {
        request.nodes[0].memory_bytes = memory;
        let plan = plan(&request).unwrap();
        let twice = format!(
            "or up to {} shorter",
            plan.pages / plan.context.div_ceil(64)
        );
        assert!(!says(&plan, &twice), "{:?}", plan.reasons);
    }
}
