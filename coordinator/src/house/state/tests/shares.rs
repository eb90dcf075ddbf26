//! Plans with expert groups and head blocks on other machines: who is told what, and whose loss ends the epoch.

use plan::{ExpertsPlan, HeadBlocksPlan};
use proto::GroupSet;
use proto::control::Assign;

use super::world::LAYERS;
use super::*;

/// Layers on `a` and `b`; `c` has groups of both, `b` two groups of one layer of `a`, `d` a block of the head.
fn spread(world: &World) -> Plan {
    let stages = ["a", "b"].map(|name| world.h.nodes[&id(name)].facts());
    let mut plan = plan_of(&stages, 1).unwrap();
    let experts = |name: &str, layers: (u32, u32), groups: &[u32]| ExpertsPlan {
        node: id(name),
        name: name.to_owned(),
        first_layer: layers.0,
        end_layer: layers.1,
        groups: groups.to_vec(),
    };
    plan.experts = vec![experts("c", (5, 7), &[3]), experts("b", (0, 1), &[0, 1])];
    plan.head_blocks = vec![HeadBlocksPlan {
        node: id("d"),
        name: "d".to_owned(),
        blocks: vec![15],
    }];
    plan
}

fn assigned() -> (World, BTreeMap<NodeId, Assign>) {
    let mut world = World::new(rules(), 1);
    world.plans = false;
    for name in ["a", "b", "c", "d", "e"] {
        world.join(name);
    }
    world.pass(ms(400), &[]);
    let mut tickets = world.acts.iter().filter_map(|act| match act {
        Act::Plan { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let ticket = tickets.next_back().unwrap();
    let result = Ok((spread(&world), Epoch(1)));
    world.acts.clear();
    world.event(Event::Planned { ticket, result });
    let nodes: BTreeMap<LinkId, NodeId> = world
        .h
        .nodes()
        .map(|node| (node.link, node.id.clone()))
        .collect();
    let assigns = world.acts.iter().filter_map(|act| match act {
        Act::Send {
            link,
            message: CoordinatorMessage::Assign(assign),
        } => Some((nodes[link].clone(), assign.as_ref().clone())),
        _ => None,
    });
    let assigns = assigns.collect();
    (world, assigns)
}

#[test]
fn everybody_hears_of_those_whom_it_asks_and_serves() {
    let (world, assigns) = assigned();
    let of = |name: &str| &assigns[&id(name)];
    assert_eq!(assigns.len(), 4, "e has no part");
    let owners = |name: &str| -> Vec<NodeId> {
        let owners = of(name).owners.iter();
        owners.map(|owner| owner.peer.node.clone()).collect()
    };
    let askers = |name: &str| -> Vec<NodeId> {
        let askers = of(name).askers.iter();
        askers.map(|asker| asker.node.clone()).collect()
    };
    assert_eq!(owners("a"), [id("b"), id("c")]);
    assert_eq!(owners("b"), [id("c"), id("d")]);
    assert_eq!(askers("b"), [id("a")]);
    assert_eq!(askers("c"), [id("a"), id("b")]);
    assert_eq!(askers("d"), [id("b")]);
    assert_eq!(of("a").given_groups(0), GroupSet::all(2));
    assert_eq!(of("a").given_groups(5), GroupSet::none().with(3));
    assert_eq!(of("b").given_groups(6), GroupSet::none().with(3));
    assert_eq!(of("b").given_blocks(), GroupSet::none().with(15));
    assert_eq!(of("b").foreign, [(0, GroupSet::all(2))].into());
    let groups = GroupSet::none().with(3);
    assert_eq!(of("c").foreign, [(5, groups), (6, groups)].into());
    assert_eq!(
        (of("c").layers.clone(), of("d").layers.clone()),
        (0..0, 0..0)
    );
    assert_eq!(of("d").head_blocks, GroupSet::none().with(15));
    assert!(of("c").previous.is_none() && of("d").next.is_none());
    assert_eq!(of("b").layers, LAYERS / 2..LAYERS);
    for assign in assigns.values() {
        let wire = proto::control::wire::Assign::from(assign.clone());
        assert_eq!(&Assign::try_from(wire).unwrap(), assign, "nodes believe it");
    }
    let peers = world.acts.iter().find_map(|act| match act {
        Act::Peers(peers) => Some(peers.len()),
        _ => None,
    });
    assert_eq!(peers, Some(4));
}

#[test]
fn an_owner_that_is_lost_ends_the_epoch() {
    let (mut world, _) = assigned();
    for name in ["a", "b", "c"] {
        world.event(Event::Up(id(name)));
        world.loaded(name, Epoch(1));
    }
    assert_eq!(world.phase(), Shown::Loading, "one owner is not ready yet");
    world.event(Event::Up(id("d")));
    world.loaded("d", Epoch(1));
    assert_eq!(world.phase(), Shown::Ready);
    let run = world.h.run().unwrap();
    let share = run.share(&id("c")).unwrap();
    assert_eq!((share.expert_groups, share.weight_bytes), (2, 20));
    assert_eq!(run.share(&id("d")).unwrap().head_blocks, 1);
    world.close("e");
    assert_eq!(world.phase(), Shown::Ready, "it had no part");
    world.acts.clear();
    world.close("d");
    assert_ne!(world.phase(), Shown::Ready);
    let lost = world.done();
    assert!(lost.iter().any(|act| act == "lost"), "{lost:?}");
}
