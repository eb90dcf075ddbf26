//! Provisional rows of the delta rule and their commit.
//!
//! Owns what is kept of a row whose effect on the state is undecided. The idea: `(k, delta, decay)` is all that
//! a row writes, and the commit makes the same two roundings for each element of the state as a settled row.

use std::ops::Range;

use super::{DeltaRows, DeltaShape};
use crate::{Isa, Pool, parallel_chunks};

/// Writes of provisional rows that wait for [`delta_commit`].
#[derive(Debug, Clone, Default)]
pub struct DeltaRecords {
    pub(super) rows: usize,
    /// `[rows][key_heads * key_dim]`
    pub(crate) keys: Vec<f32>,
    /// `[rows][value_heads * value_dim]`
    pub(crate) deltas: Vec<f32>,
    /// `[rows][value_heads]`
    pub(crate) decays: Vec<f32>,
}

impl DeltaRecords {
    /// Rows that wait.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.keys.clear();
        self.deltas.clear();
        self.decays.clear();
    }

    /// Makes room for `rows` rows in place of all earlier ones.
    pub(crate) fn begin(&mut self, shape: &DeltaShape, rows: usize) {
        self.clear();
        self.rows = rows;
        self.keys
            .resize(rows * shape.key_heads * shape.key_dim, 0.0);
        self.deltas.resize(rows * shape.value_len(), 0.0);
        self.decays.resize(rows * shape.value_heads, 0.0);
    }

    /// Takes keys and decays of `range`, which has as many rows as there is room for.
    pub(super) fn fill(&mut self, shape: &DeltaShape, rows: &DeltaRows<'_>, range: Range<usize>) {
        let (channels, keys) = (shape.channels(), shape.key_heads * shape.key_dim);
        self.decays.copy_from_slice(
            &rows.decay[range.start * shape.value_heads..range.end * shape.value_heads],
        );
        let inputs = rows.qkv[range.start * channels..range.end * channels].chunks(channels);
        for (mine, row) in self.keys.chunks_mut(keys).zip(inputs) {
            mine.copy_from_slice(&row[keys..2 * keys]);
        }
    }
}

/// Records and the block that they are written to.
#[derive(Clone, Copy)]
struct CommitTask<'a> {
    shape: &'a DeltaShape,
    records: &'a DeltaRecords,
    block: usize,
    rows: usize,
}

#[inline(always)]
fn commit_rows<const W: usize>(task: CommitTask<'_>, state: &mut [f32]) {
    let (shape, records) = (task.shape, task.records);
    let key_at = shape.key_head(task.block) * shape.key_dim;
    let head = task.block * W / shape.value_dim;
    let state = state.as_chunks_mut::<W>().0;
    for row in 0..task.rows {
        let keys = &records.keys[row * shape.key_heads * shape.key_dim + key_at..][..shape.key_dim];
        let deltas = &records.deltas[row * shape.value_len() + task.block * W..][..W];
        let decay = records.decays[row * shape.value_heads + head];
        for (s, k) in state.iter_mut().zip(keys) {
            for (s, delta) in s.iter_mut().zip(deltas) {
                *s = k.mul_add(*delta, *s * decay);
            }
        }
    }
}

#[inline(always)]
fn commit_body(task: CommitTask<'_>, state: &mut [f32]) {
    match task.shape.width() {
        32 => commit_rows::<32>(task, state),
        16 => commit_rows::<16>(task, state),
        8 => commit_rows::<8>(task, state),
        4 => commit_rows::<4>(task, state),
        2 => commit_rows::<2>(task, state),
        _ => commit_rows::<1>(task, state),
    }
}

kernel! {
    fn commit_block(task: CommitTask<'_>, state: &mut [f32]) = commit_body
}

/// Makes the first `n` recorded rows real, with the bits they would have had as settled rows, and forgets the
/// others.
///
/// # Panics
/// If fewer rows are recorded, or lengths do not fit the shape.
pub fn delta_commit(
    pool: &Pool,
    isa: Isa,
    shape: &DeltaShape,
    state: &mut [f32],
    records: &mut DeltaRecords,
    n: usize,
) {
    shape.check();
    assert!(
        n <= records.rows,
        "commit of {n} rows, {} are recorded",
        records.rows
    );
    assert_eq!(state.len(), shape.state_len(), "state of another shape");
    if n > 0 {
        let recorded = &*records;
        parallel_chunks(
            pool,
            state,
            shape.key_dim * shape.width(),
            |block, state| {
                commit_block(
                    isa,
                    CommitTask {
                        shape,
                        records: recorded,
                        block,
                        rows: n,
                    },
                    state,
                );
            },
        );
    }
    records.clear();
}
