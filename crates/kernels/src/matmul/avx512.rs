//! Dot products of quantised rows for AVX-512 with VNNI.
//!
//! Super-blocks go 64 values at a time: `dpbusd` sums four products into each 32-bit lane, at most
//! 4 * 63 * 127 = 32004, so the lane's lower half holds it as an i16 and `dpwssd` multiplies it by the scale. The
//! upper half of each scale lane is zero.
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
use crate::acts::{Q8_0_BYTES, Q8K_BYTES, Q8K_SUMS};
use crate::dequant::scales_and_mins;

use super::avx2::{
    PREFETCH_BYTES, lane_scales, load, load_half, nibbles, packed, prefetch, store, sums_to_lanes,
};
use super::avx512_floats;
use super::tile::{A_MAX, LANES, Operands, Parts, Tile, W_MAX, blocks, f32_at, u16_at};

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($run:ident, $block:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for AVX-512 alone, whose presence its callers have checked.
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
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => avx512_floats::tiles(ty),
        WeightType::Q8_0 => table!(small_tile, Q8_0, 34),
        WeightType::Q4_0 => table!(small_tile, Q4_0, 18),
        WeightType::Q4K => table!(super_tile, Q4K, 144),
        WeightType::Q5K => table!(super_tile, Q5K, 176),
        WeightType::Q6K => table!(super_tile, Q6K, 210),
    }
}

/// A block of 256 made ready for activations.
struct Unpacked {
    /// Unsigned quants, ascending.
    q: [__m512i; 4],
    /// The scale of each four values, in the lower half of a 32-bit lane.
    scales: [__m512i; 4],
    /// What the 16 group sums of the activations are multiplied by.
    of_sums: __m256i,
}

trait SuperBlock<const BYTES: usize> {
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;

    /// # Safety
    /// Needs AVX-512 F and BW.
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 144]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let mut q = [_mm512_setzero_si512(); 4];
        for j in 0..4 {
            q[j] = low_then_high(load(block, 16 + 32 * j));
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 176]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let high = _mm512_broadcast_i64x4(load(block, 16));
        let bits: [(i8, i8); 4] = [(1, 2), (4, 8), (16, 32), (64, -128)];
        let mut q = [_mm512_setzero_si512(); 4];
        for j in 0..4 {
            let low = low_then_high(load(block, 48 + 32 * j));
            let bit = both(_mm256_set1_epi8(bits[j].0), _mm256_set1_epi8(bits[j].1));
            let fifth = _mm512_test_epi8_mask(high, bit);
            q[j] = _mm512_mask_add_epi8(low, fifth, low, _mm512_set1_epi8(16));
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 210]) -> Unpacked {
        let nibble = _mm512_set1_epi8(15);
        let top = _mm512_set1_epi8(0x30);
        let left = both(_mm256_set1_epi16(4), _mm256_set1_epi16(2));
        let right = both(_mm256_setzero_si256(), _mm256_set1_epi16(2));
        let mut q = [_mm512_setzero_si512(); 4];
        for n in 0..2 {
            let low = load_double(block, 64 * n);
            let high = _mm512_broadcast_i64x4(load(block, 128 + 32 * n));
            q[2 * n] = _mm512_or_si512(
                _mm512_and_si512(low, nibble),
                _mm512_and_si512(_mm512_sllv_epi16(high, left), top),
            );
            q[2 * n + 1] = _mm512_or_si512(
                _mm512_and_si512(_mm512_srli_epi16::<4>(low), nibble),
                _mm512_and_si512(_mm512_srlv_epi16(high, right), top),
            );
        }
        let stored = load_half(block, 192);
        let lanes = _mm512_and_si512(_mm512_cvtepi8_epi32(stored), _mm512_set1_epi32(0xffff));
        let mut scales = [_mm512_setzero_si512(); 4];
        for (j, first) in [0, 4, 8, 12].into_iter().enumerate() {
            let pick = _mm512_setr_epi32(
                first,
                first,
                first,
                first,
                first + 1,
                first + 1,
                first + 1,
                first + 1,
                first + 2,
                first + 2,
                first + 2,
                first + 2,
                first + 3,
                first + 3,
                first + 3,
                first + 3,
            );
            scales[j] = _mm512_permutexvar_epi32(pick, lanes);
        }
        // A value is q - 32, so each group sum counts -32 times its scale.
        let of_sums = _mm256_sub_epi16(
            _mm256_setzero_si256(),
            _mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(stored)),
        );
        Unpacked { q, scales, of_sums }
    }

    #[inline]
    fn deltas(block: &[u8; 210]) -> (u16, u16) {
        (u16_at(block, 208), 0)
    }
}

/// The lower nibbles of 32 bytes, then the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn low_then_high(qs: __m256i) -> __m512i {
    _mm512_and_si512(both(qs, _mm256_srli_epi16::<4>(qs)), _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn both(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Scales for 64 values each, two groups of 32, and the mins of the 16 groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn six_bit_scales(packed: &[u8; 12]) -> ([__m512i; 4], __m256i) {
    let (scales, mins) = scales_and_mins(packed);
    let lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(scales.cast_signed()));
    let lanes = _mm512_castsi256_si512(lanes);
    let mut out = [_mm512_setzero_si512(); 4];
    for (out, first) in out.iter_mut().zip([0, 2, 4, 6]) {
        let pick = both(_mm256_set1_epi32(first), _mm256_set1_epi32(first + 1));
        *out = _mm512_permutexvar_epi32(pick, lanes);
    }
    let mins = _mm_cvtsi64_si128(mins.cast_signed());
    (out, _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn super_tile<K: SuperBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    operands: &Operands<'_>,
) -> [f32; LANES] {
    let mut parts = Parts::new();
    for segment in 0..operands.segments {
        let (w, a) = blocks::<BYTES, Q8K_BYTES, W, A>(operands, segment);
        parts.set(
            segment,
            super_span::<K, BYTES, W, A>(&w, &a, operands.ahead),
        );
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn super_span<K: SuperBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[[u8; BYTES]]; W_MAX],
    a: &[&[[u8; Q8K_BYTES]]; A_MAX],
    ahead: usize,
) -> [f32; LANES] {
    let mut acc = _mm256_setzero_ps();
    for b in 0..w[0].len() {
        let mut sums = [_mm256_setzero_si256(); LANES];
        let mut min_sums = [_mm256_setzero_si256(); LANES];
        let (mut deltas, mut min_deltas) = ([0u16; W], [0u16; W]);
        for i in 0..W {
            let block = &w[i][b];
            if A == 1 {
                prefetch(block, ahead);
            }
            // SAFETY: this function has the features that `unpack` needs.
            let unpacked = unsafe { K::unpack(block) };
            (deltas[i], min_deltas[i]) = K::deltas(block);
            for j in 0..A {
                let act = &a[j][b];
                let with_sums = _mm256_madd_epi16(load(act, Q8K_SUMS), unpacked.of_sums);
                let sum = dot(&unpacked, act);
                if K::MINS {
                    min_sums[i * A + j] = with_sums;
                    sums[i * A + j] = sum;
                } else {
                    sums[i * A + j] = _mm256_add_epi32(sum, with_sums);
                }
            }
        }
        let mut scales = [0f32; A];
        for j in 0..A {
            scales[j] = f32_at(&a[j][b], 0);
        }
        let d = lane_scales::<W, A>(deltas, scales);
        acc = _mm256_fmadd_ps(d, sums_to_lanes::<W, A>(&sums), acc);
        if K::MINS {
            let d = lane_scales::<W, A>(min_deltas, scales);
            acc = _mm256_fnmadd_ps(d, sums_to_lanes::<W, A>(&min_sums), acc);
        }
    }
    store(acc)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot(w: &Unpacked, act: &[u8; Q8K_BYTES]) -> __m256i {
    let mut sum = _mm512_setzero_si512();
    for j in 0..4 {
        let x = load_double(act, 4 + 64 * j);
        let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.q[j], x);
        sum = _mm512_dpwssd_epi32(sum, fours, w.scales[j]);
    }
    _mm256_add_epi32(
        _mm512_castsi512_si256(sum),
        _mm512_extracti64x4_epi64::<1>(sum),
    )
}

/// A block of 32 made ready for activations.
trait SmallBlock<const BYTES: usize> {
    /// # Safety
    /// Needs AVX2.
    unsafe fn unpack(block: &[u8; BYTES]) -> [__m256i; 2];

    /// Sums of four products each; `eights` are those of eight times the activations.
    ///
    /// # Safety
    /// Needs AVX-512 VL and VNNI.
    unsafe fn fours(w: [__m256i; 2], act: __m256i, eights: __m256i) -> __m256i;
}

struct Q8_0;
struct Q4_0;

impl SmallBlock<34> for Q8_0 {
    /// Magnitudes, and the quants for their signs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 34]) -> [__m256i; 2] {
        let q = load(block, 2);
        [_mm256_abs_epi8(q), q]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn fours(w: [__m256i; 2], act: __m256i, _eights: __m256i) -> __m256i {
        let signed = _mm256_sign_epi8(act, w[1]);
        _mm256_dpbusd_epi32(_mm256_setzero_si256(), w[0], signed)
    }
}

impl SmallBlock<18> for Q4_0 {
    /// Quants before 8 is taken off.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 18]) -> [__m256i; 2] {
        let q = nibbles(block);
        [q, q]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn fours(w: [__m256i; 2], act: __m256i, eights: __m256i) -> __m256i {
        let sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), w[0], act);
        _mm256_sub_epi32(sum, eights)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn small_tile<K: SmallBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    operands: &Operands<'_>,
) -> [f32; LANES] {
    let mut parts = Parts::new();
    for segment in 0..operands.segments {
        let (w, a) = blocks::<BYTES, Q8_0_BYTES, W, A>(operands, segment);
        parts.set(
            segment,
            small_span::<K, BYTES, W, A>(&w, &a, operands.ahead),
        );
    }
    parts.tree(operands.segments)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn small_span<K: SmallBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[[u8; BYTES]]; W_MAX],
    a: &[&[[u8; Q8_0_BYTES]]; A_MAX],
    ahead: usize,
) -> [f32; LANES] {
    let mut acc = _mm256_setzero_ps();
    for b in 0..w[0].len() {
        let mut sums = [_mm256_setzero_si256(); LANES];
        let mut deltas = [0u16; W];
        let mut unpacked = [[_mm256_setzero_si256(); 2]; W];
        for i in 0..W {
            let block = &w[i][b];
            if A == 1 && b.is_multiple_of(PREFETCH_BYTES / BYTES) {
                prefetch(block, ahead);
            }
            // SAFETY: this function has the features that `unpack` needs.
            unpacked[i] = unsafe { K::unpack(block) };
            deltas[i] = u16_at(block, 0);
        }
        let mut scales = [0f32; A];
        for j in 0..A {
            scales[j] = f32_at(&a[j][b], 0);
            let act = load(&a[j][b], 4);
            let eights = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(8), act);
            for i in 0..W {
                // SAFETY: this function has the features that `fours` needs.
                sums[i * A + j] = unsafe { K::fours(unpacked[i], act, eights) };
            }
        }
        let d = lane_scales::<W, A>(deltas, scales);
        acc = _mm256_fmadd_ps(d, sums_to_lanes::<W, A>(&sums), acc);
    }
    store(acc)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_double<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    assert!(at + 64 <= N);
    // SAFETY: in bounds by the assertion; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().add(at).cast()) }
}
