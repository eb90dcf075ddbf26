//! Requests that wait, one lane per person.
//!
//! Knows no page and no slot: whether there is room is found out by whoever takes the front. The one idea: lanes take
//! turns by what their people have had, and a front that finds no room is waited for, so that a large request is not
//! overtaken for ever by small ones.

use std::collections::{BTreeMap, VecDeque};

use proto::{PersonId, RequestId};

use crate::person::Person;
use crate::shares::Shares;

/// A person's lane may grow to this multiple of the places that are free.
const FREE_MULTIPLE: u32 = 4;

/// Whether one more request of a person may wait, who has `own` of the `all` that wait already, where `max` may.
///
/// The fewer places are free, the shorter a lane may be. So one person alone gets four fifths of the queue, several share
/// it, and whoever comes last still finds a place.
pub(crate) fn may_wait(own: u32, all: u32, max: u32) -> bool {
    let free = max.saturating_sub(all);
    own < free.saturating_mul(FREE_MULTIPLE)
}

/// A request with a choice that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub request: RequestId,
    pub person: Person,
    /// Rows that one of its choices is expected to take.
    pub cost: u32,
    /// Choices that wait.
    pub choices: u32,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// None is empty.
    lanes: BTreeMap<PersonId, VecDeque<Waiting>>,
    shares: Shares,
    /// The place that each request was told last; 0 once one of its choices has started.
    told: BTreeMap<RequestId, u32>,
    changed: bool,
}

impl Queue {
    pub fn push(&mut self, waiting: Waiting) {
        let lane = self.lanes.entry(waiting.person.id).or_default();
        lane.push_back(waiting);
        self.changed = true;
    }

    /// Takes out a request, wherever it stands.
    pub fn remove(&mut self, request: RequestId) {
        for lane in self.lanes.values_mut() {
            let before = lane.len();
            lane.retain(|waiting| waiting.request != request);
            self.changed |= lane.len() < before;
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        self.told.remove(&request);
    }

    /// The request whose turn it is.
    pub fn front(&self) -> Option<RequestId> {
        let person = self.shares.next(self.lanes.keys().copied())?;
        let first = self.lanes.get(&person)?.front()?;
        Some(first.request)
    }

    /// One choice of the front has started; its person pays.
    pub fn started(&mut self, request: RequestId) {
        let mut lanes = self.lanes.values_mut();
        let front = lanes.find_map(|lane| lane.front_mut().filter(|w| w.request == request));
        let Some(front) = front else {
            return;
        };
        front.choices = front.choices.saturating_sub(1);
        let over = front.choices == 0;
        self.shares.charge(front.person, front.cost);
        self.changed = true;
        if over {
            self.remove(request);
        } else {
            self.told.insert(request, 0);
        }
    }

    /// Requests with a choice that waits, by person.
    pub fn iter(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.lanes.values().flatten().map(|waiting| waiting.request)
    }

    /// Requests whose place, counted from 1, is another than they were told last. Those that have begun have none.
    pub fn moved(&mut self) -> Vec<(RequestId, u32)> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let begun = |request: &RequestId| self.told.get(request) == Some(&0);
        let order: Vec<RequestId> = self.order().into_iter().filter(|r| !begun(r)).collect();
        let mut moved = Vec::new();
        for (place, request) in (1..).zip(order) {
            if self.told.insert(request, place) != Some(place) {
                moved.push((request, place));
            }
        }
        moved
    }

    /// Requests in the order in which they would start if nobody came or left.
    fn order(&self) -> Vec<RequestId> {
        let mut shares = self.shares.clone();
        let lanes = self
            .lanes
            .iter()
            .map(|(person, lane)| (*person, lane.iter()));
        let mut lanes: BTreeMap<PersonId, _> = lanes.collect();
        let mut order = Vec::new();
        while let Some(person) = shares.next(lanes.keys().copied()) {
            match lanes.get_mut(&person).and_then(Iterator::next) {
                Some(next) => {
                    order.push(next.request);
                    shares.charge(next.person, next.cost.saturating_mul(next.choices));
                }
                None => {
                    lanes.remove(&person);
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::person::Priority;

    fn waiting(request: u64, person: u64, priority: Priority) -> Waiting {
        Waiting {
            request: RequestId(request),
            person: Person {
                id: PersonId(person),
                priority,
            },
            cost: 10,
            choices: 1,
        }
    }

    fn drain(queue: &mut Queue) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(front) = queue.front() {
            order.push(front.0);
            queue.started(front);
        }
        order
    }

    #[test]
    fn people_take_turns_and_each_keeps_the_order_of_coming() {
        use Priority::{High, Low, Normal};
        let cases: [(&str, [Priority; 2], &[u64]); 3] = [
            ("equal", [Normal, Normal], &[1, 11, 2, 12, 3, 13, 4, 14]),
            ("twice", [Normal, High], &[1, 11, 12, 2, 13, 14, 3, 4]),
            ("half", [Low, Normal], &[1, 11, 12, 2, 13, 14, 3, 4]),
        ];
        for (name, priorities, expected) in cases {
            let mut queue = Queue::default();
            for request in 1..=4 {
                queue.push(waiting(request, 1, priorities[0]));
            }
            for request in 11..=14 {
                queue.push(waiting(request, 2, priorities[1]));
            }
            let foretold: Vec<u64> = queue.order().iter().map(|r| r.0).collect();
            assert_eq!(foretold, expected, "{name}");
            assert_eq!(drain(&mut queue), expected, "{name}");
        }
    }

    #[test]
    fn places_are_told_when_they_change() {
        let mut queue = Queue::default();
        let told = |queue: &mut Queue| -> Vec<(u64, u32)> {
            queue.moved().iter().map(|(r, p)| (r.0, *p)).collect()
        };
        for request in 1..=3 {
            queue.push(waiting(request, 1, Priority::Normal));
        }
        assert_eq!(told(&mut queue), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(told(&mut queue), []);
        queue.push(waiting(9, 2, Priority::Normal));
        assert_eq!(told(&mut queue), [(9, 2), (2, 3), (3, 4)]);
        queue.remove(RequestId(2));
        assert_eq!(told(&mut queue), [(3, 3)]);
        queue.started(RequestId(1));
        assert_eq!(told(&mut queue), [(9, 1), (3, 2)]);
        let mut two = waiting(10, 2, Priority::Normal);
        two.choices = 2;
        queue.push(two);
        assert_eq!(told(&mut queue), [(10, 3)]);
        assert_eq!(drain(&mut queue), [9, 3, 10, 10]);
        assert!(queue.told.is_empty() && queue.lanes.is_empty());
    }

    #[test]
    fn a_request_that_has_begun_has_no_place() {
        let mut queue = Queue::default();
        let mut two = waiting(1, 1, Priority::Normal);
        two.choices = 2;
        queue.push(two);
        queue.push(waiting(2, 1, Priority::Normal));
        queue.started(RequestId(1));
        assert_eq!(queue.moved(), [(RequestId(2), 1)]);
    }

    #[test]
    fn a_lane_is_shorter_the_fewer_places_are_free() {
        for (own, all, max, expected) in [
            (0, 0, 64, true),
            (51, 51, 64, true),
            (52, 52, 64, false),
            (0, 52, 64, true),
            (27, 57, 64, true),
            (28, 57, 64, false),
            (0, 63, 64, true),
            (0, 64, 64, false),
            (2, 2, 3, true),
            (3, 3, 3, false),
            (0, 0, 0, false),
        ] {
            assert_eq!(may_wait(own, all, max), expected, "{own} of {all} of {max}");
        }
    }
}
