//! What a session is told: requests from people, facts from the household, answers from the pipeline.

use std::sync::Arc;

use proto::frame::{FaultFrame, SamplesFrame};
use proto::mask::TokenMask;
use proto::step::{Pooling, Sampling};
use proto::{Epoch, RequestId, limits};
use thiserror::Error;

use crate::person::Person;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A new request. Answered with `Accepted` or `Failed` in the outputs of the same call.
    Submit(Submission),
    /// The client is gone: every choice ends with `Finished(Cancelled)`.
    Cancel {
        /// Which request.
        request: RequestId,
    },
    /// A stop string was seen in the text of one choice: it ends with `Finished(Stop)`.
    FinishChoice {
        /// Which request.
        request: RequestId,
        /// Which of its choices, from 0.
        choice: u32,
    },
    /// The pipeline of a new epoch is loaded. Whatever still ran in the previous epoch fails with `node_lost`.
    Ready(Capacity),
    /// The pipeline is gone: what ran fails, what waits stays for the next epoch.
    Lost {
        /// Why, for people: which device, what happened.
        reason: String,
    },
    /// The last stage finished a step.
    Done(SamplesFrame),
    /// Some stage could not run a step.
    Fault(FaultFrame),
    /// What may be drawn as the next token of a choice. It may come before or after the step that draws it. One is wanted
    /// for the first token of every choice of a constrained request once it is accepted, and then after every token that
    /// is not the last.
    Mask {
        /// Which token.
        token: MaskedToken,
        /// What may be drawn.
        mask: TokenMask,
    },
    /// The masks of a request cannot be made: it fails with `constraint_failed`.
    Unmaskable {
        /// Which request.
        request: RequestId,
        /// Why, for people; nothing of prompt, answer or constraint.
        text: String,
    },
    /// A planned change is coming: start no new sequence until the next `Ready`, keep the queue. When
    /// [`crate::Session::is_idle`] says so, the epoch can be replaced without hurting anybody.
    Hold,
    /// The service is closing: what waits fails with `draining`, what runs may end. Not taken back.
    Drain,
}

/// A token that is to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedToken {
    /// Of which request.
    pub request: RequestId,
    /// Of which of its choices, from 0.
    pub choice: u32,
    /// The position that it will have.
    pub position: u32,
}

/// A request as it comes from the API: token ids in, token ids out.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// New for every request of this session.
    pub request: RequestId,
    /// For whom.
    pub person: Person,
    /// Token ids, at least one.
    pub prompt: Arc<[u32]>,
    /// Present: no answer is drawn; the rows of the prompt, which may fill the context, are pooled instead. `choices`
    /// is 1 then, and what is about answers does not count.
    pub pooling: Option<Pooling>,
    /// Independent answers, 1 to `CHOICES_MAX`; each is a sequence of its own.
    pub choices: u32,
    /// Most tokens of each answer, at least 1; `None` is as many as the context leaves.
    pub max_tokens: Option<u32>,
    /// Tokens of each answer before which no stop id is drawn.
    pub min_tokens: u32,
    /// Tokens that end an answer; empty to disregard end ids. At most `SUPPRESS_MAX`.
    pub stop_ids: Vec<u32>,
    /// How tokens are drawn. The session sets `choice`, and `suppress` with `suppress_until` from `min_tokens`.
    pub sampling: Sampling,
    /// Whether every token is drawn under a mask, told by [`Input::Mask`].
    pub constrained: bool,
}

/// What a loaded pipeline can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The epoch of its plan; larger than every earlier one.
    pub epoch: Epoch,
    /// Cache pages of `PAGE_POSITIONS` positions, the same number on every stage.
    pub pages: u32,
    /// State slots: sequences that can run at once.
    pub slots: u32,
    /// Positions of one sequence. A context that the pages could not hold is lowered to what they hold.
    pub context: u32,
    /// Stages of the pipeline.
    pub stages: u32,
    /// Rows of one prefill step, at most. Beside answers steps are shorter.
    pub chunk_rows: u32,
}

impl Capacity {
    /// Checks every field, and lowers the context to what the pages hold.
    pub(crate) fn checked(self) -> Result<Self, InputError> {
        let nodes_max = u32::try_from(limits::NODES_MAX).unwrap_or(u32::MAX);
        let fields = [
            ("pages", self.pages, u32::MAX),
            ("slots", self.slots, u32::MAX),
            ("context", self.context, limits::SEQUENCE_POSITIONS_MAX),
            ("stages", self.stages, nodes_max),
            ("chunk_rows", self.chunk_rows, limits::STEP_ROWS_MAX),
        ];
        for (field, got, max) in fields {
            if got == 0 || got > max {
                return Err(InputError::Capacity { field, got, max });
            }
        }
        let held = self.pages.saturating_mul(limits::PAGE_POSITIONS);
        Ok(Self {
            context: self.context.min(held),
            ..self
        })
    }
}

/// An input that the session could not take. Its state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InputError {
    /// Request ids are used once.
    #[error("request {0} is already here: every request needs an id of its own")]
    DuplicateRequest(RequestId),
    /// The request ended already or never was. Ordinary when a client leaves as its answer ends.
    #[error("request {0} is not here: it ended already or was never submitted")]
    UnknownRequest(RequestId),
    /// The choice ended already or never was. Ordinary when an answer ends as its stop string is seen.
    #[error("choice {choice} of request {request} is not running: it ended already or never was")]
    UnknownChoice {
        /// The request.
        request: RequestId,
        /// The choice.
        choice: u32,
    },
    /// No mask is awaited for this token: the request is not constrained, the token is drawn already or not the next, or
    /// its mask came before.
    #[error("no mask is awaited for position {} of choice {} of request {}", .0.position, .0.choice, .0.request)]
    MaskNotAwaited(MaskedToken),
    /// Epochs only go up.
    #[error("epoch {got} came after epoch {last}: a larger one was expected")]
    EpochNotNewer {
        /// What came.
        got: Epoch,
        /// The last one that was ready.
        last: Epoch,
    },
    /// A field of the capacity is zero or above its cap.
    #[error("capacity field '{field}' is {got}, expected 1 to {max}")]
    Capacity {
        /// The field.
        field: &'static str,
        /// What came.
        got: u32,
        /// The cap.
        max: u32,
    },
    /// There is no pipeline that could be lost or held.
    #[error("no epoch is being served: the pipeline is not ready or was lost already")]
    NotServing,
}
