//! The gated delta rule.
//!
//! Owns the recurrence, the layout of its state and the records of provisional rows. The idea: per value head
//! a matrix `S[key index][value index]`; the columns never meet, so a task owns a block of columns and runs
//! all tokens over it in order, one canonical order in prefill and decode alike. Per token:
//!
//! `S *= decay`; `delta = (v - Sᵀ k) * beta`; `S += k ⊗ delta`; `o = Sᵀ q`, sums over the key index ascending
//! and fused. The last rows of a step may be provisional: their outputs are computed on a copy of the block, and
//! `(k, delta, decay)` is recorded, from which `delta_commit` later makes the same writes with the same bits.
#![allow(
    unsafe_code,
    reason = "tasks own disjoint column blocks of the state, the output and the records"
)]

use std::cell::RefCell;
use std::ops::Range;

use crate::math::{exp, sigmoid, softplus};
use crate::pool::{SharedColumns, Split};
use crate::{ColumnsMut, Isa, Pool};

mod commit;
mod rule;

pub use commit::{DeltaRecords, delta_commit};
pub(crate) use rule::{Tokens, run_tokens};

/// Widest block of columns; the width is the largest power of two up to it that divides the value dimension.
const BLOCK_COLUMNS_MAX: usize = 32;

/// Which key head a value head belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrder {
    /// Value head `j` reads key head `j / (value_heads / key_heads)`.
    Grouped,
    /// Value head `j` reads key head `j % key_heads`.
    Tiled,
}

/// The shape of one layer's delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Values of a query or key head.
    pub key_dim: usize,
    /// Values of a value head.
    pub value_dim: usize,
    /// How value heads map to key heads.
    pub order: HeadOrder,
}

impl DeltaShape {
    /// Values of a row of queries, keys and values.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_len()
    }

    /// Values of a row of all value heads, which is also a row of output.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Values of a sequence's state.
    #[must_use]
    pub fn state_len(&self) -> usize {
        self.value_len() * self.key_dim
    }

    /// Columns of one block.
    pub(crate) fn width(&self) -> usize {
        BLOCK_COLUMNS_MAX.min(1 << self.value_dim.trailing_zeros())
    }

    /// Blocks of all heads.
    fn blocks(&self) -> usize {
        self.value_len() / self.width()
    }

    /// The key head of block `block`.
    fn key_head(&self, block: usize) -> usize {
        let head = block * self.width() / self.value_dim;
        match self.order {
            HeadOrder::Grouped => head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => head % self.key_heads,
        }
    }

    /// Value head number `index` of those that read key head `key_head`.
    pub(crate) fn value_head(&self, key_head: usize, index: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => key_head * (self.value_heads / self.key_heads) + index,
            HeadOrder::Tiled => index * self.key_heads + key_head,
        }
    }

    pub(crate) fn check(&self) {
        let dims = [
            self.key_heads,
            self.value_heads,
            self.key_dim,
            self.value_dim,
        ];
        assert!(dims.iter().all(|dim| *dim > 0), "empty {self:?}");
        assert_eq!(self.value_heads % self.key_heads, 0, "{self:?}");
    }
}

/// What the gates of some rows are made of.
#[derive(Debug, Clone, Copy)]
pub struct DeltaGates<'a> {
    /// Projection `a`, `[rows][value_heads]`.
    pub a: &'a [f32],
    /// Projection `b`, `[rows][value_heads]`.
    pub b: &'a [f32],
    /// `A = -exp(A_log)` of each value head, below 0.
    pub decay_rate: &'a [f32],
    /// Added to `a`, one for each value head.
    pub dt_bias: &'a [f32],
}

/// What remains of the state of one head in one row.
#[inline(always)]
pub(crate) fn decay_of(a: f32, rate: f32, bias: f32) -> f32 {
    exp(rate * softplus(a + bias))
}

#[inline(always)]
fn delta_gates_body(gates: DeltaGates<'_>, decay: &mut [f32], beta: &mut [f32]) {
    let heads = gates.decay_rate.len();
    assert!(
        heads > 0 && gates.dt_bias.len() == heads,
        "gates of different head counts"
    );
    let lens = [gates.a.len(), gates.b.len(), beta.len()];
    assert!(
        decay.len().is_multiple_of(heads) && lens == [decay.len(); 3],
        "gates of different lengths"
    );
    for (decay, a) in decay
        .chunks_exact_mut(heads)
        .zip(gates.a.chunks_exact(heads))
    {
        let each = decay
            .iter_mut()
            .zip(a)
            .zip(gates.decay_rate)
            .zip(gates.dt_bias);
        for (((decay, a), rate), bias) in each {
            *decay = decay_of(*a, *rate, *bias);
        }
    }
    for (beta, b) in beta.iter_mut().zip(gates.b) {
        *beta = sigmoid(*b);
    }
}

kernel! {
    /// `decay = exp(A * softplus(a + dt_bias))` and `beta = sigmoid(b)` for rows of value heads.
    ///
    /// # Panics
    /// If lengths do not fit each other.
    pub fn delta_gates(gates: DeltaGates<'_>, decay: &mut [f32], beta: &mut [f32]) = delta_gates_body
}

/// Inputs of the delta rule for the rows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct DeltaRows<'a> {
    /// `[rows][channels]`: queries, keys (both normalised, queries scaled) and values, heads contiguous.
    pub qkv: &'a [f32],
    /// `[rows][value_heads]`: what remains of the state, `e^g`.
    pub decay: &'a [f32],
    /// `[rows][value_heads]`: how strongly the row writes.
    pub beta: &'a [f32],
}

/// The rows of one sequence inside a batch.
#[derive(Debug)]
pub struct DeltaSegment<'a> {
    /// Its rows, consecutive positions.
    pub rows: Range<usize>,
    /// How many of them, at the end, leave the state as it is and are recorded instead.
    pub provisional: usize,
    /// State of the sequence, `state_len` values in column blocks; zeros at the start.
    pub state: &'a mut [f32],
    /// Records of the provisional rows; must be empty.
    pub records: &'a mut DeltaRecords,
}

thread_local! {
    /// The copy of a column block that provisional rows run on.
    static BLOCK_COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One column block of one segment.
struct BlockTask<'a> {
    shape: &'a DeltaShape,
    inputs: DeltaRows<'a>,
    rows: Range<usize>,
    /// The first row that is provisional; the end of `rows` if none is.
    settled: usize,
    block: usize,
}

impl BlockTask<'_> {
    /// What rows `rows` of the batch mean for the block.
    #[inline(always)]
    fn tokens(&self, rows: Range<usize>) -> Tokens<'_> {
        let shape = self.shape;
        let keys = shape.key_heads * shape.key_dim;
        let key_at = shape.key_head(self.block) * shape.key_dim;
        let value_at = self.block * shape.width();
        let gate = rows.start * shape.value_heads + value_at / shape.value_dim;
        let first = rows.start * shape.channels();
        Tokens {
            rows: rows.len(),
            q: &self.inputs.qkv[first + key_at..],
            k: &self.inputs.qkv[first + keys + key_at..],
            v: &self.inputs.qkv[first + 2 * keys + value_at..],
            decay: &self.inputs.decay[gate..],
            beta: &self.inputs.beta[gate..],
            key_dim: shape.key_dim,
            key_stride: shape.channels(),
            value_stride: shape.channels(),
            gate_stride: shape.value_heads,
        }
    }
}

/// Runs the rows of a task over its block of the state, `[key_dim][width]`; the outputs are those of the rows and the
/// deltas of provisional rows, `copy` is memory for a copy of the block.
fn run_block(
    isa: Isa,
    task: &BlockTask<'_>,
    state: &mut [f32],
    copy: &mut Vec<f32>,
    (out, deltas): (&mut ColumnsMut<'_, f32>, &mut ColumnsMut<'_, f32>),
) {
    let width = task.shape.width();
    let settled = task.settled - task.rows.start;
    if settled > 0 {
        let tokens = task.tokens(task.rows.start..task.settled);
        run_tokens(isa, width, &tokens, state, |row, _, o| {
            out.row(row).copy_from_slice(o);
        });
    }
    if task.settled < task.rows.end {
        copy.clear();
        copy.extend_from_slice(state);
        let tokens = task.tokens(task.settled..task.rows.end);
        run_tokens(isa, width, &tokens, copy, |row, delta, o| {
            deltas.row(row).copy_from_slice(delta);
            out.row(settled + row).copy_from_slice(o);
        });
    }
}

/// What the tasks of one segment share.
struct SharedSegment<'a> {
    rows: Range<usize>,
    settled: usize,
    state: Split<'a, f32>,
    out: SharedColumns<'a, f32>,
    deltas: SharedColumns<'a, f32>,
}

/// Checks a segment, begins its records and cuts its part off `out`, whose first row is row `at` of the batch.
fn share<'a>(
    shape: &DeltaShape,
    rows: &DeltaRows<'_>,
    segment: &'a mut DeltaSegment<'_>,
    (at, out): (usize, &'a mut [f32]),
) -> (SharedSegment<'a>, &'a mut [f32]) {
    let range = segment.rows.clone();
    assert!(
        range.start >= at && range.end >= range.start,
        "segments out of order"
    );
    assert!(
        segment.provisional <= range.len(),
        "more provisional rows than rows"
    );
    assert_eq!(
        segment.state.len(),
        shape.state_len(),
        "state of another shape"
    );
    assert_eq!(
        segment.records.rows, 0,
        "records of an earlier step wait for their commit"
    );
    let settled = range.end - segment.provisional;
    segment.records.begin(shape, segment.provisional);
    segment.records.fill(shape, rows, settled..range.end);
    let len = shape.value_len();
    let (_, out) = out.split_at_mut((range.start - at) * len);
    let (mine, rest) = out.split_at_mut(range.len() * len);
    let shared = SharedSegment {
        rows: range,
        settled,
        state: Split::new(segment.state),
        out: SharedColumns(ColumnsMut::whole(mine, len)),
        deltas: SharedColumns(ColumnsMut::whole(&mut segment.records.deltas, len)),
    };
    (shared, rest)
}

/// Runs the delta rule over all segments (ascending, disjoint row ranges) and writes `out[rows][value_len]`.
/// Settled rows change the states; provisional rows are recorded for [`delta_commit`].
///
/// # Panics
/// If lengths do not fit the shape, segments overlap or are out of order, or records are not empty.
pub fn delta_rows(
    pool: &Pool,
    isa: Isa,
    shape: &DeltaShape,
    rows: &DeltaRows<'_>,
    segments: &mut [DeltaSegment<'_>],
    out: &mut [f32],
) {
    shape.check();
    let count = out.len() / shape.value_len();
    assert_eq!(out.len(), count * shape.value_len(), "broken output rows");
    assert_eq!(
        rows.qkv.len(),
        count * shape.channels(),
        "inputs of another shape"
    );
    let gates = count * shape.value_heads;
    assert!(
        rows.decay.len() == gates && rows.beta.len() == gates,
        "gates of another shape"
    );
    let mut shared = Vec::with_capacity(segments.len());
    let (mut at, mut rest) = (0, out);
    for segment in segments {
        let (one, after) = share(shape, rows, segment, (at, rest));
        (at, rest) = (one.rows.end, after);
        shared.push(one);
    }
    let (blocks, width) = (shape.blocks(), shape.width());
    pool.run(shared.len() * blocks, &|task| {
        let (segment, block) = (&shared[task / blocks], task % blocks);
        // SAFETY: each pair of segment and block is one task, and all blocks of a segment have one width.
        let (state, mut out, mut deltas) = unsafe {
            (
                segment.state.part(block, shape.key_dim * width),
                segment.out.block(block, width),
                segment.deltas.block(block, width),
            )
        };
        let task = BlockTask {
            shape,
            inputs: *rows,
            rows: segment.rows.clone(),
            settled: segment.settled,
            block,
        };
        BLOCK_COPY.with_borrow_mut(|copy| {
            run_block(isa, &task, state, copy, (&mut out, &mut deltas));
        });
    });
}

#[cfg(test)]
mod tests;
