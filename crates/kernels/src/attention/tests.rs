//! Checks attention against the textbook formula, its own definition on other instruction sets, and other cuts.

use super::*;
use crate::KvType;
use crate::kv::Part;
use crate::math::{dot_body, exp, max_body, sigmoid, sum_body};
use crate::testing::{assert_close, bits, values};
use crate::{Pairing, rms_norm_in_place, rope};

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

/// A cache, a scattered page table, and the keys and values that were written.
struct Case {
    shape: AttendShape,
    store: KvStore,
    pages: Vec<u32>,
}

impl Case {
    /// `heads` query heads on 2 kv heads, with a cache of `positions`.
    fn new(ty: KvType, (heads, head_dim): (usize, usize), positions: u32) -> Self {
        let shape = AttendShape {
            heads,
            kv_heads: 2,
            head_dim,
            scale: 0.3,
            queries: QueryLayout::Plain,
        };
        let used = positions.div_ceil(64);
        let pages: Vec<u32> = (0..used).map(|i| (i * 7 + 3) % (used + 2)).collect();
        // 7 and the number of pages have no common factor, so no page comes twice.
        assert!(!(used + 2).is_multiple_of(7));
        let mut store = KvStore::new(ty, used + 2, 2, head_dim).unwrap();
        for position in 0..positions {
            let (k, v) = (
                values(2 * head_dim, 100 + u64::from(position)),
                values(2 * head_dim, 90_000 + u64::from(position)),
            );
            store.write(&pages, position, &k, &v);
        }
        Case {
            shape,
            store,
            pages,
        }
    }

    fn rows(&self, lens: impl IntoIterator<Item = u32>) -> Vec<AttendRow<'_>> {
        let row = |len| AttendRow {
            pages: &self.pages,
            len,
        };
        lens.into_iter().map(row).collect()
    }

    fn queries(&self, rows: usize, seed: u64) -> Vec<f32> {
        values(rows * self.shape.query_width(), seed)
    }

    /// Keys and values of a head as they are stored, in f32.
    fn stored(&self, kv_head: usize, len: usize) -> (Vec<f32>, Vec<f32>) {
        let dim = self.shape.head_dim;
        let (mut keys, mut rows) = (vec![], vec![]);
        let mut page = vec![0.0; 64 * dim];
        let part = Part {
            dim,
            row: 0,
            rows: 64,
            col: 0,
            cols: dim,
        };
        for number in &self.pages[..len.div_ceil(64)] {
            let keys_here = self.store.keys(*number, kv_head);
            keys_here.widen(Isa::Scalar, &part, &mut page, dim);
            keys.extend_from_slice(&page);
            let values_here = self.store.values(*number, kv_head);
            values_here.widen(Isa::Scalar, &part, &mut page, dim);
            rows.extend_from_slice(&page);
        }
        keys.truncate(len * dim);
        rows.truncate(len * dim);
        (keys, rows)
    }

    fn run(&self, pool: &Pool, isa: Isa, rows: &[AttendRow<'_>], queries: &[f32]) -> Vec<f32> {
        let mut out = vec![9.0; rows.len() * self.shape.heads * self.shape.head_dim];
        let attend = self.attend(rows, queries);
        attend_rows(pool, isa, &attend, &mut out, &mut AttendScratch::default());
        out
    }

    fn attend<'a>(&'a self, rows: &'a [AttendRow<'a>], queries: &'a [f32]) -> Attend<'a> {
        Attend {
            shape: &self.shape,
            store: &self.store,
            rows,
            queries,
        }
    }
}

/// The definition in the module's head, word for word, for one row and head.
fn defined(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f32> {
    let dim = q.len();
    let mut merged: Option<(f32, f32, Vec<f32>)> = None;
    for (keys, values) in keys.chunks(512 * dim).zip(values.chunks(512 * dim)) {
        let (mut m, mut l, mut o) = (f32::NEG_INFINITY, 0f32, vec![0f32; dim]);
        for (keys, values) in keys.chunks(64 * dim).zip(values.chunks(64 * dim)) {
            let mut p = [f32::NEG_INFINITY; 64];
            for (p, key) in p.iter_mut().zip(keys.chunks(dim)) {
                *p = dot_body(q, key) * scale;
            }
            let most = max_body(&p).max(m);
            let c = exp(m - most);
            p = p.map(|s| exp(s - most));
            (m, l) = (most, l * c + sum_body(&p));
            o.iter_mut().for_each(|o| *o *= c);
            for (p, value) in p.iter().zip(values.chunks(dim)) {
                for (o, v) in o.iter_mut().zip(value) {
                    *o = p.mul_add(*v, *o);
                }
            }
        }
        merged = Some(match merged {
            None => (m, l, o),
            Some((big_m, big_l, big_o)) => {
                let most = big_m.max(m);
                let (a, b) = (exp(big_m - most), exp(m - most));
                let both = big_o.iter().zip(&o);
                let o = both.map(|(big, o)| b.mul_add(*o, big * a)).collect();
                (most, big_l * a + l * b, o)
            }
        });
    }
    let (_, l, o) = merged.unwrap();
    o.iter().map(|o| o / l).collect()
}

/// The textbook formula in f64.
fn naive(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f64> {
    let dim = q.len();
    let dot = |key: &[f32]| -> f64 {
        let products = q
            .iter()
            .zip(key)
            .map(|(q, k)| f64::from(*q) * f64::from(*k));
        products.sum::<f64>() * f64::from(scale)
    };
    let scores: Vec<f64> = keys.chunks(dim).map(dot).collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
    let mut out = vec![0.0; dim];
    for (s, value) in scores.iter().zip(values.chunks(dim)) {
        for (out, v) in out.iter_mut().zip(value) {
            *out += (s - most).exp() / sum * f64::from(*v);
        }
    }
    out
}

/// What the definition gives for all rows and heads.
fn defined_rows(case: &Case, rows: &[AttendRow<'_>], queries: &[f32]) -> Vec<f32> {
    let shape = &case.shape;
    let group = shape.heads / shape.kv_heads;
    let longest = rows.iter().map(|row| row.len as usize).max().unwrap();
    let stored = [case.stored(0, longest), case.stored(1, longest)];
    let mut all = vec![];
    for (i, q) in queries.chunks(shape.head_dim).enumerate() {
        let (keys, values) = &stored[i % shape.heads / group];
        let seen = rows[i / shape.heads].len as usize * shape.head_dim;
        all.extend(defined(q, &keys[..seen], &values[..seen], shape.scale));
    }
    all
}

#[test]
fn every_set_pool_and_type_gives_the_bits_of_the_definition() {
    // Heads of 48 have a padded half block and a narrow panel; 3 heads a kv head leave odd queries, 8 fill a tile.
    for (heads, head_dim) in [(8, 48), (6, 96), (2, 128), (16, 64), (4, 20usize)] {
        for ty in TYPES {
            if ty == KvType::Q8 && !head_dim.is_multiple_of(32) {
                continue;
            }
            let case = Case::new(ty, (heads, head_dim), 1100);
            let lens = [
                1u32, 2, 63, 64, 65, 150, 511, 512, 513, 514, 515, 1024, 1100,
            ];
            let rows = case.rows(lens);
            let queries = case.queries(rows.len(), 40);
            let want = bits(&defined_rows(&case, &rows, &queries));
            for threads in [1, 3] {
                let pool = Pool::new(threads);
                for isa in Isa::usable() {
                    let got = case.run(&pool, isa, &rows, &queries);
                    assert_eq!(bits(&got), want, "{ty:?} {head_dim} {threads} {isa}");
                }
            }
        }
    }
}

#[test]
fn the_definition_is_softmax_attention() {
    for (ty, len) in [(KvType::F32, 300), (KvType::F32, 1100), (KvType::F16, 1100)] {
        let case = Case::new(ty, (8, 64), 1100);
        let rows = case.rows([len]);
        let queries = case.queries(1, 43);
        let got = case.run(&Pool::new(1), Isa::detect(), &rows, &queries);
        for (head, q) in queries.chunks(64).enumerate() {
            let (keys, values) = case.stored(head / 4, len as usize);
            let want = naive(q, &keys, &values, 0.3);
            assert_close(&got[head * 64..][..64], &want, 1e-5);
        }
    }
}

/// FNV-1a over the bits of all values.
fn fingerprint(x: &[f32]) -> u64 {
    let bytes = x.iter().flat_map(|x| x.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Recorded before there were spans: rows that see at most one span keep those bits.
#[test]
fn short_rows_keep_their_recorded_bits() {
    let cases = [
        (KvType::F16, (8, 64), 0x7247_4614_12af_2dd2),
        (KvType::F32, (6, 48), 0x4a27_3e15_2961_0761),
    ];
    for (ty, shape, want) in cases {
        let case = Case::new(ty, shape, 512);
        let rows = case.rows([1, 64, 65, 200, 511, 512]);
        let queries = case.queries(rows.len(), 70);
        let got = case.run(&Pool::new(2), Isa::detect(), &rows, &queries);
        assert_eq!(fingerprint(&got), want, "{ty:?}");
    }
}

/// Rows of one prompt, as prefill has them.
#[test]
fn a_prompt_gives_the_same_bits_in_any_tile_and_chunk() {
    let case = Case::new(KvType::F16, (12, 64), 700);
    let rows = case.rows(400..=700);
    let queries = case.queries(rows.len(), 44);
    let want = case.run(&Pool::new(1), Isa::detect(), &rows, &queries);
    assert_eq!(bits(&want), bits(&defined_rows(&case, &rows, &queries)));
    let width = case.shape.query_width();
    for chunk in [1, 7, 64, 200] {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            let mut got = vec![];
            for (rows, queries) in rows.chunks(chunk).zip(queries.chunks(chunk * width)) {
                got.extend(case.run(&pool, Isa::detect(), rows, queries));
            }
            assert_eq!(bits(&got), bits(&want), "{chunk} rows, {threads} threads");
        }
    }
}

#[test]
fn sequences_in_one_batch_do_not_change_each_other() {
    let case = Case::new(KvType::F16, (8, 64), 1500);
    let other = case.pages.clone();
    let mut rows = case.rows([1500, 3, 4]);
    rows.extend([5, 1400].map(|len| AttendRow { pages: &other, len }));
    let queries = case.queries(rows.len(), 45);
    let pool = Pool::new(3);
    let all = case.run(&pool, Isa::detect(), &rows, &queries);
    let (width, out) = (case.shape.query_width(), case.shape.heads * 64);
    for (i, row) in rows.iter().enumerate() {
        let alone = case.run(
            &pool,
            Isa::detect(),
            &[*row],
            &queries[i * width..][..width],
        );
        assert_eq!(bits(&alone), bits(&all[i * out..][..out]), "row {i}");
    }
}

#[test]
fn every_cut_gives_the_same_bits() {
    let case = Case::new(KvType::F32, (8, 32), 1700);
    let rows = case.rows(1600..=1631);
    let queries = case.queries(rows.len(), 46);
    let attend = case.attend(&rows, &queries);
    let want = bits(&defined_rows(&case, &rows, &queries));
    let mut kinds = [0; 2];
    for threads in [1, 2, 4, 16, 64] {
        let cut = Cut::new(&attend, threads);
        kinds[usize::from(cut.partials > 0)] += 1;
        let mut out = vec![0.0; want.len()];
        let mut scratch = AttendScratch::default();
        let pool = Pool::new(2);
        run_cut(&pool, Isa::detect(), &attend, &cut, &mut out, &mut scratch);
        assert_eq!(bits(&out), want, "{threads} threads");
    }
    assert!(
        kinds[0] > 0 && kinds[1] > 0,
        "both ways must be taken: {kinds:?}"
    );
}

#[test]
fn one_long_row_is_work_for_every_thread() {
    let case = Case::new(KvType::F16, (8, 32), 4096);
    let rows = case.rows([4096]);
    let queries = case.queries(1, 47);
    let cut = Cut::new(&case.attend(&rows, &queries), 4);
    assert_eq!(cut.tasks.len(), 2 * 8, "2 kv heads, 8 spans");
    let short = case.rows([100]);
    let cut = Cut::new(&case.attend(&short, &queries), 8);
    assert_eq!(
        cut.tasks.len(),
        8,
        "heads apart where nothing else can be cut"
    );
    let many = case.rows(3000..=3511);
    let queries = case.queries(many.len(), 48);
    let cut = Cut::new(&case.attend(&many, &queries), 2);
    assert_eq!(cut.partials, 0, "tiles enough");
    assert!(
        cut.tiles.iter().all(|tile| tile.rows == 32),
        "tiles are large"
    );
}

#[test]
fn gates_scale_the_outputs() {
    let mut case = Case::new(KvType::F32, (4, 32), 600);
    let rows = case.rows([5, 600]);
    let queries = case.queries(2, 49);
    let plain = case.run(&Pool::new(1), Isa::detect(), &rows, &queries);
    let gates = values(queries.len(), 50);
    let both: Vec<f32> = queries
        .chunks(32)
        .zip(gates.chunks(32))
        .flat_map(|(q, g)| [q, g].concat())
        .collect();
    let want: Vec<f32> = plain
        .iter()
        .zip(&gates)
        .map(|(x, g)| x * sigmoid(*g))
        .collect();
    let pages = case.pages.clone();
    case.shape.queries = QueryLayout::Gated;
    let rows = [5, 600].map(|len| AttendRow { pages: &pages, len });
    for threads in [1, 4] {
        let got = case.run(&Pool::new(threads), Isa::detect(), &rows, &both);
        assert_eq!(bits(&got), bits(&want), "{threads} threads");
    }
}

#[test]
fn far_apart_scores_stay_finite() {
    let pages: Vec<u32> = (0..20).collect();
    for heavy in [100, 900] {
        let mut store = KvStore::new(KvType::F32, 20, 2, 48).unwrap();
        for position in 0..1200 {
            let size = if position == heavy { 60.0 } else { -60.0 };
            store.write(&pages, position, &[size; 96], &[position as f32; 96]);
        }
        let mut case = Case::new(KvType::F32, (2, 48), 64);
        (case.store, case.pages) = (store, pages.clone());
        let rows = case.rows([1200]);
        let out = case.run(&Pool::new(2), Isa::detect(), &rows, &[1.0; 96]);
        assert_eq!(out, [heavy as f32; 96]);
    }
}

/// A stale page may hold anything behind the last position; it must not be seen.
#[test]
fn what_lies_behind_a_row_changes_nothing() {
    let mut case = Case::new(KvType::F32, (8, 64), 128);
    let pages = case.pages.clone();
    let rows: Vec<AttendRow> = (60..=70)
        .map(|len| AttendRow { pages: &pages, len })
        .collect();
    let queries = case.queries(rows.len(), 51);
    let pool = Pool::new(1);
    let before = case.run(&pool, Isa::detect(), &rows, &queries);
    for position in 70..128 {
        case.store
            .write(&pages, position, &[f32::NAN; 128], &[f32::INFINITY; 128]);
    }
    for isa in Isa::usable() {
        let after = case.run(&pool, isa, &rows, &queries);
        assert_eq!(bits(&after), bits(&before), "{isa}");
    }
}

/// Rounded caches: largest distance of an output from that of the f32 cache, where keys, values and queries are
/// in -2 .. 2 and the scale makes scores as large as those of trained models.
#[test]
fn rounded_caches_stay_within_their_bounds() {
    let len = 2000;
    let of = |ty| {
        let mut case = Case::new(ty, (8, 128), len);
        case.shape.scale = 1.0 / 128f32.sqrt();
        let rows = case.rows([len / 3, len]);
        let queries = case.queries(2, 52);
        case.run(&Pool::new(1), Isa::detect(), &rows, &queries)
    };
    let exact = of(KvType::F32);
    for (ty, bound) in [(KvType::F16, 3e-4), (KvType::Q8, 5e-3)] {
        let rounded = of(ty);
        let pairs = exact.iter().zip(&rounded);
        let worst = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        println!("{ty:?}: {worst:e}");
        assert!(worst < bound, "{ty:?}: {worst}");
        assert!(
            worst > bound / 20.0,
            "{ty:?}: the bound says nothing: {worst}"
        );
    }
}

#[test]
fn placing_norms_turns_and_stores() {
    let (dim, rows_count) = (64, 70);
    for queries_layout in [QueryLayout::Plain, QueryLayout::Gated] {
        let mut case = Case::new(KvType::F32, (4, dim), 128);
        case.shape.queries = queries_layout;
        let pages = case.pages.clone();
        let rows: Vec<AttendRow> = (31..31 + rows_count)
            .map(|len| AttendRow { pages: &pages, len })
            .collect();
        let (q_norm, k_norm) = (values(dim, 60), values(dim, 61));
        let (q, k) = (
            case.queries(rows.len(), 62),
            values(rows.len() * 2 * dim, 63),
        );
        let v = values(k.len(), 64);
        let angles = values(rows.len() * 16, 65);
        let place = |x: &[f32], norm: &[f32], row: usize| {
            let mut x = x.to_vec();
            rms_norm_in_place(Isa::Scalar, &mut x, norm, 1e-6);
            rope(
                Isa::Scalar,
                &mut x,
                dim,
                &angles[row * 16..][..16],
                Pairing::Halves,
            );
            x
        };
        let stride = case.shape.query_stride();
        let mut want_q = q.clone();
        for (i, head) in want_q.chunks_mut(stride).enumerate() {
            let placed = place(&head[..dim], &q_norm, i / 4);
            head[..dim].copy_from_slice(&placed);
        }
        let want_k: Vec<f32> = k
            .chunks(dim)
            .enumerate()
            .flat_map(|(i, head)| place(head, &k_norm, i / 2))
            .collect();
        for threads in [1, 3] {
            let (mut q, mut k) = (q.clone(), k.clone());
            let how = Placement {
                shape: &case.shape,
                q_norm: Some(&q_norm),
                k_norm: Some(&k_norm),
                norm_eps: 1e-6,
                angles: &angles,
                pairing: Pairing::Halves,
            };
            let pool = Pool::new(threads);
            let store = &mut case.store;
            place_rows(
                &pool,
                Isa::detect(),
                &how,
                &rows,
                &mut q,
                (&mut k, &v),
                store,
            );
            assert_eq!(bits(&q), bits(&want_q));
            assert_eq!(bits(&k), bits(&want_k));
            for head in 0..2 {
                let (keys, rows) = case.stored(head, 100);
                let of_head = |x: &[f32]| -> Vec<f32> {
                    let heads = x.chunks(dim).skip(head).step_by(2);
                    heads.flatten().copied().collect()
                };
                assert_eq!(bits(&keys[30 * dim..]), bits(&of_head(&want_k)));
                assert_eq!(bits(&rows[30 * dim..]), bits(&of_head(&v)));
            }
        }
    }
}
