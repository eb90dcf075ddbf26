//! Which pieces are still to be fetched, and by whom: pure bookkeeping, told the time.
//!
//! The one idea: nobody is assigned anything in advance. Whoever is free takes the next run of pieces that it can get, so
//! a slow source holds up one run; and once nothing waits any more, a run that takes too long is taken a second time.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use shards::Bits;

/// Pieces of one shard, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The shard's place in the catalogue.
    pub shard: usize,
    /// The first piece.
    pub first: u32,
    /// One past the last.
    pub end: u32,
}

/// A run that somebody fetches.
#[derive(Debug)]
struct Busy {
    ticket: u64,
    run: Run,
    source: usize,
    since: Instant,
    /// Whether another source fetches it as well.
    doubled: bool,
}

/// What a free source gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Fetch this, and say how it went with the ticket.
    Fetch(u64, Run),
    /// Nothing for now; others are still fetching.
    Wait,
    /// Nothing any more.
    Over,
}

/// All runs.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Run>,
    busy: Vec<Busy>,
    last_ticket: u64,
    /// What each source has.
    has: Vec<Bits>,
    /// What a source turned out not to have, or to have damaged.
    refused: HashSet<(usize, usize)>,
    late: Duration,
}

impl Queue {
    /// Cuts `missing` (shards with their missing pieces, in order) into runs of at most `pieces`; `has` is what each
    /// source has. A run that takes longer than `late` is fetched twice when nothing else waits.
    #[must_use]
    pub fn new(missing: &[(usize, Vec<u32>)], pieces: u32, has: Vec<Bits>, late: Duration) -> Self {
        let mut waiting: VecDeque<Run> = VecDeque::new();
        for (shard, numbers) in missing {
            for piece in numbers {
                let next = piece.saturating_add(1);
                match waiting.back_mut() {
                    Some(run)
                        if run.shard == *shard
                            && run.end == *piece
                            && run.end - run.first < pieces =>
                    {
                        run.end = next;
                    }
                    _ => waiting.push_back(Run {
                        shard: *shard,
                        first: *piece,
                        end: next,
                    }),
                }
            }
        }
        Self {
            waiting,
            busy: Vec::new(),
            last_ticket: 0,
            has,
            refused: HashSet::new(),
            late,
        }
    }

    /// The first run that nobody has, for a message.
    #[must_use]
    pub fn stuck(&self) -> Option<Run> {
        self.waiting.front().copied()
    }

    fn can(&self, source: usize, run: &Run) -> bool {
        self.has.get(source).is_some_and(|has| has.has(run.shard))
            && !self.refused.contains(&(source, run.shard))
    }

    /// What `source` is to do now.
    pub fn turn(&mut self, source: usize, now: Instant) -> Turn {
        if let Some(at) = self.waiting.iter().position(|run| self.can(source, run))
            && let Some(run) = self.waiting.remove(at)
        {
            return self.give(source, run, now);
        }
        if self.busy.is_empty() {
            return Turn::Over;
        }
        let late = |busy: &Busy| {
            !busy.doubled
                && busy.source != source
                && self.can(source, &busy.run)
                && now.saturating_duration_since(busy.since) >= self.late
        };
        let Some(at) = self.busy.iter().position(late) else {
            return Turn::Wait;
        };
        match self.busy.get_mut(at) {
            Some(busy) => {
                busy.doubled = true;
                let run = busy.run;
                self.give(source, run, now)
            }
            None => Turn::Wait,
        }
    }

    fn give(&mut self, source: usize, run: Run, now: Instant) -> Turn {
        self.last_ticket = self.last_ticket.saturating_add(1);
        self.busy.push(Busy {
            ticket: self.last_ticket,
            run,
            source,
            since: now,
            doubled: false,
        });
        Turn::Fetch(self.last_ticket, run)
    }

    /// A run is here.
    pub fn done(&mut self, ticket: u64) {
        self.busy.retain(|busy| busy.ticket != ticket);
    }

    /// A run broke off before piece `at`: the rest is anybody's again.
    pub fn broke(&mut self, ticket: u64, at: u32) {
        let Some(place) = self.busy.iter().position(|busy| busy.ticket == ticket) else {
            return;
        };
        let run = self.busy.swap_remove(place).run;
        if at < run.end {
            self.waiting.push_front(Run {
                first: at.max(run.first),
                ..run
            });
        }
    }

    /// `source` is not asked for this shard any more.
    pub fn refuse(&mut self, source: usize, shard: usize) {
        self.refused.insert((source, shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(shard: usize, first: u32, end: u32) -> Run {
        Run { shard, first, end }
    }

    fn queue(sources: Vec<Bits>) -> Queue {
        let missing = [(0, vec![0, 1, 2, 5]), (2, vec![7])];
        Queue::new(&missing, 2, sources, Duration::from_secs(3))
    }

    fn fetch(turn: Turn) -> (u64, Run) {
        match turn {
            Turn::Fetch(ticket, run) => (ticket, run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn neighbours_form_runs_and_each_is_given_once() {
        let now = Instant::now();
        let mut queue = queue(vec![Bits::all(3)]);
        let mut runs = Vec::new();
        let mut tickets = Vec::new();
        while let Turn::Fetch(ticket, run) = queue.turn(0, now) {
            runs.push(run);
            tickets.push(ticket);
        }
        assert_eq!(
            runs,
            [run(0, 0, 2), run(0, 2, 3), run(0, 5, 6), run(2, 7, 8)]
        );
        assert_eq!(queue.turn(0, now), Turn::Wait);
        tickets.into_iter().for_each(|ticket| queue.done(ticket));
        assert_eq!(queue.stuck(), None);
        assert_eq!(queue.turn(0, now), Turn::Over);
    }

    #[test]
    fn a_source_gets_what_it_has_and_the_rest_of_what_broke_off() {
        let now = Instant::now();
        let mut second = Bits::none(3);
        second.set(2);
        let mut queue = queue(vec![Bits::all(3), second]);
        let (other, got) = fetch(queue.turn(1, now));
        assert_eq!(got, run(2, 7, 8));
        let (ticket, got) = fetch(queue.turn(0, now));
        assert_eq!(got, run(0, 0, 2));
        queue.broke(ticket, 1);
        let (_, got) = fetch(queue.turn(0, now));
        assert_eq!(got, run(0, 1, 2));
        // It turned out not to have it after all.
        queue.broke(other, 7);
        queue.refuse(1, 2);
        assert_eq!(queue.turn(1, now), Turn::Wait);
    }

    #[test]
    fn a_late_run_is_taken_a_second_time_by_somebody_else() {
        let now = Instant::now();
        let mut queue = Queue::new(
            &[(0, vec![0])],
            4,
            vec![Bits::all(1); 3],
            Duration::from_secs(3),
        );
        let (first, _) = fetch(queue.turn(0, now));
        assert_eq!(queue.turn(1, now), Turn::Wait);
        let later = now + Duration::from_secs(3);
        assert_eq!(queue.turn(0, later), Turn::Wait, "not by the same");
        let (second, got) = fetch(queue.turn(1, later));
        assert_eq!(got, run(0, 0, 1));
        assert_eq!(queue.turn(2, later), Turn::Wait, "not three times");
        queue.done(second);
        queue.done(first);
        assert_eq!(queue.turn(2, later), Turn::Over);
    }

    #[test]
    fn what_nobody_has_ends_the_transfer() {
        let mut queue = Queue::new(&[(0, vec![0])], 4, vec![Bits::none(1)], Duration::ZERO);
        assert_eq!(queue.turn(0, Instant::now()), Turn::Over);
        assert_eq!(queue.stuck(), Some(run(0, 0, 1)));
    }
}
