//! The block quantiser for AVX2, equal in every byte to the scalar one.
#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use std::arch::x86_64::{
    __m256, __m256i, _CMP_ORD_Q, _CMP_UNORD_Q, _mm256_and_ps, _mm256_andnot_ps, _mm256_cmp_ps,
    _mm256_cvtps_epi32, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_ps,
    _mm256_mul_ps, _mm256_or_ps, _mm256_packs_epi16, _mm256_packs_epi32,
    _mm256_permutevar8x32_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm256_storeu_si256,
};

/// Quantises `x` (a multiple of 32 values) and returns its `d`.
#[target_feature(enable = "avx2")]
pub(super) fn quantize_block(x: &[f32], quants: &mut [u8]) -> f32 {
    let (groups, _) = x.as_chunks::<8>();
    let sign = _mm256_set1_ps(-0.0);
    let mut amax = _mm256_setzero_ps();
    let mut nan = _mm256_setzero_ps();
    for group in groups {
        let v = load(group);
        // The maximum of a NaN and `amax` is the second operand: NaN is left out, as in the scalar form.
        amax = _mm256_max_ps(_mm256_andnot_ps(sign, v), amax);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    }
    let mut lanes = [0f32; 8];
    // SAFETY: eight floats are stored into an array of eight.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), amax) };
    let amax = lanes
        .into_iter()
        .fold(0f32, |m, v| if v > m { v } else { m });
    let inverse = _mm256_set1_ps(127.0 / amax);

    let (chunks, _) = x.as_chunks::<32>();
    let (out, _) = quants.as_chunks_mut::<32>();
    for (chunk, out) in chunks.iter().zip(out) {
        let (groups, _) = chunk.as_chunks::<8>();
        let low = _mm256_packs_epi32(
            levels(load(&groups[0]), inverse),
            levels(load(&groups[1]), inverse),
        );
        let high = _mm256_packs_epi32(
            levels(load(&groups[2]), inverse),
            levels(load(&groups[3]), inverse),
        );
        // The packs work within halves; put the groups of four back in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        // SAFETY: 32 bytes are stored into an array of 32.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), packed) };
    }
    super::scale(amax, _mm256_movemask_ps(nan) != 0)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(group: &[f32; 8]) -> __m256 {
    // SAFETY: eight floats are read from an array of eight.
    unsafe { _mm256_loadu_ps(group.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn levels(v: __m256, inverse: __m256) -> __m256i {
    let scaled = _mm256_mul_ps(v, inverse);
    let number = _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
    let clamped = _mm256_max_ps(
        _mm256_min_ps(number, _mm256_set1_ps(127.0)),
        _mm256_set1_ps(-127.0),
    );
    _mm256_cvtps_epi32(clamped)
}
