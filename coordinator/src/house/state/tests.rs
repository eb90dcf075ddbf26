//! Scripted lives of a household in virtual time: who comes and goes, and what is done about it.

use proto::control::{Beat, LoadFailed, LoadProgress, PeerLost};

use super::*;
use crate::gateway::Phase as Shown;

mod faults;
mod offers;
mod shares;
mod trials;
mod weights;
mod world;
use world::{GIB, World, hello, id, ms, plan_of, rules};

#[test]
fn machines_that_start_together_get_one_plan() {
    let mut world = World::new(rules(), 1);
    assert!(
        world.detail().contains("coordinator invite"),
        "{}",
        world.detail()
    );
    for name in ["a", "b", "c"] {
        world.join(name);
        assert_eq!(world.phase(), Shown::Planning);
        world.pass(ms(200), &[]);
    }
    world.pass(ms(150), &[]);
    let did = world.done();
    assert_eq!(
        did,
        [
            "welcome to a",
            "welcome to b",
            "welcome to c",
            "plan a+b+c",
            "assign e1 0-4 to a",
            "assign e1 4-8 to b",
            "assign e1 8-12 to c",
            "peers a+b+c",
        ]
    );
    assert_eq!(world.phase(), Shown::Loading);
    world.load_all();
    assert_eq!(world.done(), ["ready e1"]);
    let status = world.h.status(world.now);
    assert_eq!(
        (status.phase, status.nodes, status.context),
        (Shown::Ready, 3, 512)
    );
    assert_eq!((status.done_bytes, status.total_bytes), (3000, 3000));
}

#[test]
fn an_assignment_tells_a_stage_its_place() {
    let mut world = World::new(
        Rules {
            neighbours: vec!["192.168.1.2".parse().unwrap()],
            ..rules()
        },
        1,
    );
    for name in ["a", "b", "c"] {
        world.join(name);
    }
    world.h.nodes.get_mut(&id("b")).unwrap().remote = "127.0.0.1:9".parse().unwrap();
    world.pass(ms(400), &[]);
    let assigns: Vec<_> = world
        .acts
        .iter()
        .filter_map(|act| match act {
            Act::Send {
                message: CoordinatorMessage::Assign(assign),
                ..
            } => Some(assign),
            _ => None,
        })
        .collect();
    let node = |peer: &Option<Peer>| peer.as_ref().map(|peer| peer.node.clone());
    for (at, assign) in assigns.iter().enumerate() {
        assert_eq!(
            node(&assign.previous),
            at.checked_sub(1).map(|p| id(["a", "b", "c"][p]))
        );
        assert_eq!(node(&assign.next), ["b", "c"].get(at).map(|n| id(n)));
        assert_eq!((assign.embedding, assign.head), (at == 0, at == 2));
        assert_eq!(
            (assign.model_path.as_str(), assign.model_bytes),
            ("/m.gguf", 7)
        );
        assert_eq!(assign.coordinator, id("home"));
        assert_eq!(
            (
                assign.pages,
                assign.slots,
                assign.context,
                assign.chunk_rows
            ),
            (16, 2, 512, 64)
        );
    }
    let seen_on_loopback = assigns[0].next.as_ref().unwrap();
    let addresses: Vec<String> = seen_on_loopback
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["127.0.0.1:9", "192.168.1.2:9"]);
}

#[test]
fn the_expected_number_is_waited_for_and_no_longer() {
    let mut world = World::new(
        Rules {
            expect: Some(3),
            ..rules()
        },
        1,
    );
    world.join("a");
    world.join("b");
    world.pass(ms(3000), &["a", "b"]);
    assert_eq!(world.phase(), Shown::WaitingForNodes);
    assert!(world.detail().contains("2 of 3"), "{}", world.detail());
    world.done();
    world.join("c");
    assert_eq!(world.done()[..2], ["welcome to c", "plan a+b+c"]);
    world.load_all();
    world.close("b");
    assert_eq!(
        world.stages(),
        ["a", "c"],
        "after a loss the rest is planned at once"
    );
}

#[test]
fn a_stream_of_newcomers_does_not_put_the_plan_off_for_ever() {
    let mut world = World::new(rules(), 1);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    for name in &names {
        world.join(name);
        world.pass(ms(250), &[]);
        if world.h.run().is_some() {
            break;
        }
    }
    assert_eq!(world.now, ms(3000));
}

#[test]
fn a_newcomer_changes_nothing_in_a_service_that_stands() {
    let mut world = World::serving(&["a", "b"], 2);
    world.join("c");
    world.pass(ms(3000), &["a", "b", "c"]);
    assert_eq!(world.done(), ["welcome to c", "release e1 to c"]);
    assert_eq!(world.phase(), Shown::Ready);
    let spare = world.h.nodes().find(|node| node.name == "c").unwrap();
    assert_eq!(world.h.state_of(spare, world.now).name(), "spare");
    world.close("c");
    assert!(world.done().is_empty());
    assert_eq!(world.phase(), Shown::Ready);
}

#[test]
fn a_loss_while_loading_plans_with_the_rest() {
    let mut world = World::new(rules(), 2);
    for name in ["a", "b", "c"] {
        world.join(name);
    }
    world.pass(ms(400), &[]);
    world.loaded("a", Epoch(1));
    world.done();
    world.close("b");
    assert_eq!(
        world.done(),
        [
            "plan a+c",
            "assign e2 0-6 to a",
            "assign e2 6-12 to c",
            "peers a+c"
        ]
    );
    world.event(Event::Up(id("a")));
    world.event(Event::Up(id("c")));
    world.loaded("a", Epoch(1));
    world.loaded("c", Epoch(1));
    assert!(
        world.done().is_empty(),
        "an older epoch's words count for nothing"
    );
    world.loaded("a", Epoch(2));
    world.loaded("c", Epoch(2));
    assert_eq!(world.done(), ["ready e2"]);
}

#[test]
fn a_loss_while_serving_says_who_went_and_what_is_missing() {
    let mut world = World::serving(&["a", "b"], 2);
    world.close("b");
    let lost = world.acts.iter().find_map(|act| match act {
        Act::Session(session::Input::Lost { reason }) => Some(reason.clone()),
        _ => None,
    });
    let reason = lost.unwrap();
    assert!(
        reason.contains("'b'") && reason.contains("unplugged"),
        "{reason}"
    );
    assert_eq!(world.done(), ["lost", "plan a", "release e1 to a"]);
    let status = world.h.status(world.now);
    assert_eq!(
        (status.phase, status.missing_bytes, status.nodes),
        (Shown::WaitingForNodes, GIB, 1)
    );
    assert!(
        status.detail.contains("'b' is gone: unplugged"),
        "{}",
        status.detail
    );
    world.join("b");
    world.pass(ms(400), &[]);
    assert_eq!(world.stages(), ["a", "b"]);
    world.load_all();
    assert_eq!(world.phase(), Shown::Ready);
    assert!(!world.detail().contains("gone"), "{}", world.detail());
}

#[test]
fn a_silent_machine_is_lost_when_its_lease_ends() {
    let mut world = World::serving(&["a", "b"], 1);
    world.pass(ms(20_000), &["a", "b"]);
    assert_eq!(world.phase(), Shown::Ready);
    world.done();
    world.pass(ms(3_900), &["a"]);
    assert!(world.done().is_empty());
    world.pass(ms(1_200), &["a"]);
    assert_eq!(
        world.done(),
        [
            "part link2",
            "lost",
            "plan a",
            "assign e2 0-12 to a",
            "peers a"
        ]
    );
}

#[test]
fn a_broken_data_link_waits_for_the_dead_to_turn_out_dead() {
    let mut world = World::serving(&["a", "b", "c"], 1);
    world.event(Event::Down {
        node: id("b"),
        reason: "no route".to_owned(),
    });
    assert_eq!(world.done(), ["lost"]);
    assert!(world.detail().contains("'b'"), "{}", world.detail());
    world.pass(ms(500), &[]);
    world.close("b");
    assert_eq!(world.done()[0], "plan a+c", "at once, and without it");

    let mut world = World::serving(&["a", "b"], 1);
    let text = "timed out".to_owned();
    world.hear(
        "a",
        NodeMessage::PeerLost(PeerLost {
            epoch: Epoch(1),
            node: id("b"),
            text,
        }),
    );
    assert_eq!(world.done(), ["lost"]);
    world.pass(ms(2100), &["a", "b"]);
    assert_eq!(world.stages(), ["a", "b"], "both are alive");
}

#[test]
fn a_leaver_waits_for_running_answers() {
    let mut world = World::serving(&["a", "b"], 1);
    world.hear("b", NodeMessage::Leave);
    assert_eq!(world.done(), ["hold"]);
    assert_eq!(world.phase(), Shown::Planning);
    assert!(world.h.wants_idle());
    world.event(Event::Idle);
    assert_eq!(
        world.done(),
        [
            "release e1 to link2",
            "part link2",
            "lost",
            "plan a",
            "assign e2 0-12 to a",
            "peers a"
        ]
    );

    let mut world = World::serving(&["a", "b", "c"], 1);
    world.hear("b", NodeMessage::Leave);
    world.hear("c", NodeMessage::Leave);
    world.done();
    world.pass(ms(7_900), &["a", "b", "c"]);
    assert!(world.done().is_empty());
    world.pass(ms(200), &["a", "b", "c"]);
    assert_eq!(world.stages(), ["a"]);
    let did = world.done();
    for expected in [
        "release e1 to link2",
        "part link2",
        "release e1 to link3",
        "part link3",
        "lost",
    ] {
        assert!(
            did.iter().any(|act| act == expected),
            "{expected} in {did:?}"
        );
    }
}

#[test]
fn a_spare_leaves_without_a_trace() {
    let mut world = World::serving(&["a"], 1);
    world.join("b");
    world.done();
    world.hear("b", NodeMessage::Leave);
    assert_eq!(world.done(), ["release e1 to link2", "part link2"]);
    assert_eq!(world.phase(), Shown::Ready);
}

#[test]
fn a_kicked_machine_is_told_and_cut_off() {
    let mut world = World::serving(&["a", "b"], 1);
    world.event(Event::Kicked(id("b")));
    assert_eq!(
        world.done(),
        [
            "kicked to link2",
            "part link2",
            "lost",
            "plan a",
            "peers a",
            "assign e2 0-12 to a",
            "peers a",
        ]
    );
    world.event(Event::Kicked(id("nobody")));
    assert!(world.done().is_empty());
}

#[test]
fn a_machine_that_cannot_load_is_left_out_with_its_reason() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    world.join("b");
    world.pass(ms(400), &[]);
    world.load_failed("b", Epoch(1));
    assert_eq!(world.stages(), ["a"]);
    let left_out = world.h.run().unwrap().plan.left_out.clone();
    assert_eq!(left_out.len(), 1);
    assert!(
        left_out[0].reason.contains("too little memory"),
        "{}",
        left_out[0].reason
    );
    assert!(
        world.done().contains(&"release e1 to b".to_owned()),
        "it may hold a part"
    );
    world.load_all();
    world.pass(ms(10_000), &["a", "b"]);
    assert_eq!(
        (world.phase(), world.stages()),
        (Shown::Ready, vec!["a".to_owned()]),
        "as a spare from now on"
    );
}

#[test]
fn failing_to_load_is_not_repeated_for_ever() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    let mut tried_at = Vec::new();
    for _ in 0..600 {
        world.pass(ms(100), &["a"]);
        if let Some(epoch) = world.h.run().map(|run| run.epoch) {
            tried_at.push(world.now);
            world.load_failed("a", epoch);
            assert!(
                world.detail().contains("too little memory"),
                "{}",
                world.detail()
            );
        }
    }
    let pauses: Vec<u64> = tried_at
        .windows(2)
        .map(|w| (w[1] - w[0]).as_secs())
        .collect();
    assert_eq!(pauses, [2, 4], "{tried_at:?}");
    assert!(world.detail().contains("node join"), "{}", world.detail());
    world.close("a");
    world.join("a");
    world.pass(ms(400), &[]);
    assert_eq!(world.stages(), ["a"], "a new connection is a new start");
}

#[test]
fn a_machine_whose_disk_is_full_is_tried_as_long_as_it_is_in() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    let mut tried_at = Vec::new();
    for _ in 0..400 {
        world.pass(ms(100), &["a"]);
        if let Some(epoch) = world.h.run().map(|run| run.epoch) {
            tried_at.push(world.now);
            let (code, text) = ("disk_full".to_owned(), "the disk is full".to_owned());
            world.hear(
                "a",
                NodeMessage::LoadFailed(LoadFailed { epoch, code, text }),
            );
            assert!(world.detail().contains("tried again"), "{}", world.detail());
        }
    }
    let pauses = tried_at.windows(2).map(|w| (w[1] - w[0]).as_secs());
    let pauses: Vec<u64> = pauses.collect();
    assert_eq!(pauses, [2, 4, 8, 8, 8, 8], "{tried_at:?}");
}

#[test]
fn who_makes_no_progress_is_left_out() {
    let mut world = World::new(rules(), 1);
    world.join("a");
    world.join("b");
    world.pass(ms(400), &[]);
    world.event(Event::Up(id("a")));
    world.event(Event::Up(id("b")));
    world.loaded("a", Epoch(1));
    let progress = |done_bytes| {
        NodeMessage::Load(LoadProgress {
            epoch: Epoch(1),
            done_bytes,
            total_bytes: 500,
        })
    };
    world.pass(ms(100_000), &["a", "b"]);
    world.hear("b", progress(100));
    let status = world.h.status(world.now);
    assert_eq!((status.done_bytes, status.total_bytes), (1100, 1500));
    assert!(status.eta_s.unwrap() > 1.0);
    world.pass(ms(100_000), &["a", "b"]);
    world.hear("b", progress(100));
    assert_eq!(world.stages(), ["a", "b"], "still in time");
    world.pass(ms(30_000), &["a", "b"]);
    assert_eq!(world.stages(), ["a"]);
}

#[test]
fn words_about_other_epochs_are_ignored() {
    let mut world = World::serving(&["a", "b"], 1);
    let text = "gone".to_owned();
    let stale = [
        NodeMessage::Loaded(proto::control::Loaded {
            epoch: Epoch(0),
            resident_bytes: 1,
        }),
        NodeMessage::PeerLost(PeerLost {
            epoch: Epoch(9),
            node: id("b"),
            text: text.clone(),
        }),
        NodeMessage::PeerLost(PeerLost {
            epoch: Epoch(1),
            node: id("stranger"),
            text,
        }),
        NodeMessage::Load(LoadProgress {
            epoch: Epoch(1),
            done_bytes: 9,
            total_bytes: 9,
        }),
        NodeMessage::Hello(hello("a")),
        NodeMessage::Beat(Beat::default()),
    ];
    for message in stale {
        world.hear("a", message);
    }
    world.load_failed("a", Epoch(1));
    let text = "slow".to_owned();
    world.event(Event::Suspect {
        epoch: Epoch(0),
        text,
    });
    world.event(Event::Idle);
    let facts: Vec<NodeFacts> = world.h.nodes().map(Node::facts).collect();
    let plan = plan_of(&facts, 1).unwrap();
    world.event(Event::Planned {
        ticket: 1,
        result: Ok((plan, Epoch(7))),
    });
    world.event(Event::Closed {
        link: LinkId(99),
        reason: "who?".to_owned(),
    });
    assert!(world.done().is_empty());
    assert_eq!(world.phase(), Shown::Ready);
}

#[test]
fn a_plan_for_machines_that_are_gone_is_not_used() {
    let mut world = World::new(rules(), 1);
    world.plans = false;
    world.join("a");
    world.join("b");
    world.pass(ms(400), &[]);
    let Some(Act::Plan { ticket, nodes }) = world.acts.pop() else {
        panic!("a plan was asked for")
    };
    world.close("b");
    let plan = plan_of(&nodes, 1).unwrap();
    world.event(Event::Planned {
        ticket,
        result: Ok((plan, Epoch(1))),
    });
    assert!(world.h.run().is_none());
    assert_eq!(world.done().last().unwrap(), "plan a");
}

#[test]
fn a_plan_that_could_not_be_recorded_is_tried_again() {
    let mut world = World::new(rules(), 1);
    world.plans = false;
    world.join("a");
    world.pass(ms(400), &[]);
    let Some(Act::Plan { ticket, .. }) = world.acts.pop() else {
        panic!("a plan was asked for")
    };
    let text = "disk full".to_owned();
    let failure = PlanFailure {
        missing_bytes: 0,
        text,
        retry: true,
    };
    world.event(Event::Planned {
        ticket,
        result: Err(failure),
    });
    assert_eq!(world.detail(), "disk full");
    world.plans = true;
    world.pass(ms(5_100), &["a"]);
    assert_eq!(world.stages(), ["a"]);
}

#[test]
fn a_machine_that_does_not_fit_is_refused_with_the_reason() {
    let mut world = World::new(rules(), 1);
    let old = Hello {
        protocol: 77,
        version: "0.0.9".to_owned(),
        ..hello("old")
    };
    world.join_as("old", old);
    let refused = world.acts.iter().find_map(|act| match act {
        Act::Send {
            message: CoordinatorMessage::Refused(refused),
            ..
        } => Some(refused.clone()),
        _ => None,
    });
    let text = refused.unwrap().text;
    for expected in ["0.0.9", "77", env!("CARGO_PKG_VERSION"), "protocol 2"] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(world.done(), ["refused protocol to link1", "part link1"]);
    world.join_as(
        "odd",
        Hello {
            macs_per_s: f64::NAN,
            ..hello("odd")
        },
    );
    assert_eq!(world.done(), ["refused bad_facts to link2", "part link2"]);
    for n in 0..proto::limits::NODES_MAX {
        world.join(&format!("n{n}"));
    }
    world.done();
    world.join("more");
    assert_eq!(
        world.done(),
        ["refused household_full to link67", "part link67"]
    );
}

#[test]
fn the_newer_connection_of_a_machine_counts() {
    let mut world = World::serving(&["a", "b"], 1);
    let link = world.join("b");
    assert_eq!(world.link("b"), link);
    let did = world.done();
    assert_eq!(did[..3], ["part link2", "lost", "plan a"]);
    world.event(Event::Closed {
        link: LinkId(2),
        reason: "the old one".to_owned(),
    });
    assert_eq!(world.link("b"), link, "the end of the older says nothing");
}

#[test]
fn names_are_told_apart_and_harmless() {
    let mut world = World::new(rules(), 1);
    for (node, name) in [
        ("1", "den"),
        ("2", "den"),
        ("3", " den "),
        ("4", ""),
        ("5", "a\u{1b}[2J"),
    ] {
        world.join_as(node, hello(name));
    }
    let names: Vec<String> = world.h.nodes().map(|node| node.name.clone()).collect();
    assert_eq!(names, ["den", "den-2", "den-3", "id4", "a?[2J"]);
}

#[test]
fn a_service_that_ends_plans_no_more() {
    let mut world = World::serving(&["a", "b"], 1);
    world.event(Event::Drain);
    world.event(Event::Drain);
    assert_eq!(world.done(), ["drain to a", "drain to b", "drain"]);
    assert_eq!(world.phase(), Shown::Draining);
    assert!(!world.h.is_done(), "answers may still be given");
    world.close("b");
    assert_eq!(world.done(), ["lost", "release e1 to a"]);
    assert!(world.h.is_done());
    world.join("c");
    assert_eq!(world.done(), ["refused draining to link3", "part link3"]);
}
