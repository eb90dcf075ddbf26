//! Dot products of quantised rows for AVX2.
//!
//! Weights stay unsigned where the format has them so (`maddubs` takes unsigned times signed): the largest pair sum
//! is 2 * 63 * 127, far from saturation. Signed weights go as magnitude times activation with the weight's sign:
//! 2 * 128 * 127 = 32512 still fits, since activations are never -128.
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

use super::avx2_floats;
use super::tile::{A_MAX, LANES, Operands, Parts, Tile, W_MAX, blocks, f32_at, u16_at};

/// The tiles of a type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! table {
        ($run:ident, $block:ty, $bytes:literal) => {{
            // SAFETY: `Product::new` hands these out for AVX2 alone, whose presence its callers have checked.
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
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => avx2_floats::tiles(ty),
        WeightType::Q8_0 => table!(small_tile, Q8_0, 34),
        WeightType::Q4_0 => table!(small_tile, Q4_0, 18),
        WeightType::Q4K => table!(super_tile, Q4K, 144),
        WeightType::Q5K => table!(super_tile, Q5K, 176),
        WeightType::Q6K => table!(super_tile, Q6K, 210),
    }
}

/// Small blocks are prefetched once in about so many bytes.
pub(super) const PREFETCH_BYTES: usize = 72;

/// A block of 256 made ready for activations.
struct Unpacked {
    /// Unsigned quants, ascending.
    q: [__m256i; 8],
    /// The scale of each value's group, as i16, for the pair sums of `q` with the same index.
    scales: [__m256i; 8],
    /// What the 16 group sums of the activations are multiplied by.
    of_sums: __m256i,
}

trait SuperBlock<const BYTES: usize> {
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;

    /// # Safety
    /// Needs AVX2.
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 144]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let nibble = _mm256_set1_epi8(15);
        let mut q = [_mm256_setzero_si256(); 8];
        for j in 0..4 {
            let qs = load(block, 16 + 32 * j);
            q[2 * j] = _mm256_and_si256(qs, nibble);
            q[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16::<4>(qs), nibble);
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 176]) -> Unpacked {
        let (scales, of_sums) = six_bit_scales(packed(block));
        let nibble = _mm256_set1_epi8(15);
        let fifth = _mm256_set1_epi8(16);
        let high = load(block, 16);
        // Bit `n` of each byte of `high`, moved to bit 4; the shifts work on pairs of bytes, the mask drops strangers.
        let bits = [
            _mm256_slli_epi16::<4>(high),
            _mm256_slli_epi16::<3>(high),
            _mm256_slli_epi16::<2>(high),
            _mm256_slli_epi16::<1>(high),
            high,
            _mm256_srli_epi16::<1>(high),
            _mm256_srli_epi16::<2>(high),
            _mm256_srli_epi16::<3>(high),
        ];
        let mut q = [_mm256_setzero_si256(); 8];
        for j in 0..4 {
            let qs = load(block, 48 + 32 * j);
            let low = _mm256_and_si256(qs, nibble);
            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(qs), nibble);
            q[2 * j] = _mm256_or_si256(low, _mm256_and_si256(bits[2 * j], fifth));
            q[2 * j + 1] = _mm256_or_si256(upper, _mm256_and_si256(bits[2 * j + 1], fifth));
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 210]) -> Unpacked {
        let nibble = _mm256_set1_epi8(15);
        let top = _mm256_set1_epi8(0x30);
        let mut q = [_mm256_setzero_si256(); 8];
        for n in 0..2 {
            let (low, low2) = (load(block, 64 * n), load(block, 64 * n + 32));
            let high = load(block, 128 + 32 * n);
            let parts = [
                (low, _mm256_slli_epi16::<4>(high)),
                (low2, _mm256_slli_epi16::<2>(high)),
                (_mm256_srli_epi16::<4>(low), high),
                (_mm256_srli_epi16::<4>(low2), _mm256_srli_epi16::<2>(high)),
            ];
            for (i, (low, high)) in parts.into_iter().enumerate() {
                q[4 * n + i] =
                    _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, top));
            }
        }
        let all = _mm256_cvtepi8_epi16(load_half(block, 192));
        let mut scales = [_mm256_setzero_si256(); 8];
        let halves = [
            _mm256_permute2x128_si256::<0x00>(all, all),
            _mm256_permute2x128_si256::<0x11>(all, all),
        ];
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = _mm256_shuffle_epi8(halves[i / 4], pick_two(i % 4));
        }
        // A value is q - 32, so each group sum counts -32 times its scale.
        let of_sums = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16::<5>(all));
        Unpacked { q, scales, of_sums }
    }

    #[inline]
    fn deltas(block: &[u8; 210]) -> (u16, u16) {
        (u16_at(block, 208), 0)
    }
}

/// A shuffle that repeats i16 `2 * i` over the lower half and `2 * i + 1` over the upper.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pick_two(i: usize) -> __m256i {
    const PICKS: [(i16, i16); 4] = [
        (0x0100, 0x0302),
        (0x0504, 0x0706),
        (0x0908, 0x0b0a),
        (0x0d0c, 0x0f0e),
    ];
    let (low, high) = PICKS[i];
    _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low))
}

/// The packed scales of Q4_K and Q5_K, which both keep them after two f16.
#[inline]
pub(super) fn packed<const N: usize>(block: &[u8; N]) -> &[u8; 12] {
    let (_, rest) = block.split_at(4);
    let (scales, _) = rest.as_chunks::<12>();
    &scales[0]
}

/// Scales repeated over 16 lanes of i16 each, and the mins of the 16 groups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn six_bit_scales(packed: &[u8; 12]) -> ([__m256i; 8], __m256i) {
    let (scales, mins) = scales_and_mins(packed);
    let scales = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(scales.cast_signed()));
    let scales = _mm256_broadcastsi128_si256(scales);
    let mut out = [_mm256_setzero_si256(); 8];
    let picks: [i16; 8] = [
        0x0100, 0x0302, 0x0504, 0x0706, 0x0908, 0x0b0a, 0x0d0c, 0x0f0e,
    ];
    for (out, pick) in out.iter_mut().zip(picks) {
        *out = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(pick));
    }
    let mins = _mm_cvtsi64_si128(mins.cast_signed());
    (out, _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins)))
}

#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
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
                let start = if K::MINS {
                    min_sums[i * A + j] = with_sums;
                    _mm256_setzero_si256()
                } else {
                    with_sums
                };
                sums[i * A + j] = dot(&unpacked, act, start);
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
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(w: &Unpacked, act: &[u8; Q8K_BYTES], start: __m256i) -> __m256i {
    let mut sum = start;
    for j in 0..8 {
        let pairs = _mm256_maddubs_epi16(w.q[j], load(act, 4 + 32 * j));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, w.scales[j]));
    }
    sum
}

/// A block of 32 made ready for activations.
trait SmallBlock<const BYTES: usize> {
    /// # Safety
    /// Needs AVX2.
    unsafe fn unpack(block: &[u8; BYTES]) -> [__m256i; 2];

    /// Sums of two products each; `eights` are pair sums of eight times the activations.
    ///
    /// # Safety
    /// Needs AVX2.
    unsafe fn pairs(w: [__m256i; 2], act: __m256i, eights: __m256i) -> __m256i;
}

struct Q8_0;
struct Q4_0;

impl SmallBlock<34> for Q8_0 {
    /// Magnitudes, and the quants for their signs.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 34]) -> [__m256i; 2] {
        let q = load(block, 2);
        [_mm256_abs_epi8(q), q]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pairs(w: [__m256i; 2], act: __m256i, _eights: __m256i) -> __m256i {
        _mm256_maddubs_epi16(w[0], _mm256_sign_epi8(act, w[1]))
    }
}

impl SmallBlock<18> for Q4_0 {
    /// Quants before 8 is taken off.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: &[u8; 18]) -> [__m256i; 2] {
        let q = nibbles(block);
        [q, q]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pairs(w: [__m256i; 2], act: __m256i, eights: __m256i) -> __m256i {
        _mm256_sub_epi16(_mm256_maddubs_epi16(w[0], act), eights)
    }
}

/// The quants of a Q4_0 block before 8 is taken off.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibbles(block: &[u8; 18]) -> __m256i {
    let low = load_half(block, 2);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn small_span<K: SmallBlock<BYTES>, const BYTES: usize, const W: usize, const A: usize>(
    w: &[&[[u8; BYTES]]; W_MAX],
    a: &[&[[u8; Q8_0_BYTES]]; A_MAX],
    ahead: usize,
) -> [f32; LANES] {
    let ones = _mm256_set1_epi16(1);
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
            let eights = _mm256_maddubs_epi16(_mm256_set1_epi8(8), act);
            for i in 0..W {
                // SAFETY: this function has the features that `pairs` needs.
                let pairs = unsafe { K::pairs(unpacked[i], act, eights) };
                sums[i * A + j] = _mm256_madd_epi16(pairs, ones);
            }
        }
        let d = lane_scales::<W, A>(deltas, scales);
        acc = _mm256_fmadd_ps(d, sums_to_lanes::<W, A>(&sums), acc);
    }
    store(acc)
}

/// `f16 * f32` for each output lane of a tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lane_scales<const W: usize, const A: usize>(w: [u16; W], a: [f32; A]) -> __m256 {
    let half = |i: usize| if i < W { w[i].cast_signed() } else { 0 };
    let act = |i: usize| if i < A { a[i] } else { 0.0 };
    if A == 1 {
        let w = _mm_cvtph_ps(_mm_setr_epi16(
            half(0),
            half(1),
            half(2),
            half(3),
            0,
            0,
            0,
            0,
        ));
        _mm256_zextps128_ps256(_mm_mul_ps(w, _mm_set1_ps(a[0])))
    } else {
        let w = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(w[0]))));
        let a = _mm256_setr_ps(
            act(0),
            act(1),
            act(2),
            act(3),
            act(4),
            act(5),
            act(6),
            act(7),
        );
        _mm256_mul_ps(w, a)
    }
}

/// The sum of each vector, as f32, in the lane of its index.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sums_to_lanes<const W: usize, const A: usize>(v: &[__m256i; LANES]) -> __m256 {
    let first = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    if W * A <= 4 {
        let sum = _mm_add_epi32(
            _mm256_castsi256_si128(first),
            _mm256_extracti128_si256::<1>(first),
        );
        return _mm256_zextps128_ps256(_mm_cvtepi32_ps(sum));
    }
    let second = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    _mm256_cvtepi32_ps(_mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(first, second),
        _mm256_permute2x128_si256::<0x31>(first, second),
    ))
}

/// Asks for the bytes `ahead` of a block, which another tile will read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch<const N: usize>(block: &[u8; N], ahead: usize) {
    for at in (0..N).step_by(64) {
        let address = block.as_ptr().wrapping_add(ahead).wrapping_add(at);
        #[allow(unused_unsafe, reason = "older standard libraries call it unsafe")]
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    assert!(at + 32 <= N);
    // SAFETY: in bounds by the assertion; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_half<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    assert!(at + 16 <= N);
    // SAFETY: in bounds by the assertion; the load asks for no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(v: __m256) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    // SAFETY: eight floats are stored into an array of eight.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    out
}
