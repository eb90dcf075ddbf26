//! Dot products of float rows for NEON: the 32 virtual lanes are eight vectors.
#![allow(
    unsafe_code,
    reason = "vector stores take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::aarch64::*;

use crate::WeightType;
use crate::weight::{bf16_to_f32, f16_to_f32};

use super::neon::{load, widen_halves};
use super::scalar::FLOAT_LANES;
use super::tile::{LANES, Operands, Parts, Tile, finish_lanes, part};

/// Bytes of 32 activations.
const ACT_BYTES: usize = 4 * FLOAT_LANES;
/// Vectors that hold the virtual lanes.
const VECTORS: usize = FLOAT_LANES / 4;

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($row:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for NEON alone, whose presence its callers have checked.
            const TILES: &[Tile] = unsafe {
                &[
                    Tile::new(1, 3, tile::<$row, $bytes, 1, 3>),
                    Tile::new(2, 1, tile::<$row, $bytes, 2, 1>),
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
    /// Needs NEON.
    unsafe fn widen(chunk: &[u8; BYTES], i: usize) -> [float32x4_t; 2];

    /// One value from its bytes.
    fn widen_one(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct BF16;

impl FloatRow<128> for F32 {
    const WIDTH: usize = 4;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn widen(chunk: &[u8; 128], i: usize) -> [float32x4_t; 2] {
        [
            vreinterpretq_f32_u8(load(chunk, 32 * i)),
            vreinterpretq_f32_u8(load(chunk, 32 * i + 16)),
        ]
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl FloatRow<64> for F16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> [float32x4_t; 2] {
        let halves = vreinterpretq_u16_u8(load(chunk, 16 * i));
        [
            widen_halves(vget_low_u16(halves)),
            widen_halves(vget_high_u16(halves)),
        ]
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

impl FloatRow<64> for BF16 {
    const WIDTH: usize = 2;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn widen(chunk: &[u8; 64], i: usize) -> [float32x4_t; 2] {
        let words = vreinterpretq_u16_u8(load(chunk, 16 * i));
        [
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(words))),
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(words))),
        ]
    }

    #[inline]
    fn widen_one(bytes: &[u8]) -> f32 {
        bf16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

#[target_feature(enable = "neon,dotprod")]
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
        parts.set(segment, span::<K, BYTES, W, A>(&w, &a));
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn span<K: FloatRow<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[u8]; W],
    a: &[&[u8]; A],
) -> [f32; LANES] {
    let wide = w.map(|row| row.as_chunks::<BYTES>().0);
    let acts = a.map(|row| row.as_chunks::<ACT_BYTES>().0);
    let mut acc = [[[vdupq_n_f32(0.0); VECTORS]; A]; W];
    for b in 0..wide[0].len() {
        for i in 0..W {
            for pair in 0..VECTORS / 2 {
                // SAFETY: this function has the features that `widen` needs.
                let weights = unsafe { K::widen(&wide[i][b], pair) };
                for j in 0..A {
                    for half in 0..2 {
                        let v = 2 * pair + half;
                        let x = vreinterpretq_f32_u8(load(&acts[j][b], 16 * v));
                        acc[i][j][v] = vfmaq_f32(acc[i][j][v], weights[half], x);
                    }
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
#[target_feature(enable = "neon,dotprod")]
fn tree(mut v: [float32x4_t; VECTORS]) -> f32 {
    for apart in [4, 2, 1] {
        for i in 0..apart {
            v[i] = vaddq_f32(v[i], v[i + apart]);
        }
    }
    vpadds_f32(vadd_f32(vget_low_f32(v[0]), vget_high_f32(v[0])))
}

/// The last columns, fewer than 32, one lane each, then the tree.
#[target_feature(enable = "neon,dotprod")]
fn finish(v: [float32x4_t; VECTORS], weights: impl Iterator<Item = f32>, acts: &[u8]) -> f32 {
    let mut lanes = [0f32; FLOAT_LANES];
    for (v, out) in v.into_iter().zip(lanes.chunks_exact_mut(4)) {
        // SAFETY: four floats are stored into a chunk of four.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) };
    }
    finish_lanes(&mut lanes, weights, acts)
}
