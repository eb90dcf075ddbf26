//! What a session wants done, and what it tells.

use std::time::Duration;

use proto::frame::MaskFrame;
use proto::step::{Sampled, Step};
use proto::{Epoch, RequestId, SequenceId, StepId};
use thiserror::Error;

/// One thing to carry out, in the order in which they are polled.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// To stage 0.
    Send(Step),
    /// To the last stage. Comes after the step that draws the token; one for each `Masked` segment of a step that did not
    /// fail before.
    Mask(MaskFrame),
    /// To every stage: these sequences are over; none of their steps is under way. Comes before any step that uses
    /// their pages or slots again.
    Close {
        /// The epoch they ran in.
        epoch: Epoch,
        /// Which.
        sequences: Vec<SequenceId>,
    },
    /// The request is valid and waits or runs.
    Accepted {
        /// Which.
        request: RequestId,
    },
    /// The request's place among those that wait for their first step, if nobody comes or leaves. Told when it changes.
    Queued {
        /// Which.
        request: RequestId,
        /// Counted from 1, which starts next.
        place: u32,
    },
    /// A token of a choice, stop tokens included.
    Token {
        /// The request.
        request: RequestId,
        /// Which of its choices, from 0.
        choice: u32,
        /// The token, its position and log-probabilities.
        sampled: Sampled,
        /// Set on the last token of a choice; a `Finished` with the same reason follows at once. `Stop` means that
        /// this token is itself a stop id, whose text is usually not shown.
        finish: Option<FinishReason>,
    },
    /// The pooled rows of a prompt, not normalised; a `Finished` with `Stop` follows at once.
    Vector {
        /// The request.
        request: RequestId,
        /// As many values as a row of the model has.
        values: Vec<f32>,
    },
    /// A choice is over. The last that is heard of it.
    Finished {
        /// The request.
        request: RequestId,
        /// Which of its choices.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All choices that had not finished are over. The last that is heard of the request.
    Failed {
        /// The request.
        request: RequestId,
        /// Why, and whether to try again.
        error: SessionError,
    },
    /// A step is overdue; its requests have failed. Told once for a step. Its pages stay taken until it ends or the
    /// epoch is dropped with `Lost`, which is what the household should do unless it knows better.
    Suspect {
        /// The step's epoch.
        epoch: Epoch,
        /// The step.
        step: StepId,
        /// How long it has been under way.
        waited: Duration,
    },
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop id was drawn, the coordinator saw a stop string, or the prompt was pooled.
    Stop,
    /// `max_tokens` or the context is reached.
    Length,
    /// The client left.
    Cancelled,
}

/// When trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Here, after a moment.
    Retry,
    /// At another household or after a restart of this one.
    RetryElsewhere,
    /// The same request will fail again.
    Never,
}

/// What went wrong, in a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Prompt, or prompt and answer, do not fit the context.
    ContextLengthExceeded,
    /// A field of the request has a value that cannot be honoured.
    InvalidRequest,
    /// Too many requests wait already.
    QueueFull,
    /// The request waited too long for its first step.
    QueueTimeout,
    /// The pipeline was lost under the request.
    NodeLost,
    /// A stage could not run a step.
    StepFailed,
    /// A step did not come back in time.
    StepTimeout,
    /// The last stage answered with tokens or vectors that nobody asked for.
    BadSamples,
    /// The tokens that a constraint allows could not be said in time.
    ConstraintTimeout,
    /// The tokens that a constraint allows cannot be said.
    ConstraintFailed,
    /// The service is closing.
    Draining,
}

impl ErrorCode {
    /// The stable word that peers and people see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::ContextLengthExceeded => "context_length_exceeded",
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::QueueFull => "queue_full",
            ErrorCode::QueueTimeout => "queue_timeout",
            ErrorCode::NodeLost => "node_lost",
            ErrorCode::StepFailed => "step_failed",
            ErrorCode::StepTimeout => "step_timeout",
            ErrorCode::BadSamples => "bad_samples",
            ErrorCode::ConstraintTimeout => "constraint_timeout",
            ErrorCode::ConstraintFailed => "constraint_failed",
            ErrorCode::Draining => "draining",
        }
    }

    /// Whether trying again makes sense.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            ErrorCode::ContextLengthExceeded
            | ErrorCode::InvalidRequest
            | ErrorCode::ConstraintFailed => Retry::Never,
            ErrorCode::Draining => Retry::RetryElsewhere,
            ErrorCode::QueueFull
            | ErrorCode::QueueTimeout
            | ErrorCode::NodeLost
            | ErrorCode::StepFailed
            | ErrorCode::StepTimeout
            | ErrorCode::BadSamples
            | ErrorCode::ConstraintTimeout => Retry::Retry,
        }
    }
}

/// Why a request failed, for programs (`code`, `retry`) and for people (`text`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct SessionError {
    /// The stable word.
    pub code: ErrorCode,
    /// What failed, on which device, what to do.
    pub text: String,
    /// Whether trying again makes sense.
    pub retry: Retry,
}

impl SessionError {
    /// An error with the retry class of its code.
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            retry: code.retry(),
        }
    }
}

/// Events since the session began, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Steps sent with one row per sequence.
    pub decode_steps: u64,
    /// Steps sent with prompt rows.
    pub prefill_steps: u64,
    /// Prompt rows sent.
    pub prompt_tokens: u64,
    /// Tokens given out.
    pub generated_tokens: u64,
    /// Samples or faults of a step that is not under way: repeated, or of another epoch. Ignored.
    pub stale_answers: u64,
    /// Answers with other samples than the step asked for.
    pub bad_answers: u64,
    /// Steps that a stage could not run.
    pub faults: u64,
    /// Steps that were overdue.
    pub overdue_steps: u64,
}

/// What a session is busy with now, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests none of whose choices has started.
    pub requests_waiting: u32,
    /// Requests with a choice that runs.
    pub requests_running: u32,
    /// Sequences that hold a slot, those that are closing included.
    pub sequences: u32,
    /// Steps under way.
    pub steps_in_flight: u32,
    /// Pages that no sequence has reserved; 0 when no epoch is served.
    pub pages_free: u32,
    /// Pages of the epoch; 0 when no epoch is served.
    pub pages_total: u32,
    /// Slots that no sequence holds; 0 when no epoch is served.
    pub slots_free: u32,
}
