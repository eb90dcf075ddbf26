//! Machines without the model: who is told what, and when.

use proto::control::Held;

use super::super::*;
use super::world::{World, ms, rules};

const CATALOGUE: [u8; 32] = [8; 32];

/// Two machines that load; each has half of the layers.
fn loading() -> (World, Epoch) {
    let mut world = World::new(rules(), 2);
    world.join("a");
    world.join("b");
    world.pass(ms(400), &[]);
    let epoch = world.h.run().unwrap().epoch;
    world.acts.clear();
    (world, epoch)
}

fn held(catalogue: [u8; 32], shards: u8) -> NodeMessage {
    NodeMessage::Held(Held {
        catalogue,
        shards: vec![shards],
    })
}

#[test]
fn the_catalogue_is_made_once_and_told_to_all_who_seek() {
    let (mut world, epoch) = loading();
    world.hear("a", NodeMessage::Seek(epoch));
    world.hear("b", NodeMessage::Seek(epoch));
    assert_eq!(world.done(), ["catalogue"]);
    world.event(Event::Catalogued(Ok(CATALOGUE)));
    assert_eq!(world.done(), ["sources  to a", "sources  to b"]);
    // Known now: an answer comes at once.
    world.hear("b", NodeMessage::Seek(epoch));
    assert_eq!(world.done(), ["sources  to a", "sources  to b"]);
}

#[test]
fn holders_lend_to_seekers_alone_and_no_longer_than_needed() {
    let (mut world, epoch) = loading();
    world.join("c");
    world.hear("c", held(CATALOGUE, 3));
    world.hear("b", held([1; 32], 3));
    world.acts.clear();
    world.hear("a", NodeMessage::Seek(epoch));
    world.event(Event::Catalogued(Ok(CATALOGUE)));
    assert_eq!(
        world.done(),
        ["catalogue", "lend a to b", "lend a to c", "sources c to a"]
    );
    world.loaded("a", epoch);
    assert_eq!(world.done(), ["lend  to b", "lend  to c"]);
    // Who gave everything up is no source any more.
    world.hear("c", held(CATALOGUE, 0));
    world.hear("b", NodeMessage::Seek(epoch));
    let did = world.done();
    assert_eq!(did, ["lend  to b", "sources  to b"]);
}

#[test]
fn a_seeker_that_goes_may_borrow_no_more() {
    let (mut world, epoch) = loading();
    world.join("c");
    world.hear("c", held(CATALOGUE, 1));
    world.hear("a", NodeMessage::Seek(epoch));
    world.event(Event::Catalogued(Ok(CATALOGUE)));
    world.acts.clear();
    world.close("a");
    assert!(world.done().contains(&"lend  to c".to_owned()));
}

#[test]
fn what_cannot_be_given_away_is_said_and_tried_again() {
    let (mut world, epoch) = loading();
    world.hear("a", NodeMessage::Seek(epoch));
    world.event(Event::Catalogued(Err("the file changed".to_owned())));
    assert_eq!(
        world.done(),
        ["catalogue", "no sources (the file changed) to a"]
    );
    world.hear("a", NodeMessage::Seek(epoch));
    assert_eq!(world.done(), ["catalogue"]);
}

#[test]
fn seeks_of_other_epochs_and_of_machines_without_a_part_are_nothing() {
    let (mut world, epoch) = loading();
    world.join("c");
    world.acts.clear();
    world.hear("c", NodeMessage::Seek(epoch));
    world.hear("a", NodeMessage::Seek(epoch.next()));
    assert!(world.done().is_empty());
    world.load_all();
    world.acts.clear();
    world.hear("a", NodeMessage::Seek(epoch));
    assert!(world.done().is_empty());
}

#[test]
fn nobody_is_blamed_for_waiting_for_the_catalogue() {
    let (mut world, epoch) = loading();
    let silence = rules().timing.load_silence;
    world.hear("a", NodeMessage::Seek(epoch));
    world.pass(silence * 3, &["a", "b"]);
    assert_eq!(world.h.run().map(|run| run.epoch), Some(epoch));
    world.event(Event::Catalogued(Ok(CATALOGUE)));
    world.pass(silence / 2, &["a", "b"]);
    assert_eq!(world.h.run().map(|run| run.epoch), Some(epoch));
    // From here on silence is theirs.
    world.pass(silence, &["a", "b"]);
    assert_ne!(world.h.run().map(|run| run.epoch), Some(epoch));
}
