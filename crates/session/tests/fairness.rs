//! Several people at once, under a virtual clock and with machines that always take the same time: who waits for whom,
//! and for how long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test program: it may panic, and its numbers are small"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::frame::SamplesFrame;
use proto::step::{Logits, Sampled, Sampling, Step, StepClass};
use proto::{Epoch, PersonId, RequestId};
use session::{Capacity, Config, ErrorCode, Input, Output, Person, Priority, Session, Submission};

/// What a step costs each stage: one with answers, the first row of a chunk, and each row.
#[derive(Debug, Clone, Copy)]
struct Cost {
    token_us: u64,
    step_us: u64,
    row_us: u64,
}

impl Cost {
    fn of(self, step: &Step) -> u64 {
        match step.class {
            StepClass::Decode => self.token_us + self.row_us * u64::from(step.rows()),
            StepClass::Prefill => self.step_us + self.row_us * u64::from(step.rows()),
        }
    }
}

const COST: Cost = Cost {
    token_us: 1_000,
    step_us: 1_000,
    row_us: 100,
};

#[derive(Debug, Default)]
struct Stage {
    decode: VecDeque<Step>,
    prefill: VecDeque<Step>,
    busy: Option<Step>,
}

/// A session and its stages; answers nothing but what was asked.
struct Kitchen {
    session: Session,
    cost: Cost,
    now_us: u64,
    stages: Vec<Stage>,
    /// When which stage is done.
    due: BTreeMap<(u64, usize), ()>,
    arrivals: BTreeMap<(u64, u64), Submission>,
    /// When each token of a request came.
    tokens: BTreeMap<u64, Vec<u64>>,
    /// Requests in the order of their first step.
    begun: Vec<u64>,
    failed: Vec<(u64, ErrorCode)>,
    places: Vec<(u64, u32)>,
}

impl Kitchen {
    fn new(capacity: Capacity, cost: Cost) -> Self {
        let config = Config {
            queue_deadline: Duration::from_secs(100_000),
            step_deadline: Duration::from_secs(100_000),
            ..Config::default()
        };
        let mut kitchen = Self {
            session: Session::new(config),
            cost,
            now_us: 0,
            stages: (0..capacity.stages).map(|_| Stage::default()).collect(),
            due: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            tokens: BTreeMap::new(),
            begun: Vec::new(),
            failed: Vec::new(),
            places: Vec::new(),
        };
        kitchen.tell(Input::Ready(capacity));
        kitchen
    }

    fn submit_at(&mut self, at_us: u64, submission: Submission) {
        let key = (at_us, submission.request.0);
        self.arrivals.insert(key, submission);
    }

    /// Until nothing is left to happen.
    fn run(&mut self) {
        loop {
            let arrival = self.arrivals.keys().next().map(|key| key.0);
            let due = self.due.keys().next().map(|key| key.0);
            match (arrival, due) {
                (None, None) => return,
                (Some(at), due) if due.is_none_or(|due| at < due) => {
                    self.now_us = at;
                    let (_, submission) = self.arrivals.pop_first().unwrap();
                    self.tell(Input::Submit(submission));
                }
                _ => {
                    let ((at, stage), ()) = self.due.pop_first().unwrap();
                    self.now_us = at;
                    self.done(stage);
                }
            }
        }
    }

    fn tell(&mut self, input: Input) {
        let now = Duration::from_micros(self.now_us);
        self.session.handle_input(now, input).unwrap();
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(step) => self.arrive(0, step),
                Output::Token { request, .. } => {
                    let times = self.tokens.entry(request.0).or_default();
                    times.push(self.now_us);
                }
                Output::Failed { request, error } => self.failed.push((request.0, error.code)),
                Output::Queued { request, place } => self.places.push((request.0, place)),
                _ => {}
            }
        }
    }

    fn arrive(&mut self, at: usize, step: Step) {
        if at == 0 {
            let opened = step.segments.iter().filter(|s| s.open.is_some());
            // A request of these tests has one sequence, and sequences are counted as they start.
            self.begun.extend(opened.map(|s| s.sequence.0));
        }
        match step.class {
            StepClass::Decode => self.stages[at].decode.push_back(step),
            StepClass::Prefill => self.stages[at].prefill.push_back(step),
        }
        self.work(at);
    }

    fn work(&mut self, at: usize) {
        let stage = &mut self.stages[at];
        if stage.busy.is_some() {
            return;
        }
        let next = stage
            .decode
            .pop_front()
            .or_else(|| stage.prefill.pop_front());
        let Some(step) = next else {
            return;
        };
        let takes_us = self.cost.of(&step);
        stage.busy = Some(step);
        self.due.insert((self.now_us + takes_us, at), ());
    }

    fn done(&mut self, at: usize) {
        let step = self.stages[at].busy.take().unwrap();
        self.work(at);
        if at + 1 < self.stages.len() {
            return self.arrive(at + 1, step);
        }
        let wants = step.segments.iter().filter(|s| s.logits == Logits::Last);
        let samples = wants.map(|s| Sampled {
            sequence: s.sequence,
            position: s.start + s.rows,
            token: 1,
            logprob: 0.0,
            top: Vec::new(),
        });
        let samples = samples.collect();
        self.tell(Input::Done(SamplesFrame {
            epoch: step.epoch,
            step: step.id,
            samples,
            vectors: Vec::new(),
        }));
    }

    /// The longest but one in a hundred of the pauses between tokens in a span.
    fn p99_us(&self, request: u64, span: std::ops::Range<u64>) -> u64 {
        let times = &self.tokens[&request];
        let inside = times.windows(2).filter(|two| span.contains(&two[1]));
        let mut pauses: Vec<u64> = inside.map(|two| two[1] - two[0]).collect();
        pauses.sort_unstable();
        assert!(pauses.len() >= 100, "{} pauses", pauses.len());
        pauses[pauses.len() * 99 / 100]
    }
}

fn capacity(stages: u32, slots: u32) -> Capacity {
    Capacity {
        epoch: Epoch(1),
        pages: 8192,
        slots,
        context: 65_536,
        stages,
        chunk_rows: 512,
    }
}

fn person(id: u64, priority: Priority) -> Person {
    Person {
        id: PersonId(id),
        priority,
    }
}

fn submission(request: u64, person: Person, prompt: u32, answer: u32) -> Submission {
    Submission {
        request: RequestId(request),
        person,
        prompt: Arc::from(vec![5; prompt as usize]),
        choices: 1,
        max_tokens: Some(answer),
        min_tokens: 0,
        stop_ids: Vec::new(),
        sampling: Sampling::default(),
        pooling: None,
        constrained: false,
    }
}

#[test]
fn a_long_prompt_at_most_doubles_the_pauses_of_others() {
    // Arithmetic is the limit, or the reading of weights, or a chunk costs so much that the least one takes longer.
    for (token_us, step_us, row_us) in [
        (9_000, 100, 200),
        (50_000, 10_000, 1_000),
        (2_000, 2_000, 300),
    ] {
        for stages in 1..=4 {
            for answers in [1, 4] {
                let cost = Cost {
                    token_us,
                    step_us,
                    row_us,
                };
                long_beside_short(cost, stages, answers);
            }
        }
    }
}

fn long_beside_short(cost: Cost, stages: u32, answers: u64) {
    let (ada, ben) = (person(1, Priority::Normal), person(2, Priority::Normal));
    let mut kitchen = Kitchen::new(capacity(stages, 8), cost);
    for request in 1..=answers {
        kitchen.submit_at(0, submission(request, ada, 9, 6000));
    }
    let comes_us = 400 * (cost.token_us + cost.row_us) * u64::from(stages);
    kitchen.submit_at(comes_us, submission(9, ben, 30_000, 1));

    kitchen.run();

    let first_us = kitchen.tokens[&9][0];
    let alone_us = kitchen.p99_us(1, 0..comes_us);
    let beside_us = kitchen.p99_us(1, comes_us..first_us);
    let what = format!("{cost:?} on {stages} stages beside {answers} answers");
    let least_us = u64::from(stages) * (cost.step_us + 16 * cost.row_us);
    let bound_us = alone_us + alone_us.max(least_us);
    assert!(
        beside_us <= bound_us,
        "{what}: {alone_us} us alone, {beside_us} us beside"
    );
    // And the prompt goes on, with every token at least 16 rows.
    let most_us = 30_000 / 16 * (alone_us + least_us) * 11 / 10;
    assert!(
        first_us - comes_us <= most_us,
        "{what}: the prompt took {} us",
        first_us - comes_us
    );
}

#[test]
fn alone_a_prompt_goes_in_whole_chunks() {
    let mut kitchen = Kitchen::new(capacity(2, 4), COST);
    kitchen.submit_at(0, submission(1, Person::default(), 30_000, 1));
    kitchen.run();
    let steps = kitchen.session.counters().prefill_steps;
    assert_eq!(steps, 30_000_u64.div_ceil(512));
}

#[test]
fn a_short_prompt_waits_for_one_turn_of_each_other_person() {
    let chunk_us = 1_000 + 512 * 100;
    let mut kitchen = Kitchen::new(capacity(1, 16), COST);
    for request in 1..=6 {
        let ada = person(1, Priority::High);
        kitchen.submit_at(0, submission(request, ada, 8_000, 1));
    }
    kitchen.submit_at(200_000, submission(9, person(2, Priority::Low), 300, 1));

    kitchen.run();

    // Two chunks were under way, its own is the third.
    let waited_us = kitchen.tokens[&9][0] - 200_000;
    assert!(waited_us <= 3 * chunk_us, "{waited_us} us");
}

#[test]
fn prompts_of_two_people_share_the_machines_by_priority() {
    for (priority, ratio) in [
        (Priority::Low, 2.0),
        (Priority::Normal, 1.0),
        (Priority::High, 0.5),
    ] {
        let mut kitchen = Kitchen::new(capacity(1, 16), COST);
        kitchen.submit_at(0, submission(1, person(1, Priority::Normal), 20_000, 1));
        // As long as nothing else limits it, a turn is what the weight says: both halves are done at known times.
        kitchen.submit_at(0, submission(2, person(2, priority), 20_000, 1));
        kitchen.run();
        let (normal, other) = (kitchen.tokens[&1][0], kitchen.tokens[&2][0]);
        // Who has the larger weight ends when the other has had its part of that.
        let early = normal.min(other) as f64 / normal.max(other) as f64;
        let expected: f64 = if ratio == 1.0 { 1.0 } else { 0.75 };
        assert!((early - expected).abs() < 0.06, "{priority:?}: {early}");
        assert_eq!(other > normal + 200_000, priority == Priority::Low);
        assert_eq!(normal > other + 200_000, priority == Priority::High);
    }
}

#[test]
fn whoever_asks_much_does_not_keep_others_waiting() {
    let mut kitchen = Kitchen::new(capacity(1, 2), COST);
    for request in 1..=40 {
        let ada = person(1, Priority::Normal);
        kitchen.submit_at(request, submission(request, ada, 40, 20));
    }
    for request in 41..=43 {
        let ben = person(2, Priority::Normal);
        kitchen.submit_at(request, submission(request, ben, 40, 20));
    }
    kitchen.submit_at(50, submission(44, person(3, Priority::Normal), 40, 20));

    kitchen.run();

    let end = |request: u64| *kitchen.tokens[&request].last().unwrap();
    let before = |request: u64| (1..=40).filter(|other| end(*other) < end(request)).count();
    // Two ran already; then everybody takes turns.
    for (request, most) in [(41, 4), (44, 4), (42, 6), (43, 7)] {
        assert!(before(request) <= most, "{request}: {}", before(request));
    }
    assert_eq!(kitchen.failed, []);
}

#[test]
fn one_person_cannot_fill_the_queue() {
    let mut kitchen = Kitchen::new(capacity(1, 1), COST);
    for request in 1..=1000 {
        let ada = person(1, Priority::High);
        kitchen.submit_at(1, submission(request, ada, 40, 20));
    }
    for request in 1001..=1003 {
        let ben = person(request, Priority::Low);
        kitchen.submit_at(2, submission(request, ben, 40, 20));
    }

    kitchen.run();

    let refused = |r: u64| kitchen.failed.contains(&(r, ErrorCode::QueueFull));
    let waited = (1..=1000).filter(|r| !refused(*r)).count();
    assert_eq!(waited, 1 + 52, "one ran at once, 52 of 64 places are hers");
    assert!((1001..=1003).all(|r| !refused(r)));
    assert_eq!(kitchen.failed.len(), 1000 - 53);
    assert_eq!(kitchen.tokens.len(), 53 + 3);
}

#[test]
fn those_that_wait_hear_their_place_until_they_start() {
    let mut kitchen = Kitchen::new(capacity(1, 1), COST);
    for request in 1..=3 {
        kitchen.submit_at(request, submission(request, Person::default(), 40, 5));
    }
    kitchen.run();
    assert_eq!(kitchen.places, [(2, 1), (3, 2), (3, 1)]);
    assert_eq!(kitchen.begun, [1, 2, 3]);
}
