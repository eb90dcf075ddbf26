//! Runs a session against the pipeline under a virtual clock, with people who leave and machines that fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::frame::{FaultFrame, MaskFrame, SamplesFrame};
use proto::step::{Pooling, Sampling, Step, StepClass};
use proto::{Epoch, PersonId, RequestId};
use session::{
    Capacity, Config, Input, InputError, MaskedToken, Output, Person, Priority, Session, Submission,
};

use super::pipeline::{Packet, Stage};
use super::watch::Watch;
use super::{Rng, VOCAB, mask};

/// How often things go wrong: once in so many steps at a stage, or answers, or acts; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chaos {
    pub fault: u64,
    pub swallow: u64,
    pub freeze: u64,
    pub repeat: u64,
    pub forge: u64,
    pub lose: u64,
    pub hold: u64,
    pub leave: u64,
    pub no_mask: u64,
    pub late_mask: u64,
    pub unmaskable: u64,
}

/// What happens at a moment.
#[derive(Debug)]
enum Event {
    Arrive(Epoch, usize, Packet),
    Finish(Epoch, usize),
    Answer(Input),
    Masked(Input),
    MaskArrives(MaskFrame),
    Submit(Submission),
    Leave,
    Lose,
    Mend,
    Hold,
}

/// A session, its pipeline, and what is going to happen.
pub struct World {
    pub rng: Rng,
    pub session: Session,
    pub watch: Watch,
    pub chaos: Chaos,
    now_us: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    stages: Vec<Stage>,
    epoch: u64,
    config: Config,
    holding: bool,
    /// Of what has to do with masks.
    mask_rng: Rng,
    /// Chosen for every epoch anew unless it is fixed.
    pub fixed: Option<Capacity>,
}

impl World {
    pub fn new(seed: u64, config: Config) -> Self {
        Self {
            rng: Rng(seed),
            session: Session::new(config),
            watch: Watch::default(),
            chaos: Chaos::default(),
            now_us: 0,
            order: 0,
            events: BTreeMap::new(),
            stages: Vec::new(),
            epoch: 0,
            config,
            holding: false,
            mask_rng: Rng(!seed),
            fixed: None,
        }
    }

    fn at(&mut self, delay_us: u64, event: Event) {
        self.order += 1;
        self.events
            .insert((self.now_us + delay_us, self.order), event);
    }

    pub fn submit_at(&mut self, delay_us: u64, submission: Submission) {
        self.at(delay_us, Event::Submit(submission));
    }

    pub fn mend_at(&mut self, delay_us: u64) {
        self.at(delay_us, Event::Mend);
    }

    /// A request with a short prompt as a rule, a long one now and then.
    pub fn some_submission(&mut self, request: u64) -> Submission {
        let rng = &mut self.rng;
        let most = if rng.one_in(5) { 700 } else { 90 };
        let len = rng.between(1, most);
        let prompt: Vec<u32> = (0..len).map(|_| (rng.next() % VOCAB) as u32).collect();
        let max_tokens = (!rng.one_in(6)).then(|| rng.between(1, 40) as u32);
        let pooling = match rng.between(0, 9) {
            0 => Some(Pooling::Last),
            1 => Some(Pooling::Mean),
            _ => None,
        };
        Submission {
            request: RequestId(request),
            person: Person {
                id: PersonId(rng.between(0, 3)),
                priority: [Priority::Low, Priority::Normal, Priority::High]
                    [rng.between(0, 2) as usize],
            },
            prompt: Arc::from(prompt),
            pooling,
            choices: if pooling.is_none() && rng.one_in(3) {
                rng.between(2, 4) as u32
            } else {
                1
            },
            max_tokens,
            min_tokens: rng.between(0, max_tokens.unwrap_or(3).min(12).into()) as u32,
            stop_ids: if rng.one_in(4) { vec![] } else { vec![3, 7] },
            sampling: Sampling {
                seed: request,
                ..Sampling::default()
            },
            constrained: pooling.is_none() && request.is_multiple_of(3),
        }
    }

    /// Schedules people and trouble over `span_us`.
    pub fn plan(&mut self, requests: u64, span_us: u64) {
        for request in 1..=requests {
            let submission = self.some_submission(request);
            let at = self.rng.between(0, span_us);
            self.submit_at(at, submission);
            if self.rng.one_in(self.chaos.leave) {
                let at = self.rng.between(0, span_us);
                self.at(at, Event::Leave);
            }
        }
        for (often, event) in [(self.chaos.lose, 0), (self.chaos.hold, 1)] {
            for _ in 0..4 {
                if self.rng.one_in(often) {
                    let at = self.rng.between(0, span_us);
                    self.at(at, if event == 0 { Event::Lose } else { Event::Hold });
                }
            }
        }
        self.mend_at(1000);
    }

    /// Runs until nothing is left to happen.
    pub fn run(&mut self) {
        loop {
            let event = self.events.keys().next().map(|key| key.0);
            let timeout = self.session.poll_timeout().map(|t| t.as_micros() as u64);
            match (event, timeout) {
                (None, None) => return,
                (Some(at), timeout) if timeout.is_none_or(|t| at < t) => {
                    let (_, event) = self.events.pop_first().expect("an event");
                    self.now_us = at;
                    self.apply(event);
                }
                (_, Some(at)) => {
                    self.now_us = self.now_us.max(at);
                    self.session.handle_timeout(self.now());
                    self.drain_outputs();
                }
                (Some(_), None) => {}
            }
            let load = self.session.load();
            assert!(load.requests_waiting <= self.config.queue_max);
            if self.holding && self.session.is_idle() {
                self.holding = false;
                self.mend();
            }
        }
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.now_us)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Arrive(epoch, stage, packet) if epoch.0 == self.epoch => {
                match packet.class() {
                    StepClass::Decode => self.stages[stage].decode.push_back(packet),
                    StepClass::Prefill => self.stages[stage].prefill.push_back(packet),
                }
                self.work(stage);
            }
            Event::Finish(epoch, stage) if epoch.0 == self.epoch => {
                self.finish(stage);
                self.work(stage);
            }
            Event::Arrive(..) | Event::Finish(..) => {}
            Event::Answer(input) => self.answer(input),
            Event::Masked(input) => {
                let told = self.tell(input);
                // Its request ended meanwhile, or the mask came twice.
                let ordinary = matches!(
                    told,
                    Ok(())
                        | Err(InputError::UnknownRequest(_)
                            | InputError::UnknownChoice { .. }
                            | InputError::MaskNotAwaited(_))
                );
                assert!(ordinary, "{told:?}");
            }
            Event::MaskArrives(frame) if frame.epoch.0 == self.epoch => self.mask_arrives(frame),
            Event::MaskArrives(_) => {}
            Event::Submit(submission) => {
                self.watch.submitted(&submission);
                self.tell(Input::Submit(submission)).expect("a new id");
            }
            Event::Leave => self.leave(),
            Event::Lose => self.lose(),
            Event::Mend => self.mend(),
            Event::Hold => self.holding = self.tell(Input::Hold).is_ok(),
        }
    }

    /// Gives the session an input and carries out what it wants.
    pub fn tell(&mut self, input: Input) -> Result<(), InputError> {
        let told = self.session.handle_input(self.now(), input);
        self.drain_outputs();
        told
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.watch.check(&output);
            let epoch = Epoch(self.epoch);
            match output {
                Output::Send(step) => self.deliver(epoch, 0, Packet::Step(step)),
                Output::Close { sequences, .. } => {
                    self.deliver(epoch, 0, Packet::Close(sequences));
                }
                Output::Mask(frame) => {
                    let delay = self.mask_rng.between(50, 800);
                    self.at(delay, Event::MaskArrives(frame));
                }
                Output::Accepted { request } => self.want_first_masks(request),
                Output::Token {
                    request,
                    choice,
                    sampled,
                    finish: None,
                } => self.want_mask(MaskedToken {
                    request,
                    choice,
                    position: sampled.position + 1,
                }),
                // A household that drops the epoch as a rule, but not always.
                Output::Suspect { .. } if !self.rng.one_in(4) => self.at(500, Event::Lose),
                Output::Suspect { .. }
                | Output::Queued { .. }
                | Output::Token { .. }
                | Output::Vector { .. }
                | Output::Finished { .. }
                | Output::Failed { .. } => {}
            }
        }
    }

    fn want_first_masks(&mut self, request: RequestId) {
        let submission = self.watch.submission(request);
        let (choices, position) = (submission.choices, submission.prompt.len() as u32);
        for choice in 0..choices {
            self.want_mask(MaskedToken {
                request,
                choice,
                position,
            });
        }
    }

    /// The mask of a token is computed: it comes sooner or later than its step, as a rule once.
    fn want_mask(&mut self, token: MaskedToken) {
        if !self.watch.submission(token.request).constrained {
            return;
        }
        let (rng, chaos) = (&mut self.mask_rng, self.chaos);
        let none = rng.one_in(chaos.no_mask);
        let late = rng.one_in(chaos.late_mask);
        let fails = rng.one_in(chaos.unmaskable);
        let delay = rng.between(0, if late { 1_500_000 } else { 3000 });
        let input = match fails {
            true => Input::Unmaskable {
                request: token.request,
                text: "the constraint is too large".to_owned(),
            },
            false => Input::Mask {
                token,
                mask: mask(token.request.0, token.choice, token.position),
            },
        };
        if self.mask_rng.one_in(self.chaos.repeat) {
            self.at(delay + 400, Event::Masked(input.clone()));
        }
        if !none {
            self.at(delay, Event::Masked(input));
        }
    }

    fn mask_arrives(&mut self, frame: MaskFrame) {
        let Some(last) = self.stages.len().checked_sub(1) else {
            return;
        };
        if let Some(step) = self.stages[last].masked(frame) {
            self.end(last, step);
        }
    }

    fn deliver(&mut self, epoch: Epoch, stage: usize, packet: Packet) {
        let delay = self.rng.between(50, 800);
        let stream = usize::from(packet.class() == StepClass::Prefill);
        let newest = &mut self.stages[stage].last_arrival[stream];
        *newest = (*newest).max(self.now_us + delay);
        let delay = *newest - self.now_us;
        self.at(delay, Event::Arrive(epoch, stage, packet));
    }

    /// An idle stage takes up a packet, from the decode stream as a rule.
    fn work(&mut self, at: usize) {
        let stage = &mut self.stages[at];
        if stage.busy.is_some() {
            return;
        }
        let prefill_first = self.rng.one_in(5);
        let next = if prefill_first {
            stage
                .prefill
                .pop_front()
                .or_else(|| stage.decode.pop_front())
        } else {
            stage
                .decode
                .pop_front()
                .or_else(|| stage.prefill.pop_front())
        };
        let Some(packet) = next else {
            return;
        };
        let takes_us = match &packet {
            Packet::Step(step) => 200 + 20 * u64::from(step.rows()) + self.rng.between(0, 2000),
            Packet::Close(_) => 1,
        };
        stage.busy = Some(packet);
        self.at(takes_us, Event::Finish(Epoch(self.epoch), at));
    }

    fn finish(&mut self, at: usize) {
        let is_last = at + 1 == self.stages.len();
        let stage = &mut self.stages[at];
        let Some(packet) = stage.busy.take() else {
            return;
        };
        let epoch = Epoch(self.epoch);
        match packet {
            Packet::Close(sequences) => {
                stage.close(&sequences);
                if !is_last {
                    self.deliver(epoch, at + 1, Packet::Close(sequences));
                }
            }
            Packet::Step(step) if is_last && !stage.has_masks(&step) => stage.unmasked.push(step),
            Packet::Step(step) => self.end(at, step),
        }
    }

    /// A stage is done with a step.
    fn end(&mut self, at: usize, step: Step) {
        let is_last = at + 1 == self.stages.len();
        let epoch = Epoch(self.epoch);
        let ran = self.stages[at].run(&step);
        if self.rng.one_in(self.chaos.swallow) {
            return;
        }
        let ran = if self.rng.one_in(self.chaos.fault) {
            Err("out of memory on 'attic'".to_owned())
        } else {
            ran
        };
        let answer = match ran {
            Err(text) => Input::Fault(FaultFrame {
                epoch,
                step: step.id,
                text,
            }),
            Ok(_) if !is_last => return self.deliver(epoch, at + 1, Packet::Step(step)),
            Ok((samples, vectors)) => Input::Done(SamplesFrame {
                epoch,
                step: step.id,
                samples,
                vectors,
            }),
        };
        self.send_answer(answer);
    }

    /// Answers overtake each other, come twice, far too late, or changed.
    fn send_answer(&mut self, mut answer: Input) {
        if self.rng.one_in(self.chaos.forge)
            && let Input::Done(frame) = &mut answer
        {
            match (frame.samples.first_mut(), frame.vectors.pop()) {
                (Some(sample), _) => sample.position += 1,
                (None, Some(_)) => {}
                (None, None) => return self.send_answer(answer),
            }
        }
        let delay = if self.rng.one_in(self.chaos.freeze) {
            3_000_000
        } else {
            self.rng.between(50, 800)
        };
        if self.rng.one_in(self.chaos.repeat) {
            let again = delay + self.rng.between(0, 20_000);
            self.at(again, Event::Answer(answer.clone()));
        }
        self.at(delay, Event::Answer(answer));
    }

    fn answer(&mut self, input: Input) {
        match &input {
            Input::Done(frame) => self.watch.answered(frame.epoch, frame.step),
            Input::Fault(frame) => self.watch.answered(frame.epoch, frame.step),
            other => panic!("not an answer: {other:?}"),
        }
        self.tell(input).expect("answers are never refused");
    }

    fn leave(&mut self) {
        let open = self.watch.open_requests();
        if open.is_empty() {
            return;
        }
        let (request, choice) = open[(self.rng.next() % open.len() as u64) as usize];
        let input = if self.rng.one_in(2) {
            Input::Cancel { request }
        } else {
            Input::FinishChoice { request, choice }
        };
        self.tell(input).expect("an open choice");
    }

    fn lose(&mut self) {
        let reason = "'attic' went to sleep".to_owned();
        if self.tell(Input::Lost { reason }).is_ok() {
            self.watch.epoch(None);
            self.stages.clear();
            self.epoch += 1;
            let delay = self.rng.between(1000, 200_000);
            self.at(delay, Event::Mend);
        }
    }

    /// A new epoch with another shape, over a lost one or over one that runs.
    fn mend(&mut self) {
        self.epoch += 1;
        let rng = &mut self.rng;
        let some = Capacity {
            epoch: Epoch(0),
            pages: rng.between(14, 60) as u32,
            slots: rng.between(1, 7) as u32,
            context: rng.between(300, 900) as u32,
            stages: rng.between(1, 5) as u32,
            chunk_rows: rng.between(1, 128) as u32,
        };
        let capacity = Capacity {
            epoch: Epoch(self.epoch),
            ..self.fixed.unwrap_or(some)
        };
        let fresh = || Stage::new(capacity.pages, capacity.slots);
        self.stages = (0..capacity.stages).map(|_| fresh()).collect();
        let effective = Capacity {
            context: capacity.context.min(capacity.pages * 64),
            ..capacity
        };
        // What failed or ran in the old epoch is judged by the old epoch's context: nothing completes in `Ready`.
        self.watch.epoch(Some(effective));
        self.holding = false;
        self.tell(Input::Ready(capacity)).expect("a newer epoch");
        assert_eq!(self.session.capacity(), Some(effective));
    }

    /// Trouble is over: everything that was accepted has to end now, and everything has to be free.
    pub fn settle(&mut self) {
        self.chaos = Chaos::default();
        if self.watch.capacity.is_none() || self.session.load().steps_in_flight > 0 {
            self.mend();
        }
        self.run();
        if self.session.load().steps_in_flight > 0 {
            self.mend();
            self.run();
        }
        assert_eq!(self.watch.open_requests(), [], "never ended");
        assert!(self.watch.nothing_is_held());
        // A mask stays behind only where its step failed at an earlier stage.
        let masks: usize = self.stages.iter().map(Stage::masks_len).sum();
        let failed = self.session.counters().faults + self.session.counters().overdue_steps;
        assert!(
            masks as u64 <= 8 * failed,
            "{masks} masks that no step has used"
        );
        let load = self.session.load();
        assert_eq!((load.requests_waiting, load.requests_running), (0, 0));
        assert_eq!((load.sequences, load.steps_in_flight), (0, 0));
        assert_eq!(load.pages_free, load.pages_total);
        assert_eq!(Some(load.slots_free), self.watch.capacity.map(|c| c.slots));
        assert!(!self.session.is_done());
        self.tell(Input::Drain).expect("always possible");
        assert!(self.session.is_done());
        assert_eq!(self.session.poll_timeout(), None);
    }
}
