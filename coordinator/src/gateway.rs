//! The only thing between the API and the household: requests go in, tokens come out.
//!
//! Owns the messages and the two ends of a request. The API end is a [`Gateway`] and, per accepted request, a
//! [`Stream`] whose drop cancels the request. The household end is the receiver of [`Command`]s and, per accepted
//! request, an [`EventSink`]. It never decides anything, and knows neither text nor HTTP nor nodes.
//!
//! The one idea: a request lives exactly as long as its [`Stream`]. Whoever drops it (a client that went away, an
//! answer that is complete) has cancelled what is left of it, on every stage.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use command::local::Call;
use proto::RequestId;
use proto::step::{Pooling, Sampled, Sampling};
use session::Person;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

mod card;
mod owner;
mod status;

/// What the tokens of an answer have to follow; nothing here looks into it.
pub use crate::text::{Constraint, Walk, WalkError};
pub use card::Card;
pub use owner::OWNER_CALLS_MAX;
pub use status::{Phase, ServiceStatus};

/// Commands that may wait for the household. Senders wait when it is full.
pub const COMMANDS_MAX: usize = 256;
/// Events of one request that may wait for its client. When it is full the client does not read, and the household
/// ends the request.
pub const EVENTS_MAX: usize = 1024;

/// The model that is served, as the API needs it. Nodes have no tokenizer.
#[derive(Debug)]
pub struct ServedModel {
    /// The name under which clients ask for it.
    pub id: String,
    /// Text to ids and back.
    pub tokenizer: model::Tokenizer,
    /// Renders chats. A model without one answers completions only.
    pub template: Option<model::ChatTemplate>,
    /// What the model's authors recommend for fields that a request leaves out, and the end ids.
    pub defaults: model::GenerationDefaults,
    /// Rows of the head: ids are below this.
    pub vocab: u32,
    /// What there is to know about the weights.
    pub card: Card,
    /// When the model was taken into service, seconds since 1970.
    pub created_unix_s: u64,
}

/// One request, already in token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt; at least one id, all below the vocabulary.
    pub prompt: Vec<u32>,
    /// Present: no answer is drawn, the rows of the prompt are pooled instead. There is one choice then, and what is
    /// about answers does not count.
    pub pooling: Option<Pooling>,
    /// Independent answers wanted; at least 1.
    pub choices: u32,
    /// Most tokens per answer; `None` means up to the context.
    pub max_tokens: Option<u32>,
    /// Tokens before which no stop id is drawn.
    pub min_tokens: u32,
    /// Ids that end an answer. They are reported like any other token, with [`FinishReason::Stop`].
    pub stop_ids: Vec<u32>,
    /// How tokens are drawn. `choice` is set by the session.
    pub sampling: Sampling,
    /// For whom.
    pub person: Person,
    /// What the tokens have to follow, if anything.
    pub constraint: Option<Constraint>,
}

/// What the API asks of the household.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most commands are requests, and each is moved once"
)]
pub enum Command {
    /// Answer a request. Ends with exactly one call on `reply`.
    Generate {
        /// What is asked.
        request: GenerateRequest,
        /// Accepts or refuses it.
        reply: Reply,
    },
    /// Forget a request; its client is gone or satisfied. Unknown and ended ids are ignored.
    Cancel {
        /// Which request.
        request: RequestId,
    },
    /// Forget one choice of a request: the API saw a stop text in it. Unknown and ended ones are ignored.
    StopChoice {
        /// Which request.
        request: RequestId,
        /// Which of its choices.
        choice: u32,
    },
}

/// Why a request was not taken on. Nothing of it was computed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// The service is not ready, or no longer. The status says why.
    #[error("the model is not ready")]
    NotReady,
    /// Prompt and answer do not fit into the context.
    #[error(
        "the prompt has {prompt} tokens and up to {wanted} more were asked for; the context holds {context}"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens wanted beyond it.
        wanted: u32,
        /// Positions of a sequence.
        context: u32,
    },
    /// Too much is waiting already.
    #[error("the household is busy; try again in {retry_after_s} s")]
    Busy {
        /// When to come back.
        retry_after_s: u32,
    },
    /// The household cannot compute it, now or ever.
    #[error("{0}")]
    Invalid(String),
}

/// Whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request may work now.
    Soon,
    /// It will fail again.
    Never,
}

/// Why an answer broke off.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable name, `node_lost` for example.
    pub code: &'static str,
    /// What happened and what to do; never text of prompt or answer.
    pub message: String,
    /// Whether asking again can help.
    pub retry: Retry,
}

/// Why a choice is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id was drawn, or a stop text was seen.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The household ended it without failure (it was cancelled).
    Cancelled,
}

/// What happens to an accepted request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token of a choice. `finish` is set on its last one.
    Token {
        /// Which choice.
        choice: u32,
        /// The token.
        sampled: Sampled,
        /// Present if no token follows.
        finish: Option<FinishReason>,
    },
    /// The pooled rows of the prompt, not normalised.
    Vector(Vec<f32>),
    /// A choice ended, and not together with a token.
    Finished {
        /// Which choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The whole request broke off. Nothing follows.
    Failed(Failure),
}

/// The API's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway {
    commands: mpsc::Sender<Command>,
    owner: mpsc::Sender<Call>,
    status: watch::Receiver<ServiceStatus>,
    model: Arc<ServedModel>,
}

/// The household's end.
#[derive(Debug)]
pub struct GatewayHousehold {
    /// What the API asks. Closed when every [`Gateway`] is gone.
    pub commands: mpsc::Receiver<Command>,
    /// What the owner asks through the API: the same requests as over the local socket.
    pub owner: mpsc::Receiver<Call>,
    /// What the API tells those who come too early.
    pub status: watch::Sender<ServiceStatus>,
}

impl Gateway {
    /// Both ends for one served model.
    #[must_use]
    pub fn new(model: Arc<ServedModel>) -> (Self, GatewayHousehold) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (owner, calls) = mpsc::channel(OWNER_CALLS_MAX);
        let (sender, status) = watch::channel(ServiceStatus::starting());
        let gateway = Self {
            commands,
            owner,
            status,
            model,
        };
        let household = GatewayHousehold {
            commands: receiver,
            owner: calls,
            status: sender,
        };
        (gateway, household)
    }

    /// The served model.
    #[must_use]
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// How far the service has come, right now.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        self.status.borrow().clone()
    }

    /// Hands a request to the household and waits for its word.
    ///
    /// # Errors
    /// The household's refusal; [`Refusal::NotReady`] when it is gone.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Stream, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let reply = Reply {
            choices: request.choices,
            sender,
            commands: self.commands.downgrade(),
        };
        self.commands
            .send(Command::Generate { request, reply })
            .await
            .map_err(|_| Refusal::NotReady)?;
        receiver.await.map_err(|_| Refusal::NotReady)?
    }
}

/// The household's one word on a request. Dropping it refuses the request as not ready.
#[derive(Debug)]
pub struct Reply {
    choices: u32,
    sender: oneshot::Sender<Result<Stream, Refusal>>,
    commands: mpsc::WeakSender<Command>,
}

impl Reply {
    /// Takes the request on under this id. If its client is gone already, the sink's first use says so, and a
    /// [`Command::Cancel`] is on its way.
    #[must_use]
    pub fn accept(self, request: RequestId) -> EventSink {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (tell_place, place) = watch::channel(0);
        let stream = Stream {
            request,
            events,
            place,
            commands: self.commands,
            choices_open: self.choices,
        };
        // A client that is gone drops the stream, which sends the cancellation.
        drop(self.sender.send(Ok(stream)));
        EventSink {
            events: sender,
            place: tell_place,
            held: None,
        }
    }

    /// Refuses the request.
    pub fn refuse(self, refusal: Refusal) {
        // A client that is gone needs no answer.
        drop(self.sender.send(Err(refusal)));
    }
}

/// Why an event could not be delivered. The household cancels the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SinkError {
    /// Nobody listens any more.
    #[error("the client is gone")]
    Gone,
    /// The client does not read: [`EVENTS_MAX`] events are waiting.
    #[error("the client does not read its answer")]
    Slow,
}

/// Where the household puts the events of one request. Never waits.
///
/// A token is held until the next call, so that the end of its choice can travel with it: call
/// [`EventSink::flush`] when the session has no more outputs for now.
#[derive(Debug)]
pub struct EventSink {
    events: mpsc::Sender<Event>,
    place: watch::Sender<u32>,
    held: Option<Event>,
}

impl EventSink {
    /// The request's place in the queue, counted from 1. Only the newest is kept for a client that does not look.
    pub fn queued(&self, place: u32) {
        self.place.send_replace(place);
    }

    /// A token of a choice.
    ///
    /// # Errors
    /// The event before it could not be delivered.
    pub fn token(&mut self, choice: u32, sampled: Sampled) -> Result<(), SinkError> {
        self.flush()?;
        self.held = Some(Event::Token {
            choice,
            sampled,
            finish: None,
        });
        Ok(())
    }

    /// The pooled rows of the prompt.
    ///
    /// # Errors
    /// The event could not be delivered.
    pub fn vector(&mut self, values: Vec<f32>) -> Result<(), SinkError> {
        self.flush()?;
        self.send(Event::Vector(values))
    }

    /// A choice is complete.
    ///
    /// # Errors
    /// The event could not be delivered.
    pub fn finished(&mut self, choice: u32, reason: FinishReason) -> Result<(), SinkError> {
        if let Some(Event::Token {
            choice: held,
            finish,
            ..
        }) = &mut self.held
            && *held == choice
        {
            *finish = Some(reason);
            return self.flush();
        }
        self.flush()?;
        self.send(Event::Finished { choice, reason })
    }

    /// The request broke off. Nothing may follow.
    ///
    /// # Errors
    /// The event could not be delivered.
    pub fn failed(mut self, failure: Failure) -> Result<(), SinkError> {
        self.flush()?;
        self.send(Event::Failed(failure))
    }

    /// Delivers a held token.
    ///
    /// # Errors
    /// It could not be delivered.
    pub fn flush(&mut self) -> Result<(), SinkError> {
        match self.held.take() {
            Some(event) => self.send(event),
            None => Ok(()),
        }
    }

    fn send(&self, event: Event) -> Result<(), SinkError> {
        self.events.try_send(event).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SinkError::Slow,
            mpsc::error::TrySendError::Closed(_) => SinkError::Gone,
        })
    }
}

/// The events of one accepted request. Dropping it cancels what is left of the request.
#[derive(Debug)]
pub struct Stream {
    request: RequestId,
    events: mpsc::Receiver<Event>,
    place: watch::Receiver<u32>,
    commands: mpsc::WeakSender<Command>,
    /// Choices that the household may still be computing.
    choices_open: u32,
}

impl Stream {
    /// The household's id of the request.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The request's place in the queue whenever it changes, counted from 1; closed when the request is over.
    #[must_use]
    pub fn place(&self) -> watch::Receiver<u32> {
        self.place.clone()
    }

    /// The next event; `None` when the household has closed the request. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Stream::next`], for callers that wait for several streams at once.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = self.events.poll_recv(context);
        match &event {
            Poll::Ready(None | Some(Event::Failed(_))) => self.choices_open = 0,
            Poll::Ready(Some(
                Event::Finished { .. }
                | Event::Token {
                    finish: Some(_), ..
                },
            )) => self.choices_open = self.choices_open.saturating_sub(1),
            Poll::Ready(Some(Event::Token { finish: None, .. } | Event::Vector(_)))
            | Poll::Pending => {}
        }
        event
    }

    /// Ends one choice early: its text is complete. Events that were under way for it may still come.
    pub fn stop_choice(&self, choice: u32) {
        self.tell(Command::StopChoice {
            request: self.request,
            choice,
        });
    }

    /// Sends without waiting; when the household is behind, a task of its own waits in our place.
    fn tell(&self, command: Command) {
        // Without a sender the household is gone, and the request with it.
        let Some(commands) = self.commands.upgrade() else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(command)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // The task ends when the household takes the command or goes away.
            runtime.spawn(async move { commands.send(command).await.is_ok() });
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.choices_open > 0 {
            self.tell(Command::Cancel {
                request: self.request,
            });
        }
    }
}
