//! The end of the model: final norm, output head, sampling.

use kernels::{MatmulTask, Rows, dequantize_row, parallel_matmul};
use proto::step::{Logits, Sampled, Step};

use crate::EngineError;
use crate::rows;
use crate::sample;
use crate::scratch::{ActSet, sized};
use crate::sequences::{Sequences, Span};
use crate::slice::{HeadWeights, Weights};
use crate::weights::Weight;

/// Rows whose logits are held at once: bounds the memory of a step that wants all its logits.
const HEAD_ROWS: usize = 16;

/// Buffers of the head.
#[derive(Debug, Default)]
pub struct HeadScratch {
    rows: Vec<f32>,
    normed: Vec<f32>,
    acts: ActSet,
    logits: Vec<f32>,
}

impl HeadScratch {
    /// Raw logits of the last rows, `[rows, vocab]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

/// The rows of token ids: `[tokens, hidden]`.
///
/// # Errors
/// When an id is not below the vocabulary.
pub fn embed(
    weights: &Weights,
    embedding: &Weight,
    tokens: &[u32],
) -> Result<Vec<f32>, EngineError> {
    let table = embedding.matrix(&weights.checkpoint)?;
    let mut x = vec![0.0; tokens.len() * weights.hidden];
    for (token, row) in tokens.iter().zip(x.chunks_exact_mut(weights.hidden)) {
        if *token as usize >= table.rows {
            return Err(EngineError::Step {
                what: "token",
                got: u64::from(*token),
                expected: table.rows as u64,
            });
        }
        dequantize_row(table.ty, table.row(*token as usize), row);
    }
    Ok(x)
}

/// A row of the batch that is sampled: whose, and which position the drawn token gets.
struct Wanted {
    row: usize,
    span: usize,
    position: u32,
}

fn wanted(step: &Step, spans: &[Span]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (index, (segment, span)) in step.segments.iter().zip(spans).enumerate() {
        let from = match segment.logits {
            Logits::None => span.rows,
            Logits::Last => span.rows.saturating_sub(1),
            Logits::All => 0,
        };
        for (position, row) in (span.start..).zip(0..span.rows).skip(from) {
            all.push(Wanted {
                row: span.first_row + row,
                span: index,
                position: position.saturating_add(1),
            });
        }
    }
    all
}

/// Samples every row that wants it. `x`: `[rows, hidden]` after the last layer.
pub fn samples(
    weights: &Weights,
    head: &HeadWeights,
    (step, spans): (&Step, &[Span]),
    sequences: &Sequences,
    x: &[f32],
    scratch: &mut HeadScratch,
) -> Result<Vec<Sampled>, EngineError> {
    let wanted = wanted(step, spans);
    let mut out = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(HEAD_ROWS) {
        logits(weights, head, part, x, scratch)?;
        let mut drawn = vec![None; part.len()];
        let rows: Vec<_> = part
            .iter()
            .zip(scratch.logits.chunks_exact(head.matrix.rows))
            .collect();
        kernels::parallel_chunks(&weights.exec.pool, &mut drawn, 1, |index, slot| {
            let Some((want, logits)) = rows.get(index) else {
                return;
            };
            let sequence = spans.get(want.span).and_then(|s| sequences.get(s.sequence));
            if let (Some(sequence), [slot]) = (sequence, slot) {
                let (history, open) = (&sequence.history, &sequence.open);
                *slot = Some(sample::draw(
                    weights.exec.isa,
                    logits,
                    history,
                    open,
                    want.position,
                ));
            }
        });
        for (want, drawn) in part.iter().zip(drawn) {
            let span = spans
                .get(want.span)
                .ok_or(EngineError::Turn("without its rows"))?;
            let drawn = drawn.ok_or(EngineError::UnknownSequence(span.sequence.0))?;
            out.push(sample::sampled(span.sequence, want.position, drawn));
        }
    }
    Ok(out)
}

/// Fills `scratch.logits` with `[rows.len(), vocab]`.
fn logits(
    weights: &Weights,
    head: &HeadWeights,
    wanted: &[Wanted],
    x: &[f32],
    scratch: &mut HeadScratch,
) -> Result<(), EngineError> {
    let hidden = weights.hidden;
    scratch.rows.clear();
    for want in wanted {
        let row = x.get(want.row * hidden..(want.row + 1) * hidden);
        scratch.rows.extend(row.unwrap_or_default());
    }
    sized(&mut scratch.normed, scratch.rows.len());
    rows::norm(weights, &scratch.rows, &head.norm, &mut scratch.normed);
    let format = head.matrix.ty.act_format();
    scratch.acts.clear();
    scratch
        .acts
        .need(&weights.exec, format, &scratch.normed, hidden);
    let acts = scratch.acts.get(format)?;
    let out = sized(&mut scratch.logits, wanted.len() * head.matrix.rows);
    let w = head.matrix.matrix(&weights.checkpoint)?;
    let act_rows = Rows::Range(0..wanted.len());
    let task = MatmulTask {
        w,
        acts,
        act_rows,
        segments: 1,
        out,
    };
    parallel_matmul(&weights.exec.pool, weights.exec.isa, &mut [task]);
    Ok(())
}
