//! What happens to queries, keys and values between their projection and attention, in one region.
//!
//! Owns the norm and rotation of queries and keys, and the write of keys and values into the cache. It never
//! attends. The idea: tasks for the keys of a kv head write that head's cache rows alone, tasks for rows of queries
//! write those rows alone, so all run at once.

use super::{AttendRow, AttendShape};
use crate::kv::KvStore;
use crate::pool::Split;
use crate::{Isa, Pairing, Pool, rms_norm_in_place, rope};

/// Query rows of a task.
const ROWS: usize = 8;
/// Values below which a region costs more than it saves.
const VALUES_ALONE: usize = 16 << 10;

/// How queries and keys are normed and turned.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// The layer's shape.
    pub shape: &'a AttendShape,
    /// Weights of the queries' norm.
    pub q_norm: Option<&'a [f32]>,
    /// Weights of the keys' norm.
    pub k_norm: Option<&'a [f32]>,
    /// Added to the mean of squares.
    pub norm_eps: f32,
    /// Angles of every row: `[rows][rotated values]`.
    pub angles: &'a [f32],
    /// Which values are turned together.
    pub pairing: Pairing,
}

impl Placement<'_> {
    /// Norm and rotation of one head.
    fn place(&self, isa: Isa, norm: Option<&[f32]>, head: &mut [f32], angles: &[f32]) {
        if let Some(norm) = norm {
            rms_norm_in_place(isa, head, norm, self.norm_eps);
        }
        rope(isa, head, head.len(), angles, self.pairing);
    }
}

/// Norms and turns `queries` (`[rows][query_width]`) and `k` (`[rows][kv_heads * head_dim]`), and writes `k` and `v`
/// into the cache, each row at position `len - 1` of its sequence.
///
/// # Panics
/// If lengths do not fit the shape or a page table is too short.
pub fn place_rows(
    pool: &Pool,
    isa: Isa,
    how: &Placement<'_>,
    rows: &[AttendRow<'_>],
    queries: &mut [f32],
    (k, v): (&mut [f32], &[f32]),
    store: &mut KvStore,
) {
    let (shape, dim) = (how.shape, how.shape.head_dim);
    assert_eq!(
        store.shape(),
        (shape.kv_heads, dim),
        "cache of another shape"
    );
    let width = shape.query_width();
    assert_eq!(
        queries.len(),
        rows.len() * width,
        "queries of another shape"
    );
    assert_eq!(
        k.len(),
        rows.len() * shape.kv_heads * dim,
        "keys of another shape"
    );
    assert_eq!(k.len(), v.len(), "keys and values of different shapes");
    if rows.is_empty() {
        return;
    }
    let turned = how.angles.len() / rows.len();
    assert_eq!(how.angles.len(), rows.len() * turned, "broken angles");
    let angles = |row: usize| &how.angles[row * turned..][..turned];
    let (all_q, all_k, writer) = (Split::new(queries), Split::new(k), store.writer());
    let keys = |head: usize| {
        for (i, row) in rows.iter().enumerate() {
            let at = i * shape.kv_heads + head;
            // SAFETY: rows of this head belong to this task.
            let key = unsafe { all_k.part(at, dim) };
            how.place(isa, how.k_norm, key, angles(i));
            let value = &v[at * dim..][..dim];
            // SAFETY: this task alone writes this head.
            unsafe { writer.write((row.pages, row.len - 1), head, (key, value)) };
        }
    };
    let tasks = shape.kv_heads + rows.len().div_ceil(ROWS);
    let task = |index: usize| {
        if index < shape.kv_heads {
            keys(index);
            return;
        }
        let chunk = index - shape.kv_heads;
        // SAFETY: the chunk belongs to this task.
        let rows = unsafe { all_q.part(chunk, ROWS * width) };
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            for head in row.chunks_exact_mut(shape.query_stride()) {
                how.place(isa, how.q_norm, &mut head[..dim], angles(chunk * ROWS + i));
            }
        }
    };
    if rows.len() * width < VALUES_ALONE {
        (0..tasks).for_each(task);
    } else {
        pool.run(tasks, &task);
    }
}
