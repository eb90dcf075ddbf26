//! Tokens that are drawn under a mask: who waits for one, and what becomes of those whose mask does not come.
//!
//! The one idea: a step goes out at once, and for each masked row that was sent exactly one mask frame follows before the
//! step is back, be it one that says that the token is no longer wanted. So the last stage never waits for ever, and never
//! keeps a mask that nobody asks for.

use std::time::Duration;

use proto::frame::MaskFrame;
use proto::mask::TokenMask;
use proto::step::{Logits, Step};
use proto::{RequestId, SequenceId};

use super::Session;
use crate::input::{InputError, MaskedToken};
use crate::output::{ErrorCode, Output, SessionError};
use crate::request::Choice;
use crate::serving::Drawing;

/// The tokens of a step that are drawn under a mask: whose, at which position.
pub(super) fn drawn(step: &Step) -> Vec<(SequenceId, u32)> {
    let masked = step.segments.iter().filter(|s| s.logits == Logits::Masked);
    let token = |s: &proto::step::Segment| (s.sequence, s.start.saturating_add(s.rows));
    masked.map(token).collect()
}

impl Session {
    /// A mask has come: it goes to the last stage if its row is under way, else it waits for that.
    pub(super) fn masked(&mut self, token: MaskedToken, mask: TokenMask) -> Result<(), InputError> {
        let MaskedToken {
            request,
            choice,
            position,
        } = token;
        let known = self.requests.get_mut(&request);
        let known = known.ok_or(InputError::UnknownRequest(request))?;
        let serving = self.pipeline.serving_mut();
        let drawing = match known.choice(choice) {
            None | Some(Choice::Over) => {
                return Err(InputError::UnknownChoice { request, choice });
            }
            Some(Choice::Waiting) => Drawing::Next(known.prompt_len()),
            Some(Choice::Running(sequence)) => serving
                .as_ref()
                .and_then(|serving| serving.drawing(sequence))
                .ok_or(InputError::UnknownChoice { request, choice })?,
        };
        let fits = known.submission.constrained && !known.has_mask(choice);
        match drawing {
            Drawing::Next(expected) if fits && expected == position => {
                known.hold_mask(choice, mask);
                Ok(())
            }
            Drawing::Awaits(sequence, expected) if expected == position => {
                if let Some(serving) = serving {
                    serving.mask_came(sequence);
                    self.outputs.push_back(Output::Mask(MaskFrame {
                        epoch: serving.capacity().epoch,
                        sequence,
                        position,
                        mask: Some(mask),
                    }));
                }
                Ok(())
            }
            _ => Err(InputError::MaskNotAwaited(token)),
        }
    }

    /// The masks of a request cannot be made any more.
    pub(super) fn unmaskable(
        &mut self,
        request: RequestId,
        text: String,
    ) -> Result<(), InputError> {
        if !self.requests.contains_key(&request) {
            return Err(InputError::UnknownRequest(request));
        }
        self.fail(
            request,
            SessionError::new(ErrorCode::ConstraintFailed, text),
        );
        Ok(())
    }

    /// Sends the masks that were there before the step that was sent just now; waits for the others.
    pub(super) fn bring_masks(&mut self, now: Duration, tokens: &[(SequenceId, u32)]) {
        let until = now.saturating_add(self.config.mask_deadline);
        let Some(serving) = self.pipeline.serving_mut() else {
            return;
        };
        let epoch = serving.capacity().epoch;
        for (sequence, position) in tokens.iter().copied() {
            let owner = serving.owner(sequence);
            let request = owner.and_then(|(request, choice)| {
                let known = self.requests.get_mut(&request)?;
                known.take_mask(choice)
            });
            match request {
                Some(mask) => self.outputs.push_back(Output::Mask(MaskFrame {
                    epoch,
                    sequence,
                    position,
                    mask: Some(mask),
                })),
                None => serving.await_mask(sequence, until),
            }
        }
    }

    /// Fails the requests whose masks are overdue.
    pub(super) fn fail_unmasked(&mut self, now: Duration) {
        let serving = self.pipeline.serving();
        let late = serving.map_or(Vec::new(), |serving| serving.unmasked(now));
        let text = format!(
            "the coordinator could not say within {} s which tokens the constraint of this request allows: it is too \
             busy, or the constraint too large; try again, or ask for a smaller one",
            self.config.mask_deadline.as_secs()
        );
        self.fail_all(&late, ErrorCode::ConstraintTimeout, &text);
    }

    /// Tells the last stage of rows under way that their token is no longer wanted.
    pub(super) fn release_unmasked(&mut self) {
        let Some(serving) = self.pipeline.serving_mut() else {
            return;
        };
        let epoch = serving.capacity().epoch;
        for (sequence, position) in serving.take_released() {
            self.outputs.push_back(Output::Mask(MaskFrame {
                epoch,
                sequence,
                position,
                mask: None,
            }));
        }
    }
}
