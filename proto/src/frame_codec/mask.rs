//! The tables of mask frames: whose token, then the words; no word where the token is no longer wanted.

use super::{FrameError, FrameHeader, Reader, Writer};
use crate::frame::{Frame, MaskFrame};
use crate::ids::SequenceId;
use crate::limits;
use crate::mask::{MaskError, TokenMask};

impl Writer {
    pub(super) fn mask(&mut self, frame: &MaskFrame) {
        self.u64(frame.sequence.0);
        self.u32s(frame.mask.as_ref().map_or(&[], TokenMask::words));
    }
}

impl Reader<'_> {
    pub(super) fn mask(&mut self, header: &FrameHeader) -> Result<Frame, FrameError> {
        let sequence = SequenceId(self.u64()?);
        let words = self.u32s("mask words", limits::MASK_WORDS_MAX)?;
        let mask = match words.is_empty() {
            true => None,
            false => Some(TokenMask::new(words).map_err(|error| match error {
                MaskError::TooLong { got, max } => FrameError::Cap {
                    field: "mask words",
                    got: got as u64,
                    max: max.into(),
                },
                MaskError::Empty => FrameError::Field {
                    field: "mask words",
                    got: 0,
                    expected: "at least one token that may be drawn",
                },
            })?),
        };
        Ok(Frame::Mask(MaskFrame {
            epoch: header.epoch,
            sequence,
            position: header.position,
            mask,
        }))
    }
}
