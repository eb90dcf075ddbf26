//! Hours of faults in virtual time: whatever comes in whatever order, epochs stay apart, and once the faults stop the
//! service comes back.

use std::collections::BTreeSet;

use super::super::*;
use super::world::{SPEED, World, id, ms, rules};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A small generator; the same seed gives the same life.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// What must hold of everything that is done.
#[derive(Default)]
struct Watch {
    assigned: Epoch,
    ready: Epoch,
    serving: bool,
    told: BTreeSet<LinkId>,
    parted: BTreeSet<LinkId>,
    tries: u32,
    holds: u32,
}

impl Watch {
    fn see(&mut self, act: &Act) {
        match act {
            Act::Send { link, message } => {
                assert!(
                    !self.parted.contains(link),
                    "{message:?} to a connection that was told to part"
                );
                if let CoordinatorMessage::Assign(assign) = message {
                    assert!(!self.serving, "assigned while serving");
                    assert!(assign.epoch >= self.assigned, "epochs only grow");
                    if assign.epoch > self.assigned {
                        self.told.clear();
                    }
                    self.assigned = assign.epoch;
                    assert!(self.told.insert(*link), "one slice a machine");
                }
            }
            Act::Try { .. } => {
                assert!(self.serving, "there is something to be better than");
                self.tries += 1;
            }
            Act::Session(session::Input::Hold) => self.holds += 1,
            Act::Part { link } => {
                self.parted.insert(*link);
            }
            Act::Session(session::Input::Ready(capacity)) => {
                assert!(
                    !self.serving && capacity.epoch > self.ready,
                    "each epoch is ready once"
                );
                assert_eq!(
                    capacity.epoch, self.assigned,
                    "what is served was assigned last"
                );
                self.ready = capacity.epoch;
                self.serving = true;
            }
            Act::Session(session::Input::Lost { .. }) => {
                assert!(self.serving, "only what is served can be lost");
                self.serving = false;
            }
            _ => {}
        }
    }
}

/// A life; how often a better plan was looked for in it, and used.
fn live(seed: u64) -> (u32, u32) {
    let mut dice = Dice(seed);
    let mut rules = rules();
    (rules.timing.calm, rules.timing.apart) = (ms(300), ms(900));
    let mut world = World::new(rules, 2);
    world.tokens_per_s = 2.0 * SPEED;
    let mut watch = Watch::default();
    for _ in 0..400 {
        let name = NAMES[usize::try_from(dice.roll(4)).unwrap()];
        let epoch = Epoch(world.epoch.0.saturating_sub(dice.roll(2)));
        match dice.roll(16) {
            0 | 1 => drop(world.join(name)),
            2 => world.close(name),
            3 | 4 => world.event(Event::Up(id(name))),
            5 => world.event(Event::Down {
                node: id(name),
                reason: "cut".to_owned(),
            }),
            6 | 7 => world.loaded(name, epoch),
            8 => world.load_failed(name, epoch),
            9 => world.hear(name, NodeMessage::Leave),
            10 => world.event(Event::Idle),
            11 => world.event(Event::Suspect {
                epoch,
                text: "slow".to_owned(),
            }),
            12 if world.h.run().is_some() => world.load_all(),
            12 => world.event(Event::Kicked(id(name))),
            13 => world.event(Event::Relinked(id(name), id("home"))),
            14 => world.event(Event::Busy),
            _ => {
                let time = ms(dice.roll(3000));
                world.pass(time, &NAMES);
            }
        }
        for act in std::mem::take(&mut world.acts) {
            watch.see(&act);
        }
    }
    for name in NAMES {
        world.close(name);
        world.join(name);
    }
    world.pass(ms(10_000), &NAMES);
    if world.phase() == crate::gateway::Phase::Loading {
        world.load_all();
    }
    assert_eq!(
        world.phase(),
        crate::gateway::Phase::Ready,
        "{}",
        world.detail()
    );
    (watch.tries, watch.holds)
}

#[test]
fn faults_in_any_order_end_in_service() {
    let (mut tries, mut holds) = (0, 0);
    for seed in 0..300 {
        let lived = std::panic::catch_unwind(|| live(seed));
        let (tried, held) = lived.unwrap_or_else(|_| panic!("seed {seed}"));
        tries += tried;
        holds += held;
    }
    assert!(tries > 100 && holds > 10, "{tries} {holds}");
}
