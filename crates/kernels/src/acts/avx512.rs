//! The block quantisers for AVX-512, equal in every byte to the scalar one.
//!
//! Owns whole blocks, sums included. The idea: a block is loaded once and stays in registers between the search for
//! its largest magnitude and its rounding.
#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use std::arch::x86_64::{
    __m512, __m512i, _CMP_ORD_Q, _CMP_UNORD_Q, _mm_storeu_si128, _mm256_storeu_si256,
    _mm512_abs_ps, _mm512_add_epi32, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_epi16, _mm512_cvtps_epi32, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_permutexvar_epi32, _mm512_reduce_max_ps, _mm512_set1_epi8,
    _mm512_set1_epi16, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{Q8_0_BYTES, Q8K_BYTES, Q8K_SUMS};
use crate::weight::SUPER;

/// Quantises whole blocks of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_q8_0(x: &[f32], out: &mut [u8]) {
    let (blocks, _) = out.as_chunks_mut::<Q8_0_BYTES>();
    for (x, out) in x.as_chunks::<32>().0.iter().zip(blocks) {
        let (d, quants) = out.split_at_mut(4);
        d.copy_from_slice(&quantize::<2>(x, quants).to_le_bytes());
    }
}

/// Quantises whole blocks of 256 with their sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_q8k(x: &[f32], out: &mut [u8]) {
    let (blocks, _) = out.as_chunks_mut::<Q8K_BYTES>();
    for (x, out) in x.as_chunks::<SUPER>().0.iter().zip(blocks) {
        let (d, rest) = out.split_at_mut(4);
        let (quants, sums) = rest.split_at_mut(Q8K_SUMS - 4);
        d.copy_from_slice(&quantize::<16>(x, quants).to_le_bytes());
        group_sums(quants, sums);
    }
}

/// Quantises `N` registers of values and returns their `d`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize<const N: usize>(x: &[f32], quants: &mut [u8]) -> f32 {
    let (groups, _) = x.as_chunks::<16>();
    let groups: &[[f32; 16]; N] = &groups.as_chunks().0[0];
    let mut values = [_mm512_setzero_ps(); N];
    let mut amax = _mm512_setzero_ps();
    let mut nan = 0;
    for (value, group) in values.iter_mut().zip(groups) {
        // SAFETY: sixteen floats are read from an array of sixteen.
        *value = unsafe { _mm512_loadu_ps(group.as_ptr()) };
        // The maximum of a NaN and `amax` is the second operand: NaN is left out, as in the scalar form.
        amax = _mm512_max_ps(_mm512_abs_ps(*value), amax);
        nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(*value, *value);
    }
    let amax = _mm512_reduce_max_ps(amax);
    let inverse = _mm512_set1_ps(127.0 / amax);
    for (value, out) in values.iter().zip(quants.as_chunks_mut::<16>().0) {
        let packed = _mm512_cvtepi32_epi8(levels(*value, inverse));
        // SAFETY: 16 bytes are stored into an array of 16.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), packed) };
    }
    super::scale(amax, nan != 0)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn levels(v: __m512, inverse: __m512) -> __m512i {
    let scaled = _mm512_mul_ps(v, inverse);
    let ordered = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
    let number = _mm512_maskz_mov_ps(ordered, scaled);
    let clamped = _mm512_max_ps(
        _mm512_min_ps(number, _mm512_set1_ps(127.0)),
        _mm512_set1_ps(-127.0),
    );
    _mm512_cvtps_epi32(clamped)
}

/// Sums of 16 neighbours of 256 quants.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn group_sums(quants: &[u8], sums: &mut [u8]) {
    let quants: &[u8; SUPER] = &quants.as_chunks().0[0];
    let sums: &mut [u8; 32] = &mut sums.as_chunks_mut().0[0];
    // Lane `l` of `fours[v]` holds the four sums of four of group `4v + l`.
    let fours: [__m512i; 4] = std::array::from_fn(|v| {
        // SAFETY: 64 bytes are read from 256, at a multiple of 64 below that.
        let q = unsafe { _mm512_loadu_si512(quants.as_ptr().add(64 * v).cast()) };
        let pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), q);
        _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))
    });
    let twos = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (twos(fours[0], fours[1]), twos(fours[2], fours[3]));
    let by_lane = _mm512_add_epi32(
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    );
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let packed = _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order, by_lane));
    // SAFETY: 32 bytes are stored into an array of 32.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), packed) };
}
