//! The scales of super-blocks for all rows of a panel, and the end of a block.

use std::arch::x86_64::*;

use super::super::panel::PanelRows;
use super::{act_scale, columns, four};
use crate::acts::Q8K_SUMS;

/// The header of a Q4_K or Q5_K block, one byte for each scale and min: those of groups `4 i .. 4 i + 4` in lane `r` of
/// vector `i`.
pub(super) struct SixBit {
    pub(super) scales: [__m512i; 2],
    pub(super) mins: [__m512i; 2],
    pub(super) d: __m512,
    pub(super) dmin: __m512,
}

/// Unpacks six-bit scales and mins as `dequant::scales_and_mins` does.
///
/// # Safety
/// Every row must have 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn six_bit(rows: PanelRows<'_>, at: usize) -> SixBit {
    // SAFETY: the caller's promise.
    let [deltas, low_scales, low_mins, high] = unsafe { columns(rows, at) };
    let six = _mm512_set1_epi8(0x3f);
    let four_bits = _mm512_set1_epi8(0x0f);
    let top = _mm512_set1_epi8(0x30);
    let scales = [
        _mm512_and_si512(low_scales, six),
        or_masked(
            _mm512_and_si512(high, four_bits),
            _mm512_srli_epi32::<2>(low_scales),
            top,
        ),
    ];
    let mins = [
        _mm512_and_si512(low_mins, six),
        or_masked(
            _mm512_and_si512(_mm512_srli_epi32::<4>(high), four_bits),
            _mm512_srli_epi32::<2>(low_mins),
            top,
        ),
    ];
    SixBit {
        scales,
        mins,
        d: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(deltas)),
        dmin: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(deltas))),
    }
}

/// The mins of groups, twice each, as pairs that group sums are multiplied by.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn min_pairs(mins: &[__m512i; 2]) -> [__m512i; 8] {
    let mut out = [_mm512_setzero_si512(); 8];
    for (j, out) in out.iter_mut().enumerate() {
        let byte = [0, 1, 2, 3][j % 4];
        *out = _mm512_shuffle_epi8(mins[j / 4], per_lane(0xff00_ff00 | byte << 16 | byte));
    }
    out
}

/// What pairs of group sums are multiplied by in Q6_K: a value is q - 32, so each sum counts -32 times its scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn offsets_of_32(scales: &[__m512i; 4]) -> [__m512i; 8] {
    let mut out = [_mm512_setzero_si512(); 8];
    for (j, out) in out.iter_mut().enumerate() {
        let pattern = if j % 2 == 0 { 0x01ff_00ff } else { 0x03ff_02ff };
        // A byte in the upper half of an i16, shifted right by three, is 32 times its value.
        let pair = _mm512_shuffle_epi8(scales[j / 2], per_lane(pattern));
        *out = _mm512_sub_epi16(_mm512_setzero_si512(), _mm512_srai_epi16::<3>(pair));
    }
    out
}

/// `a | (b & mask)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
}

/// A byte shuffle that takes the bytes of `pattern` (little-endian; `0xff` gives zero) within each lane of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn per_lane(pattern: u32) -> __m512i {
    let lanes = _mm_add_epi8(
        _mm_set1_epi32(pattern.cast_signed()),
        _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c),
    );
    let zero = _mm_cmpeq_epi8(_mm_set1_epi32(pattern.cast_signed()), _mm_set1_epi8(-1));
    _mm512_broadcast_i32x4(_mm_or_si128(lanes, zero))
}

/// The f16 at `at` of every row.
///
/// # Safety
/// Every row must have two bytes there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn halves(rows: PanelRows<'_>, at: usize) -> __m512 {
    // SAFETY: the caller promises the bytes; the loads ask for no alignment.
    let h = |r: usize| unsafe {
        let stored = rows.start().add(r * rows.row_bytes() + at);
        stored.cast::<i16>().read_unaligned()
    };
    let low = _mm_setr_epi16(h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7));
    let high = _mm_setr_epi16(h(8), h(9), h(10), h(11), h(12), h(13), h(14), h(15));
    _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(low),
        high,
    ))
}

/// Products of one block's group sums.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn with_sums(of_sums: &[__m512i; 8], act: *const u8) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); 2];
    for (j, of_sums) in of_sums.iter().enumerate() {
        // SAFETY: eight pairs of sums follow the quants.
        let pair = unsafe { four(act, Q8K_SUMS + 4 * j) };
        sums[j % 2] = _mm512_dpwssd_epi32(sums[j % 2], *of_sums, pair);
    }
    _mm512_add_epi32(sums[0], sums[1])
}

/// Ends a block: `acc + d * sum`, and less `dmin * min_sum` where there are mins.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn finish<const MINS: bool>(
    acc: __m512,
    (sum, sums): (__m512i, __m512i),
    (d, dmin): (__m512, __m512),
    act: *const u8,
) -> __m512 {
    // SAFETY: the caller's promise.
    let scale = unsafe { act_scale(act) };
    if MINS {
        let acc = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(sum), acc);
        return _mm512_fnmadd_ps(_mm512_mul_ps(dmin, scale), _mm512_cvtepi32_ps(sums), acc);
    }
    let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, sums));
    _mm512_fmadd_ps(_mm512_mul_ps(d, scale), sum, acc)
}
