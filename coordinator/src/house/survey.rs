//! What is known of the links between the machines, and which one is measured next.
//!
//! Owns the figures of every pair, the coordinator's included, and the one probe that may run in the household: probes of
//! two links at once would measure each other. Holds no socket and no clock. Must never ask for a probe while a step is
//! in flight or weights are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plan::LinkFacts;
use plan::speed::{DEFAULT_LINK_BYTES_PER_S, DEFAULT_RTT_S};
use proto::control::LinkRates;
use proto::{NodeId, limits};
use serde::Serialize;

use super::state::LinkId;

/// How long a probe may take with everything around it before it counts as failed.
const PROBE_MAX: Duration = Duration::from_secs(6);
/// First pause after a failed probe; doubles each time up to the usual pause between measurements.
const RETRY: Duration = Duration::from_secs(3);
/// A link has changed when one of its figures did by more than this part.
const CHANGE: f64 = 0.25;
/// Pairs of machines that are gone are remembered up to this number of pairs.
const PAIRS_MAX: usize = (limits::NODES_MAX + 1) * limits::NODES_MAX;

/// Two ends, the smaller id first.
type Ends = (NodeId, NodeId);

/// A link as last measured, from the smaller id's view.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    rates: LinkRates,
    at: Duration,
}

#[derive(Debug)]
struct Pair {
    known: Option<Known>,
    /// What a plan was made with last; `None` where it had to go by the planner's defaults.
    told: Option<LinkRates>,
    due: Duration,
    /// Probes that failed in a row; odd ones are tried from the other end.
    failures: u32,
}

#[derive(Debug)]
struct Running {
    ticket: u64,
    ends: Ends,
    dialler: NodeId,
    until: Duration,
}

/// A link that is to be measured now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub ticket: u64,
    /// Who dials and reports.
    pub dialler: NodeId,
    /// Who has to expect it; never the coordinator.
    pub other: NodeId,
}

/// One direction of a link as `nodes` answers it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LinkEntry {
    from: String,
    to: String,
    rtt_s: f64,
    bytes_per_s: f64,
    age_s: f64,
}

/// All links of the household.
#[derive(Debug)]
pub(super) struct Survey {
    coordinator: NodeId,
    every: Duration,
    present: BTreeMap<NodeId, LinkId>,
    pairs: BTreeMap<Ends, Pair>,
    running: Option<Running>,
    last_ticket: u64,
    /// Links that were measured differently from what a plan was made with last.
    changed: BTreeSet<Ends>,
}

fn ends(a: &NodeId, b: &NodeId) -> Ends {
    if a < b {
        (a.clone(), b.clone())
    } else {
        (b.clone(), a.clone())
    }
}

fn turned(rates: LinkRates) -> LinkRates {
    LinkRates {
        rtt_s: rates.rtt_s,
        out_bytes_per_s: rates.in_bytes_per_s,
        in_bytes_per_s: rates.out_bytes_per_s,
    }
}

/// Whether a figure differs from another by more than a quarter.
fn differs(rates: LinkRates, told: Option<LinkRates>) -> bool {
    let told = told.unwrap_or(LinkRates {
        rtt_s: DEFAULT_RTT_S,
        out_bytes_per_s: DEFAULT_LINK_BYTES_PER_S,
        in_bytes_per_s: DEFAULT_LINK_BYTES_PER_S,
    });
    let figures = [
        (rates.rtt_s, told.rtt_s),
        (rates.out_bytes_per_s, told.out_bytes_per_s),
        (rates.in_bytes_per_s, told.in_bytes_per_s),
    ];
    figures
        .iter()
        .any(|(new, old)| (new - old).abs() > CHANGE * old)
}

impl Survey {
    /// Knows nothing yet; measures each link anew after `every`.
    pub fn new(coordinator: NodeId, every: Duration) -> Self {
        Self {
            coordinator,
            every,
            present: BTreeMap::new(),
            pairs: BTreeMap::new(),
            running: None,
            last_ticket: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Takes note of who is in. The links of a machine that is new, or has connected anew, are due at once.
    pub fn members<'n>(
        &mut self,
        now: Duration,
        present: impl Iterator<Item = (&'n NodeId, LinkId)>,
    ) {
        let present: BTreeMap<NodeId, LinkId> =
            present.map(|(node, link)| (node.clone(), link)).collect();
        if present == self.present {
            return;
        }
        for (node, link) in &present {
            if self.present.get(node) == Some(link) {
                continue;
            }
            let others = present.keys().chain([&self.coordinator]);
            for other in others.filter(|other| *other != node) {
                let pair = self.pairs.entry(ends(node, other)).or_insert(Pair {
                    known: None,
                    told: None,
                    due: now,
                    failures: 0,
                });
                pair.due = now;
                pair.failures = 0;
            }
        }
        self.present = present;
        if self
            .running
            .as_ref()
            .is_some_and(|running| !self.here(&running.ends))
        {
            self.running = None;
        }
        if self.pairs.len() > PAIRS_MAX {
            let (present, coordinator) = (&self.present, &self.coordinator);
            let here = |node: &NodeId| node == coordinator || present.contains_key(node);
            self.pairs.retain(|(a, b), _| here(a) && here(b));
        }
    }

    fn here(&self, (a, b): &Ends) -> bool {
        let here = |node: &NodeId| *node == self.coordinator || self.present.contains_key(node);
        here(a) && here(b)
    }

    /// The link to measure now, if one is due and none is being measured.
    pub fn next(&mut self, now: Duration) -> Option<Task> {
        if let Some(late) = self.running.take_if(|running| running.until <= now) {
            self.failed(now, &late.ends, "no result came in time");
        }
        if self.running.is_some() {
            return None;
        }
        let due = self
            .pairs
            .iter()
            .filter(|(ends, pair)| pair.due <= now && self.here(ends));
        // What was never measured comes first, then what waits longest.
        let (ends, pair) = due.min_by_key(|(_, pair)| (pair.known.is_some(), pair.due))?;
        let (a, b) = ends.clone();
        let (dialler, other) = if a == self.coordinator || b == self.coordinator {
            let node = if a == self.coordinator { b } else { a };
            (self.coordinator.clone(), node)
        } else if pair.failures % 2 == 0 {
            (a, b)
        } else {
            (b, a)
        };
        self.last_ticket = self.last_ticket.wrapping_add(1);
        self.running = Some(Running {
            ticket: self.last_ticket,
            ends: ends.clone(),
            dialler: dialler.clone(),
            until: now.saturating_add(PROBE_MAX),
        });
        Some(Task {
            ticket: self.last_ticket,
            dialler,
            other,
        })
    }

    /// Takes a result, if it is that of the probe that runs and comes from the machine that was asked.
    pub fn measured(
        &mut self,
        now: Duration,
        by: &NodeId,
        ticket: u64,
        result: Result<LinkRates, String>,
    ) {
        let awaited = |running: &mut Running| running.ticket == ticket && running.dialler == *by;
        let Some(running) = self.running.take_if(awaited) else {
            return tracing::debug!(node = %by, "a measurement that nobody waits for was ignored");
        };
        match result {
            Ok(rates) => {
                let rates = if running.ends.0 == *by {
                    rates
                } else {
                    turned(rates)
                };
                tracing::debug!(from = %running.ends.0, to = %running.ends.1, ?rates, "link measured");
                if let Some(pair) = self.pairs.get_mut(&running.ends) {
                    pair.known = Some(Known { rates, at: now });
                    if differs(rates, pair.told) {
                        self.changed.insert(running.ends.clone());
                    }
                    pair.failures = 0;
                    pair.due = now.saturating_add(self.every);
                }
            }
            Err(why) => self.failed(now, &running.ends, &why),
        }
    }

    fn failed(&mut self, now: Duration, ends: &Ends, why: &str) {
        tracing::debug!(from = %ends.0, to = %ends.1, why, "link not measured");
        if let Some(pair) = self.pairs.get_mut(ends) {
            let pause = RETRY.saturating_mul(1 << pair.failures.min(8));
            pair.failures = pair.failures.saturating_add(1);
            pair.due = now.saturating_add(pause.min(self.every));
        }
    }

    /// When [`Survey::next`] has something to say, if nothing happens before. Links that are due count only where a
    /// probe may begin.
    pub fn poll_timeout(&self, quiet: bool) -> Option<Duration> {
        match &self.running {
            Some(running) => Some(running.until),
            None if quiet => {
                let here = self.pairs.iter().filter(|(ends, _)| self.here(ends));
                here.map(|(_, pair)| pair.due).min()
            }
            None => None,
        }
    }

    /// Whether every link among `nodes`, and theirs to the coordinator, was measured or at least tried.
    pub fn knows(&self, nodes: &[NodeId]) -> bool {
        let tried = |a: &NodeId, b: &NodeId| {
            let pair = self.pairs.get(&ends(a, b));
            pair.is_some_and(|pair| pair.known.is_some() || pair.failures > 0)
        };
        nodes.iter().enumerate().all(|(at, node)| {
            let others = nodes.iter().skip(at + 1).chain([&self.coordinator]);
            others
                .filter(|other| *other != node)
                .all(|other| tried(node, other))
        })
    }

    fn directions(&self) -> impl Iterator<Item = (LinkFacts, Duration)> {
        let known = self
            .pairs
            .iter()
            .filter(|(ends, _)| self.here(ends))
            .filter_map(|(ends, pair)| Some((ends, pair.known?)));
        known.flat_map(|((a, b), known)| {
            let one = |from: &NodeId, to: &NodeId, bytes_per_s| LinkFacts {
                from: from.clone(),
                to: to.clone(),
                rtt_s: known.rates.rtt_s,
                bytes_per_s,
            };
            [
                (one(a, b, known.rates.out_bytes_per_s), known.at),
                (one(b, a, known.rates.in_bytes_per_s), known.at),
            ]
        })
    }

    /// As the planner wants them: both directions of every link between machines that are in.
    pub fn links(&self) -> Vec<LinkFacts> {
        self.directions().map(|(facts, _)| facts).collect()
    }

    /// The same for a plan that is to be used, which is what later measurements are compared with.
    pub fn tell(&mut self) -> Vec<LinkFacts> {
        for pair in self.pairs.values_mut() {
            pair.told = pair.known.map(|known| known.rates);
        }
        self.changed.clear();
        self.links()
    }

    /// Takes a link that is no more as the planner was told: it differs by more than a quarter.
    pub fn take_changed(&mut self) -> Option<(NodeId, NodeId)> {
        self.changed.pop_first()
    }

    /// As `nodes` answers them.
    pub fn entries(&self, now: Duration) -> Vec<LinkEntry> {
        let entries = self.directions().map(|(facts, at)| LinkEntry {
            from: facts.from.to_string(),
            to: facts.to.to_string(),
            rtt_s: facts.rtt_s,
            bytes_per_s: facts.bytes_per_s,
            age_s: now.saturating_sub(at).as_secs_f64(),
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(900);

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rates(out_bytes_per_s: f64) -> LinkRates {
        LinkRates {
            rtt_s: 0.001,
            out_bytes_per_s,
            in_bytes_per_s: 2.0 * out_bytes_per_s,
        }
    }

    fn survey(now: Duration, present: &[(&str, u64)]) -> Survey {
        let mut survey = Survey::new(id("house"), EVERY);
        meet(&mut survey, now, present);
        survey
    }

    fn meet(survey: &mut Survey, now: Duration, present: &[(&str, u64)]) {
        let present: Vec<(NodeId, LinkId)> = present
            .iter()
            .map(|(name, link)| (id(name), LinkId(*link)))
            .collect();
        survey.members(now, present.iter().map(|(node, link)| (node, *link)));
    }

    /// Measures what is due, and gives the pairs in their order.
    fn measure_all(survey: &mut Survey, now: Duration) -> Vec<(String, String)> {
        let mut asked = Vec::new();
        while let Some(task) = survey.next(now) {
            assert_eq!(survey.next(now), None, "one at a time");
            asked.push((task.dialler.to_string(), task.other.to_string()));
            survey.measured(now, &task.dialler, task.ticket, Ok(rates(1e8)));
        }
        asked
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn every_pair_is_measured_once_and_again_after_a_while() {
        let mut survey = survey(s(1), &[("a", 1), ("k", 2)]);
        let nodes = [id("a"), id("k")];
        assert!(!survey.knows(&nodes));
        let all = [pair("house", "a"), pair("a", "k"), pair("house", "k")];
        assert_eq!(
            measure_all(&mut survey, s(1)),
            all,
            "the coordinator always dials"
        );
        assert!(survey.knows(&nodes));
        assert_eq!(survey.poll_timeout(true), Some(s(901)));
        assert_eq!(
            survey.poll_timeout(false),
            None,
            "not while answers are given"
        );
        assert!(survey.next(s(900)).is_none());
        assert_eq!(measure_all(&mut survey, s(901)).len(), 3);
        let links = survey.links();
        assert_eq!(links.len(), 6);
        let of = |from: &str, to: &str| {
            let link = links.iter().find(|l| l.from == id(from) && l.to == id(to));
            link.unwrap().bytes_per_s
        };
        assert_eq!((of("a", "k"), of("k", "a")), (1e8, 2e8));
        assert_eq!((of("house", "k"), of("k", "house")), (1e8, 2e8));
        let ages: Vec<f64> = survey.entries(s(911)).iter().map(|e| e.age_s).collect();
        assert_eq!(ages, [10.0; 6]);
    }

    #[test]
    fn a_machine_that_connects_anew_is_measured_anew_and_others_are_not() {
        let mut survey = survey(s(1), &[("a", 1), ("b", 2)]);
        measure_all(&mut survey, s(1));
        meet(&mut survey, s(2), &[("a", 1)]);
        assert_eq!(survey.links().len(), 2, "only of those that are in");
        assert!(survey.next(s(2)).is_none());
        meet(&mut survey, s(3), &[("a", 1), ("b", 3)]);
        assert!(survey.knows(&[id("a"), id("b")]), "as it was before");
        assert_eq!(
            measure_all(&mut survey, s(3)),
            [pair("a", "b"), pair("house", "b")]
        );
    }

    #[test]
    fn a_failed_probe_is_tried_from_the_other_end_later_and_later() {
        let mut survey = survey(s(0), &[("a", 1), ("b", 2)]);
        let mut now = s(0);
        let mut diallers = Vec::new();
        while now < s(30) {
            while let Some(task) = survey.next(now) {
                let link = if task.dialler == id("house") {
                    Ok(rates(1e8))
                } else {
                    diallers.push((task.dialler.to_string(), now.as_secs()));
                    Err("no answer".to_owned())
                };
                survey.measured(now, &task.dialler, task.ticket, link);
            }
            now += s(1);
        }
        let said: Vec<(&str, u64)> = diallers.iter().map(|(d, at)| (d.as_str(), *at)).collect();
        assert_eq!(said, [("a", 0), ("b", 3), ("a", 9), ("b", 21)]);
        assert!(
            survey.knows(&[id("a"), id("b")]),
            "tried is enough for a plan"
        );
        assert_eq!(survey.links().len(), 4);
    }

    #[test]
    fn a_link_that_differs_by_more_than_a_quarter_from_what_was_planned_with_is_news() {
        let mut survey = survey(s(1), &[("a", 1)]);
        let measure = |survey: &mut Survey, now: u64, out_bytes_per_s: f64| {
            let task = survey.next(s(now)).unwrap();
            let rates = Ok(LinkRates {
                rtt_s: DEFAULT_RTT_S,
                out_bytes_per_s,
                in_bytes_per_s: DEFAULT_LINK_BYTES_PER_S,
            });
            survey.measured(s(now), &task.dialler, task.ticket, rates);
            survey.take_changed()
        };
        let link = ends(&id("a"), &id("house"));
        let news = Some(link.clone());
        let usual = DEFAULT_LINK_BYTES_PER_S;
        assert_eq!(measure(&mut survey, 1, usual), None, "as was assumed");
        assert_eq!(measure(&mut survey, 1_000, 1.2 * usual), None);
        assert_eq!(
            measure(&mut survey, 2_000, 1.3 * usual),
            news,
            "slowly too: the plan is what counts"
        );
        survey.tell();
        assert_eq!(measure(&mut survey, 3_000, usual), None);
        assert_eq!(measure(&mut survey, 4_000, 0.9 * usual), news);
        assert_eq!(survey.take_changed(), None, "once");
        assert_eq!(measure(&mut survey, 5_000, 0.9 * usual), news);
        survey.changed.insert(link);
        survey.tell();
        assert_eq!(survey.take_changed(), None, "planned with");
    }

    #[test]
    fn only_the_asked_machine_answers_and_silence_is_a_failure() {
        let mut survey = survey(s(0), &[("a", 1)]);
        let task = survey.next(s(0)).unwrap();
        survey.measured(s(0), &id("a"), task.ticket, Ok(rates(1e8)));
        survey.measured(s(0), &task.dialler, task.ticket + 1, Ok(rates(1e8)));
        assert!(survey.links().is_empty());
        assert_eq!(survey.poll_timeout(false), Some(PROBE_MAX));
        assert!(survey.next(PROBE_MAX).is_none(), "failed, and due later");
        assert!(survey.knows(&[id("a")]));
        // A machine that goes takes its probe with it.
        let mut survey = self::survey(s(0), &[("a", 1)]);
        survey.next(s(0)).unwrap();
        meet(&mut survey, s(1), &[("b", 2)]);
        assert_eq!(survey.next(s(1)).unwrap().other, id("b"));
    }
}
