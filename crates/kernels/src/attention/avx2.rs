//! The products of attention for AVX2: the 32 virtual lanes are four vectors.
//!
//! Owns the register tiles. Scores: 4 dots at a time, two of the four vectors in one pass, since 16 registers hold no
//! more. Values: 4 queries against 16 columns stay in registers over all keys of a block.
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::x86_64::*;

use super::micro::{KEYS, Panel, Scores};
use crate::kv::PAGE_POSITIONS;

/// Lanes `i + 8 * from` plus lanes `i + 8 * from + 16` of 4 dots: `R` queries with `K = 4 / R` keys; dot `r * K + k`.
///
/// # Safety
/// Needs AVX2 and FMA; `stride` values must be readable behind each row of `q` and `k`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn half<const R: usize, const K: usize>(
    q: *const f32,
    k: *const f32,
    stride: usize,
    from: usize,
) -> [__m256; 4] {
    let mut low = [[_mm256_setzero_ps(); K]; R];
    let mut high = [[_mm256_setzero_ps(); K]; R];
    let mut at = 8 * from;
    while at < stride {
        // SAFETY: at + 24 <= stride, since stride is a multiple of 32 and `from` is 0 or 1.
        unsafe {
            let mut keys = [[_mm256_setzero_ps(); 2]; K];
            for k_index in 0..K {
                let key = k.add(k_index * stride + at);
                keys[k_index] = [_mm256_loadu_ps(key), _mm256_loadu_ps(key.add(16))];
            }
            for r in 0..R {
                let query = q.add(r * stride + at);
                let (a, b) = (_mm256_loadu_ps(query), _mm256_loadu_ps(query.add(16)));
                for k_index in 0..K {
                    low[r][k_index] = _mm256_fmadd_ps(a, keys[k_index][0], low[r][k_index]);
                    high[r][k_index] = _mm256_fmadd_ps(b, keys[k_index][1], high[r][k_index]);
                }
            }
        }
        at += 32;
    }
    let mut sums = [_mm256_setzero_ps(); 4];
    for r in 0..R {
        for k_index in 0..K {
            sums[r * K + k_index] = _mm256_add_ps(low[r][k_index], high[r][k_index]);
        }
    }
    sums
}

/// The rest of the tree for 4 dots of 8 lanes each.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tree(v: [__m256; 4]) -> __m128 {
    let pair = |a, b| {
        _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x31>(a, b),
        )
    };
    let (ac, bd) = (pair(v[0], v[2]), pair(v[1], v[3]));
    let twos = _mm256_add_ps(
        _mm256_shuffle_ps::<0x44>(ac, bd),
        _mm256_shuffle_ps::<0xEE>(ac, bd),
    );
    // Chunk 0: two sums of dot 0, two of dot 1; chunk 1: dots 2 and 3.
    let (low, high) = (
        _mm256_castps256_ps128(twos),
        _mm256_extractf128_ps::<1>(twos),
    );
    _mm_add_ps(
        _mm_shuffle_ps::<0x88>(low, high),
        _mm_shuffle_ps::<0xDD>(low, high),
    )
}

/// Scores of `R` queries with 16 keys; `K = 4 / R`.
///
/// # Safety
/// As [`half`]; 16 rows of keys, and 16 values behind `out` in each of `R` rows of 64.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn strip<const R: usize, const K: usize>(
    q: *const f32,
    k: *const f32,
    stride: usize,
    scale: f32,
    out: *mut f32,
) {
    let mut key = 0;
    while key < KEYS {
        // SAFETY: keys key .. key + K are among the 16, and so are their scores.
        unsafe {
            let k = k.add(key * stride);
            let even = half::<R, K>(q, k, stride, 0);
            let odd = half::<R, K>(q, k, stride, 1);
            let mut eights = [_mm256_setzero_ps(); 4];
            for i in 0..4 {
                eights[i] = _mm256_add_ps(even[i], odd[i]);
            }
            let all = _mm_mul_ps(tree(eights), _mm_set1_ps(scale));
            let mut scores = [0f32; 4];
            _mm_storeu_ps(scores.as_mut_ptr(), all);
            for r in 0..R {
                let row = out.add(r * PAGE_POSITIONS + key);
                std::ptr::copy_nonoverlapping(scores.as_ptr().add(r * K), row, K);
            }
        }
        key += K;
    }
}

/// [`super::micro::scores`].
///
/// # Safety
/// Needs AVX2 and FMA, and the lengths that the caller checks.
#[target_feature(enable = "avx2,fma")]
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
            if n - query >= 2 {
                strip::<2, 2>(q, k, stride, scale, to);
                query += 2;
            } else {
                strip::<1, 4>(q, k, stride, scale, to);
                query += 1;
            }
        }
    }
}

/// `R` rows of 16 columns: `out * shrinks`, then the values of `keys`.
///
/// # Safety
/// Needs AVX2 and FMA; `R` rows behind `out` and `weights`, and 16 values in the row of each key, `values.1` apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const R: usize>(
    out: (*mut f32, usize),
    weights: *const f32,
    values: (*const f32, usize),
    keys: std::ops::Range<usize>,
    shrinks: [f32; R],
) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: all rows are as long as the caller says.
    unsafe {
        for r in 0..R {
            for c in 0..2 {
                let before = _mm256_loadu_ps(out.0.add(r * out.1 + 8 * c));
                acc[r][c] = _mm256_mul_ps(before, _mm256_set1_ps(shrinks[r]));
            }
        }
        for key in keys {
            let row = values.0.add(key * values.1);
            let (a, b) = (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8)));
            for r in 0..R {
                let weight = _mm256_set1_ps(*weights.add(r * PAGE_POSITIONS + key));
                acc[r][0] = _mm256_fmadd_ps(weight, a, acc[r][0]);
                acc[r][1] = _mm256_fmadd_ps(weight, b, acc[r][1]);
            }
        }
        for r in 0..R {
            for c in 0..2 {
                _mm256_storeu_ps(out.0.add(r * out.1 + 8 * c), acc[r][c]);
            }
        }
    }
}

/// [`super::micro::add_values`].
///
/// # Safety
/// Needs AVX2 and FMA, and the lengths that the caller checks.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add_values(what: &Panel<'_>, out: &mut [f32]) {
    for col in (0..what.width).step_by(16) {
        // SAFETY: widths are multiples of 32, so 16 columns from `col` on are in the panel.
        unsafe { columns(what, col, out) };
    }
}

/// All queries with 16 columns from `col` of the panel on.
///
/// # Safety
/// As [`add_values`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn columns(what: &Panel<'_>, col: usize, out: &mut [f32]) {
    let n = what.counts.len();
    let mut query = 0;
    while query < n {
        // SAFETY: query and the rows after it that are used are among the n; counts are at most 64.
        unsafe {
            let values = (what.values.as_ptr().add(col), what.width);
            let at = query * what.stride + what.col + col;
            let to = (out.as_mut_ptr().add(at), what.stride);
            let weights = what.weights.as_ptr().add(query * PAGE_POSITIONS);
            if let Some(counts) = what.counts[query..].first_chunk::<4>() {
                let shrinks = std::array::from_fn(|r| what.shrinks[query + r]);
                let common = counts.iter().copied().min().unwrap_or(0);
                add::<4>(to, weights, values, 0..common, shrinks);
                for (r, count) in counts.iter().enumerate() {
                    if *count > common {
                        let to = (to.0.add(r * to.1), to.1);
                        let weights = weights.add(r * PAGE_POSITIONS);
                        add::<1>(to, weights, values, common..*count, [1.0]);
                    }
                }
                query += 4;
            } else {
                let shrinks = [what.shrinks[query]];
                add::<1>(to, weights, values, 0..what.counts[query], shrinks);
                query += 1;
            }
        }
    }
}
