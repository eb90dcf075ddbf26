//! What machines give changes while they are in.

use proto::control::Offer;

use super::*;

fn offer(paused: &str) -> NodeMessage {
    NodeMessage::Offer(Offer {
        memory_bytes: GIB,
        threads: 4,
        read_bytes_per_s: 1e10,
        macs_per_s: 1e10,
        paused: paused.to_owned(),
    })
}

#[test]
fn a_machine_that_pauses_is_drained_and_left_out_with_its_reason() {
    let mut world = World::serving(&["a", "b"], 1);
    world.hear("b", offer("it runs on battery"));
    assert_eq!(world.done(), ["hold"]);
    assert_eq!(world.phase(), Shown::Planning);
    assert!(
        world.detail().contains("'b' changes what it gives"),
        "{}",
        world.detail()
    );
    // Said again it changes nothing.
    world.hear("b", offer("it runs on battery"));
    assert!(world.done().is_empty());
    world.event(Event::Idle);
    assert_eq!(
        world.done(),
        [
            "lost",
            "plan a",
            "assign e2 0-12 to a",
            "release e1 to b",
            "peers a"
        ]
    );
    let left_out = &world.h.run().unwrap().plan.left_out;
    assert_eq!(left_out.len(), 1);
    assert_eq!(
        (left_out[0].name.as_str(), left_out[0].reason.as_str()),
        ("b", "paused: it runs on battery")
    );
    let state = |world: &World| world.h.state_of(&world.h.nodes[&id("b")], world.now);
    assert_eq!(state(&world), NodeState::Paused);
    world.load_all();
    world.done();
    // Back again it waits for the next plan: what is served is not disturbed.
    world.hear("b", offer(""));
    assert!(world.done().is_empty());
    assert_eq!(state(&world), NodeState::Spare);
    world.close("a");
    assert_eq!(world.stages(), ["b"]);
}

#[test]
fn running_answers_have_their_time_and_no_more() {
    let mut world = World::serving(&["a", "b"], 1);
    world.hear("b", offer("somebody is at it"));
    world.done();
    world.pass(ms(7_900), &["a", "b"]);
    assert!(world.done().is_empty());
    world.pass(ms(200), &["a", "b"]);
    assert_eq!(world.stages(), ["a"]);
    assert!(world.done().contains(&"release e1 to b".to_owned()));
}

#[test]
fn without_a_machine_that_is_needed_the_household_waits_and_goes_on_by_itself() {
    let mut world = World::serving(&["a", "b"], 2);
    world.hear("b", offer("it serves in the hours 22:00-07:00 only"));
    world.event(Event::Idle);
    assert_eq!(world.phase(), Shown::WaitingForNodes);
    assert!(
        world
            .detail()
            .contains("machine 'b' is paused: it serves in the hours"),
        "{}",
        world.detail()
    );
    let did = world.done();
    for expected in ["release e1 to a", "release e1 to b"] {
        assert!(
            did.iter().any(|act| act == expected),
            "{expected} in {did:?}"
        );
    }
    world.hear("b", offer(""));
    world.pass(ms(400), &["a", "b"]);
    world.load_all();
    assert_eq!(world.stages(), ["a", "b"]);
    assert_eq!(world.phase(), Shown::Ready);
}

#[test]
fn a_machine_that_comes_paused_or_pauses_while_loading_gets_no_part() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    let paused = Hello {
        paused: "its owner has paused it".to_owned(),
        ..hello("b")
    };
    world.join_as("b", paused);
    world.join("c");
    world.pass(ms(400), &[]);
    assert_eq!(world.stages(), ["a", "c"]);
    world.hear("c", offer("it runs on battery"));
    assert_eq!(world.stages(), ["a"]);
    world.hear("a", offer("it runs on battery"));
    assert_eq!(world.phase(), Shown::WaitingForNodes);
    assert!(
        world.detail().contains("is paused or failed"),
        "{}",
        world.detail()
    );
}

#[test]
fn more_or_less_memory_is_planned_for_when_nothing_runs() {
    let mut world = World::serving(&["a", "b"], 1);
    let NodeMessage::Offer(less) = offer("") else {
        panic!("an offer");
    };
    let less = Offer {
        memory_bytes: GIB / 2,
        ..less
    };
    world.hear(
        "a",
        NodeMessage::Offer(Offer {
            macs_per_s: f64::NAN,
            ..less.clone()
        }),
    );
    assert!(
        world.done().is_empty(),
        "speeds that are none change nothing"
    );
    world.hear("a", NodeMessage::Offer(less));
    assert_eq!(world.done(), ["hold"]);
    world.event(Event::Idle);
    let plan = &world.h.run().unwrap().plan;
    assert_eq!(
        (plan.stages.len(), plan.stages[0].allowance_bytes),
        (2, GIB / 2)
    );
}
