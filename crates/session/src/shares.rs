//! Who is next when several people want the same thing.
//!
//! Knows people and amounts, not what is shared out. The one idea: next is whoever has had least for their weight, and
//! who comes back begins level with the person served last. So nobody saves up turns by being away, and nobody has to
//! wait for more than one turn of each other person.

use std::collections::BTreeMap;

use proto::PersonId;

use crate::person::Person;

/// A multiple of every weight, so that dividing by one leaves no rest.
const SCALE: u64 = 4;

/// What people have had, in amounts over weights.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shares {
    /// Only those that are above the level.
    had: BTreeMap<PersonId, u64>,
    /// Where the person served last stood before.
    level: u64,
}

impl Shares {
    /// Of those that want something the one whose turn it is; of equals the first.
    pub fn next(&self, wanting: impl Iterator<Item = PersonId>) -> Option<PersonId> {
        wanting.min_by_key(|person| self.standing(*person))
    }

    /// A person has got so much.
    pub fn charge(&mut self, person: Person, amount: u32) {
        let before = self.standing(person.id);
        let cost = u64::from(amount) * SCALE / person.priority.weight();
        self.level = self.level.max(before);
        self.had.insert(person.id, before.saturating_add(cost));
        let level = self.level;
        self.had.retain(|_, had| *had > level);
    }

    fn standing(&self, person: PersonId) -> u64 {
        let had = self.had.get(&person).copied().unwrap_or_default();
        had.max(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::person::Priority;

    const PEOPLE: [Person; 3] = [
        Person {
            id: PersonId(1),
            priority: Priority::Low,
        },
        Person {
            id: PersonId(2),
            priority: Priority::Normal,
        },
        Person {
            id: PersonId(3),
            priority: Priority::High,
        },
    ];

    /// How often each gets a turn of their size.
    fn turns(shares: &mut Shares, people: &[(Person, u32)], rounds: u32) -> Vec<u32> {
        let mut got = vec![0; people.len()];
        for _ in 0..rounds {
            let next = shares.next(people.iter().map(|(p, _)| p.id)).unwrap();
            let at = people.iter().position(|(p, _)| p.id == next).unwrap();
            got[at] += 1;
            shares.charge(people[at].0, people[at].1);
        }
        got
    }

    #[test]
    fn turns_follow_weights_and_sizes() {
        let [low, normal, high] = PEOPLE;
        type Case = (&'static str, Vec<(Person, u32)>, Vec<u32>);
        let cases: [Case; 4] = [
            ("alone", vec![(low, 5)], vec![70]),
            (
                "by weight",
                vec![(low, 1), (normal, 1), (high, 1)],
                vec![10, 20, 40],
            ),
            (
                "large ones come more rarely",
                vec![
                    (normal, 60),
                    (
                        Person {
                            id: PersonId(9),
                            ..normal
                        },
                        10,
                    ),
                ],
                vec![10, 60],
            ),
            (
                "size and weight make up for each other",
                vec![(low, 10), (high, 40)],
                vec![35, 35],
            ),
        ];
        for (name, people, expected) in cases {
            let got = turns(&mut Shares::default(), &people, 70);
            let near = got.iter().zip(&expected).all(|(g, e)| g.abs_diff(*e) <= 1);
            assert!(near, "{name}: {got:?}, expected {expected:?}");
        }
    }

    #[test]
    fn who_was_away_is_next_once_and_has_saved_up_nothing() {
        let [_, busy, _] = PEOPLE;
        let back = Person {
            id: PersonId(9),
            ..busy
        };
        let mut shares = Shares::default();
        turns(&mut shares, &[(busy, 10)], 1000);
        let both = [busy.id, back.id];
        assert_eq!(shares.next(both.into_iter()), Some(back.id));
        assert!(turns(&mut shares, &[(busy, 10), (back, 10)], 10)[1] <= 6);
        assert!(shares.had.len() <= 2, "who is level is forgotten");
    }
}
