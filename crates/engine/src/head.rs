//! The end of the model: final norm, output head, sampling.

use std::ops::Range;

use kernels::{Acts, MatmulTask, Rows, WeightType, dequantize_row, parallel_matmul};
use model::{Checkpoint, Role};
use proto::facts::{expert_groups, head_block_rows};
use proto::step::{Logits, Sampled, Step};

use crate::EngineError;
use crate::groups::GroupSet;
use crate::masks::Known;
use crate::rows;
use crate::sample;
use crate::scratch::{ActSet, sized};
use crate::sequences::Span;
use crate::slice::Weights;
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
    /// Logits of several pieces, before they are put in their places.
    pieces: Vec<f32>,
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
#[derive(Debug)]
struct Wanted {
    row: usize,
    span: usize,
    position: u32,
}

fn wanted(step: &Step, spans: &[Span]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (index, (segment, span)) in step.segments.iter().zip(spans).enumerate() {
        let from = match segment.logits {
            Logits::None | Logits::Pool(_) => span.rows,
            Logits::Last | Logits::Masked => span.rows.saturating_sub(1),
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

/// Final norm and output head, or some of its blocks.
#[derive(Debug)]
pub struct HeadWeights {
    /// `[hidden]`, where the slice samples; elsewhere only rows that are normed already come.
    pub norm: Option<Vec<f32>>,
    /// Rows of the whole head.
    pub vocab: usize,
    /// How the weights are stored.
    pub ty: WeightType,
    /// Which blocks are here.
    pub blocks: GroupSet,
    /// The rows that are here, neighbouring blocks as one matrix, ascending.
    pub pieces: Vec<(Range<usize>, Weight)>,
}

impl HeadWeights {
    /// The blocks of a head, and its norm where the slice samples.
    pub fn load(
        checkpoint: &Checkpoint,
        samples: bool,
        blocks: GroupSet,
    ) -> Result<Self, EngineError> {
        let matrix = Weight::of(&checkpoint.matrix(Role::Head)?);
        let vocab = u32::try_from(matrix.rows).unwrap_or(u32::MAX);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for block in blocks.iter() {
            let rows = block_rows(vocab, block);
            match ranges.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => ranges.push(rows),
            }
        }
        let norm = samples.then(|| checkpoint.vector(Role::OutputNorm));
        Ok(Self {
            norm: norm.transpose()?,
            vocab: matrix.rows,
            ty: matrix.ty,
            blocks,
            pieces: ranges
                .into_iter()
                .map(|rows| (rows.clone(), matrix.rows(rows)))
                .collect(),
        })
    }

    /// The blocks that are elsewhere.
    pub fn missing(&self) -> GroupSet {
        self.blocks.missing(blocks_of(self.vocab))
    }

    /// How many rows of the head are here.
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(|(rows, _)| rows.len()).sum()
    }

    /// Bytes of the norm.
    pub fn vector_bytes(&self) -> u64 {
        self.norm.as_ref().map_or(0, |norm| (norm.len() * 4) as u64)
    }
}

fn blocks_of(vocab: usize) -> u32 {
    expert_groups(u32::try_from(vocab).unwrap_or(u32::MAX))
}

fn block_rows(vocab: u32, block: u32) -> Range<usize> {
    let rows = head_block_rows(vocab, block);
    rows.start as usize..rows.end as usize
}

/// Rows that need head blocks which live elsewhere.
#[derive(Debug, Clone)]
pub struct HeadRequest {
    /// Which of the rows that want logits comes first; names the request within its step.
    pub first: u32,
    /// The blocks that are missing here.
    pub missing: GroupSet,
    /// The normed rows, in the format that the head consumes; at most 16.
    pub acts: Acts,
}

/// Logits of some head blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadPart {
    /// As in the request.
    pub first: u32,
    /// Whose logits these are.
    pub blocks: GroupSet,
    /// For each row of the request the logits of the blocks, ascending.
    pub values: Vec<f32>,
}

/// The head of a step: some rows after the other.
#[derive(Debug)]
pub struct Drawing {
    wanted: Vec<Wanted>,
    /// The first wanted row of the rows under way.
    first: usize,
    /// The rows under way were sent out.
    asked: bool,
    /// Blocks whose logits are there.
    met: GroupSet,
    /// `[rows under way][vocab]`.
    logits: Vec<f32>,
    samples: Vec<Sampled>,
}

impl Drawing {
    /// The rows of a step that want logits.
    pub fn new(step: &Step, spans: &[Span], scratch: &mut HeadScratch) -> Self {
        let wanted = wanted(step, spans);
        Self {
            samples: Vec::with_capacity(wanted.len()),
            wanted,
            first: 0,
            asked: false,
            met: GroupSet::none(),
            logits: std::mem::take(&mut scratch.logits),
        }
    }

    fn under_way(&self) -> &[Wanted] {
        let end = (self.first + HEAD_ROWS).min(self.wanted.len());
        self.wanted.get(self.first..end).unwrap_or_default()
    }

    fn first(&self) -> u32 {
        u32::try_from(self.first).unwrap_or(u32::MAX)
    }

    /// Goes on with rows `x`, `[rows, hidden]` after the last layer.
    pub fn poll(
        &mut self,
        (weights, head): (&Weights, &HeadWeights),
        known: Known<'_>,
        x: &[f32],
        scratch: &mut HeadScratch,
    ) -> Result<Drawn, EngineError> {
        let all = GroupSet::all(blocks_of(head.vocab));
        while self.first < self.wanted.len() {
            let rows = self.under_way().len();
            if self.met.common(head.blocks) != head.blocks || !self.asked {
                normalise(weights, head, self.under_way(), x, scratch)?;
                let missing = head.missing();
                if !self.asked && !missing.is_empty() {
                    self.asked = true;
                    self.met = GroupSet::none();
                    sized(&mut self.logits, rows * head.vocab);
                    return Ok(Drawn::Need(HeadRequest {
                        first: self.first(),
                        missing,
                        acts: scratch.acts.get(head.ty.act_format())?.clone(),
                    }));
                }
                let out = sized(&mut self.logits, rows * head.vocab);
                let HeadScratch { acts, pieces, .. } = scratch;
                let acts = acts.get(head.ty.act_format())?;
                own_logits(
                    weights,
                    head,
                    acts,
                    (out, head.vocab, Layout::Whole),
                    pieces,
                )?;
                self.asked = true;
                self.met = self.met.and(head.blocks);
            }
            if self.met != all || !self.unmasked(known) {
                return Ok(Drawn::Waiting);
            }
            self.draw(weights, head.vocab, known)?;
            self.first += rows;
            self.asked = false;
            self.met = GroupSet::none();
        }
        scratch.logits = std::mem::take(&mut self.logits);
        Ok(Drawn::Samples(std::mem::take(&mut self.samples)))
    }

    /// Whether no mask is missing for the rows under way.
    fn unmasked(&self, known: Known<'_>) -> bool {
        let spans = self
            .under_way()
            .iter()
            .map(|want| known.spans.get(want.span));
        let mut spans = spans.flatten();
        spans.all(|span| known.masks.ready(span.sequence))
    }

    /// Takes the logits of one owner.
    pub fn take(&mut self, part: &HeadPart, head: &HeadWeights) -> Result<(), EngineError> {
        let wrong = |what, got: u64, expected: u64| EngineError::Logits {
            what,
            got,
            expected,
        };
        if part.first != self.first() || !self.asked {
            return Err(wrong("rows from", part.first.into(), self.first as u64));
        }
        let known = self.met.and(head.blocks).common(part.blocks);
        if !known.is_empty() || part.blocks.is_empty() {
            return Err(wrong(
                "blocks",
                part.blocks.bits().into(),
                head.missing().bits().into(),
            ));
        }
        let vocab = u32::try_from(head.vocab).unwrap_or(u32::MAX);
        let ranges = || part.blocks.iter().map(|block| block_rows(vocab, block));
        let width: usize = ranges().map(|rows| rows.len()).sum();
        let expected = self.under_way().len() * width;
        if part.values.len() != expected || width == 0 {
            return Err(wrong("values", part.values.len() as u64, expected as u64));
        }
        let rows = self.logits.chunks_exact_mut(head.vocab);
        for (out, mut values) in rows.zip(part.values.chunks_exact(width)) {
            for range in ranges() {
                if let (Some(out), Some((of_block, rest))) = (
                    out.get_mut(range.clone()),
                    values.split_at_checked(range.len()),
                ) {
                    out.copy_from_slice(of_block);
                    values = rest;
                }
            }
        }
        self.met = self.met.and(part.blocks);
        Ok(())
    }

    /// Samples the rows under way.
    fn draw(
        &mut self,
        weights: &Weights,
        vocab: usize,
        known: Known<'_>,
    ) -> Result<(), EngineError> {
        let part = self.under_way();
        let mut drawn = vec![None; part.len()];
        let rows: Vec<_> = part.iter().zip(self.logits.chunks_exact(vocab)).collect();
        kernels::parallel_chunks(&weights.exec.pool, &mut drawn, 1, |index, slot| {
            let Some((want, logits)) = rows.get(index) else {
                return;
            };
            let span = known.spans.get(want.span);
            let sequence = span.and_then(|s| known.sequences.get(s.sequence));
            if let (Some(span), Some(sequence), [slot]) = (span, sequence, slot) {
                let drawn_from = sample::From {
                    logits,
                    history: &sequence.history,
                    open: &sequence.open,
                    mask: known.masks.get(span.sequence),
                };
                *slot = Some(sample::draw(weights.exec.isa, &drawn_from, want.position));
            }
        });
        let mut samples = Vec::with_capacity(drawn.len());
        for (want, drawn) in part.iter().zip(drawn) {
            let span = known
                .spans
                .get(want.span)
                .ok_or(EngineError::Turn("without its rows"))?;
            let drawn = drawn.ok_or(EngineError::UnknownSequence(span.sequence.0))?;
            samples.push(sample::sampled(span.sequence, want.position, drawn));
        }
        self.samples.extend(samples);
        Ok(())
    }
}

/// How far a drawing is.
pub enum Drawn {
    /// Blocks elsewhere are needed.
    Need(HeadRequest),
    /// Logits from elsewhere are missing.
    Waiting,
    /// Done.
    Samples(Vec<Sampled>),
}

/// Final norm of the wanted rows, into `scratch.acts`.
fn normalise(
    weights: &Weights,
    head: &HeadWeights,
    wanted: &[Wanted],
    x: &[f32],
    scratch: &mut HeadScratch,
) -> Result<(), EngineError> {
    let hidden = weights.hidden;
    let norm = head
        .norm
        .as_ref()
        .ok_or(EngineError::NotHeld("final norm"))?;
    scratch.rows.clear();
    for want in wanted {
        let row = x.get(want.row * hidden..(want.row + 1) * hidden);
        scratch.rows.extend(row.unwrap_or_default());
    }
    sized(&mut scratch.normed, scratch.rows.len());
    rows::norm(weights, &scratch.rows, norm, &mut scratch.normed);
    let format = head.ty.act_format();
    scratch.acts.clear();
    scratch
        .acts
        .need(&weights.exec, format, &scratch.normed, hidden);
    Ok(())
}

/// Where the rows of a piece lie in a row of logits.
#[derive(Clone, Copy)]
enum Layout {
    /// Where they lie in the whole head.
    Whole,
    /// One piece after the other.
    Packed,
}

/// The logits of the rows of the head that are here. `out`: `[acts.rows()][width]`; `spare` is used where there are
/// several pieces.
fn own_logits(
    weights: &Weights,
    head: &HeadWeights,
    acts: &Acts,
    (out, width, layout): (&mut [f32], usize, Layout),
    spare: &mut Vec<f32>,
) -> Result<(), EngineError> {
    let rows = acts.rows();
    let product = |(_, weight): &(Range<usize>, Weight)| weight.matrix(&weights.checkpoint);
    let task = |w, out| MatmulTask {
        w,
        acts,
        act_rows: Rows::Range(0..rows),
        segments: 1,
        out,
    };
    let exec = &weights.exec;
    if let [piece] = head.pieces.as_slice()
        && piece.0.len() == width
    {
        parallel_matmul(&exec.pool, exec.isa, &mut [task(product(piece)?, out)]);
        return Ok(());
    }
    let mut left = sized(spare, rows * head.rows());
    let mut tasks = Vec::with_capacity(head.pieces.len());
    for piece in &head.pieces {
        let (own, rest) = left.split_at_mut(rows * piece.0.len());
        tasks.push(task(product(piece)?, own));
        left = rest;
    }
    parallel_matmul(&exec.pool, exec.isa, &mut tasks);
    let (mut values, mut packed) = (spare.as_slice(), 0);
    for (range, _) in &head.pieces {
        let (own, rest) = values.split_at(rows * range.len());
        let start = match layout {
            Layout::Whole => range.start,
            Layout::Packed => packed,
        };
        for (out, own) in out
            .chunks_exact_mut(width)
            .zip(own.chunks_exact(range.len().max(1)))
        {
            if let Some(out) = out.get_mut(start..start + own.len()) {
                out.copy_from_slice(own);
            }
        }
        packed += range.len();
        values = rest;
    }
    Ok(())
}

/// Answers a request for the head blocks that are here: for each row their logits, ascending.
pub fn answer(
    weights: &Weights,
    head: &HeadWeights,
    acts: &Acts,
    scratch: &mut HeadScratch,
) -> Result<Vec<f32>, EngineError> {
    let wrong = |what, got: usize, expected: usize| EngineError::Step {
        what,
        got: got as u64,
        expected: expected as u64,
    };
    if acts.cols() != weights.hidden {
        return Err(wrong("columns", acts.cols(), weights.hidden));
    }
    if acts.rows() == 0 || acts.rows() > HEAD_ROWS {
        return Err(wrong("rows for the head", acts.rows(), HEAD_ROWS));
    }
    if acts.format() != head.ty.act_format() {
        return Err(EngineError::NotHeld(
            "head that takes this activation format",
        ));
    }
    let width = head.rows();
    let mut out = vec![0.0; acts.rows() * width];
    let place = (out.as_mut_slice(), width, Layout::Packed);
    own_logits(weights, head, acts, place, &mut scratch.pieces)?;
    Ok(out)
}
