//! Dot products of float rows for AVX-512: the 32 virtual lanes are two vectors.
#![allow(
    unsafe_code,
    reason = "vector stores take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::x86_64::*;

use crate::WeightType;
use crate::weight::{bf16_to_f32, f16_to_f32};

use super::avx2::{load, prefetch_row};
use super::avx2_floats::tree_of_eight;
use super::avx512::load_double;
use super::scalar::FLOAT_LANES;
use super::tile::{LANES, Operands, Parts, Tile, finish_lanes, part};

/// Bytes of 32 activations.
const ACT_BYTES: usize = 4 * FLOAT_LANES;

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($row:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for AVX-512 alone, whose presence its callers have checked.
            const TILES: &[Tile] = unsafe {
                &[
                    Tile::new(4, 3, tile::<$row, $bytes, 4, 3>),
                    Tile::new(4, 1, tile::<$row, $bytes, 4, 1>),
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

    /// Values `16 * i .. 16 * i + 16`.
    ///
    /// # Safety
    /// Needs AVX-512 F.
    unsafe fn widen(chunk: &[u8; BYTES], i: usize) -> __m512;

    /// One value from its bytes.
    fn widen_one(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct BF16;

impl FloatRow<128> for F32 {
    const WIDTH: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 128], i: usize) -> __m512 {
        _mm512_castsi512_ps(load_double(chunk, 64 * i))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl FloatRow<64> for F16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> __m512 {
        _mm512_cvtph_ps(load(chunk, 32 * i))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

impl FloatRow<64> for BF16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> __m512 {
        let words = _mm512_cvtepu16_epi32(load(chunk, 32 * i));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        bf16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tile<K: FloatRow<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
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
        parts.set(segment, span::<K, BYTES, W, A>(&w, &a, operands.ahead));
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn span<K: FloatRow<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[u8]; W],
    a: &[&[u8]; A],
    ahead: usize,
) -> [f32; LANES] {
    let wide = w.map(|row| row.as_chunks::<BYTES>().0);
    let acts = a.map(|row| row.as_chunks::<ACT_BYTES>().0);
    let mut acc = [[[_mm512_setzero_ps(); 2]; A]; W];
    for b in 0..wide[0].len() {
        if A == 1 {
            for i in 0..W {
                prefetch_row(&wide[i][b], ahead);
            }
        }
        for v in 0..2 {
            let mut weights = [_mm512_setzero_ps(); W];
            for i in 0..W {
                // SAFETY: this function has the features that `widen` needs.
                weights[i] = unsafe { K::widen(&wide[i][b], v) };
            }
            for j in 0..A {
                let x = _mm512_castsi512_ps(load_double(&acts[j][b], 64 * v));
                for i in 0..W {
                    acc[i][j][v] = _mm512_fmadd_ps(weights[i], x, acc[i][j][v]);
                }
            }
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

/// Adds lanes 16, 8, 4, 2 and 1 apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tree(v: [__m512; 2]) -> f32 {
    let sixteen = _mm512_add_ps(v[0], v[1]);
    let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sixteen)));
    tree_of_eight(_mm256_add_ps(_mm512_castps512_ps256(sixteen), upper))
}

/// The last columns, fewer than 32, one lane each, then the tree.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn finish(v: [__m512; 2], weights: impl Iterator<Item = f32>, acts: &[u8]) -> f32 {
    let mut lanes = [0f32; FLOAT_LANES];
    for (v, out) in v.into_iter().zip(lanes.as_chunks_mut::<16>().0) {
        // SAFETY: sixteen floats are stored into an array of sixteen.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
    }
    finish_lanes(&mut lanes, weights, acts)
}
