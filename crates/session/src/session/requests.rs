//! Requests of a session: how they come in, and the ways in which they end.
//!
//! Must never start a step: what has become possible is done afterwards, by `advance`.

use std::time::Duration;

use proto::{PersonId, RequestId, SequenceId};

use super::{Life, Session};
use crate::input::{InputError, Submission};
use crate::output::{ErrorCode, FinishReason, Output, SessionError};
use crate::queue::may_wait;
use crate::request::{Request, len_u32};

impl Session {
    pub(super) fn submit(
        &mut self,
        now: Duration,
        submission: Submission,
    ) -> Result<(), InputError> {
        let id = submission.request;
        if self.requests.contains_key(&id) {
            return Err(InputError::DuplicateRequest(id));
        }
        match self.admit(now, submission) {
            Ok(request) => {
                self.queue.push(request.waiting());
                self.requests.insert(id, request);
                self.outputs.push_back(Output::Accepted { request: id });
            }
            Err(error) => self
                .outputs
                .push_back(Output::Failed { request: id, error }),
        }
        Ok(())
    }

    fn admit(&self, now: Duration, submission: Submission) -> Result<Request, SessionError> {
        if self.life == Life::Draining {
            return Err(draining());
        }
        let until = now.saturating_add(self.config.queue_deadline);
        let request = Request::new(submission, until)?;
        if let Some(serving) = self.pipeline.serving() {
            request.positions(serving.capacity().context)?;
        }
        let (queued, most) = (self.queue_len(), self.config.queue_max);
        let own = self.queue_len_of(request.submission.person.id);
        if !may_wait(own, queued, most) {
            let text = format!(
                "{queued} requests wait already, {own} of them of the same person; {most} may, shared by all: try again \
                 when some have been answered"
            );
            return Err(SessionError::new(ErrorCode::QueueFull, text));
        }
        Ok(request)
    }

    fn queue_len_of(&self, person: PersonId) -> u32 {
        let unstarted = self.requests.values().filter(|r| !r.started());
        len_u32(
            unstarted
                .filter(|r| r.submission.person.id == person)
                .count(),
        )
    }

    pub(super) fn cancel(&mut self, request: RequestId) -> Result<(), InputError> {
        let known = self.requests.get(&request);
        let known = known.ok_or(InputError::UnknownRequest(request))?;
        let choices: Vec<u32> = known.unfinished().collect();
        for choice in choices {
            self.finish(request, choice, FinishReason::Cancelled)?;
        }
        Ok(())
    }

    /// Ends one choice, and its request with the last of them.
    pub(super) fn finish(
        &mut self,
        request: RequestId,
        choice: u32,
        reason: FinishReason,
    ) -> Result<(), InputError> {
        let known = self.requests.get_mut(&request);
        let known = known.ok_or(InputError::UnknownRequest(request))?;
        let sequence = known
            .finish(choice)
            .ok_or(InputError::UnknownChoice { request, choice })?;
        let (over, waits) = (known.over(), known.next_waiting().is_some());
        if let (Some(sequence), Some(serving)) = (sequence, self.pipeline.serving_mut()) {
            serving.end(sequence);
        }
        if over {
            self.requests.remove(&request);
        }
        if !waits {
            self.queue.remove(request);
        }
        self.outputs.push_back(Output::Finished {
            request,
            choice,
            reason,
        });
        Ok(())
    }

    pub(super) fn fail(&mut self, request: RequestId, error: SessionError) {
        let Some(known) = self.requests.remove(&request) else {
            return;
        };
        self.queue.remove(request);
        if let Some(serving) = self.pipeline.serving_mut() {
            known.sequences().for_each(|id| serving.end(id));
        }
        self.outputs.push_back(Output::Failed { request, error });
    }

    /// Fails the requests that these sequences belong to.
    pub(super) fn fail_all(&mut self, sequences: &[SequenceId], code: ErrorCode, text: &str) {
        let requests = match self.pipeline.serving() {
            Some(serving) => serving.requests_of(sequences),
            None => return,
        };
        for request in requests {
            self.fail(request, SessionError::new(code, text));
        }
    }

    pub(super) fn drain(&mut self) {
        self.life = Life::Draining;
        let unstarted = self.requests.iter().filter(|(_, r)| !r.started());
        let unstarted: Vec<RequestId> = unstarted.map(|(id, _)| *id).collect();
        for request in unstarted {
            self.fail(request, draining());
        }
    }
}

fn draining() -> SessionError {
    SessionError::new(
        ErrorCode::Draining,
        "this household is closing: send the request to another one, or again after its restart",
    )
}
