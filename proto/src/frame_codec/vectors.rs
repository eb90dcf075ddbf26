//! The vectors of pooled prompts in a samples frame: their sequences end the tables, their values are the rows.

use super::{Reader, Writer, floats};
use crate::frame::{Dtype, FrameError, FrameHeader, SamplesFrame};
use crate::ids::SequenceId;
use crate::step::Pooled;

/// How the rows of a samples frame are stored.
pub(super) fn dtype(frame: &SamplesFrame) -> Dtype {
    if frame.vectors.is_empty() {
        Dtype::None
    } else {
        Dtype::F32
    }
}

/// Values of a vector. Vectors of several lengths give a frame that no reader accepts.
pub(super) fn cols(frame: &SamplesFrame) -> u32 {
    let first = frame.vectors.first();
    first.map_or(0, |vector| super::count(vector.values.len()))
}

impl Writer {
    pub(super) fn vector_ids(&mut self, vectors: &[Pooled]) {
        vectors
            .iter()
            .for_each(|vector| self.u64(vector.sequence.0));
    }
}

impl Reader<'_> {
    pub(super) fn vectors(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
    ) -> Result<Vec<Pooled>, FrameError> {
        let (rows, cols) = (header.rows, header.cols);
        if (rows == 0) != (header.dtype == Dtype::None) || (rows == 0) != (cols == 0) {
            return Err(FrameError::Field {
                field: "rows",
                got: rows.into(),
                expected: "vectors with values in 32 bits, or none at all",
            });
        }
        if rows == 0 {
            return Ok(Vec::new());
        }
        // The header was checked: the body has `rows` times `cols` values.
        let values = floats(body);
        let each = values.chunks_exact(cols as usize);
        each.map(|values| {
            Ok(Pooled {
                sequence: SequenceId(self.u64()?),
                values: values.to_vec(),
            })
        })
        .collect()
    }
}
