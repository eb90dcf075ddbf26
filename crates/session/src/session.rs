//! The state machine: takes an event, changes the state, leaves outputs to be polled.
//!
//! Owns the requests and their queue, and the epoch that is served. The one idea: each event is first applied to
//! what it names, then `advance` does all that has become possible: close, admit, send.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::step::StepClass;
use proto::{Epoch, RequestId, SequenceId};

use crate::config::Config;
use crate::input::{Capacity, Input, InputError};
use crate::output::{Counters, ErrorCode, FinishReason, Load, Output, SessionError};
use crate::queue::Queue;
use crate::request::{Request, len_u32};
use crate::schedule::{self, Next};
use crate::serving::{Admission, Sending, Serving};

mod answer;
mod masks;
mod requests;

/// Schedules all requests of one model in one household.
#[derive(Debug)]
pub struct Session {
    config: Config,
    requests: BTreeMap<RequestId, Request>,
    /// Requests with a choice that has not started.
    queue: Queue,
    pipeline: Pipeline,
    last_epoch: Option<Epoch>,
    last_sequence: SequenceId,
    life: Life,
    outputs: VecDeque<Output>,
    counters: Counters,
}

#[derive(Debug)]
enum Pipeline {
    /// Not loaded yet, or lost.
    Missing,
    Serving(Box<Serving>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Draining,
}

impl Pipeline {
    fn serving(&self) -> Option<&Serving> {
        match self {
            Pipeline::Missing => None,
            Pipeline::Serving(serving) => Some(serving),
        }
    }

    fn serving_mut(&mut self) -> Option<&mut Serving> {
        match self {
            Pipeline::Missing => None,
            Pipeline::Serving(serving) => Some(serving),
        }
    }
}

impl Session {
    /// Without a pipeline and without requests.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            requests: BTreeMap::new(),
            queue: Queue::default(),
            pipeline: Pipeline::Missing,
            last_epoch: None,
            last_sequence: SequenceId(0),
            life: Life::Open,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Applies one event. `now` is the time since some fixed moment and never goes back.
    ///
    /// # Errors
    /// When the event does not fit what was told before; the state is then as it was.
    pub fn handle_input(&mut self, now: Duration, input: Input) -> Result<(), InputError> {
        match input {
            Input::Submit(submission) => self.submit(now, submission)?,
            Input::Cancel { request } => self.cancel(request)?,
            Input::FinishChoice { request, choice } => {
                self.finish(request, choice, FinishReason::Stop)?;
            }
            Input::Ready(capacity) => self.ready(capacity)?,
            Input::Lost { reason } => self.lost(&reason)?,
            Input::Done(samples) => self.done(now, samples),
            Input::Fault(fault) => self.fault(fault),
            Input::Mask { token, mask } => self.masked(token, mask)?,
            Input::Unmaskable { request, text } => self.unmaskable(request, text)?,
            Input::Hold => {
                let serving = self.pipeline.serving_mut().ok_or(InputError::NotServing)?;
                serving.admission = Admission::Held;
            }
            Input::Drain => self.drain(),
        }
        self.advance(now);
        Ok(())
    }

    /// Ends what has waited too long. To be called when `poll_timeout` says so; earlier does nothing.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((step, late)) = self
            .pipeline
            .serving_mut()
            .and_then(|serving| serving.miss_deadline(now))
        {
            let waited = now.saturating_sub(late.sent_at);
            let sequences = late.sequences.clone();
            self.counters.overdue_steps += 1;
            let text = format!(
                "step {step} has not come back for {} s: a machine of the household is asleep, overloaded or \
                 cut off; try again when all of them answer",
                waited.as_secs()
            );
            self.fail_all(&sequences, ErrorCode::StepTimeout, &text);
            if let Some(serving) = self.pipeline.serving() {
                self.outputs.push_back(Output::Suspect {
                    epoch: serving.capacity().epoch,
                    step,
                    waited,
                });
            }
        }
        self.fail_unmasked(now);
        let late = |request: &RequestId| {
            self.requests
                .get(request)
                .is_some_and(|r| !r.started() && r.queued_until <= now)
        };
        let late: Vec<RequestId> = self.queue.iter().filter(late).collect();
        for request in late {
            let text = format!(
                "no machine was free for this request within {} s: try again later",
                self.config.queue_deadline.as_secs()
            );
            self.fail(request, SessionError::new(ErrorCode::QueueTimeout, text));
        }
        self.advance(now);
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` has to be called, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let waiting = self.queue.iter().filter_map(|id| self.requests.get(&id));
        let queue = waiting
            .filter(|r| !r.started())
            .map(|r| r.queued_until)
            .min();
        let serving = self.pipeline.serving();
        let step = serving.and_then(Serving::deadline);
        let mask = serving.and_then(Serving::mask_deadline);
        queue.into_iter().chain(step).chain(mask).min()
    }

    /// Whether it was drained and everything has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.life == Life::Draining
            && self.requests.is_empty()
            && self.is_idle()
            && self.outputs.is_empty()
    }

    /// Whether nothing runs, so that the epoch could be replaced. Requests may wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pipeline.serving().is_none_or(Serving::is_idle)
    }

    /// Of the epoch that is served, its context lowered to what its pages hold.
    #[must_use]
    pub fn capacity(&self) -> Option<Capacity> {
        self.pipeline.serving().map(|serving| *serving.capacity())
    }

    /// Events so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What it is busy with.
    #[must_use]
    pub fn load(&self) -> Load {
        let running = |r: &&Request| r.sequences().next().is_some();
        let requests = Load {
            requests_waiting: self.queue_len(),
            requests_running: len_u32(self.requests.values().filter(running).count()),
            ..Load::default()
        };
        let Some(serving) = self.pipeline.serving() else {
            return requests;
        };
        Load {
            sequences: serving.sequences_len(),
            steps_in_flight: serving.steps_len(),
            pages_free: serving.pages_free(),
            pages_total: serving.capacity().pages,
            slots_free: serving.slots_free(),
            ..requests
        }
    }

    fn queue_len(&self) -> u32 {
        let unstarted = self.requests.values().filter(|r| !r.started());
        len_u32(unstarted.count())
    }

    // ------------------------------------------------------------ pipeline

    fn ready(&mut self, capacity: Capacity) -> Result<(), InputError> {
        let got = capacity.epoch;
        if let Some(last) = self.last_epoch.filter(|last| got <= *last) {
            return Err(InputError::EpochNotNewer { got, last });
        }
        let capacity = capacity.checked()?;
        if !self.is_idle() {
            self.fail_started("the household changed its plan before the answer was complete");
        }
        self.last_epoch = Some(got);
        self.pipeline = Pipeline::Serving(Box::new(Serving::new(capacity)));
        let misfits: Vec<_> = self
            .requests
            .iter()
            .filter_map(|(id, r)| Some((*id, r.positions(capacity.context).err()?)))
            .collect();
        for (request, error) in misfits {
            self.fail(request, error);
        }
        Ok(())
    }

    fn lost(&mut self, reason: &str) -> Result<(), InputError> {
        if self.pipeline.serving().is_none() {
            return Err(InputError::NotServing);
        }
        self.fail_started(reason);
        self.pipeline = Pipeline::Missing;
        Ok(())
    }

    /// Recovery without loss will put the sequences back to the start of their prompt here, tokens and all.
    fn fail_started(&mut self, reason: &str) {
        let started = self.requests.iter().filter(|(_, r)| r.started());
        let started: Vec<RequestId> = started.map(|(id, _)| *id).collect();
        for request in started {
            self.fail(request, SessionError::new(ErrorCode::NodeLost, reason));
        }
    }

    // ------------------------------------------------------------ progress

    /// Does all that has become possible.
    fn advance(&mut self, now: Duration) {
        self.release_unmasked();
        self.announce_closed();
        self.start_waiting();
        self.tell_places();
        let sending = Sending {
            now,
            deadline: now.saturating_add(self.config.step_deadline),
        };
        while let Pipeline::Serving(serving) = &mut self.pipeline {
            let step = match schedule::next(&serving.view()) {
                Next::Decode(rows) => serving.decode_step(sending, rows),
                Next::Prefill => serving.prefill_step(sending),
                Next::Wait => None,
            };
            let Some(step) = step else {
                break;
            };
            match step.class {
                StepClass::Decode => self.counters.decode_steps += 1,
                StepClass::Prefill => {
                    self.counters.prefill_steps += 1;
                    self.counters.prompt_tokens += u64::from(step.rows());
                }
            }
            let masked = masks::drawn(&step);
            self.outputs.push_back(Output::Send(step));
            self.bring_masks(now, &masked);
        }
    }

    fn announce_closed(&mut self) {
        let Some(serving) = self.pipeline.serving_mut() else {
            return;
        };
        let sequences = serving.take_closed();
        if !sequences.is_empty() {
            let epoch = serving.capacity().epoch;
            self.outputs.push_back(Output::Close { epoch, sequences });
        }
    }

    /// Starts choices in the order of the queue, until the next one finds no room.
    fn start_waiting(&mut self) {
        let Pipeline::Serving(serving) = &mut self.pipeline else {
            return;
        };
        while let Some(id) = self.queue.front() {
            let known = self.requests.get_mut(&id);
            let next = known.and_then(|r| {
                let choice = r.next_waiting()?;
                let positions = r.positions(serving.capacity().context).ok()?;
                Some((r, choice, positions))
            });
            let Some((request, choice, positions)) = next else {
                self.queue.remove(id);
                continue;
            };
            let sequence = self.last_sequence.next();
            if serving.start(request, choice, sequence, positions).is_err() {
                return;
            }
            self.last_sequence = sequence;
            request.start(choice, sequence);
            self.queue.started(id);
        }
    }

    fn tell_places(&mut self) {
        for (request, place) in self.queue.moved() {
            self.outputs.push_back(Output::Queued { request, place });
        }
    }
}
