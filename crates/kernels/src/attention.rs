//! Softmax attention of query rows over a paged cache.
//!
//! Owns scores, softmax, the weighted sum and the output gate, and before them the norm and rotation of queries
//! and keys on their way into the cache. Never decides which positions a row may see: the caller gives their
//! number. The idea: what one (row, query head) computes is a fixed sequence of roundings over its own keys, so
//! rows and heads may be taken together, apart, in any tile and on any thread without changing a bit.
//!
//! # The definition
//! Keys come in *blocks* of 64 anchored at position 0, and blocks in *spans* of 8 (512 keys) anchored at 0. A span
//! starts from `m = -inf, l = 0, o = 0`, and each of its blocks does
//! `s = dot(q, k) * scale`; `m' = max(m, s..)`; `c = e^(m - m')`; `p = e^(s - m')`;
//! `l = l * c + sum(p)` (both sums over 32 lanes and the tree); `o = o * c`, then `o += p * v` fused, keys ascending.
//! Spans are merged in ascending order, the first being the start:
//! `M' = max(M, m)`; `a = e^(M - M')`; `b = e^(m - M')`; `L = L * a + l * b`; `O = O * a`, then `O += b * o` fused.
//! At the end `O / L`, times `sigmoid(gate)` where queries carry gates.
//!
//! # How it is computed
//! A task takes a *tile*: neighbouring rows of one sequence with the query heads of one kv head. It widens 16
//! keys, or 64 columns of 64 values, into the innermost cache and uses them for the whole tile. Where there are
//! fewer tiles than threads need, a tile is *cut*: each of its spans is a task of its own, and a second region merges.
#![allow(
    unsafe_code,
    reason = "tasks write disjoint parts of outputs, and vector loads take pointers"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cut;
mod lines;
mod micro;
mod place;
mod soften;
mod tile;

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use crate::kv::{KvStore, PAGE_POSITIONS};
use crate::pool::Split;
use crate::{Isa, Pool};

use cut::{Cut, Tile};
use soften::{State, finish, merge};
use tile::TileScratch;

pub use place::{Placement, place_rows};

/// Blocks of a span.
const SPAN_BLOCKS: usize = 8;
/// Keys of a span.
const SPAN_KEYS: usize = SPAN_BLOCKS * PAGE_POSITIONS;

/// What a row of queries holds for each head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryLayout {
    /// The query.
    Plain,
    /// The query, then the gate of the head's output: `out * sigmoid(gate)`.
    Gated,
}

/// The shape of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttendShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// What a query row holds.
    pub queries: QueryLayout,
}

impl AttendShape {
    /// Values of a query row for one head.
    fn query_stride(&self) -> usize {
        match self.queries {
            QueryLayout::Plain => self.head_dim,
            QueryLayout::Gated => 2 * self.head_dim,
        }
    }

    /// Values of a whole query row.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.query_stride()
    }
}

/// One query row.
#[derive(Debug, Clone, Copy)]
pub struct AttendRow<'a> {
    /// Page table of the row's sequence; rows of one sequence share the slice.
    pub pages: &'a [u32],
    /// Keys that the row sees: its position + 1.
    pub len: u32,
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// The layer's shape.
    pub shape: &'a AttendShape,
    /// The layer's cache, with all keys and values that the rows see.
    pub store: &'a KvStore,
    /// The rows; neighbours of one sequence are computed together.
    pub rows: &'a [AttendRow<'a>],
    /// Their queries, normed and turned: `[rows][query_width]`.
    pub queries: &'a [f32],
}

impl<'a> Attend<'a> {
    /// The query of a row's head, and its gate.
    fn query(&self, row: usize, head: usize) -> (&'a [f32], Option<&'a [f32]>) {
        let stride = self.shape.query_stride();
        let of_head = &self.queries[(row * self.shape.heads + head) * stride..][..stride];
        let (query, gate) = of_head.split_at(self.shape.head_dim);
        (query, (!gate.is_empty()).then_some(gate))
    }

    fn check(&self, out: &[f32]) {
        let shape = self.shape;
        assert_eq!(
            self.store.shape(),
            (shape.kv_heads, shape.head_dim),
            "cache of another shape"
        );
        assert!(
            shape.heads.is_multiple_of(shape.kv_heads),
            "kv heads that do not divide the heads"
        );
        assert!(
            self.rows.iter().all(|row| row.len > 0),
            "attention over no key"
        );
        assert_eq!(
            self.queries.len(),
            self.rows.len() * shape.query_width(),
            "queries of another shape"
        );
        assert_eq!(
            out.len(),
            self.rows.len() * shape.heads * shape.head_dim,
            "outputs of another shape"
        );
    }
}

/// Memory that the caller keeps from call to call: the spans of cut tiles.
#[derive(Debug, Default)]
pub struct AttendScratch {
    partials: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<TileScratch> = RefCell::default();
}

/// Attention of all heads of all rows: `out` is `[rows][heads * head_dim]`.
///
/// # Panics
/// If lengths do not fit the shape, a row sees no key, or its page table is too short.
pub fn attend_rows(
    pool: &Pool,
    isa: Isa,
    attend: &Attend<'_>,
    out: &mut [f32],
    scratch: &mut AttendScratch,
) {
    attend.check(out);
    let cut = Cut::new(attend, pool.threads());
    run_cut(pool, isa, attend, &cut, out, scratch);
}

/// [`attend_rows`] by a given cut.
fn run_cut(
    pool: &Pool,
    isa: Isa,
    attend: &Attend<'_>,
    cut: &Cut,
    out: &mut [f32],
    scratch: &mut AttendScratch,
) {
    let dim = attend.shape.head_dim;
    let partial_len = cut.partials * cut.partial_len(dim);
    if scratch.partials.len() < partial_len {
        scratch.partials.resize(partial_len, 0.0);
    }
    let partials = Split::new(&mut scratch.partials);
    let outs = Split::new(out);
    pool.run(cut.tasks.len(), &|index| {
        let task = &cut.tasks[index];
        let tile = &cut.tiles[task.tile];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.load(attend, tile, cut, task.unit);
            match (tile.partials, task.span) {
                (Some(_), Some(span)) => {
                    scratch.span(isa, attend, tile, span);
                    for row in 0..tile.rows {
                        let at = cut.partial(tile, row, task.unit, span);
                        // SAFETY: (tile, row, unit, span) belongs to this task alone, and so does its index.
                        let part = unsafe { partials.part(at, cut.partial_len(dim)) };
                        scratch.keep(cut, row, part);
                    }
                }
                _ => {
                    scratch.spans(isa, attend, tile);
                    for row in 0..tile.rows {
                        let at = (tile.first_row + row) * cut.units + task.unit;
                        // SAFETY: no other task has this row and unit, so none has this index.
                        let part = unsafe { outs.part(at, cut.together * dim) };
                        scratch.give(isa, attend, tile, row, part);
                    }
                }
            }
        });
    });
    merge_cut(pool, isa, attend, cut, &scratch.partials, &outs);
}

/// Merges the spans of all cut tiles, one task a row and head.
fn merge_cut(
    pool: &Pool,
    isa: Isa,
    attend: &Attend<'_>,
    cut: &Cut,
    partials: &[f32],
    outs: &Split<'_, f32>,
) {
    let (heads, dim) = (attend.shape.heads, attend.shape.head_dim);
    let rows: Vec<(&Tile, usize)> = cut
        .tiles
        .iter()
        .filter(|tile| tile.partials.is_some())
        .flat_map(|tile| (0..tile.rows).map(move |row| (tile, row)))
        .collect();
    pool.run(rows.len() * heads, &|index| {
        let ((tile, row), head) = (rows[index / heads], index % heads);
        let (unit, within) = (head / cut.together, head % cut.together);
        let read = |span: usize| {
            let at = cut.partial(tile, row, unit, span) * cut.partial_len(dim);
            let part = &partials[at..][..cut.partial_len(dim)];
            let (outs, states) = part.split_at(cut.together * dim);
            let state = State {
                max: states[2 * within],
                sum: states[2 * within + 1],
            };
            (state, &outs[within * dim..][..dim])
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let merged = scratch.merged(dim);
            let (mut state, first) = read(0);
            merged.copy_from_slice(first);
            let row_index = tile.first_row + row;
            for span in 1..tile.spans_of(&attend.rows[row_index]) {
                let (other, from) = read(span);
                merge(isa, &mut state, merged, &other, from);
            }
            // SAFETY: one task a row and head; the parts by units are no longer used.
            let out = unsafe { outs.part(row_index * heads + head, dim) };
            finish(isa, out, merged, state.sum, attend.query(row_index, head).1);
        });
    });
}
