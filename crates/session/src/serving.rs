//! One epoch at work: its sequences, its steps in flight, its pages and slots.
//!
//! Never decides which step comes next (`schedule`) and never speaks to a request (`session`). The one idea: pages
//! and slot of a sequence become free when it is over *and* its last step has ended, not before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::frame::SamplesFrame;
use proto::step::{Logits, Sampled, Segment, Step, StepClass};
use proto::{RequestId, SequenceId, StepId, limits};

use crate::input::Capacity;
use crate::output::FinishReason;
use crate::pace::{Pace, Trip};
use crate::pages::{PagePool, SlotPool};
use crate::request::{Request, len_u32};
use crate::schedule::View;
use crate::sequence::{Gives, Progress, Rows, Sequence};
use crate::shares::Shares;

pub(crate) use crate::sequence::Drawing;

/// Prompts that share one prefill step; bounds what one fault can end, and the tables of a frame.
const PREFILL_SEGMENTS_MAX: usize = 32;

/// The pipeline of one epoch.
#[derive(Debug)]
pub(crate) struct Serving {
    capacity: Capacity,
    /// Whether new sequences may start.
    pub admission: Admission,
    pages: PagePool,
    slots: SlotPool,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// With prompt rows to send; each turn takes the first of a person and puts it back behind the others.
    prefilling: VecDeque<SequenceId>,
    /// Prompt rows that people have had.
    turns: Shares,
    pace: Pace,
    /// With a newest token to send, longest waiting first.
    ready: VecDeque<SequenceId>,
    in_flight: BTreeMap<StepId, InFlight>,
    last_step: StepId,
    prefills_sent: u64,
    closed: Vec<SequenceId>,
    /// Tokens under way that nobody wants any more and that still wait for a mask.
    released: Vec<(SequenceId, u32)>,
}

/// Whether new sequences may start in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    Held,
}

/// A step that was sent and has not been answered.
#[derive(Debug)]
pub(crate) struct InFlight {
    class: StepClass,
    /// Its sequences.
    pub sequences: Vec<SequenceId>,
    /// The samples that must come back, in order.
    draws: Vec<(SequenceId, u32)>,
    /// The sequences whose vectors must come back, in order.
    pools: Vec<SequenceId>,
    pub sent_at: Duration,
    deadline: Deadline,
    rows: u32,
    /// Prefill steps that had been sent before it.
    prefills_before: u64,
    /// Prefill steps that were under way when it was sent.
    prefills_beside: u32,
    /// Told when it ends: whether a token of it was drawn before its mask had gone.
    pub drawn_unmasked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deadline {
    At(Duration),
    Missed,
}

impl InFlight {
    /// Whether samples and vectors are exactly those that the step asked for.
    pub fn is_answered_by(&self, frame: &SamplesFrame) -> bool {
        let got = frame.samples.iter().map(|s| (s.sequence, s.position));
        let vectors = frame.vectors.iter().map(|v| v.sequence);
        got.eq(self.draws.iter().copied()) && vectors.eq(self.pools.iter().copied())
    }

    fn is_overdue(&self) -> bool {
        self.deadline == Deadline::Missed
    }
}

/// When a step is sent and by when it has to be back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    pub now: Duration,
    pub deadline: Duration,
}

impl Serving {
    /// Nothing runs.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            admission: Admission::Open,
            pages: PagePool::new(capacity.pages),
            slots: SlotPool::new(capacity.slots),
            sequences: BTreeMap::new(),
            prefilling: VecDeque::new(),
            turns: Shares::default(),
            pace: Pace::default(),
            ready: VecDeque::new(),
            in_flight: BTreeMap::new(),
            last_step: StepId(0),
            prefills_sent: 0,
            closed: Vec::new(),
            released: Vec::new(),
        }
    }

    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub fn pages_free(&self) -> u32 {
        self.pages.free()
    }

    pub fn slots_free(&self) -> u32 {
        self.slots.free()
    }

    pub fn sequences_len(&self) -> u32 {
        len_u32(self.sequences.len())
    }

    pub fn steps_len(&self) -> u32 {
        len_u32(self.in_flight.len())
    }

    /// Whether nothing runs. Sequences that only wait for overdue steps do not count: those may never come.
    pub fn is_idle(&self) -> bool {
        let over = |s: &Sequence| s.progress == Progress::Closing;
        self.sequences.values().all(over) && self.in_flight.values().all(InFlight::is_overdue)
    }

    /// Starts a choice with all the memory that it may need, or not at all.
    ///
    /// A cached prefix will be found here: the sequence then starts with its pages and at its end.
    pub fn start(
        &mut self,
        request: &Request,
        choice: u32,
        id: SequenceId,
        positions: u32,
    ) -> Result<(), Full> {
        if self.admission == Admission::Held || self.slots.free() == 0 {
            return Err(Full);
        }
        let table = self.pages.reserve(positions).ok_or(Full)?;
        let slot = self.slots.take().ok_or(Full)?;
        let submission = &request.submission;
        let sequence = Sequence {
            id,
            request: submission.request,
            person: submission.person,
            choice,
            tokens: submission.prompt.to_vec(),
            prompt_len: request.prompt_len(),
            limit: positions,
            stop_ids: submission.stop_ids.clone(),
            pooling: submission.pooling,
            sampling: request.sampling(choice),
            slot,
            table,
            progress: Progress::Prefilling { next: 0 },
            in_flight: 0,
            logits: match submission.constrained {
                true => Logits::Masked,
                false => Logits::Last,
            },
            unmasked_until: None,
        };
        self.sequences.insert(id, sequence);
        self.prefilling.push_back(id);
        Ok(())
    }

    /// The counts that the next step depends on.
    pub fn view(&self) -> View {
        let decodes = self.running().filter(|s| s.class == StepClass::Decode);
        let before = decodes.map(|s| s.prefills_before).min();
        let since = self.prefills_sent - before.unwrap_or(self.prefills_sent);
        let decoding = self.decoding();
        View {
            stages: self.capacity.stages,
            decoding,
            ready: len_u32(self.ready.len()),
            prefilling: len_u32(self.prefilling.len()),
            decode_in_flight: self.in_flight_of(StepClass::Decode),
            prefill_in_flight: self.in_flight_of(StepClass::Prefill),
            prefill_since_decode: u32::try_from(since).unwrap_or(u32::MAX),
            wants_quiet: self.pace.wants_quiet(decoding),
        }
    }

    /// Steps under way that are not overdue.
    fn running(&self) -> impl Iterator<Item = &InFlight> {
        self.in_flight.values().filter(|s| !s.is_overdue())
    }

    fn in_flight_of(&self, class: StepClass) -> u32 {
        len_u32(self.running().filter(|s| s.class == class).count())
    }

    /// Sequences past their prompt.
    fn decoding(&self) -> u32 {
        len_u32(self.sequences.values().filter(|s| s.decodes()).count())
    }

    /// A step with the newest tokens of up to `rows` ready sequences.
    pub fn decode_step(&mut self, sending: Sending, rows: u32) -> Option<Step> {
        let mut parts = Vec::new();
        while len_u32(parts.len()) < rows {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            let sequence = self.sequences.get_mut(&id);
            parts.extend(sequence.and_then(|s| s.row(&mut self.pages)));
        }
        self.send(sending, StepClass::Decode, parts)
    }

    /// A step with prompt rows of the sequences whose turn it is.
    pub fn prefill_step(&mut self, sending: Sending) -> Option<Step> {
        let mut parts: Vec<Rows> = Vec::new();
        let mut left = self.chunk_rows();
        let turns = self.prefilling.len().min(PREFILL_SEGMENTS_MAX);
        for _ in 0..turns {
            let Some(id) = self.next_prompt() else {
                break;
            };
            let Some(sequence) = self.sequences.get_mut(&id) else {
                continue;
            };
            if let Some(part) = sequence.chunk(&mut self.pages, left) {
                left -= part.segment.rows;
                self.turns.charge(sequence.person, part.segment.rows);
                parts.push(part);
            }
            if matches!(sequence.progress, Progress::Prefilling { .. }) {
                self.prefilling.push_back(id);
            }
            if left == 0 {
                break;
            }
        }
        let step = self.send(sending, StepClass::Prefill, parts)?;
        self.prefills_sent += 1;
        Some(step)
    }

    /// Rows of the next chunk: as many as a step holds while nobody waits for a token, else about a token's time.
    fn chunk_rows(&self) -> u32 {
        let most = self.capacity.chunk_rows;
        if self.sequences.values().any(Sequence::answers) {
            self.pace.rows_beside(most)
        } else {
            most
        }
    }

    /// Takes the sequence whose prompt is next: the one that waits longest of the person whose turn it is.
    fn next_prompt(&mut self) -> Option<SequenceId> {
        let person = |id: &SequenceId| Some(self.sequences.get(id)?.person.id);
        let next = self.turns.next(self.prefilling.iter().filter_map(person));
        let at = self.prefilling.iter().position(|id| person(id) == next)?;
        self.prefilling.remove(at)
    }

    /// Notes how long a step took that came back well.
    pub fn time(&mut self, now: Duration, step: &InFlight) {
        let trip = Trip {
            sent_at: step.sent_at,
            back_at: now,
        };
        let alone = step.prefills_beside == 0 && step.prefills_before == self.prefills_sent;
        match step.class {
            StepClass::Prefill => self.pace.read(trip, step.rows, self.capacity.stages),
            StepClass::Decode if alone => self.pace.answered_alone(trip, self.decoding()),
            StepClass::Decode => self.pace.answered_beside(trip),
        }
    }

    fn send(&mut self, sending: Sending, class: StepClass, parts: Vec<Rows>) -> Option<Step> {
        if parts.is_empty() {
            return None;
        }
        self.last_step = self.last_step.next();
        let draws = |p: &Rows| match p.gives {
            Gives::Token(position) => Some((p.segment.sequence, position)),
            Gives::Nothing | Gives::Vector => None,
        };
        let pools = parts.iter().filter(|p| p.gives == Gives::Vector);
        let in_flight = InFlight {
            class,
            sequences: parts.iter().map(|p| p.segment.sequence).collect(),
            draws: parts.iter().filter_map(draws).collect(),
            pools: pools.map(|p| p.segment.sequence).collect(),
            sent_at: sending.now,
            deadline: Deadline::At(sending.deadline),
            rows: parts.iter().map(|p| p.segment.rows).sum(),
            prefills_before: self.prefills_sent,
            prefills_beside: self.in_flight_of(StepClass::Prefill),
            drawn_unmasked: false,
        };
        self.in_flight.insert(self.last_step, in_flight);
        let (segments, tokens): (Vec<Segment>, Vec<Vec<u32>>) =
            parts.into_iter().map(|p| (p.segment, p.tokens)).unzip();
        let step = Step {
            epoch: self.capacity.epoch,
            id: self.last_step,
            class,
            segments,
            tokens: tokens.concat(),
        };
        assert!(
            step.rows() <= limits::STEP_ROWS_MAX,
            "a step of {} rows",
            step.rows()
        );
        Some(step)
    }

    /// A step has ended, one way or the other. `None` if it is not under way.
    pub fn settle(&mut self, step: StepId) -> Option<InFlight> {
        let mut ended = self.in_flight.remove(&step)?;
        for (id, _) in &ended.draws {
            let sequence = self.sequences.get_mut(id);
            let awaited = sequence.and_then(|sequence| sequence.unmasked_until.take());
            ended.drawn_unmasked |= awaited.is_some();
        }
        for id in &ended.sequences {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.in_flight -= 1;
            }
            self.close_if_over(*id);
        }
        Some(ended)
    }

    /// Takes a drawn token into its sequence. `None` if that sequence is over.
    pub fn push(&mut self, sampled: &Sampled) -> Option<Drawn> {
        let sequence = self.sequences.get_mut(&sampled.sequence)?;
        if sequence.progress == Progress::Closing {
            return None;
        }
        let finish = sequence.push(sampled);
        if finish.is_none() {
            self.ready.push_back(sequence.id);
        }
        Some(Drawn {
            request: sequence.request,
            choice: sequence.choice,
            finish,
        })
    }

    /// The request whose prompt this sequence pooled. `None` if it is over.
    pub fn pooled(&self, id: SequenceId) -> Option<RequestId> {
        let sequence = self.sequences.get(&id)?;
        (sequence.progress != Progress::Closing).then_some(sequence.request)
    }

    /// No further step for this sequence; it closes once none is under way.
    pub fn end(&mut self, id: SequenceId) {
        self.prefilling.retain(|other| *other != id);
        self.ready.retain(|other| *other != id);
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.progress = Progress::Closing;
            if sequence.unmasked_until.take().is_some() {
                let position = len_u32(sequence.tokens.len());
                self.released.push((id, position));
            }
        }
        self.close_if_over(id);
    }

    /// The request and choice that a sequence belongs to.
    pub fn owner(&self, id: SequenceId) -> Option<(RequestId, u32)> {
        let sequence = self.sequences.get(&id)?;
        Some((sequence.request, sequence.choice))
    }

    /// How far the next token of a sequence is. `None` if it is over.
    pub fn drawing(&self, id: SequenceId) -> Option<Drawing> {
        self.sequences.get(&id)?.drawing()
    }

    /// A step that draws a token went out without its mask.
    pub fn await_mask(&mut self, id: SequenceId, until: Duration) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.unmasked_until = Some(until);
        }
    }

    /// The mask of the token under way goes out.
    pub fn mask_came(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.unmasked_until = None;
        }
    }

    /// The earliest time by which a mask has to come.
    pub fn mask_deadline(&self) -> Option<Duration> {
        let sequences = self.sequences.values();
        sequences.filter_map(|s| s.unmasked_until).min()
    }

    /// Sequences whose mask is overdue.
    pub fn unmasked(&self, now: Duration) -> Vec<SequenceId> {
        let late = |s: &&Sequence| s.unmasked_until.is_some_and(|until| until <= now);
        let late = self.sequences.values().filter(late);
        late.map(|sequence| sequence.id).collect()
    }

    /// Tokens that nobody wants any more since the last call, and whose rows wait for a mask.
    pub fn take_released(&mut self) -> Vec<(SequenceId, u32)> {
        std::mem::take(&mut self.released)
    }

    fn close_if_over(&mut self, id: SequenceId) {
        let over = |s: &Sequence| s.progress == Progress::Closing && s.in_flight == 0;
        if !self.sequences.get(&id).is_some_and(over) {
            return;
        }
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pages.release(sequence.table);
            self.slots.release(sequence.slot);
            self.closed.push(id);
        }
    }

    /// Sequences that closed since the last call.
    pub fn take_closed(&mut self) -> Vec<SequenceId> {
        std::mem::take(&mut self.closed)
    }

    /// The requests that have a sequence in a list; each once, those that are over left out.
    pub fn requests_of(&self, sequences: &[SequenceId]) -> Vec<RequestId> {
        let live = sequences
            .iter()
            .filter_map(|id| self.sequences.get(id))
            .filter(|s| s.progress != Progress::Closing);
        let mut requests: Vec<RequestId> = live.map(|s| s.request).collect();
        requests.sort_unstable();
        requests.dedup();
        requests
    }

    /// The earliest deadline of a step.
    pub fn deadline(&self) -> Option<Duration> {
        let of = |step: &InFlight| match step.deadline {
            Deadline::At(at) => Some(at),
            Deadline::Missed => None,
        };
        self.in_flight.values().filter_map(of).min()
    }

    /// One step whose deadline is over; each is returned once.
    pub fn miss_deadline(&mut self, now: Duration) -> Option<(StepId, &InFlight)> {
        let missed = |s: &InFlight| matches!(s.deadline, Deadline::At(at) if at <= now);
        let (id, step) = self.in_flight.iter_mut().find(|(_, s)| missed(s))?;
        step.deadline = Deadline::Missed;
        Some((*id, step))
    }
}

/// No slot or too few pages for one more sequence now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Whose token was drawn, and whether it was the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub request: RequestId,
    pub choice: u32,
    pub finish: Option<FinishReason>,
}
