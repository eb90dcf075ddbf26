//! Token masks on their way to the rows that are drawn under them.
//!
//! A mask comes straight from the coordinator and may be faster than its step, which passes every stage: what comes early
//! is kept, one mask for each sequence. One whose step failed at an earlier stage may come after its sequence was closed and
//! then stays; so there is room for more than can be open, and the oldest goes first.

use std::collections::VecDeque;

use proto::SequenceId;
use proto::frame::MaskFrame;
use proto::mask::TokenMask;
use proto::step::{Logits, Step};

use super::{Bench, Stage};

/// Masks kept for each sequence that can be open, and beside these.
const ROOM: (usize, usize) = (4, 16);

/// Masks that came before their step, oldest first.
#[derive(Default)]
pub(super) struct Early(VecDeque<MaskFrame>);

impl Early {
    /// Keeps a mask in place of an older one of its sequence. Of more than `most` the oldest goes.
    fn keep(&mut self, frame: MaskFrame, most: usize) {
        self.forget(frame.sequence);
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        self.0.push_back(frame);
    }

    /// What was kept for the rows of a step.
    pub fn take(&mut self, step: &Step) -> VecDeque<MaskFrame> {
        let (of_step, others) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|frame| draws(step, frame));
        self.0 = others;
        of_step
    }

    pub fn forget(&mut self, sequence: SequenceId) {
        self.0.retain(|frame| frame.sequence != sequence);
    }
}

/// Whether a step draws the token that a mask is for.
pub(super) fn draws(step: &Step, mask: &MaskFrame) -> bool {
    step.segments.iter().any(|segment| {
        segment.sequence == mask.sequence
            && segment.logits == Logits::Masked
            && segment.start.saturating_add(segment.rows) == mask.position
    })
}

impl Bench {
    /// A mask for a run that is under way, or for a step that is still to come.
    pub(super) fn masked(&mut self, frame: MaskFrame) {
        let Some(stage) = &mut self.stage else { return };
        match stage.queue.run_drawing(&frame) {
            Some(at) => {
                self.provide(at, frame);
            }
            None => {
                let slots = stage.assign.slots as usize;
                let most = slots.saturating_mul(ROOM.0).saturating_add(ROOM.1);
                stage.queue.early.keep(frame, most);
            }
        }
    }

    /// Gives a run that begins the masks that were here before it. False where one did not fit and ended it.
    pub(super) fn bring_masks(&mut self, at: usize) -> bool {
        let Some(stage) = &mut self.stage else {
            return false;
        };
        let masks = stage.queue.early_masks(at);
        masks.into_iter().all(|mask| self.provide(at, mask))
    }

    /// False where the mask did not fit, which ends the run.
    fn provide(&mut self, at: usize, frame: MaskFrame) -> bool {
        let Some(Stage { slice, queue, .. }) = &mut self.stage else {
            return false;
        };
        let Some(active) = queue.run_mut(at) else {
            return false;
        };
        let mask: Option<TokenMask> = frame.mask;
        let token = (frame.sequence, frame.position);
        match active.run.provide_mask(slice, token, mask) {
            Ok(()) => {
                active.ready = true;
                true
            }
            Err(error) => {
                let step = queue.end_run(at).into_step();
                self.fault(step.id, error.to_string());
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Epoch;

    use super::*;

    fn mask(sequence: u64, position: u32) -> MaskFrame {
        MaskFrame {
            epoch: Epoch(1),
            sequence: SequenceId(sequence),
            position,
            mask: None,
        }
    }

    fn kept(early: &Early) -> Vec<(u64, u32)> {
        let of = |frame: &MaskFrame| (frame.sequence.0, frame.position);
        early.0.iter().map(of).collect()
    }

    #[test]
    fn one_mask_of_each_sequence_is_kept_and_no_more_than_fit() {
        let mut early = Early::default();
        for (sequence, position) in [(1, 5), (2, 5), (1, 6)] {
            early.keep(mask(sequence, position), 2);
        }
        assert_eq!(kept(&early), [(2, 5), (1, 6)]);
        early.keep(mask(3, 1), 2);
        assert_eq!(kept(&early), [(1, 6), (3, 1)], "the oldest goes");
        early.forget(SequenceId(1));
        assert_eq!(kept(&early), [(3, 1)]);
    }
}
