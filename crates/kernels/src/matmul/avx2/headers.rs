//! The scales of super-blocks, unpacked for eight rows at a time.

use std::arch::x86_64::*;

use super::Eight;

/// The scales of one block of eight rows.
pub(super) struct Header<const GROUPS: usize> {
    /// Integer scale of each group of columns, twice in each lane.
    pub(super) scales: [__m256i; GROUPS],
    /// What pairs of group sums are multiplied by: mins and sums of 32, or scales and sums of 16.
    pub(super) of_sums: [__m256i; 8],
    pub(super) d: __m256,
    /// Scale of the products with the sums; unused where those belong to the integer sum.
    pub(super) dmin: __m256,
}

/// A byte shuffle that takes the bytes of `pattern` (little-endian; `0xff` gives zero) within each lane of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn per_lane(pattern: u32) -> __m256i {
    let pattern = _mm_set1_epi32(pattern.cast_signed());
    let lanes = _mm_add_epi8(
        pattern,
        _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c),
    );
    let zero = _mm_cmpeq_epi8(pattern, _mm_set1_epi8(-1));
    _mm256_broadcastsi128_si256(_mm_or_si128(lanes, zero))
}

/// `d`, `dmin` and the packed six-bit scales and mins (see `dequant::scales_and_mins`).
///
/// # Safety
/// Every row must have 16 bytes there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn six_bit_header(rows: Eight) -> Header<8> {
    // SAFETY: the caller's promise.
    let [deltas, low_scales, low_mins, high] = unsafe { rows.columns(0) };
    let six = _mm256_set1_epi8(0x3f);
    let four_bits = _mm256_set1_epi8(0x0f);
    let top = _mm256_set1_epi8(0x30);
    let join = |high: __m256i, low: __m256i| {
        _mm256_or_si256(
            _mm256_and_si256(high, four_bits),
            _mm256_and_si256(_mm256_srli_epi16::<2>(low), top),
        )
    };
    let scales = [_mm256_and_si256(low_scales, six), join(high, low_scales)];
    let mins = [
        _mm256_and_si256(low_mins, six),
        join(_mm256_srli_epi16::<4>(high), low_mins),
    ];
    let (d, dmin) = two_halves(deltas);
    let mut header = Header {
        scales: [_mm256_setzero_si256(); 8],
        of_sums: [_mm256_setzero_si256(); 8],
        d,
        dmin,
    };
    for byte in 0..4u32 {
        let twice = per_lane(0xff00_ff00 | byte << 16 | byte);
        for i in 0..2 {
            header.scales[4 * i + byte as usize] = _mm256_shuffle_epi8(scales[i], twice);
        }
    }
    for pair in 0..2u32 {
        let two = per_lane(0xff00_ff00 | (2 * pair + 1) << 16 | (2 * pair));
        for i in 0..2 {
            header.of_sums[2 * i + pair as usize] = _mm256_shuffle_epi8(mins[i], two);
        }
    }
    header
}

/// The lower and the upper f16 of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_halves(v: __m256i) -> (__m256, __m256) {
    let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    // Packing works within halves of the vector.
    let packed = _mm256_packus_epi32(low, _mm256_srli_epi32::<16>(v));
    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
    (
        _mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
        _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)),
    )
}

/// `d` and the sixteen signed scales of a Q6_K block.
///
/// # Safety
/// Every row must have a block there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn eight_bit_header(rows: Eight) -> Header<16> {
    // SAFETY: 16 bytes of scales, and the last two bytes of a block.
    let (stored, d) = unsafe { (rows.columns(192), rows.halves(208)) };
    let mut scales = [_mm256_setzero_si256(); 16];
    for byte in 0..4u32 {
        let twice = per_lane(0x00ff_00ff | byte << 24 | byte << 8);
        for i in 0..4 {
            let spread = _mm256_shuffle_epi8(stored[i], twice);
            scales[4 * i + byte as usize] = _mm256_srai_epi16::<8>(spread);
        }
    }
    let mut of_sums = [_mm256_setzero_si256(); 8];
    for pair in 0..2u32 {
        let two = per_lane(0x00ff_00ff | (2 * pair + 1) << 24 | (2 * pair) << 8);
        for i in 0..4 {
            let spread = _mm256_shuffle_epi8(stored[i], two);
            of_sums[2 * i + pair as usize] = _mm256_srai_epi16::<8>(spread);
        }
    }
    Header {
        scales,
        of_sums,
        d,
        dmin: d,
    }
}
