//! Whether another plan is better than the one that runs, and when it takes its place.

use proto::control::Offer;

use super::world::SPEED;
use super::*;
use crate::house::serving::Door;

const CALM: u64 = 30_000;

fn anew(anew: Anew) -> Rules {
    Rules { anew, ..rules() }
}

fn offer(memory_bytes: u64, paused: &str) -> NodeMessage {
    NodeMessage::Offer(Offer {
        memory_bytes,
        threads: 4,
        read_bytes_per_s: 1e10,
        macs_per_s: 1e10,
        paused: paused.to_owned(),
    })
}

/// The acts about plans since the last look; others are left out.
fn tried(world: &mut World) -> Vec<String> {
    let mut done = world.done();
    done.retain(|act| {
        ["try", "hold", "plan", "assign"]
            .iter()
            .any(|word| act.starts_with(word))
    });
    done
}

/// One machine serves, another came in, and calm is over but for a moment.
fn almost_calm(rules: Rules, tokens_per_s: f64) -> World {
    let mut world = World::serving_by(rules, &["a"], 1);
    world.join("b");
    world.tokens_per_s = tokens_per_s;
    world.pass(ms(CALM - 100), &["a", "b"]);
    assert!(tried(&mut world).is_empty(), "too early");
    world
}

fn first_reason(world: &World) -> String {
    let reasons = &world.h.run().unwrap().plan.reasons;
    reasons.first().cloned().unwrap_or_default()
}

/// Carries the change out that was begun.
fn change(world: &mut World) {
    world.event(Event::Idle);
    world.load_all();
    assert_eq!(world.phase(), Shown::Ready);
}

#[test]
fn a_machine_that_makes_answers_faster_gets_a_part_after_a_calm() {
    let mut world = almost_calm(rules(), 1.2 * SPEED);
    world.pass(ms(100), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
    assert_eq!(world.phase(), Shown::Ready, "a join never ends that");
    assert_eq!(world.h.door(), Door::Waiting);
    let found = "a better plan was found because 'b' came in (12.0 tokens/s instead of 10.0)";
    assert!(world.detail().contains(found), "{}", world.detail());
    assert!(world.h.wants_idle());
    world.event(Event::Idle);
    assert_eq!(
        world.done(),
        [
            "lost",
            "plan a+b",
            "assign e2 0-6 to a",
            "assign e2 6-12 to b",
            "peers a+b"
        ]
    );
    assert_eq!(
        first_reason(&world),
        "Planned anew because 'b' came in: 12.0 tokens/s instead of 10.0."
    );
    assert_eq!(world.phase(), Shown::Ready, "while they load");
    assert_eq!(world.h.door(), Door::Waiting);
    world.load_all();
    assert_eq!(world.h.door(), Door::Open);
    world.done();
    world.pass(ms(300_000), &["a", "b"]);
    assert!(world.done().is_empty(), "nothing changed since");
}

#[test]
fn a_gain_below_a_fifth_is_not_worth_a_change_and_not_asked_for_again() {
    let mut world = almost_calm(rules(), 1.19 * SPEED);
    world.pass(ms(300_000), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1"]);
    assert_eq!(world.detail(), "1 machines answer");
    let spare = world.h.nodes().find(|node| node.name == "b").unwrap();
    assert_eq!(world.h.state_of(spare, world.now), NodeState::Spare);
    // With other facts it is.
    world.hear("b", offer(2 * GIB, ""));
    world.tokens_per_s = 1.3 * SPEED;
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
    change(&mut world);
    assert_eq!(
        first_reason(&world),
        "Planned anew because 'b' gives something else: 13.0 tokens/s instead of 10.0."
    );
}

#[test]
fn what_is_asked_of_the_service_comes_before_a_better_plan() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.event(Event::Busy);
    world.pass(ms(300_000), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1"]);
    assert_eq!(world.phase(), Shown::Ready);
    let waits = "used once nothing was asked for 30 s";
    assert!(world.detail().contains(waits), "{}", world.detail());
    world.event(Event::Idle);
    world.pass(ms(CALM - 1000), &["a", "b"]);
    world.event(Event::Busy);
    world.event(Event::Idle);
    world.pass(ms(CALM - 1000), &["a", "b"]);
    assert!(tried(&mut world).is_empty(), "calm begins anew");
    world.pass(ms(1000), &["a", "b"]);
    assert_eq!(tried(&mut world), ["hold"]);
}

#[test]
fn a_machine_that_comes_and_goes_is_not_planned_for() {
    let mut world = World::serving(&["a"], 1);
    world.tokens_per_s = 2.0 * SPEED;
    for _ in 0..20 {
        world.join("b");
        world.pass(ms(CALM - 1000), &["a", "b"]);
        world.close("b");
        world.pass(ms(1000), &["a"]);
    }
    assert!(tried(&mut world).is_empty());
    world.join("b");
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
}

#[test]
fn changes_to_a_better_plan_keep_their_distance() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.pass(ms(100), &["a", "b"]);
    change(&mut world);
    world.close("b");
    world.load_all();
    world.join("b");
    world.done();
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1"]);
    world.pass(ms(29_000), &["a", "b"]);
    assert!(tried(&mut world).is_empty());
    world.pass(ms(1000), &["a", "b"]);
    assert_eq!(tried(&mut world), ["hold"], "a minute after the first");
}

#[test]
fn a_machine_that_resumes_gets_its_part_back() {
    let mut world = World::serving(&["a", "b"], 1);
    world.hear("b", offer(GIB, "its owner has paused it"));
    change(&mut world);
    assert_eq!(world.stages(), ["a"]);
    world.done();
    world.tokens_per_s = 1.5 * SPEED;
    world.pass(ms(100_000), &["a", "b"]);
    assert!(
        world.done().is_empty(),
        "nothing is planned for a paused one"
    );
    world.hear("b", offer(GIB, ""));
    world.pass(ms(CALM - 1000), &["a", "b"]);
    world.hear("b", offer(GIB, "its owner has paused it"));
    world.pass(ms(CALM), &["a", "b"]);
    assert!(world.done().is_empty(), "paused again in time");
    world.hear("b", offer(GIB, ""));
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
    change(&mut world);
    assert_eq!(world.stages(), ["a", "b"]);
    assert_eq!(
        first_reason(&world),
        "Planned anew because 'b' is no longer paused: 15.0 tokens/s instead of 10.0."
    );
}

#[test]
fn a_context_twice_as_long_is_worth_a_change_and_a_shorter_one_is_not() {
    let cases = [
        (1023, 0.9, false),
        (1024, 0.5, true),
        (511, 3.0, false),
        (512, 3.0, true),
    ];
    for (context, gain, worth) in cases {
        let mut world = almost_calm(rules(), gain * SPEED);
        world.context = context;
        world.pass(ms(100), &["a", "b"]);
        let did = tried(&mut world);
        assert_eq!(did.contains(&"hold".to_owned()), worth, "{context} {gain}");
        if context == 1024 {
            change(&mut world);
            assert_eq!(
                first_reason(&world),
                "Planned anew because 'b' came in: 1024 positions of context instead of 512."
            );
        }
    }
}

#[test]
fn a_plan_for_every_machine_takes_a_newcomer_in() {
    let mut world = almost_calm(anew(Anew::EveryMachine), 0.15 * SPEED);
    world.pass(ms(100), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
    change(&mut world);
    assert_eq!(
        first_reason(&world),
        "Planned anew because 'b' came in and every machine is to have a part: 1.50 tokens/s instead of 10.00."
    );
    // All have their part: from now on only what is better counts.
    world.done();
    world.event(Event::Relinked(id("a"), id("b")));
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 2"]);
}

#[test]
fn a_given_plan_stays() {
    let mut world = almost_calm(anew(Anew::Never), 9.0 * SPEED);
    world.event(Event::Relinked(id("a"), id("b")));
    world.pass(ms(300_000), &["a", "b"]);
    assert!(world.done().is_empty());
}

#[test]
fn a_service_that_ends_looks_for_no_better_plan() {
    let mut world = almost_calm(rules(), 9.0 * SPEED);
    world.event(Event::Drain);
    world.pass(ms(300_000), &["a", "b"]);
    assert!(tried(&mut world).is_empty());
}

#[test]
fn a_link_that_is_another_is_planned_with_and_does_not_put_a_trial_off() {
    let mut world = World::serving(&["a", "b"], 1);
    world.tokens_per_s = 1.2 * SPEED;
    for _ in 0..30 {
        world.event(Event::Relinked(id("a"), id("home")));
        world.pass(ms(999), &["a", "b"]);
    }
    assert!(tried(&mut world).is_empty());
    world.pass(ms(30), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 2", "hold"]);
    change(&mut world);
    assert_eq!(
        first_reason(&world),
        "Planned anew because the link between 'a' and the coordinator is another: 12.0 tokens/s instead of 10.0."
    );
}

#[test]
fn a_trial_that_facts_have_overtaken_is_made_again() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.plans = false;
    world.pass(ms(100), &["a", "b"]);
    let Some(Act::Try { ticket, nodes, .. }) = world.acts.pop() else {
        panic!("a trial was asked for")
    };
    world.join("c");
    let late = world.trial(ticket, &nodes);
    world.done();
    world.event(late);
    assert!(world.done().is_empty(), "not looked at");
    world.plans = true;
    world.event(Event::Busy);
    world.pass(ms(CALM), &["a", "b", "c"]);
    assert_eq!(tried(&mut world), ["try a+b+c for 1"]);
    assert!(
        world.detail().contains("'b' came in and 'c' came in"),
        "{}",
        world.detail()
    );
    // One of them goes before the plan is used: it may have counted on it.
    world.close("c");
    assert_eq!(world.detail(), "1 machines answer");
    world.event(Event::Idle);
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
}

#[test]
fn a_machine_that_comes_while_others_load_is_tried_afterwards() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    world.pass(ms(400), &[]);
    world.tokens_per_s = 2.0 * SPEED;
    world.join("b");
    world.load_all();
    world.done();
    world.pass(ms(CALM), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1", "hold"]);
}

#[test]
fn a_loss_during_the_change_is_planned_for_as_ever() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.pass(ms(100), &["a", "b"]);
    world.plans = false;
    world.event(Event::Idle);
    world.plans = true;
    world.done();
    world.close("b");
    assert_eq!(world.done(), ["plan a", "assign e2 0-12 to a", "peers a"]);
    assert_eq!(first_reason(&world), "", "it is not because 'b' came in");
}

#[test]
fn a_machine_that_is_lost_while_the_better_plan_loads_makes_the_service_unready() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.pass(ms(100), &["a", "b"]);
    world.event(Event::Idle);
    assert_eq!(world.h.door(), Door::Waiting);
    world.close("b");
    assert_ne!(world.phase(), Shown::Ready);
    assert_eq!(world.h.door(), Door::Shut);
}

#[test]
fn a_trial_that_cannot_be_made_changes_nothing() {
    let mut world = almost_calm(rules(), 2.0 * SPEED);
    world.need = 3;
    world.pass(ms(100_000), &["a", "b"]);
    assert_eq!(tried(&mut world), ["try a+b for 1"]);
    assert_eq!(world.phase(), Shown::Ready);
}
