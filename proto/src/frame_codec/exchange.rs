//! The frames between stages and the owners of expert groups and head blocks.

use super::{Outline, Reader, Writer, floats};
use crate::frame::{
    Asked, Dtype, ExpertsFrame, Frame, FrameError, FrameHeader, FrameKind, HeadFrame, LogitsFrame,
    PartialsFrame,
};
use crate::groups::GroupSet;
use crate::limits;
use crate::step::Pooled;

pub(super) fn outline(
    kind: FrameKind,
    asked: &Asked,
    (dtype, rows, cols): (Dtype, u32, u32),
) -> Outline {
    Outline {
        kind,
        dtype,
        class: asked.class,
        layer: asked.layer,
        step: asked.step.0,
        position: asked.part,
        rows,
        cols,
        segments: 0,
    }
}

/// The rows of a frame.
pub(super) enum Body<'a> {
    None,
    Floats(&'a [f32]),
    Vectors(&'a [Pooled]),
    Bytes(&'a [u8]),
}

pub(super) fn body(frame: &Frame) -> Body<'_> {
    match frame {
        Frame::Rows(f) => Body::Floats(&f.rows),
        Frame::Partials(f) => Body::Floats(&f.values),
        Frame::Logits(f) => Body::Floats(&f.values),
        Frame::Experts(f) => Body::Bytes(&f.bytes),
        Frame::Head(f) => Body::Bytes(&f.bytes),
        Frame::Samples(f) => Body::Vectors(&f.vectors),
        Frame::Step(_) | Frame::Close(_) | Frame::Fault(_) | Frame::Mask(_) => Body::None,
    }
}

impl Body<'_> {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Body::None => 0,
            Body::Floats(values) => values.len() * 4,
            Body::Vectors(vectors) => vectors.iter().map(|v| v.values.len() * 4).sum(),
            Body::Bytes(bytes) => bytes.len(),
        }
    }

    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Body::None => {}
            Body::Floats(values) => values.iter().for_each(|v| w.f32(*v)),
            Body::Vectors(vectors) => {
                let values = vectors.iter().flat_map(|vector| &vector.values);
                values.for_each(|v| w.f32(*v));
            }
            Body::Bytes(bytes) => w.0.extend_from_slice(bytes),
        }
    }
}

impl Writer {
    /// The tables of an exchange frame.
    pub(super) fn exchange(&mut self, frame: &Frame) {
        match frame {
            Frame::Experts(f) => {
                for (row, count) in &f.rows {
                    self.u32(*row);
                    self.u32(*count);
                }
                for (expert, weight) in &f.experts {
                    self.u32(*expert);
                    self.f32(*weight);
                }
            }
            Frame::Partials(f) => {
                for (row, subtree) in &f.entries {
                    self.u32(*row);
                    self.u32(*subtree);
                }
            }
            Frame::Logits(f) => self.u32(f.blocks.bits().into()),
            _ => {}
        }
    }
}

fn asked(header: &FrameHeader) -> Asked {
    Asked {
        epoch: header.epoch,
        step: header.step,
        class: header.class,
        layer: header.layer,
        part: header.position,
    }
}

/// The only frame of the four without tables.
pub(super) fn head(header: &FrameHeader, body: &[u8]) -> Frame {
    Frame::Head(HeadFrame {
        asked: asked(header),
        dtype: header.dtype,
        cols: header.cols,
        rows: header.rows,
        bytes: body.to_vec(),
    })
}

impl Reader<'_> {
    /// `n` pairs of numbers, only if that many remain.
    fn table(&mut self, n: u32) -> Result<Vec<(u32, u32)>, FrameError> {
        let flat = self.exactly(n.saturating_mul(2))?;
        Ok(flat
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[a, b]| (*a, *b))
            .collect())
    }

    fn row_number(row: u32) -> Result<(), FrameError> {
        if row >= limits::STEP_ROWS_MAX {
            return Err(FrameError::Cap {
                field: "row of the step",
                got: row.into(),
                max: (limits::STEP_ROWS_MAX - 1).into(),
            });
        }
        Ok(())
    }

    pub(super) fn experts(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
    ) -> Result<Frame, FrameError> {
        let rows = self.table(header.rows)?;
        let mut total = 0u32;
        for (row, count) in &rows {
            Self::row_number(*row)?;
            if *count == 0 || *count > limits::ROW_EXPERTS_MAX {
                return Err(FrameError::Field {
                    field: "experts of a row",
                    got: (*count).into(),
                    expected: "1 to 256",
                });
            }
            // Rows are capped as well, so the sum is small.
            total = total.saturating_add(*count);
        }
        let experts = self.exactly(total.saturating_mul(2))?;
        let experts = experts.as_chunks::<2>().0.iter();
        Ok(Frame::Experts(ExpertsFrame {
            asked: asked(header),
            dtype: header.dtype,
            cols: header.cols,
            rows,
            experts: experts.map(|[id, w]| (*id, f32::from_bits(*w))).collect(),
            bytes: body.to_vec(),
        }))
    }

    pub(super) fn partials(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
    ) -> Result<Frame, FrameError> {
        let entries = self.table(header.rows)?;
        for (row, subtree) in &entries {
            Self::row_number(*row)?;
            if *subtree == 0 || *subtree >= 2 * limits::EXPERT_GROUPS_MAX {
                return Err(FrameError::Field {
                    field: "subtree",
                    got: (*subtree).into(),
                    expected: "1 to 31",
                });
            }
        }
        Ok(Frame::Partials(PartialsFrame {
            asked: asked(header),
            entries,
            cols: header.cols,
            values: floats(body),
        }))
    }

    pub(super) fn logits(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
    ) -> Result<Frame, FrameError> {
        let bits = self.capped("head blocks", u32::from(u16::MAX))?;
        Ok(Frame::Logits(LogitsFrame {
            asked: asked(header),
            blocks: GroupSet::from_bits(u16::try_from(bits).unwrap_or_default()),
            rows: header.rows,
            cols: header.cols,
            values: floats(body),
        }))
    }
}
