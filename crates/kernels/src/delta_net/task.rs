//! The one parallel region of a gated delta net.
//!
//! Owns the cut of the work into tasks: one sequence's rows times one key head, or times one value head when there
//! are too few of those. Never changes what is computed. The idea: heads never meet between the projections, so a
//! task takes its channels through every part, some rows at a time, and intermediate rows stay in its cache.
#![allow(
    unsafe_code,
    reason = "tasks own disjoint heads of the state, the outputs and the records"
)]

use std::cell::RefCell;
use std::ops::Range;

use super::{DeltaInput, DeltaNet, DeltaRun};
use crate::conv::{KERNEL_MAX, conv_body};
use crate::delta::{Tokens, decay_of, run_tokens};
use crate::math::sigmoid;
use crate::norm::{gated_rms_norm_body, l2_norm_body};
use crate::pool::{ColumnsMut, SharedColumns, Split};
use crate::{Isa, Pool};

/// Rows that a task takes through all parts at once.
const ROWS_MAX: usize = 32;
/// Tasks for each thread below which key heads are cut into value heads, whose queries and keys are then computed
/// once each.
const TASKS_PER_THREAD_MIN: usize = 4;

/// How many rows before its use a row is asked for: a task sees a piece of each, too far apart for the processor to
/// guess the next.
const ROWS_AHEAD: usize = 4;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Intermediate rows of one task.
#[derive(Default)]
struct Memory {
    /// `[rows][key_dim]`
    q: Vec<f32>,
    /// `[rows][key_dim]`
    k: Vec<f32>,
    /// `[rows][value_dim]` of one value head.
    v: Vec<f32>,
    /// `[rows]` of one value head.
    decay: Vec<f32>,
    /// `[rows]` of one value head.
    beta: Vec<f32>,
    /// The states that provisional rows run on, of all value heads of the task.
    copy: Vec<f32>,
}

/// What the tasks of one run share.
struct SharedRun<'a> {
    rows: Range<usize>,
    /// The first provisional row.
    settled: usize,
    history: &'a [f32],
    /// The history after the settled rows.
    next_history: SharedColumns<'a, f32>,
    state: Split<'a, f32>,
    out: SharedColumns<'a, f32>,
    keys: SharedColumns<'a, f32>,
    deltas: SharedColumns<'a, f32>,
    decays: SharedColumns<'a, f32>,
}

/// One task: some value heads of a key head, for all rows of a run.
struct Task<'a> {
    isa: Isa,
    net: &'a DeltaNet,
    input: &'a DeltaInput<'a>,
    run: &'a SharedRun<'a>,
    key_head: usize,
    /// Which of the value heads that read the key head.
    heads: Range<usize>,
}

/// Begins the records of a run and shares its parts; its part of `out`, which begins at row `at`, is cut off.
fn share<'a>(
    net: &DeltaNet,
    input: &DeltaInput<'_>,
    (run, next): (&'a mut DeltaRun<'_>, &'a mut [f32]),
    (at, out): (usize, &'a mut [f32]),
) -> (SharedRun<'a>, &'a mut [f32]) {
    let (shape, rows) = (&net.shape, run.rows.clone());
    let settled = rows.end - run.provisional;
    let state = &mut *run.state;
    let channels = shape.channels();
    state.raw.clear();
    state
        .raw
        .extend_from_slice(&input.mixed[settled * channels..rows.end * channels]);
    state.records.begin(shape, run.provisional);
    let len = shape.value_len();
    let (_, out) = out.split_at_mut((rows.start - at) * len);
    let (mine, rest) = out.split_at_mut(rows.len() * len);
    let shared = |all: &'a mut [f32], stride| SharedColumns(ColumnsMut::whole(all, stride));
    let records = &mut state.records;
    let run = SharedRun {
        settled,
        history: &state.history,
        next_history: shared(next, channels),
        state: Split::new(&mut state.state),
        out: shared(mine, len),
        keys: shared(&mut records.keys, shape.key_heads * shape.key_dim),
        deltas: shared(&mut records.deltas, len),
        decays: shared(&mut records.decays, shape.value_heads),
        rows,
    };
    (run, rest)
}

/// Runs the whole net over all runs and writes their rows of `out` and their histories after the settled rows.
pub(super) fn run(
    (pool, isa): (&Pool, Isa),
    net: &DeltaNet,
    input: &DeltaInput<'_>,
    (runs, histories): (&mut [DeltaRun<'_>], &mut [Vec<f32>]),
    out: &mut [f32],
) {
    let shape = &net.shape;
    let mut shared = Vec::with_capacity(runs.len());
    let (mut at, mut rest) = (0, out);
    for (run, next) in runs.iter_mut().zip(histories) {
        let (one, after) = share(net, input, (run, next), (at, rest));
        (at, rest) = (one.rows.end, after);
        shared.push(one);
    }
    let group = shape.value_heads / shape.key_heads;
    let whole = shared.len() * shape.key_heads >= TASKS_PER_THREAD_MIN * pool.threads();
    let heads = if whole { group } else { 1 };
    let (parts, per_run) = (group / heads, shape.value_heads / heads);
    pool.run(shared.len() * per_run, &|index| {
        let (run, part) = (&shared[index / per_run], index % per_run);
        let first = part % parts * heads;
        let task = Task {
            isa,
            net,
            input,
            run,
            key_head: part / parts,
            heads: first..first + heads,
        };
        MEMORY.with_borrow_mut(|memory| task_kernel(isa, &task, memory));
    });
}

kernel! {
    fn task_kernel(task: &Task<'_>, memory: &mut Memory) = task_body
}

#[inline(always)]
fn task_body(task: &Task<'_>, memory: &mut Memory) {
    let run = task.run;
    let mut at = run.rows.start;
    while at < run.rows.end {
        let limit = if at < run.settled {
            run.settled
        } else {
            run.rows.end
        };
        let end = limit.min(at + ROWS_MAX);
        task.rows(at..end, memory);
        at = end;
    }
    task.advance_history();
}

impl Task<'_> {
    /// Where the channels of the key head's queries begin; those of its keys stand `key_heads * key_dim` further.
    fn query_at(&self) -> usize {
        self.key_head * self.net.shape.key_dim
    }

    /// Where the channels of all keys begin.
    fn keys_at(&self) -> usize {
        self.net.shape.key_heads * self.net.shape.key_dim
    }

    /// Where the channels of value head `head` begin.
    fn values_at(&self, head: usize) -> usize {
        2 * self.keys_at() + head * self.net.shape.value_dim
    }

    /// Whether this task stands for its key head where that must be done once.
    fn owns_key_head(&self) -> bool {
        self.heads.start == 0
    }

    /// Columns of raw row `index` of the sequence, counted from the oldest row of its history.
    #[inline(always)]
    fn raw(&self, index: usize, columns: Range<usize>) -> &[f32] {
        let channels = self.net.shape.channels();
        let past = self.net.conv.kernel() - 1;
        let (rows, row) = if index < past {
            (self.run.history, index)
        } else {
            (self.input.mixed, index - past + self.run.rows.start)
        };
        &rows[row * channels..][columns]
    }

    /// Convolution of some columns of rows `rows` into `out`, `[rows][columns]`.
    #[inline(always)]
    fn convolve(&self, rows: &Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        let kernel = self.net.conv.kernel();
        let mut taps = [&[][..]; KERNEL_MAX];
        for (tap, all) in taps.iter_mut().zip(self.net.conv.taps()) {
            *tap = &all[columns.clone()];
        }
        out.resize(rows.len() * columns.len(), 0.0);
        let first = rows.start - self.run.rows.start;
        for (row, out) in out.chunks_exact_mut(columns.len()).enumerate() {
            if row + ROWS_AHEAD < rows.len() {
                fetch(self.raw(first + row + kernel - 1 + ROWS_AHEAD, columns.clone()));
            }
            let mut sources = [&[][..]; KERNEL_MAX];
            for (tap, source) in sources[..kernel].iter_mut().enumerate() {
                *source = self.raw(first + row + tap, columns.clone());
            }
            conv_body(&sources[..kernel], &taps[..kernel], out);
        }
    }

    /// Takes rows `rows`, all settled or all provisional, through all parts.
    #[inline(always)]
    fn rows(&self, rows: Range<usize>, memory: &mut Memory) {
        let (shape, query_at) = (&self.net.shape, self.query_at());
        let key_at = self.keys_at() + query_at;
        self.convolve(&rows, query_at..query_at + shape.key_dim, &mut memory.q);
        self.convolve(&rows, key_at..key_at + shape.key_dim, &mut memory.k);
        let query_scale = 1.0 / (shape.key_dim as f32).sqrt();
        l2_norm_body(&mut memory.q, shape.key_dim, query_scale);
        l2_norm_body(&mut memory.k, shape.key_dim, 1.0);
        if rows.start >= self.run.settled && self.owns_key_head() {
            // SAFETY: one task of the run owns the key head.
            let mut keys = unsafe { self.run.keys.block(self.key_head, shape.key_dim) };
            for (row, k) in memory.k.chunks_exact(shape.key_dim).enumerate() {
                let row = rows.start - self.run.settled + row;
                keys.row(row).copy_from_slice(k);
            }
        }
        for index in self.heads.clone() {
            let head = shape.value_head(self.key_head, index);
            let at = self.values_at(head);
            self.convolve(&rows, at..at + shape.value_dim, &mut memory.v);
            self.gates(&rows, head, memory);
            self.recur(&rows, (index, head), memory);
            self.gated_norm(&rows, head);
        }
    }

    /// Decay and beta of one head, and their record.
    #[inline(always)]
    fn gates(&self, rows: &Range<usize>, head: usize, memory: &mut Memory) {
        let (net, heads) = (self.net, self.net.shape.value_heads);
        let column = |all: &[f32], to: &mut Vec<f32>| {
            to.clear();
            to.extend(rows.clone().map(|row| all[row * heads + head]));
        };
        column(self.input.a, &mut memory.decay);
        column(self.input.b, &mut memory.beta);
        let (rate, bias) = (net.decay_rate[head], net.dt_bias[head]);
        for decay in &mut memory.decay {
            *decay = decay_of(*decay, rate, bias);
        }
        for beta in &mut memory.beta {
            *beta = sigmoid(*beta);
        }
        if rows.start >= self.run.settled {
            // SAFETY: one task of the run owns the value head.
            let mut decays = unsafe { self.run.decays.block(head, 1) };
            for (row, decay) in memory.decay.iter().enumerate() {
                decays.row(rows.start - self.run.settled + row)[0] = *decay;
            }
        }
    }

    /// The delta rule of one head: settled rows on its state, provisional ones on a copy.
    #[inline(always)]
    fn recur(&self, rows: &Range<usize>, (index, head): (usize, usize), memory: &mut Memory) {
        let (run, shape) = (self.run, &self.net.shape);
        let (dim, width) = (shape.value_dim, shape.width());
        let len = shape.key_dim * dim;
        // SAFETY: one task of the run owns the value head, and all heads have one shape.
        let (state, mut out, mut deltas) = unsafe {
            (
                run.state.part(head, len),
                run.out.block(head, dim),
                run.deltas.block(head, dim),
            )
        };
        let provisional = rows.start >= run.settled;
        let state = if provisional {
            memory.copy.resize(self.heads.len() * len, 0.0);
            let copy = &mut memory.copy[(index - self.heads.start) * len..][..len];
            if rows.start == run.settled {
                copy.copy_from_slice(state);
            }
            copy
        } else {
            state
        };
        for (block, state) in state.chunks_exact_mut(shape.key_dim * width).enumerate() {
            let columns = block * width..(block + 1) * width;
            let tokens = Tokens {
                rows: rows.len(),
                q: &memory.q,
                k: &memory.k,
                v: &memory.v[columns.start..],
                decay: &memory.decay,
                beta: &memory.beta,
                key_dim: shape.key_dim,
                key_stride: shape.key_dim,
                value_stride: dim,
                gate_stride: 1,
            };
            run_tokens(self.isa, width, &tokens, state, |row, delta, o| {
                let row = rows.start + row;
                out.row(row - run.rows.start)[columns.clone()].copy_from_slice(o);
                if provisional {
                    deltas.row(row - run.settled)[columns.clone()].copy_from_slice(delta);
                }
            });
        }
    }

    /// The gated norm of one head, in the output.
    #[inline(always)]
    fn gated_norm(&self, rows: &Range<usize>, head: usize) {
        let (net, dim) = (self.net, self.net.shape.value_dim);
        // SAFETY: one task of the run owns the value head; the block of the delta rule is gone.
        let mut out = unsafe { self.run.out.block(head, dim) };
        for row in rows.clone() {
            let ahead = row + ROWS_AHEAD;
            if ahead < rows.end {
                fetch(&self.input.z[ahead * net.shape.value_len() + head * dim..][..dim]);
            }
            let z = &self.input.z[row * net.shape.value_len() + head * dim..][..dim];
            gated_rms_norm_body(out.row(row - self.run.rows.start), &net.norm, net.eps, z);
        }
    }

    /// Writes the task's columns of the history after the settled rows.
    #[inline(always)]
    fn advance_history(&self) {
        let shape = &self.net.shape;
        let (query_at, keys_at) = (self.query_at(), self.keys_at());
        if self.owns_key_head() {
            self.keep(query_at..query_at + shape.key_dim);
            self.keep(keys_at + query_at..keys_at + query_at + shape.key_dim);
        }
        for index in self.heads.clone() {
            let at = self.values_at(shape.value_head(self.key_head, index));
            self.keep(at..at + shape.value_dim);
        }
    }

    /// Writes some columns of that history: they are whole units, the widest that all heads are made of.
    #[inline(always)]
    fn keep(&self, columns: Range<usize>) {
        let unit = common_divisor(self.net.shape.key_dim, self.net.shape.value_dim);
        let settled = self.run.settled - self.run.rows.start;
        for index in columns.start / unit..columns.end / unit {
            // SAFETY: one task of the run owns the columns, and all units have one width.
            let mut next = unsafe { self.run.next_history.block(index, unit) };
            for row in 0..next.rows() {
                let columns = next.columns();
                next.row(row)
                    .copy_from_slice(self.raw(settled + row, columns));
            }
        }
    }
}

/// Asks for values that will be read soon.
#[inline(always)]
fn fetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(64 / size_of::<f32>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Greatest common divisor.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
