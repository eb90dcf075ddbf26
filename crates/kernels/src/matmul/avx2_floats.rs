//! Dot products of float rows for AVX2: the 32 virtual lanes are four vectors.
//!
//! A tile of many activation rows takes the columns block by block and passes over each block once for every vector of
//! lanes: the sums of all four would not fit the registers, and those of few outputs would wait for loads.
#![allow(
    unsafe_code,
    reason = "vector loads take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::x86_64::*;

use crate::WeightType;
use crate::weight::{bf16_to_f32, f16_to_f32};

use super::avx2::{load, load_half, prefetch_row};
use super::scalar::FLOAT_LANES;
use super::tile::{LANES, Operands, Parts, Tile, finish_lanes, part};

/// Bytes of 32 activations.
const ACT_BYTES: usize = 4 * FLOAT_LANES;

/// Chunks of 32 columns in a block, which stays in the first cache while a tile passes over it.
const BLOCK: usize = 16;

/// The vectors of lanes of all outputs of a tile.
type Accumulators<const W: usize, const A: usize> = [[[__m256; 4]; A]; W];

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($row:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for AVX2 alone, whose presence its callers have checked.
            const TILES: &[Tile] = unsafe {
                &[
                    Tile::new(3, 4, tile::<$row, $bytes, 3, 4, 1>),
                    Tile::new(2, 1, tile::<$row, $bytes, 2, 1, 4>),
                ]
            };
            TILES
        }};
    }
    match ty {
        WeightType::F16 => table!(F16, 64),
        WeightType::BF16 => table!(BF16, 64),
        _ => table!(F32, 128),
    }
}

/// A way to store weights, `BYTES` for 32 of them.
trait FloatRow<const BYTES: usize> {
    /// Bytes of one value.
    const WIDTH: usize;

    /// Values `8 * i .. 8 * i + 8`.
    ///
    /// # Safety
    /// Needs AVX2 and F16C.
    unsafe fn widen(chunk: &[u8; BYTES], i: usize) -> __m256;

    /// One value from its bytes.
    fn widen_one(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct BF16;

impl FloatRow<128> for F32 {
    const WIDTH: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 128], i: usize) -> __m256 {
        _mm256_castsi256_ps(load(chunk, 32 * i))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl FloatRow<64> for F16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> __m256 {
        _mm256_cvtph_ps(load_half(chunk, 16 * i))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

impl FloatRow<64> for BF16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> __m256 {
        let words = _mm256_cvtepu16_epi32(load_half(chunk, 16 * i));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        bf16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<
    K: FloatRow<BYTES>,
    const BYTES: usize,
    const W: usize,
    const A: usize,
    const TOGETHER: usize,
>(
    operands: &Operands<'_>,
) -> [f32; LANES] {
    let mut parts = Parts::new();
    for segment in 0..operands.segments {
        let mut w: [&[u8]; W] = [&[]; W];
        let mut a: [&[u8]; A] = [&[]; A];
        for i in 0..W {
            w[i] = part(operands.w[i], segment, operands.segments);
        }
        for j in 0..A {
            a[j] = part(operands.a[j], segment, operands.segments);
        }
        parts.set(
            segment,
            span::<K, BYTES, W, A, TOGETHER>(&w, &a, operands.ahead),
        );
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn span<
    K: FloatRow<BYTES>,
    const BYTES: usize,
    const W: usize,
    const A: usize,
    const TOGETHER: usize,
>(
    w: &[&[u8]; W],
    a: &[&[u8]; A],
    ahead: usize,
) -> [f32; LANES] {
    let mut wide = w.map(|row| row.as_chunks::<BYTES>().0);
    let mut acts = a.map(|row| row.as_chunks::<ACT_BYTES>().0);
    let mut acc = [[[_mm256_setzero_ps(); 4]; A]; W];
    // With all lanes in one pass there is nothing to come back for.
    let step = if TOGETHER == 4 { usize::MAX } else { BLOCK };
    while !wide[0].is_empty() {
        let len = step.min(wide[0].len());
        let mut block_w = [&[] as &[[u8; BYTES]]; W];
        let mut block_a = [&[] as &[[u8; ACT_BYTES]]; A];
        for i in 0..W {
            (block_w[i], wide[i]) = wide[i].split_at(len);
        }
        for j in 0..A {
            (block_a[j], acts[j]) = acts[j].split_at(len);
        }
        if TOGETHER == 4 {
            add_block::<K, BYTES, W, A, 0, 4>(&block_w, &block_a, ahead, &mut acc);
        } else {
            add_block::<K, BYTES, W, A, 0, 1>(&block_w, &block_a, ahead, &mut acc);
            add_block::<K, BYTES, W, A, 1, 1>(&block_w, &block_a, ahead, &mut acc);
            add_block::<K, BYTES, W, A, 2, 1>(&block_w, &block_a, ahead, &mut acc);
            add_block::<K, BYTES, W, A, 3, 1>(&block_w, &block_a, ahead, &mut acc);
        }
    }
    let mut out = [0f32; LANES];
    for i in 0..W {
        let rest = w[i].as_chunks::<BYTES>().1;
        for j in 0..A {
            let act_rest = a[j].as_chunks::<ACT_BYTES>().1;
            out[i * A + j] = if rest.is_empty() {
                tree(acc[i][j])
            } else {
                finish(
                    acc[i][j],
                    rest.chunks_exact(K::WIDTH).map(K::widen_one),
                    act_rest,
                )
            };
        }
    }
    out
}

/// Adds the products of a block in `COUNT` vectors of lanes from `FIRST` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block<
    K: FloatRow<BYTES>,
    const BYTES: usize,
    const W: usize,
    const A: usize,
    const FIRST: usize,
    const COUNT: usize,
>(
    w: &[&[[u8; BYTES]]; W],
    a: &[&[[u8; ACT_BYTES]]; A],
    ahead: usize,
    acc: &mut Accumulators<W, A>,
) {
    // Slices of one length, so that one check of an index does for all.
    let len = w[0].len();
    let (mut w, mut a) = (*w, *a);
    for row in &mut w {
        *row = &row[..len];
    }
    for row in &mut a {
        *row = &row[..len];
    }
    let mut sums = [[[_mm256_setzero_ps(); COUNT]; A]; W];
    for i in 0..W {
        for j in 0..A {
            for t in 0..COUNT {
                sums[i][j][t] = acc[i][j][FIRST + t];
            }
        }
    }
    for b in 0..len {
        for t in 0..COUNT {
            let mut weights = [_mm256_setzero_ps(); W];
            for i in 0..W {
                if A == 1 && t == 0 {
                    prefetch_row(&w[i][b], ahead);
                }
                // SAFETY: this function has the features that `widen` needs.
                weights[i] = unsafe { K::widen(&w[i][b], FIRST + t) };
            }
            for j in 0..A {
                let x = _mm256_castsi256_ps(load(&a[j][b], 32 * (FIRST + t)));
                for i in 0..W {
                    sums[i][j][t] = _mm256_fmadd_ps(weights[i], x, sums[i][j][t]);
                }
            }
        }
    }
    for i in 0..W {
        for j in 0..A {
            for t in 0..COUNT {
                acc[i][j][FIRST + t] = sums[i][j][t];
            }
        }
    }
}

/// Adds lanes 16, 8, 4, 2 and 1 apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tree(v: [__m256; 4]) -> f32 {
    tree_of_eight(_mm256_add_ps(
        _mm256_add_ps(v[0], v[2]),
        _mm256_add_ps(v[1], v[3]),
    ))
}

/// Adds lanes 4, 2 and 1 apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tree_of_eight(eight: __m256) -> f32 {
    let four = _mm_add_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The last columns, fewer than 32, one lane each, then the tree.
#[target_feature(enable = "avx2,fma,f16c")]
fn finish(v: [__m256; 4], weights: impl Iterator<Item = f32>, acts: &[u8]) -> f32 {
    let mut lanes = [0f32; FLOAT_LANES];
    for (v, out) in v.into_iter().zip(lanes.as_chunks_mut::<8>().0) {
        // SAFETY: eight floats are stored into an array of eight.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    }
    finish_lanes(&mut lanes, weights, acts)
}
