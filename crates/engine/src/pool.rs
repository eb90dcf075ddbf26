//! Vectors of whole prompts: rows after the final norm, pooled.
//!
//! The one idea: a sum of rows belongs to its sequence and takes one row after the other in the order of positions, so
//! chunks, batch and split cannot change a bit of it.

use kernels::Isa;
use proto::step::{Logits, Pooled, Pooling, Step};

use crate::EngineError;
use crate::rows;
use crate::scratch::sized;
use crate::sequences::Span;
use crate::slice::{Scratch, Slice};

/// The sum of the first rows of a prompt.
#[derive(Debug, Default)]
pub struct RowSum {
    values: Vec<f32>,
    rows: u32,
}

impl RowSum {
    /// Adds the rows that follow.
    fn add(&mut self, isa: Isa, rows: &[f32], hidden: usize) {
        self.values.resize(hidden, 0.0);
        for row in rows.chunks_exact(hidden.max(1)) {
            kernels::add(isa, &mut self.values, row);
            self.rows = self.rows.saturating_add(1);
        }
    }

    /// The mean of all rows; the sum begins anew.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a sequence has fewer positions than a 32-bit float has integers"
    )]
    fn mean(&mut self) -> Vec<f32> {
        let sum = std::mem::take(self);
        let count = sum.rows as f32;
        sum.values.into_iter().map(|value| value / count).collect()
    }
}

/// Pools the rows `x`, `[rows, hidden]` after the last layer, of all segments that ask for it; the vectors of prompts that
/// end in this step.
///
/// # Errors
/// When the slice has no final norm, a sequence was closed meanwhile, or earlier rows of it were not pooled.
pub fn vectors(
    slice: &mut Slice,
    step: &Step,
    spans: &[Span],
    x: &[f32],
) -> Result<Vec<Pooled>, EngineError> {
    let Slice {
        weights,
        sequences,
        scratch,
        ..
    } = slice;
    let norm = weights.head.as_ref().and_then(|head| head.norm.as_ref());
    let norm = norm.ok_or(EngineError::NotHeld("final norm"))?;
    let (hidden, isa) = (weights.hidden, weights.exec.isa);
    let mut vectors = Vec::new();
    for (segment, span) in step.segments.iter().zip(spans) {
        let Logits::Pool(pooling) = segment.logits else {
            continue;
        };
        let sequence = sequences.get_mut(span.sequence);
        let sequence = sequence.ok_or(EngineError::UnknownSequence(span.sequence.0))?;
        let ends = span.start + segment.rows == sequence.open.prompt_len;
        let end = span.first_row + span.rows;
        let taken = match pooling {
            Pooling::Mean => span.first_row..end,
            Pooling::Last if ends => end - 1..end,
            Pooling::Last => continue,
        };
        let x = x.get(taken.start * hidden..taken.end * hidden);
        let x = x.ok_or(EngineError::Turn("without its rows"))?;
        let Scratch { normed, .. } = scratch;
        let normed = sized(normed, x.len());
        rows::norm(weights, x, norm, normed);
        let values = match pooling {
            Pooling::Last => normed.to_vec(),
            Pooling::Mean => {
                if sequence.sum.rows != span.start {
                    return Err(EngineError::Step {
                        what: "pooled rows before this chunk",
                        got: sequence.sum.rows.into(),
                        expected: span.start.into(),
                    });
                }
                sequence.sum.add(isa, normed, hidden);
                if !ends {
                    continue;
                }
                sequence.sum.mean()
            }
        };
        vectors.push(Pooled {
            sequence: span.sequence,
            values,
        });
    }
    Ok(vectors)
}
