//! One tile: some rows of one sequence with the heads of one unit, span by span.
//!
//! Owns the walk over blocks and the buffers of a thread. It never decides who computes what. The idea: rows ascend,
//! so those that do not reach a block are the first ones, and the rest is one contiguous run of queries.

use super::cut::{Cut, Tile};
use super::lines::Lines;
use super::micro::{self, Halves, KEYS, PANEL, Panel, Scores};
use super::soften::{FRESH, State, finish, merge, soften};
use super::{Attend, SPAN_BLOCKS};
use crate::Isa;
use crate::kv::{Block, PAGE_POSITIONS, Part};
use crate::math::LANES;

/// Memory that a thread keeps between tiles. A query is one head of one row, rows outermost.
#[derive(Default)]
pub(super) struct TileScratch {
    /// Heads of a row.
    heads: usize,
    /// The first of them.
    first_head: usize,
    /// Their kv head.
    kv_head: usize,
    /// Values of a head, and of a padded row.
    dim: usize,
    stride: usize,
    queries: Lines,
    out: Lines,
    states: Vec<State>,
    /// Spans merged so far.
    merged: Lines,
    merged_states: Vec<State>,
    keys: Lines,
    panel: Lines,
    scores: Lines,
    /// Keys of the current block that each query sees.
    counts: Vec<usize>,
    shrinks: Vec<f32>,
}

impl TileScratch {
    /// Begins a tile: gathers its queries.
    pub(super) fn load(&mut self, attend: &Attend<'_>, tile: &Tile, cut: &Cut, unit: usize) {
        let shape = attend.shape;
        self.heads = cut.together;
        self.first_head = unit * cut.together;
        self.kv_head = self.first_head / (shape.heads / shape.kv_heads);
        self.dim = shape.head_dim;
        self.stride = shape.head_dim.next_multiple_of(LANES);
        let n = tile.rows * self.heads;
        let queries = self.queries.take(n * self.stride);
        for (i, padded) in queries.chunks_exact_mut(self.stride).enumerate() {
            let row = tile.first_row + i / self.heads;
            let (query, _) = attend.query(row, self.first_head + i % self.heads);
            padded[..self.dim].copy_from_slice(query);
            padded[self.dim..].fill(0.0);
        }
    }

    /// Computes one span of all queries from its fresh state.
    pub(super) fn span(&mut self, isa: Isa, attend: &Attend<'_>, tile: &Tile, span: usize) {
        let n = tile.rows * self.heads;
        self.states.clear();
        self.states.resize(n, FRESH);
        self.out.take(n * self.stride).fill(0.0);
        self.shrinks.resize(n, 0.0);
        let last = &attend.rows[tile.first_row + tile.rows - 1];
        let blocks = (last.len as usize).div_ceil(PAGE_POSITIONS);
        let end = blocks.min((span + 1) * SPAN_BLOCKS);
        // The next span of a cut tile is the work of another thread.
        let last_asked = if tile.partials.is_some() { end } else { blocks };
        for block in span * SPAN_BLOCKS..end {
            let rows = &attend.rows[tile.first_row..][..tile.rows];
            self.counts.clear();
            for row in rows {
                let seen = (row.len as usize).saturating_sub(block * PAGE_POSITIONS);
                let count = seen.min(PAGE_POSITIONS);
                self.counts.resize(self.counts.len() + self.heads, count);
            }
            let page = last.pages[block];
            let next = last.pages.get(block + 1).copied();
            let next = next.filter(|_| block + 1 < last_asked);
            self.score(isa, attend, page, next);
            self.weigh(isa, attend, page, next);
        }
    }

    /// Queries from the first on that sees more than `keys` of the current block.
    fn first(&self, keys: usize) -> usize {
        self.counts.partition_point(|count| *count <= keys)
    }

    /// Scores of a page, then weights; the keys of the `next` page are asked for meanwhile.
    fn score(&mut self, isa: Isa, attend: &Attend<'_>, page: u32, next: Option<u32>) {
        let block = attend.store.keys(page, self.kv_head);
        let next = next.map(|next| attend.store.keys(next, self.kv_head));
        let n = self.counts.len();
        let seen = self.counts[n - 1];
        for first_key in (0..seen).step_by(KEYS) {
            let first = self.first(first_key);
            let keys = self.keys.take(KEYS * self.stride);
            let part = Part {
                dim: self.dim,
                row: first_key,
                rows: KEYS.min(seen - first_key),
                col: 0,
                cols: self.dim,
            };
            block.widen(isa, &part, keys, self.stride);
            if let Some(next) = &next {
                next.prefetch(first_key / KEYS, PAGE_POSITIONS / KEYS);
            }
            if self.dim < self.stride {
                for key in keys.chunks_exact_mut(self.stride) {
                    key[self.dim..].fill(0.0);
                }
            }
            let what = Scores {
                queries: &self.queries.take(n * self.stride)[first * self.stride..],
                keys,
                stride: self.stride,
                scale: attend.shape.scale,
                first_key,
            };
            let scores = self.scores.take(n * PAGE_POSITIONS);
            micro::scores(isa, &what, &mut scores[first * PAGE_POSITIONS..]);
        }
        let first = self.first(0);
        soften(
            isa,
            &mut self.scores.take(n * PAGE_POSITIONS)[first * PAGE_POSITIONS..],
            &self.counts[first..],
            &mut self.states[first..],
            &mut self.shrinks[first..],
        );
    }

    /// Adds the weighted values of a page; the values of the `next` page are asked for meanwhile.
    fn weigh(&mut self, isa: Isa, attend: &Attend<'_>, page: u32, next: Option<u32>) {
        let block = attend.store.values(page, self.kv_head);
        let next = next.map(|next| attend.store.values(next, self.kv_head));
        let n = self.counts.len();
        let first = self.first(0);
        if let (Block::F16(values), 0) = (block, self.first(self.counts[n - 1] - 1)) {
            let what = Halves {
                values,
                dim: self.dim,
                weights: self.scores.take(n * PAGE_POSITIONS),
                count: self.counts[n - 1],
                shrinks: &self.shrinks,
            };
            if micro::add_halves(isa, &what, self.out.take(n * self.stride)) {
                if let Some(next) = &next {
                    next.prefetch(0, 1);
                }
                return;
            }
        }
        for col in (0..self.stride).step_by(PANEL) {
            let width = PANEL.min(self.stride - col);
            let panel = self.panel.take(PAGE_POSITIONS * width);
            let part = Part {
                dim: self.dim,
                row: 0,
                rows: self.counts[n - 1],
                col,
                cols: width.min(self.dim - col),
            };
            block.widen(isa, &part, panel, width);
            if let Some(next) = &next {
                next.prefetch(col / PANEL, self.stride.div_ceil(PANEL));
            }
            let what = Panel {
                values: panel,
                width,
                col,
                stride: self.stride,
                weights: &self.scores.take(n * PAGE_POSITIONS)[first * PAGE_POSITIONS..],
                counts: &self.counts[first..],
                shrinks: &self.shrinks[first..],
            };
            let out = self.out.take(n * self.stride);
            micro::add_values(isa, &what, &mut out[first * self.stride..]);
        }
    }

    /// Computes and merges all spans.
    pub(super) fn spans(&mut self, isa: Isa, attend: &Attend<'_>, tile: &Tile) {
        self.span(isa, attend, tile, 0);
        std::mem::swap(&mut self.out, &mut self.merged);
        std::mem::swap(&mut self.states, &mut self.merged_states);
        let stride = self.stride;
        for span in 1..tile.spans {
            self.span(isa, attend, tile, span);
            let n = tile.rows * self.heads;
            let merged = self.merged.take(n * stride).chunks_exact_mut(stride);
            let out = self.out.take(n * stride).chunks_exact(stride);
            let states = self.merged_states.iter_mut().zip(&self.states);
            for (i, ((merged, out), (state, other))) in merged.zip(out).zip(states).enumerate() {
                let row = &attend.rows[tile.first_row + i / self.heads];
                if span < tile.spans_of(row) {
                    merge(isa, state, merged, other, out);
                }
            }
        }
    }

    /// The results of a tile's row.
    pub(super) fn give(
        &mut self,
        isa: Isa,
        attend: &Attend<'_>,
        tile: &Tile,
        row: usize,
        out: &mut [f32],
    ) {
        let n = tile.rows * self.heads;
        let merged = self.merged.take(n * self.stride);
        for (head, out) in out.chunks_exact_mut(self.dim).enumerate() {
            let query = row * self.heads + head;
            let from = &merged[query * self.stride..][..self.dim];
            let (_, gate) = attend.query(tile.first_row + row, self.first_head + head);
            finish(isa, out, from, self.merged_states[query].sum, gate);
        }
    }

    /// Writes what the last span gave for a tile's row into its partial: the outputs, then maximum and sum of each.
    pub(super) fn keep(&mut self, cut: &Cut, row: usize, partial: &mut [f32]) {
        let (dim, stride, first) = (self.dim, self.stride, row * self.heads);
        let (outs, states) = partial.split_at_mut(cut.together * dim);
        let from = self.out.take((first + self.heads) * stride);
        let from = from.chunks_exact(stride).skip(first);
        for (out, from) in outs.chunks_exact_mut(dim).zip(from) {
            out.copy_from_slice(&from[..dim]);
        }
        for (kept, state) in states
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(&self.states[first..])
        {
            *kept = [state.max, state.sum];
        }
    }

    /// A buffer of `dim` values for merging partials.
    pub(super) fn merged(&mut self, dim: usize) -> &mut [f32] {
        self.merged.take(dim)
    }
}
