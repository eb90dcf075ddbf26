//! Requests and their answers: between the gateway and the session.
//!
//! Owns the session and, per accepted request, the sink of its events. Must never wait: a client that does not read is
//! cancelled, so that it holds up nobody else. Knows no node; what goes to the pipeline is left for the actor.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::frame::{CloseFrame, Frame};
use proto::{Epoch, RequestId};
use session::{
    ErrorCode, FinishReason, Input, MaskedToken, Output, Session, SessionError, Submission,
};

use super::masks::{MaskJob, Masked, Walks};
use super::rate::Rate;
use crate::gateway::{
    self, Command, Constraint, EventSink, Failure, GenerateRequest, Refusal, Reply, SinkError,
};

/// Seconds after which a client that found the queue full may come back.
const BUSY_RETRY_S: u32 = 5;

/// What the pipeline or the household has to be told.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an effect is carried out as soon as it is taken"
)]
pub(super) enum Effect {
    /// To stage 0 of the frame's epoch; a mask to its last stage.
    Frame(Frame),
    /// To be computed off the async threads; comes back by [`Serving::masked`].
    Mask(MaskJob),
    /// The pipeline does not answer.
    Suspect { epoch: Epoch, text: String },
}

/// What becomes of a request that comes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// It is answered.
    Open,
    /// A better plan is being put in place; it waits for that.
    Waiting,
    /// It is refused: the service is not ready.
    Shut,
}

/// An accepted request.
#[derive(Debug)]
struct Answer {
    sink: EventSink,
    choices_open: u32,
    walks: Walks,
}

/// A request between submission and the session's word.
#[derive(Debug)]
struct Asked {
    request: RequestId,
    reply: Reply,
    choices: u32,
    prompt: u32,
    wanted: u32,
    constraint: Option<Constraint>,
}

/// The session with the sinks of its requests.
#[derive(Debug)]
pub(super) struct Serving {
    session: Session,
    answers: HashMap<RequestId, Answer>,
    asked: Option<Asked>,
    /// Requests before a waiting door, at most as many as the session's queue takes.
    waiting: VecDeque<(GenerateRequest, Reply)>,
    waiting_max: u32,
    last_request: RequestId,
    effects: VecDeque<Effect>,
    /// Requests whose sink got something since the last flush.
    touched: Vec<RequestId>,
    pub rate: Rate,
}

impl Serving {
    pub fn new(config: session::Config) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_max: config.queue_max,
            session: Session::new(config),
            answers: HashMap::new(),
            asked: None,
            last_request: RequestId(0),
            effects: VecDeque::new(),
            touched: Vec::new(),
            rate: Rate::default(),
        }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Carries out what the API asks.
    pub fn command(&mut self, now: Duration, command: Command, door: Door) {
        match command {
            Command::Generate { request, reply } => match door {
                Door::Open => self.generate(now, request, reply),
                Door::Waiting if (self.waiting.len() as u64) < u64::from(self.waiting_max) => {
                    self.waiting.push_back((request, reply));
                }
                Door::Waiting => reply.refuse(Refusal::Busy {
                    retry_after_s: BUSY_RETRY_S,
                }),
                Door::Shut => reply.refuse(Refusal::NotReady),
            },
            Command::Cancel { request } => self.input(now, Input::Cancel { request }),
            Command::StopChoice { request, choice } => {
                self.input(now, Input::FinishChoice { request, choice });
            }
        }
    }

    /// Does with those that wait what the door says; whether there were any.
    pub fn let_in(&mut self, now: Duration, door: Door) -> bool {
        if door == Door::Waiting || self.waiting.is_empty() {
            return false;
        }
        for (request, reply) in std::mem::take(&mut self.waiting) {
            match door {
                Door::Open => self.generate(now, request, reply),
                Door::Waiting | Door::Shut => reply.refuse(Refusal::NotReady),
            }
        }
        true
    }

    fn generate(&mut self, now: Duration, request: GenerateRequest, reply: Reply) {
        self.last_request = self.last_request.next();
        let id = self.last_request;
        self.asked = Some(Asked {
            request: id,
            reply,
            choices: request.choices,
            prompt: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            wanted: match request.pooling {
                Some(_) => 0,
                None => request.max_tokens.unwrap_or(1),
            },
            constraint: request.constraint.clone(),
        });
        self.input(
            now,
            Input::Submit(Submission {
                request: id,
                person: request.person,
                prompt: Arc::from(request.prompt),
                pooling: request.pooling,
                choices: request.choices,
                max_tokens: request.max_tokens,
                min_tokens: request.min_tokens,
                stop_ids: request.stop_ids,
                sampling: request.sampling,
                constrained: request.constraint.is_some(),
            }),
        );
    }

    /// Tells the session, and whoever hears of its outputs.
    pub fn input(&mut self, now: Duration, input: Input) {
        let kind = std::mem::discriminant(&input);
        if let Err(error) = self.session.handle_input(now, input) {
            // Ordinary where a client leaves as its answer ends.
            tracing::debug!(%error, ?kind, "the session could not take an event");
        }
        self.deliver(now);
    }

    pub fn timeout(&mut self, now: Duration) {
        self.session.handle_timeout(now);
        self.deliver(now);
    }

    /// Empties the session's outputs. Ends, since each round cancels a request or is the last.
    fn deliver(&mut self, now: Duration) {
        loop {
            let mut broken = Vec::new();
            while let Some(output) = self.session.poll_output() {
                if let Some((request, error)) = self.output(now, output) {
                    broken.push((request, error));
                }
            }
            for request in std::mem::take(&mut self.touched) {
                if let Some(answer) = self.answers.get_mut(&request)
                    && let Err(error) = answer.sink.flush()
                {
                    broken.push((request, error));
                }
            }
            if broken.is_empty() {
                return;
            }
            for (request, error) in broken {
                tracing::debug!(request = request.0, %error, "request cancelled");
                self.answers.remove(&request);
                // Unknown where its last event was the one that could not be delivered.
                let _over = self.session.handle_input(now, Input::Cancel { request });
            }
        }
    }

    /// One output of the session; the request whose client cannot be reached, if so.
    fn output(&mut self, now: Duration, output: Output) -> Option<(RequestId, SinkError)> {
        match output {
            Output::Send(step) => self.effects.push_back(Effect::Frame(Frame::Step(step))),
            Output::Mask(mask) => self.effects.push_back(Effect::Frame(Frame::Mask(mask))),
            Output::Close { epoch, sequences } => {
                let close = CloseFrame { epoch, sequences };
                self.effects.push_back(Effect::Frame(Frame::Close(close)));
            }
            Output::Suspect {
                epoch,
                step,
                waited,
            } => {
                let text = format!(
                    "step {step} did not come back within {} s",
                    waited.as_secs()
                );
                self.effects.push_back(Effect::Suspect { epoch, text });
            }
            Output::Accepted { request } => self.accepted(now, request),
            Output::Failed { request, error } => return self.failed(request, error),
            Output::Queued { request, place } => {
                if let Some(answer) = self.answers.get(&request) {
                    answer.sink.queued(place);
                }
            }
            Output::Token {
                request,
                choice,
                sampled,
                finish,
            } => {
                self.rate.count(now, 1);
                let answer = self.answers.get_mut(&request)?;
                if finish.is_none() {
                    let job = answer.walks.follow(request, choice, &sampled);
                    self.effects.extend(job.map(Effect::Mask));
                }
                self.touched.push(request);
                let put = answer.sink.token(choice, sampled);
                return put.err().map(|error| (request, error));
            }
            Output::Vector { request, values } => {
                let answer = self.answers.get_mut(&request)?;
                let put = answer.sink.vector(values);
                return put.err().map(|error| (request, error));
            }
            Output::Finished {
                request,
                choice,
                reason,
            } => return self.finished(request, choice, reason),
        }
        None
    }

    fn accepted(&mut self, now: Duration, request: RequestId) {
        let Some(asked) = self.asked.take_if(|asked| asked.request == request) else {
            return;
        };
        let choices_open = asked.choices;
        let sink = asked.reply.accept(request);
        let (walks, masks) = Walks::begin(asked.constraint.as_ref(), asked.choices);
        let answer = Answer {
            sink,
            choices_open,
            walks,
        };
        self.answers.insert(request, answer);
        for (choice, mask) in (0..).zip(masks) {
            let token = MaskedToken {
                request,
                choice,
                position: asked.prompt,
            };
            self.mask(now, Input::Mask { token, mask });
        }
    }

    /// A mask was computed, or could not be.
    pub fn masked(&mut self, now: Duration, masked: Masked) {
        let request = masked.token.request;
        let input = masked.into_input(self.answers.get_mut(&request).map(|a| &mut a.walks));
        self.mask(now, input);
        self.deliver(now);
    }

    fn mask(&mut self, now: Duration, input: Input) {
        if let Err(error) = self.session.handle_input(now, input) {
            // Ordinary where an answer ended meanwhile.
            tracing::debug!(%error, "a mask came that nobody waits for");
        }
    }

    fn finished(
        &mut self,
        request: RequestId,
        choice: u32,
        reason: FinishReason,
    ) -> Option<(RequestId, SinkError)> {
        let answer = self.answers.get_mut(&request)?;
        let put = answer.sink.finished(
            choice,
            match reason {
                FinishReason::Stop => gateway::FinishReason::Stop,
                FinishReason::Length => gateway::FinishReason::Length,
                FinishReason::Cancelled => gateway::FinishReason::Cancelled,
            },
        );
        answer.choices_open = answer.choices_open.saturating_sub(1);
        if answer.choices_open == 0 {
            self.answers.remove(&request);
        }
        put.err().map(|error| (request, error))
    }

    fn failed(
        &mut self,
        request: RequestId,
        error: SessionError,
    ) -> Option<(RequestId, SinkError)> {
        if let Some(asked) = self.asked.take_if(|asked| asked.request == request) {
            let context = self
                .session
                .capacity()
                .map_or(0, |capacity| capacity.context);
            let refusal = refusal(&asked, context, error);
            asked.reply.refuse(refusal);
            return None;
        }
        let answer = self.answers.remove(&request)?;
        let failure = Failure {
            code: error.code.as_str(),
            message: error.text,
            retry: match error.retry {
                session::Retry::Retry | session::Retry::RetryElsewhere => gateway::Retry::Soon,
                session::Retry::Never => gateway::Retry::Never,
            },
        };
        let put = answer.sink.failed(failure);
        put.err().map(|error| (request, error))
    }
}

fn refusal(asked: &Asked, context: u32, error: SessionError) -> Refusal {
    match error.code {
        ErrorCode::ContextLengthExceeded => Refusal::Context {
            prompt: asked.prompt,
            wanted: asked.wanted,
            context,
        },
        ErrorCode::QueueFull => Refusal::Busy {
            retry_after_s: BUSY_RETRY_S,
        },
        ErrorCode::Draining => Refusal::NotReady,
        _ => Refusal::Invalid(error.text),
    }
}

#[cfg(test)]
mod tests;
