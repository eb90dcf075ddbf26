//! The products of attention for AVX-512: the 32 virtual lanes are two vectors.
//!
//! Owns the register tiles. Scores: 4 queries against 2 keys at a time, two such groups (16 dots) end in one
//! transposing tree. Values: 4 queries against 64 columns stay in registers over all keys of a block.
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::x86_64::*;

use super::micro::{Halves, KEYS, Panel, Scores};
use crate::kv::PAGE_POSITIONS;

/// Sums of 16 dots whose lanes `i` and `i + 16` are already added: the rest of the tree, four dots a chunk; chunk `c`
/// holds dots `c, c + 4, c + 8, c + 12`.
#[inline]
#[target_feature(enable = "avx512f")]
fn tree(v: &[__m512; 16]) -> __m512 {
    let mut eights = [_mm512_setzero_ps(); 8];
    for i in 0..8 {
        let (a, b) = (v[2 * i], v[2 * i + 1]);
        eights[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x44>(a, b),
            _mm512_shuffle_f32x4::<0xEE>(a, b),
        );
    }
    let mut fours = [_mm512_setzero_ps(); 4];
    for i in 0..4 {
        let (a, b) = (eights[2 * i], eights[2 * i + 1]);
        fours[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0xDD>(a, b),
        );
    }
    let mut twos = [_mm512_setzero_ps(); 2];
    for i in 0..2 {
        let (a, b) = (fours[2 * i], fours[2 * i + 1]);
        twos[i] = _mm512_add_ps(
            _mm512_shuffle_ps::<0x44>(a, b),
            _mm512_shuffle_ps::<0xEE>(a, b),
        );
    }
    _mm512_add_ps(
        _mm512_shuffle_ps::<0x88>(twos[0], twos[1]),
        _mm512_shuffle_ps::<0xDD>(twos[0], twos[1]),
    )
}

/// 8 dots of `R` queries with `K = 8 / R` keys, each as 16 sums of lanes `i` and `i + 16`; dot `r * K + k`.
///
/// # Safety
/// Needs AVX-512 F; `stride` values must be readable behind each row of `q` and `k`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn dots<const R: usize, const K: usize>(
    q: *const f32,
    k: *const f32,
    stride: usize,
) -> [__m512; 8] {
    let mut low = [[_mm512_setzero_ps(); K]; R];
    let mut high = [[_mm512_setzero_ps(); K]; R];
    let mut at = 0;
    while at < stride {
        // SAFETY: at + 32 <= stride, since stride is a multiple of 32.
        unsafe {
            let mut keys = [[_mm512_setzero_ps(); 2]; K];
            for k_index in 0..K {
                let key = k.add(k_index * stride + at);
                keys[k_index] = [_mm512_loadu_ps(key), _mm512_loadu_ps(key.add(16))];
            }
            for r in 0..R {
                let query = q.add(r * stride + at);
                let (a, b) = (_mm512_loadu_ps(query), _mm512_loadu_ps(query.add(16)));
                for k_index in 0..K {
                    low[r][k_index] = _mm512_fmadd_ps(a, keys[k_index][0], low[r][k_index]);
                    high[r][k_index] = _mm512_fmadd_ps(b, keys[k_index][1], high[r][k_index]);
                }
            }
        }
        at += 32;
    }
    let mut sums = [_mm512_setzero_ps(); 8];
    for r in 0..R {
        for k_index in 0..K {
            sums[r * K + k_index] = _mm512_add_ps(low[r][k_index], high[r][k_index]);
        }
    }
    sums
}

/// Scores of `R` queries with 16 keys; `K = 8 / R`.
///
/// # Safety
/// As [`dots`]; 16 rows of keys, and 16 values behind `out` in each of `R` rows of 64.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn strip<const R: usize, const K: usize>(
    q: *const f32,
    k: *const f32,
    stride: usize,
    scale: f32,
    out: *mut f32,
) {
    let mut key = 0;
    while key < KEYS {
        let mut v = [_mm512_setzero_ps(); 16];
        for half in 0..2 {
            // SAFETY: keys key + half * K .. + K are among the 16.
            let sums = unsafe { dots::<R, K>(q, k.add((key + half * K) * stride), stride) };
            for r in 0..R {
                for k_index in 0..K {
                    // Chunk c = 4 lanes of one query: c = r * (4 / R) + key / 4, lane = key % 4.
                    let at = half * K + k_index;
                    v[4 * (at % 4) + r * (4 / R) + at / 4] = sums[r * K + k_index];
                }
            }
        }
        let all = _mm512_mul_ps(tree(&v), _mm512_set1_ps(scale));
        let mut scores = [0f32; 16];
        // SAFETY: 16 values; each chunk of 4 goes to 4 of the 16 scores of its query.
        unsafe {
            _mm512_storeu_ps(scores.as_mut_ptr(), all);
            for r in 0..R {
                let row = out.add(r * PAGE_POSITIONS + key);
                std::ptr::copy_nonoverlapping(scores.as_ptr().add(r * 2 * K), row, 2 * K);
            }
        }
        key += 2 * K;
    }
}

/// [`super::micro::scores`].
///
/// # Safety
/// Needs AVX-512 F, and the lengths that the caller checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn scores(what: &Scores<'_>, out: &mut [f32]) {
    let (stride, n) = (what.stride, what.queries.len() / what.stride);
    let (k, scale) = (what.keys.as_ptr(), what.scale);
    let mut query = 0;
    while query < n {
        // SAFETY: rows query .. query + R are among the n, for which there are outputs.
        unsafe {
            let q = what.queries.as_ptr().add(query * stride);
            let to = out
                .as_mut_ptr()
                .add(query * PAGE_POSITIONS + what.first_key);
            query += match n - query {
                1 => {
                    strip::<1, 8>(q, k, stride, scale, to);
                    1
                }
                2 | 3 => {
                    strip::<2, 4>(q, k, stride, scale, to);
                    2
                }
                _ => {
                    strip::<4, 2>(q, k, stride, scale, to);
                    4
                }
            };
        }
    }
}

/// Values as a panel or a cache holds them.
trait Stored: Copy {
    /// 16 values from `at` on.
    ///
    /// # Safety
    /// Needs AVX-512 F; 16 values must be readable.
    unsafe fn sixteen(at: *const Self) -> __m512;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn sixteen(at: *const Self) -> __m512 {
        // SAFETY: as the trait says.
        unsafe { _mm512_loadu_ps(at) }
    }
}

/// Half precision.
impl Stored for u16 {
    #[inline(always)]
    unsafe fn sixteen(at: *const Self) -> __m512 {
        // SAFETY: as the trait says; 16 stored values are 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
}

/// `R` rows of `C` vectors: `out * shrinks`, then the values of keys `from .. to`.
///
/// # Safety
/// Needs AVX-512 F; `R` rows behind `out` and `weights`, `to` rows of `16 * C` values from `values` on, `width` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add<S: Stored, const R: usize, const C: usize>(
    out: (*mut f32, usize),
    weights: *const f32,
    values: (*const S, usize),
    keys: std::ops::Range<usize>,
    shrinks: [f32; R],
) {
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    // SAFETY: all rows are as long as the caller says.
    unsafe {
        for r in 0..R {
            for c in 0..C {
                let before = _mm512_loadu_ps(out.0.add(r * out.1 + 16 * c));
                acc[r][c] = _mm512_mul_ps(before, _mm512_set1_ps(shrinks[r]));
            }
        }
        for key in keys {
            let mut row = [_mm512_setzero_ps(); C];
            for c in 0..C {
                row[c] = S::sixteen(values.0.add(key * values.1 + 16 * c));
            }
            for r in 0..R {
                let weight = _mm512_set1_ps(*weights.add(r * PAGE_POSITIONS + key));
                for c in 0..C {
                    acc[r][c] = _mm512_fmadd_ps(weight, row[c], acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                _mm512_storeu_ps(out.0.add(r * out.1 + 16 * c), acc[r][c]);
            }
        }
    }
}

/// All queries with `C` vectors of columns, the whole width of the panel.
///
/// # Safety
/// As [`add_values`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns<const C: usize>(what: &Panel<'_>, out: &mut [f32]) {
    let n = what.counts.len();
    let values = (what.values.as_ptr(), what.width);
    let mut query = 0;
    while query < n {
        // SAFETY: query and the rows after it that are used are among the n; counts are at most 64.
        unsafe {
            let to = (
                out.as_mut_ptr().add(query * what.stride + what.col),
                what.stride,
            );
            let weights = what.weights.as_ptr().add(query * PAGE_POSITIONS);
            if let Some(counts) = what.counts[query..].first_chunk::<4>() {
                let shrinks = std::array::from_fn(|r| what.shrinks[query + r]);
                let common = counts.iter().copied().min().unwrap_or(0);
                add::<f32, 4, C>(to, weights, values, 0..common, shrinks);
                for (r, count) in counts.iter().enumerate() {
                    if *count > common {
                        let to = (to.0.add(r * to.1), to.1);
                        let weights = weights.add(r * PAGE_POSITIONS);
                        add::<f32, 1, C>(to, weights, values, common..*count, [1.0]);
                    }
                }
                query += 4;
            } else {
                let shrinks = [what.shrinks[query]];
                add::<f32, 1, C>(to, weights, values, 0..what.counts[query], shrinks);
                query += 1;
            }
        }
    }
}

/// [`super::micro::add_values`].
///
/// # Safety
/// Needs AVX-512 F, and the lengths that the caller checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn add_values(what: &Panel<'_>, out: &mut [f32]) {
    // SAFETY: passed on.
    unsafe {
        match what.width {
            64 => columns::<4>(what, out),
            _ => columns::<2>(what, out),
        }
    }
}

/// [`super::micro::add_halves`].
///
/// # Safety
/// Needs AVX-512 F, and the lengths that the caller checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn add_halves(what: &Halves<'_>, out: &mut [f32]) {
    let n = what.shrinks.len();
    for col in (0..what.dim).step_by(32) {
        let values = (what.values[col..].as_ptr(), what.dim);
        let mut query = 0;
        while query < n {
            // SAFETY: the queries used are among the n; rows are made of whole 32s, and there are `count` of them.
            unsafe {
                let to = (out.as_mut_ptr().add(query * what.dim + col), what.dim);
                let weights = what.weights.as_ptr().add(query * PAGE_POSITIONS);
                let keys = 0..what.count;
                let shrinks = &what.shrinks[query..];
                if let Some(shrinks) = shrinks.first_chunk::<8>() {
                    add::<u16, 8, 2>(to, weights, values, keys, *shrinks);
                    query += 8;
                } else if let Some(shrinks) = shrinks.first_chunk::<4>() {
                    add::<u16, 4, 2>(to, weights, values, keys, *shrinks);
                    query += 4;
                } else {
                    add::<u16, 1, 2>(to, weights, values, keys, [shrinks[0]]);
                    query += 1;
                }
            }
        }
    }
}
