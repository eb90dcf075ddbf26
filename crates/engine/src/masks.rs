//! Token masks of one step: which are awaited, which have come.
//!
//! A segment that is drawn under a mask waits for it only when its token is about to be drawn, so the mask may come any
//! time before.

use proto::SequenceId;
use proto::mask::TokenMask;
use proto::step::{Logits, Step};

use crate::EngineError;
use crate::sequences::{Sequences, Span};

/// What is known of the rows of a step.
#[derive(Clone, Copy)]
pub struct Known<'r> {
    /// Where they lie.
    pub spans: &'r [Span],
    /// Whose they are.
    pub sequences: &'r Sequences,
    /// What may be drawn for them.
    pub masks: &'r Masks,
}

/// What is known of one segment's mask.
#[derive(Debug)]
struct Awaited {
    sequence: SequenceId,
    /// Of the token that is drawn.
    position: u32,
    /// `Some(None)`: the token is not wanted any more, any will do.
    come: Option<Option<TokenMask>>,
}

/// The masks of a step.
#[derive(Debug, Default)]
pub struct Masks(Vec<Awaited>);

impl Masks {
    /// Of the segments that are drawn under a mask.
    pub fn of(step: &Step) -> Self {
        let masked = step.segments.iter().filter(|s| s.logits == Logits::Masked);
        let awaited = masked.map(|segment| Awaited {
            sequence: segment.sequence,
            position: segment.start.saturating_add(segment.rows),
            come: None,
        });
        Self(awaited.collect())
    }

    /// Whether the token of a sequence can be drawn.
    pub fn ready(&self, sequence: SequenceId) -> bool {
        let mut masks = self.0.iter();
        masks.all(|awaited| awaited.sequence != sequence || awaited.come.is_some())
    }

    /// The mask under which the token of a sequence is drawn, if under any.
    pub fn get(&self, sequence: SequenceId) -> Option<&TokenMask> {
        let mut masks = self.0.iter();
        let awaited = masks.find(|awaited| awaited.sequence == sequence)?;
        awaited.come.as_ref()?.as_ref()
    }

    /// Takes the mask of a token. One that comes again changes nothing.
    ///
    /// # Errors
    /// When no such token is drawn in this step, or the mask is for a head of another size.
    pub fn take(
        &mut self,
        (sequence, position): (SequenceId, u32),
        mask: Option<TokenMask>,
        vocab: u32,
    ) -> Result<(), EngineError> {
        let wrong = |what, got: u64, expected: u64| EngineError::Mask {
            what,
            got,
            expected,
        };
        let mut masks = self.0.iter_mut();
        let awaited = masks
            .find(|awaited| awaited.sequence == sequence)
            .ok_or_else(|| wrong("sequence without a masked row", sequence.0, 0))?;
        if awaited.position != position {
            return Err(wrong("position", position.into(), awaited.position.into()));
        }
        if let Some(mask) = mask.as_ref().filter(|mask| !mask.fits(vocab)) {
            let tokens = mask.ids().last().map_or(0, |id| u64::from(id) + 1);
            let got = tokens.max(mask.words().len() as u64 * 32);
            return Err(wrong("tokens", got, vocab.into()));
        }
        awaited.come.get_or_insert(mask);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::step::{Segment, StepClass};
    use proto::{Epoch, StepId};

    use super::*;

    fn step() -> Step {
        let segment = |sequence, logits| Segment {
            sequence: SequenceId(sequence),
            slot: 0,
            start: 4,
            rows: 2,
            logits,
            commit: 0,
            provisional: 0,
            pages: Vec::new(),
            open: None,
        };
        Step {
            epoch: Epoch(1),
            id: StepId(1),
            class: StepClass::Decode,
            segments: vec![segment(1, Logits::Masked), segment(2, Logits::Last)],
            tokens: vec![0; 4],
        }
    }

    #[test]
    fn only_masked_rows_wait_for_the_mask_of_their_position() {
        let mask = |words: &[u32]| Some(TokenMask::new(words).unwrap());
        let (one, two) = (SequenceId(1), SequenceId(2));
        let mut masks = Masks::of(&step());
        assert!(!masks.ready(one) && masks.ready(two));
        let cases = [
            (one, 5, mask(&[1, 0]), "position is 5, expected 6"),
            (one, 6, mask(&[1]), "tokens is 32, expected 40"),
            (one, 6, mask(&[1, 1 << 9]), "tokens is 64, expected 40"),
            (one, 6, mask(&[1, 0, 0]), "tokens is 96, expected 40"),
            (two, 6, mask(&[1, 0]), "sequence without a masked row is 2"),
        ];
        for (sequence, position, mask, expected) in cases {
            let error = masks.take((sequence, position), mask, 40).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(!masks.ready(one));
        masks.take((one, 6), mask(&[2, 0]), 40).unwrap();
        masks.take((one, 6), None, 40).unwrap();
        assert!(masks.ready(one) && masks.get(two).is_none());
        assert_eq!(masks.get(one).unwrap().words(), [2, 0], "the first holds");
    }

    #[test]
    fn a_token_that_is_not_wanted_any_more_is_drawn_freely() {
        let mut masks = Masks::of(&step());
        masks.take((SequenceId(1), 6), None, 40).unwrap();
        assert!(masks.ready(SequenceId(1)));
        assert!(masks.get(SequenceId(1)).is_none());
    }
}
