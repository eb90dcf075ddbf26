//! Softmax attention of one query row over a paged cache.
//!
//! Owns scores, online softmax and the weighted sum. Never decides which positions a row may see: the caller
//! gives their number. The idea: keys come in blocks of 64 anchored at position 0, so a row's result depends on
//! its own keys alone, however the prompt was cut; query heads that share a key head are computed together,
//! each with the roundings it has alone.
//!
//! Per block: `s = dot(q, k) * scale`; `m' = max(m, s..)`; `c = e^(m - m')`; `p = e^(s - m')`;
//! `l = l * c + sum(p)` (32 lanes and the tree); `o = o * c`, then `o += p * v` fused, keys ascending. At the end `o / l`.

use std::cell::RefCell;

use crate::kv::{KvStore, PAGE_POSITIONS};
use crate::math::{dot_body, exp, max_body, sum_body};
use crate::{Isa, Pool, parallel_chunks};

/// Value rows that are added in one pass over an output.
const VALUES_TOGETHER: usize = 4;

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
}

/// One query row.
#[derive(Debug, Clone, Copy)]
pub struct AttendRow<'a> {
    /// Page table of the row's sequence.
    pub pages: &'a [u32],
    /// Keys that the row sees: its position + 1.
    pub len: u32,
}

/// Running values of the softmax of one head, and its scores of the current block.
#[derive(Clone)]
struct Head {
    max: f32,
    sum: f32,
    scores: [f32; PAGE_POSITIONS],
}

/// Memory that a thread keeps between rows.
#[derive(Default)]
struct Scratch {
    heads: Vec<Head>,
    /// Value rows in f32.
    rows: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Turns scores into weights and rescales what was summed before.
#[inline(always)]
fn soften(head: &mut Head, out: &mut [f32]) {
    let block_max = max_body(&head.scores);
    let most = if block_max > head.max {
        block_max
    } else {
        head.max
    };
    let shrink = exp(head.max - most);
    for score in &mut head.scores {
        *score = exp(*score - most);
    }
    head.sum = head.sum * shrink + sum_body(&head.scores);
    head.max = most;
    for out in out {
        *out *= shrink;
    }
}

/// `out += weights[i] * values[i]` for one value row after another, each step fused.
#[inline(always)]
fn add_values(out: &mut [f32], weights: &[f32], values: &[f32]) {
    let dim = out.len();
    if let [w0, w1, w2, w3] = *weights {
        let (v0, rest) = values.split_at(dim);
        let (v1, rest) = rest.split_at(dim);
        let (v2, v3) = rest.split_at(dim);
        let values = v0.iter().zip(v1).zip(v2).zip(v3);
        for (out, (((v0, v1), v2), v3)) in out.iter_mut().zip(values) {
            *out = w3.mul_add(*v3, w2.mul_add(*v2, w1.mul_add(*v1, w0.mul_add(*v0, *out))));
        }
        return;
    }
    for (weight, values) in weights.iter().zip(values.chunks_exact(dim)) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = weight.mul_add(*value, *out);
        }
    }
}

#[inline(always)]
fn attend_body(
    shape: &AttendShape,
    store: &KvStore,
    (row, kv_head): (&AttendRow<'_>, usize),
    (q, out): (&[f32], &mut [f32]),
    scratch: &mut Scratch,
) {
    let (dim, len) = (shape.head_dim, row.len as usize);
    scratch.rows.resize(VALUES_TOGETHER * dim, 0.0);
    scratch.heads.clear();
    let fresh = Head {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        scores: [0.0; PAGE_POSITIONS],
    };
    scratch.heads.resize(q.len() / dim, fresh);
    out.fill(0.0);
    for (block, page) in row.pages[..len.div_ceil(PAGE_POSITIONS)].iter().enumerate() {
        let keys = PAGE_POSITIONS.min(len - block * PAGE_POSITIONS);
        for i in 0..keys {
            let key = store.key(store.at(*page, kv_head, i), &mut scratch.rows[..dim]);
            for (head, q) in scratch.heads.iter_mut().zip(q.chunks_exact(dim)) {
                head.scores[i] = dot_body(q, key) * shape.scale;
            }
        }
        for (head, out) in scratch.heads.iter_mut().zip(out.chunks_exact_mut(dim)) {
            head.scores[keys..].fill(f32::NEG_INFINITY);
            soften(head, out);
        }
        for first in (0..keys).step_by(VALUES_TOGETHER) {
            let together = VALUES_TOGETHER.min(keys - first);
            for (i, row) in scratch
                .rows
                .chunks_exact_mut(dim)
                .take(together)
                .enumerate()
            {
                store.value_into(store.at(*page, kv_head, first + i), row);
            }
            for (head, out) in scratch.heads.iter().zip(out.chunks_exact_mut(dim)) {
                let weights = &head.scores[first..first + together];
                add_values(out, weights, &scratch.rows);
            }
        }
    }
    for (head, out) in scratch.heads.iter().zip(out.chunks_exact_mut(dim)) {
        for out in out {
            *out /= head.sum;
        }
    }
}

kernel! {
    /// [`attend`] with its scratch, for a kv head.
    fn attend_heads(
        shape: &AttendShape,
        store: &KvStore,
        row: (&AttendRow<'_>, usize),
        q_out: (&[f32], &mut [f32]),
        scratch: &mut Scratch,
    ) = attend_body
}

/// Attention of some consecutive query heads of one row, from `first_head` on, that share a kv head; `q` and
/// `out` hold `head_dim` values for each.
///
/// # Panics
/// If lengths do not fit the shape, the row sees no key, its page table is too short, or the heads read
/// different kv heads.
pub fn attend(
    isa: Isa,
    shape: &AttendShape,
    store: &KvStore,
    row: &AttendRow<'_>,
    first_head: usize,
    q: &[f32],
    out: &mut [f32],
) {
    assert_eq!(
        store.shape(),
        (shape.kv_heads, shape.head_dim),
        "cache of another shape"
    );
    assert!(row.len > 0, "attention over no key");
    assert!(
        !q.is_empty() && q.len() == out.len(),
        "{} queries, {} outputs",
        q.len(),
        out.len()
    );
    assert_eq!(q.len() % shape.head_dim, 0, "broken heads");
    let group = shape.heads / shape.kv_heads;
    let last_head = first_head + q.len() / shape.head_dim - 1;
    assert!(
        last_head < shape.heads,
        "head {last_head} of {}",
        shape.heads
    );
    let kv_head = first_head / group;
    assert_eq!(last_head / group, kv_head, "heads of different kv heads");
    SCRATCH.with_borrow_mut(|scratch| {
        attend_heads(isa, shape, store, (row, kv_head), (q, out), scratch);
    });
}

/// Attention of all heads of all rows: `q` and `out` are `[rows][heads * head_dim]`. All keys and values that
/// the rows see must have been written before.
///
/// # Panics
/// As [`attend`].
pub fn attend_rows(
    pool: &Pool,
    isa: Isa,
    shape: &AttendShape,
    store: &KvStore,
    rows: &[AttendRow<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let group = shape.heads / shape.kv_heads;
    assert_eq!(
        group * shape.kv_heads,
        shape.heads,
        "kv heads that do not divide the heads"
    );
    assert_eq!(
        q.len(),
        rows.len() * shape.heads * shape.head_dim,
        "queries of another shape"
    );
    assert_eq!(q.len(), out.len(), "outputs of another shape");
    // Few rows leave threads idle if heads of a group stay together; together they share the widened rows.
    let mut together = group;
    while together.is_multiple_of(2) && rows.len() * shape.heads / together < 2 * pool.threads() {
        together /= 2;
    }
    let parts = shape.heads / together;
    let chunk = together * shape.head_dim;
    parallel_chunks(pool, out, chunk, |task, out| {
        let first_head = task % parts * together;
        attend(
            isa,
            shape,
            store,
            &rows[task / parts],
            first_head,
            &q[task * chunk..][..chunk],
            out,
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvType;
    use crate::testing::{assert_close, bits, values};

    const SHAPE: AttendShape = AttendShape {
        heads: 8,
        kv_heads: 2,
        head_dim: 48,
        scale: 0.3,
    };
    const POSITIONS: u32 = 150;
    const PAGES: [u32; 3] = [3, 1, 4];

    fn filled(ty: KvType) -> KvStore {
        let mut store = KvStore::new(ty, 5, 2, 48).unwrap();
        for position in 0..POSITIONS {
            let (k, v) = (
                values(96, 100 + u64::from(position)),
                values(96, 900 + u64::from(position)),
            );
            store.write(&PAGES, position, &k, &v);
        }
        store
    }

    /// The textbook formula in f64 over the stored keys and values.
    fn naive(store: &KvStore, head: usize, len: usize, q: &[f32]) -> Vec<f64> {
        let mut buffer = vec![0.0; 48];
        let at = |i: usize| store.at(PAGES[i / 64], head / 4, i % 64);
        let scores: Vec<f64> = (0..len)
            .map(|i| {
                let key = store.key(at(i), &mut buffer);
                0.3f32 as f64
                    * q.iter()
                        .zip(key)
                        .map(|(q, k)| f64::from(*q) * f64::from(*k))
                        .sum::<f64>()
            })
            .collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        let mut out = vec![0.0; 48];
        for (i, s) in scores.iter().enumerate() {
            store.value_into(at(i), &mut buffer);
            for (out, v) in out.iter_mut().zip(&buffer) {
                *out += (s - most).exp() / sum * f64::from(*v);
            }
        }
        out
    }

    #[test]
    fn follows_the_formula_on_every_set_and_pool() {
        for ty in [KvType::F32, KvType::F16] {
            let store = filled(ty);
            let lens = [1u32, 2, 63, 64, 65, 128, 150];
            let q = values(lens.len() * 8 * 48, 40);
            let rows: Vec<AttendRow> = lens
                .iter()
                .map(|len| AttendRow {
                    pages: &PAGES,
                    len: *len,
                })
                .collect();
            let want: Vec<f64> = q
                .chunks(48)
                .enumerate()
                .flat_map(|(i, q)| naive(&store, i % 8, lens[i / 8] as usize, q))
                .collect();
            let mut first: Option<Vec<u32>> = None;
            for threads in [1, 3] {
                let pool = Pool::new(threads);
                for isa in Isa::usable() {
                    let mut out = vec![9.0; q.len()];
                    attend_rows(&pool, isa, &SHAPE, &store, &rows, &q, &mut out);
                    assert_close(&out, &want, 1e-5);
                    assert_eq!(
                        first.get_or_insert_with(|| bits(&out)),
                        &bits(&out),
                        "{isa}"
                    );
                }
            }
        }
    }

    #[test]
    fn heads_alone_equal_heads_together_and_batches_change_nothing() {
        let store = filled(KvType::F16);
        let row = AttendRow {
            pages: &PAGES,
            len: 131,
        };
        let q = values(8 * 48, 41);
        let mut together = vec![0.0; q.len()];
        let pool = Pool::new(1);
        attend_rows(
            &pool,
            Isa::detect(),
            &SHAPE,
            &store,
            &[row],
            &q,
            &mut together,
        );
        for head in 0..8 {
            let mut alone = vec![0.0; 48];
            attend(
                Isa::detect(),
                &SHAPE,
                &store,
                &row,
                head,
                &q[head * 48..][..48],
                &mut alone,
            );
            assert_eq!(bits(&alone), bits(&together[head * 48..][..48]));
        }
        let other = AttendRow {
            pages: &PAGES,
            len: 70,
        };
        let (mut twice, mut out) = (q.clone(), vec![0.0; 2 * q.len()]);
        twice.extend_from_slice(&values(8 * 48, 42));
        attend_rows(
            &pool,
            Isa::detect(),
            &SHAPE,
            &store,
            &[row, other],
            &twice,
            &mut out,
        );
        assert_eq!(bits(&out[..q.len()]), bits(&together));
    }

    #[test]
    fn far_apart_scores_stay_finite() {
        let mut store = KvStore::new(KvType::F32, 5, 2, 48).unwrap();
        for position in 0..POSITIONS {
            let size = if position == 100 { 60.0 } else { -60.0 };
            store.write(&PAGES, position, &[size; 96], &[position as f32; 96]);
        }
        let mut out = vec![0.0; 48];
        let row = AttendRow {
            pages: &PAGES,
            len: POSITIONS,
        };
        attend(Isa::detect(), &SHAPE, &store, &row, 0, &[1.0; 48], &mut out);
        assert_eq!(out, [100.0; 48]);
    }
}
