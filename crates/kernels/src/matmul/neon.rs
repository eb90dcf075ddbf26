//! Dot products of quantised rows for NEON with the dot product extension.
//!
//! `sdot` sums four signed products into each 32-bit lane, exactly, so all formats go the same way. Its
//! intrinsic is not stable in the standard library: it is one line of assembly here.
#![allow(
    unsafe_code,
    reason = "vector loads take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use crate::WeightType;
use crate::acts::{Q8_0_BYTES, Q8K_BYTES, Q8K_SUMS};
use crate::dequant::scales_and_mins;

use super::neon_floats;
use super::tile::{A_MAX, LANES, Operands, Parts, Tile, W_MAX, blocks, f32_at, u16_at};

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($run:ident, $block:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for NEON alone, whose presence its callers have checked.
            const TILES: &[Tile] = unsafe {
                &[
                    Tile::new(1, 8, $run::<$block, $bytes, 1, 8>),
                    Tile::new(1, 4, $run::<$block, $bytes, 1, 4>),
                    Tile::new(4, 1, $run::<$block, $bytes, 4, 1>),
                ]
            };
            TILES
        }};
    }
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => neon_floats::tiles(ty),
        WeightType::Q8_0 => table!(small_tile, Q8_0, 34),
        WeightType::Q4_0 => table!(small_tile, Q4_0, 18),
        WeightType::Q4K => table!(super_tile, Q4K, 144),
        WeightType::Q5K => table!(super_tile, Q5K, 176),
        WeightType::Q6K => table!(super_tile, Q6K, 210),
    }
}

/// A block of 256 made ready for activations.
struct Unpacked {
    /// Quants, ascending, before anything is taken off.
    q: [int8x16_t; 16],
    /// The scale of each 16 values.
    scales: [i32; 16],
    /// What the 16 group sums of the activations are multiplied by.
    of_sums: [int16x8_t; 2],
}

trait SuperBlock<const BYTES: usize> {
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;

    /// # Safety
    /// Needs NEON.
    unsafe fn unpack(block: &[u8; BYTES]) -> Unpacked;

    /// `d` and, with `MINS`, `dmin`, as f16.
    fn deltas(block: &[u8; BYTES]) -> (u16, u16);
}

struct Q4K;
struct Q5K;
struct Q6K;

impl SuperBlock<144> for Q4K {
    const MINS: bool = true;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(block: &[u8; 144]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let mut q = [vdupq_n_s8(0); 16];
        for j in 0..4 {
            for half in 0..2 {
                let qs = load(block, 16 + 32 * j + 16 * half);
                q[4 * j + half] = vreinterpretq_s8_u8(vandq_u8(qs, vdupq_n_u8(15)));
                q[4 * j + 2 + half] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(qs));
            }
        }
        Unpacked { q, scales, of_sums }
    }

    #[inline]
    fn deltas(block: &[u8; 144]) -> (u16, u16) {
        (u16_at(block, 0), u16_at(block, 2))
    }
}

impl SuperBlock<176> for Q5K {
    const MINS: bool = true;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(block: &[u8; 176]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let fifth = vdupq_n_u8(16);
        let high = [load(block, 16), load(block, 32)];
        let mut q = [vdupq_n_s8(0); 16];
        for (j, bits) in [1u8, 4, 16, 64].into_iter().enumerate() {
            for half in 0..2 {
                let qs = load(block, 48 + 32 * j + 16 * half);
                let low = vandq_u8(vtstq_u8(high[half], vdupq_n_u8(bits)), fifth);
                let upper = vandq_u8(vtstq_u8(high[half], vdupq_n_u8(2 * bits)), fifth);
                let nibble = vandq_u8(qs, vdupq_n_u8(15));
                q[4 * j + half] = vreinterpretq_s8_u8(vorrq_u8(nibble, low));
                q[4 * j + 2 + half] = vreinterpretq_s8_u8(vorrq_u8(vshrq_n_u8::<4>(qs), upper));
            }
        }
        Unpacked { q, scales, of_sums }
    }

    #[inline]
    fn deltas(block: &[u8; 176]) -> (u16, u16) {
        (u16_at(block, 0), u16_at(block, 2))
    }
}

impl SuperBlock<210> for Q6K {
    const MINS: bool = false;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(block: &[u8; 210]) -> Unpacked {
        let nibble = vdupq_n_u8(15);
        let top = vdupq_n_u8(0x30);
        let mut q = [vdupq_n_s8(0); 16];
        for n in 0..2 {
            for half in 0..2 {
                let low = load(block, 64 * n + 16 * half);
                let low2 = load(block, 64 * n + 32 + 16 * half);
                let high = load(block, 128 + 32 * n + 16 * half);
                let parts = [
                    (vandq_u8(low, nibble), vshlq_n_u8::<4>(high)),
                    (vandq_u8(low2, nibble), vshlq_n_u8::<2>(high)),
                    (vshrq_n_u8::<4>(low), high),
                    (vshrq_n_u8::<4>(low2), vshrq_n_u8::<2>(high)),
                ];
                for (i, (low, high)) in parts.into_iter().enumerate() {
                    let value = vorrq_u8(low, vandq_u8(high, top));
                    q[8 * n + 2 * i + half] = vreinterpretq_s8_u8(value);
                }
            }
        }
        let mut scales = [0i32; 16];
        for (scale, stored) in scales.iter_mut().zip(&block[192..208]) {
            *scale = i32::from(stored.cast_signed());
        }
        let stored = vreinterpretq_s8_u8(load(block, 192));
        // A value is q - 32, so each group sum counts -32 times its scale.
        let of_sums = [
            vmulq_n_s16(vmovl_s8(vget_low_s8(stored)), -32),
            vmulq_n_s16(vmovl_s8(vget_high_s8(stored)), -32),
        ];
        Unpacked { q, scales, of_sums }
    }

    #[inline]
    fn deltas(block: &[u8; 210]) -> (u16, u16) {
        (u16_at(block, 208), 0)
    }
}

/// The packed scales of Q4_K and Q5_K, which both keep them after two f16.
#[inline]
fn packed<const N: usize>(block: &[u8; N]) -> &[u8; 12] {
    let (_, rest) = block.split_at(4);
    let (scales, _) = rest.as_chunks::<12>();
    &scales[0]
}

/// The scale and the min of each of the 16 groups.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn six_bit_scales(packed: &[u8; 12]) -> ([i32; 16], [int16x8_t; 2]) {
    let (scales, mins) = scales_and_mins(packed);
    let mut out = [0i32; 16];
    for (pair, scale) in out.chunks_exact_mut(2).zip(scales.to_le_bytes()) {
        pair.fill(i32::from(scale));
    }
    let mins = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(mins)));
    (out, [vzip1q_s16(mins, mins), vzip2q_s16(mins, mins)])
}

#[target_feature(enable = "neon,dotprod")]
fn super_tile<K: SuperBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    operands: &Operands<'_>,
) -> [f32; LANES] {
    let mut parts = Parts::new();
    for segment in 0..operands.segments {
        let (w, a) = blocks::<BYTES, Q8K_BYTES, W, A>(operands, segment);
        parts.set(segment, super_span::<K, BYTES, W, A>(&w, &a));
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn super_span<K: SuperBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[[u8; BYTES]]; W_MAX],
    a: &[&[[u8; Q8K_BYTES]]; A_MAX],
) -> [f32; LANES] {
    let mut acc = [vdupq_n_f32(0.0); 2];
    for b in 0..w[0].len() {
        let mut sums = [vdupq_n_s32(0); LANES];
        let mut min_sums = [vdupq_n_s32(0); LANES];
        let (mut deltas, mut min_deltas) = ([0u16; W], [0u16; W]);
        for i in 0..W {
            let block = &w[i][b];
            // SAFETY: this function has the features that `unpack` needs.
            let unpacked = unsafe { K::unpack(block) };
            (deltas[i], min_deltas[i]) = K::deltas(block);
            for j in 0..A {
                let with_sums = dot_sums(&a[j][b], unpacked.of_sums);
                let start = if K::MINS {
                    min_sums[i * A + j] = with_sums;
                    vdupq_n_s32(0)
                } else {
                    with_sums
                };
                sums[i * A + j] = dot(&unpacked, &a[j][b], start);
            }
        }
        let mut scales = [0f32; A];
        for j in 0..A {
            scales[j] = f32_at(&a[j][b], 0);
        }
        let d = lane_scales::<W, A>(deltas, scales);
        let sums = sums_to_lanes::<W, A>(&sums);
        for half in 0..2 {
            acc[half] = vfmaq_f32(acc[half], d[half], sums[half]);
        }
        if K::MINS {
            let d = lane_scales::<W, A>(min_deltas, scales);
            let sums = sums_to_lanes::<W, A>(&min_sums);
            for half in 0..2 {
                acc[half] = vfmsq_f32(acc[half], d[half], sums[half]);
            }
        }
    }
    store(acc)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(w: &Unpacked, act: &[u8; Q8K_BYTES], start: int32x4_t) -> int32x4_t {
    let mut sum = start;
    for j in 0..16 {
        let x = vreinterpretq_s8_u8(load(act, 4 + 16 * j));
        sum = vmlaq_n_s32(sum, sdot(vdupq_n_s32(0), w.q[j], x), w.scales[j]);
    }
    sum
}

/// Products with the 16 group sums of a block of activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_sums(act: &[u8; Q8K_BYTES], of_sums: [int16x8_t; 2]) -> int32x4_t {
    let mut sum = vdupq_n_s32(0);
    for (half, of) in of_sums.into_iter().enumerate() {
        let sums = vreinterpretq_s16_u8(load(act, Q8K_SUMS + 16 * half));
        sum = vmlal_s16(sum, vget_low_s16(sums), vget_low_s16(of));
        sum = vmlal_s16(sum, vget_high_s16(sums), vget_high_s16(of));
    }
    sum
}

/// A block of 32 made ready for activations.
trait SmallBlock<const BYTES: usize> {
    /// The signed quants.
    ///
    /// # Safety
    /// Needs NEON.
    unsafe fn unpack(block: &[u8; BYTES]) -> [int8x16_t; 2];
}

struct Q8_0;
struct Q4_0;

impl SmallBlock<34> for Q8_0 {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(block: &[u8; 34]) -> [int8x16_t; 2] {
        [
            vreinterpretq_s8_u8(load(block, 2)),
            vreinterpretq_s8_u8(load(block, 18)),
        ]
    }
}

impl SmallBlock<18> for Q4_0 {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(block: &[u8; 18]) -> [int8x16_t; 2] {
        let qs = load(block, 2);
        let eight = vdupq_n_s8(8);
        [
            vsubq_s8(vreinterpretq_s8_u8(vandq_u8(qs, vdupq_n_u8(15))), eight),
            vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8::<4>(qs)), eight),
        ]
    }
}

#[target_feature(enable = "neon,dotprod")]
fn small_tile<K: SmallBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    operands: &Operands<'_>,
) -> [f32; LANES] {
    let mut parts = Parts::new();
    for segment in 0..operands.segments {
        let (w, a) = blocks::<BYTES, Q8_0_BYTES, W, A>(operands, segment);
        parts.set(segment, small_span::<K, BYTES, W, A>(&w, &a));
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn small_span<K: SmallBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[[u8; BYTES]]; W_MAX],
    a: &[&[[u8; Q8_0_BYTES]]; A_MAX],
) -> [f32; LANES] {
    let mut acc = [vdupq_n_f32(0.0); 2];
    for b in 0..w[0].len() {
        let mut sums = [vdupq_n_s32(0); LANES];
        let mut deltas = [0u16; W];
        for i in 0..W {
            let block = &w[i][b];
            // SAFETY: this function has the features that `unpack` needs.
            let q = unsafe { K::unpack(block) };
            deltas[i] = u16_at(block, 0);
            for j in 0..A {
                let low = vreinterpretq_s8_u8(load(&a[j][b], 4));
                let high = vreinterpretq_s8_u8(load(&a[j][b], 20));
                sums[i * A + j] = sdot(sdot(vdupq_n_s32(0), q[0], low), q[1], high);
            }
        }
        let mut scales = [0f32; A];
        for j in 0..A {
            scales[j] = f32_at(&a[j][b], 0);
        }
        let d = lane_scales::<W, A>(deltas, scales);
        let sums = sums_to_lanes::<W, A>(&sums);
        for half in 0..2 {
            acc[half] = vfmaq_f32(acc[half], d[half], sums[half]);
        }
    }
    store(acc)
}

/// Adds four signed products to each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the enabled features contain.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Four half floats, widened exactly.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn widen_halves(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: one instruction on registers, part of every 64-bit Arm.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

/// `f16 * f32` for each output lane of a tile.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn lane_scales<const W: usize, const A: usize>(w: [u16; W], a: [f32; A]) -> [float32x4_t; 2] {
    let mut halves = 0u64;
    for (i, half) in w.into_iter().enumerate() {
        halves |= u64::from(half) << (16 * i);
    }
    let w = widen_halves(vcreate_u16(halves));
    if A == 1 {
        return [vmulq_n_f32(w, a[0]), vdupq_n_f32(0.0)];
    }
    let mut acts = [0f32; LANES];
    acts[..A].copy_from_slice(&a);
    let w = vdupq_laneq_f32::<0>(w);
    let (chunks, _) = acts.as_chunks::<4>();
    [
        vmulq_f32(w, load_floats(&chunks[0])),
        vmulq_f32(w, load_floats(&chunks[1])),
    ]
}

/// The sum of each vector, as f32, in the lane of its index.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sums_to_lanes<const W: usize, const A: usize>(v: &[int32x4_t; LANES]) -> [float32x4_t; 2] {
    let first = vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
    if W * A <= 4 {
        return [vcvtq_f32_s32(first), vdupq_n_f32(0.0)];
    }
    let second = vpaddq_s32(vpaddq_s32(v[4], v[5]), vpaddq_s32(v[6], v[7]));
    [vcvtq_f32_s32(first), vcvtq_f32_s32(second)]
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn load<const N: usize>(bytes: &[u8; N], at: usize) -> uint8x16_t {
    assert!(at + 16 <= N);
    // SAFETY: in bounds by the assertion; the load asks for no alignment.
    unsafe { vld1q_u8(bytes.as_ptr().add(at)) }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_floats(floats: &[f32; 4]) -> float32x4_t {
    // SAFETY: four floats are read from an array of four.
    unsafe { vld1q_f32(floats.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn store(v: [float32x4_t; 2]) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    for (v, out) in v.into_iter().zip(out.chunks_exact_mut(4)) {
        // SAFETY: four floats are stored into a chunk of four.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) };
    }
    out
}
