//! Super-blocks with one activation row, where transposing whole costs more than it saves.
//!
//! Four rows at a time pass from their first block to their last, so that memory is read nearly in the order in which
//! it lies, which is what hardware prefetches well. Each quarter of a vector keeps columns of its own of the same four
//! rows (`quad`); the activations are spread to match, once for all panels (`spread`); the quarters are added at the
//! end of each block.

use std::arch::x86_64::*;

use super::super::panel::{One, PANEL_ROWS, Span, SpreadBlock, Sums};
use super::scales::{or_masked, per_lane};
use super::super_blocks::{SuperBlock, TypeQ4K, TypeQ5K, TypeQ6K};
use super::{both, transpose};
use crate::acts::{Q8K_BYTES, Q8K_SUMS};

/// How far ahead memory is asked for, into the second cache: at 4 KiB it comes too late, at 36 KiB two threads get in each
/// other's way (decoding of a 30B-A3B shape on two threads: 40, 58 and 50 tokens/s at 4, 12 and 36).
const AHEAD_BYTES: usize = 12 << 10;

/// The scales of one block of four rows.
pub(super) struct QuadHeader {
    /// One byte for each scale in the lane of its row: Q4_K and Q5_K have those of groups `4 p .. 4 p + 4` in every
    /// quarter of `p`; Q6_K has groups 0 to 3 of both halves of the block in the halves of the first, 4 to 7 in those
    /// of the second.
    scales: [__m512i; 2],
    /// What the pairs of group sums are multiplied by: pair `n` in quarter `n` of the first, pair `4 + n` of the second.
    of_sums: [__m512i; 2],
    d: __m128,
    dmin: __m128,
}

/// What differs between the types.
pub(super) trait OneRow: SuperBlock {
    /// The first columns of the halves of the four parts of a block.
    const HALVES: [[usize; 2]; 4];

    /// The scales of four rows, the first of which has its block at `block`, the others `stride` bytes further each.
    ///
    /// # Safety
    /// Needs AVX-512 F, BW and VL; the blocks must be there.
    unsafe fn quad_header(block: *const u8, stride: usize) -> QuadHeader;

    /// The scaled products of four rows: lane `4 n + r` is the sum of row `r` over the columns of quarter `n`. In
    /// quarters 0 and 1 of part `i` those are 32 from `HALVES[i][0]` on, in 2 and 3 from `HALVES[i][1]`.
    ///
    /// # Safety
    /// As [`OneRow::quad_header`].
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &QuadHeader,
        act: &SpreadBlock,
    ) -> __m512i;
}

impl OneRow for TypeQ4K {
    const HALVES: [[usize; 2]; 4] = [[0, 64], [32, 96], [128, 192], [160, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad_header(block: *const u8, stride: usize) -> QuadHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(block, stride) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &QuadHeader,
        act: &SpreadBlock,
    ) -> __m512i {
        let (low, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-16));
        let mut total = _mm512_setzero_si512();
        for p in 0..2 {
            // SAFETY: 64 of the 128 bytes of quants after the header.
            let packed = unsafe { transpose(four_rows(block.add(16 + 64 * p), stride)) };
            let mut sums = [_mm512_setzero_si512(); 2];
            for i in 0..4 {
                let quants = _mm512_and_si512(packed[i], low);
                sums[0] = _mm512_dpbusd_epi32(sums[0], quants, part(act, 2 * p, i));
                // Sixteen times too large; shifting the sum once is cheaper than shifting the quants.
                let quants = _mm512_and_si512(packed[i], upper);
                sums[1] = _mm512_dpbusd_epi32(sums[1], quants, part(act, 2 * p + 1, i));
            }
            sums[1] = _mm512_srai_epi32::<4>(sums[1]);
            total = add_scaled(total, sums, six_bit_pair(header, p));
        }
        total
    }
}

impl OneRow for TypeQ5K {
    const HALVES: [[usize; 2]; 4] = [[0, 64], [32, 96], [128, 192], [160, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad_header(block: *const u8, stride: usize) -> QuadHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(block, stride) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &QuadHeader,
        act: &SpreadBlock,
    ) -> __m512i {
        let (nibble, place) = (_mm512_set1_epi8(15), _mm512_set1_epi8(16));
        // SAFETY: the 32 bytes of fifth bits.
        let fifth = unsafe { four_half_rows(block.add(16), stride) };
        // Bits `4 p` and `4 p + 2` belong to the halves of part `2 p`, the next ones to those of part `2 p + 1`.
        let lefts = [by_half(4, 2), by_half(3, 1)];
        let rights = [by_half(0, 2), by_half(1, 3)];
        let mut total = _mm512_setzero_si512();
        for p in 0..2 {
            // SAFETY: 64 of the 128 bytes of low bits.
            let packed = unsafe { transpose(four_rows(block.add(48 + 64 * p), stride)) };
            let mut sums = [_mm512_setzero_si512(); 2];
            for i in 0..4 {
                let nibbles = [packed[i], _mm512_srli_epi32::<4>(packed[i])];
                for (n, sum) in sums.iter_mut().enumerate() {
                    let bit = if p == 0 {
                        _mm512_sllv_epi32(fifth[i], lefts[n])
                    } else {
                        _mm512_srlv_epi32(fifth[i], rights[n])
                    };
                    let quants = or_masked(_mm512_and_si512(nibbles[n], nibble), bit, place);
                    *sum = _mm512_dpbusd_epi32(*sum, quants, part(act, 2 * p + n, i));
                }
            }
            total = add_scaled(total, sums, six_bit_pair(header, p));
        }
        total
    }
}

impl OneRow for TypeQ6K {
    const HALVES: [[usize; 2]; 4] = [[0, 128], [32, 160], [64, 192], [96, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad_header(block: *const u8, stride: usize) -> QuadHeader {
        // SAFETY: 16 bytes of scales and the two bytes of a half end a block.
        let (scales, halves) = unsafe {
            let half = |r: usize| {
                let at = block.add(r * stride + 208);
                i32::from(at.cast::<u16>().read_unaligned())
            };
            let halves = _mm_setr_epi32(half(0), half(1), half(2), half(3));
            (quarters_by_row(block.add(192), stride), halves)
        };
        // A value is q - 32, so each group sum counts -32 times its scale. A byte in the upper half of an i16, shifted
        // right by three, is 32 times its value.
        let even_odd = by_quarters([0x01ff_00ff, 0x03ff_02ff, 0x01ff_00ff, 0x03ff_02ff]);
        let offsets = |scales| {
            let by_32 = _mm512_srai_epi16::<3>(_mm512_shuffle_epi8(scales, even_odd));
            _mm512_sub_epi16(_mm512_setzero_si512(), by_32)
        };
        let d = _mm_cvtph_ps(_mm_packus_epi32(halves, halves));
        QuadHeader {
            scales: [
                _mm512_shuffle_i32x4::<0b10_10_00_00>(scales, scales),
                _mm512_shuffle_i32x4::<0b11_11_01_01>(scales, scales),
            ],
            of_sums: [
                offsets(_mm512_shuffle_i32x4::<0b01_01_00_00>(scales, scales)),
                offsets(_mm512_shuffle_i32x4::<0b11_11_10_10>(scales, scales)),
            ],
            d,
            dmin: d,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &QuadHeader,
        act: &SpreadBlock,
    ) -> __m512i {
        // SAFETY: 128 bytes of low bits and 64 of high bits start the block.
        let (first, second, high) = unsafe {
            let (low, upper) = (four_rows(block, stride), four_rows(block.add(64), stride));
            let mut halves = [low, upper];
            for r in 0..4 {
                halves[0][r] = _mm512_shuffle_i64x2::<0x44>(low[r], upper[r]);
                halves[1][r] = _mm512_shuffle_i64x2::<0xee>(low[r], upper[r]);
            }
            let high = transpose(four_rows(block.add(128), stride));
            (transpose(halves[0]), transpose(halves[1]), high)
        };
        let (nibble, top) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let mut sums = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            let (a, b, h) = (first[i], second[i], high[i]);
            let (a_upper, b_upper) = (_mm512_srli_epi32::<4>(a), _mm512_srli_epi32::<4>(b));
            let quants = [
                or_masked(_mm512_and_si512(a, nibble), _mm512_slli_epi32::<4>(h), top),
                or_masked(_mm512_and_si512(b, nibble), _mm512_slli_epi32::<2>(h), top),
                or_masked(_mm512_and_si512(a_upper, nibble), h, top),
                or_masked(
                    _mm512_and_si512(b_upper, nibble),
                    _mm512_srli_epi32::<2>(h),
                    top,
                ),
            ];
            for n in 0..4 {
                sums[n] = _mm512_dpbusd_epi32(sums[n], quants[n], part(act, n, i));
            }
        }
        let lefts = [by_quarter(24, 16), by_quarter(8, 0)];
        let mut total = _mm512_setzero_si512();
        for pair in 0..2 {
            let scale =
                |left| _mm512_srai_epi32::<24>(_mm512_sllv_epi32(header.scales[pair], left));
            let scales = [scale(lefts[0]), scale(lefts[1])];
            total = add_scaled(total, [sums[2 * pair], sums[2 * pair + 1]], scales);
        }
        total
    }
}

/// The activations of vector `i` of a part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn part(act: &SpreadBlock, part: usize, i: usize) -> __m512i {
    load(&act.parts[part][i])
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn load(line: &[i32; 16]) -> __m512i {
    // SAFETY: the array is a whole vector; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// 64 bytes of each of four rows.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four_rows(first: *const u8, stride: usize) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4];
    for (r, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's promise; the load asks for no alignment.
        *v = unsafe { _mm512_loadu_si512(first.add(r * stride).cast()) };
    }
    v
}

/// 32 bytes of each of four rows, transposed as by [`transpose`], twice.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four_half_rows(first: *const u8, stride: usize) -> [__m512i; 4] {
    let mut v = [_mm256_setzero_si256(); 4];
    for (r, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's promise; the load asks for no alignment.
        *v = unsafe { _mm256_loadu_si256(first.add(r * stride).cast()) };
    }
    let t0 = _mm256_unpacklo_epi32(v[0], v[1]);
    let t1 = _mm256_unpackhi_epi32(v[0], v[1]);
    let t2 = _mm256_unpacklo_epi32(v[2], v[3]);
    let t3 = _mm256_unpackhi_epi32(v[2], v[3]);
    [
        _mm512_broadcast_i64x4(_mm256_unpacklo_epi64(t0, t2)),
        _mm512_broadcast_i64x4(_mm256_unpackhi_epi64(t0, t2)),
        _mm512_broadcast_i64x4(_mm256_unpacklo_epi64(t1, t3)),
        _mm512_broadcast_i64x4(_mm256_unpackhi_epi64(t1, t3)),
    ]
}

/// 16 bytes of each of four rows: lane `r` of quarter `i` is dword `i` of row `r`.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn quarters_by_row(first: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise; the loads ask for no alignment.
    let row = |r: usize| unsafe { _mm_loadu_si128(first.add(r * stride).cast()) };
    let rows = _mm512_castsi128_si512(row(0));
    let rows = _mm512_inserti32x4::<1>(rows, row(1));
    let rows = _mm512_inserti32x4::<2>(rows, row(2));
    let rows = _mm512_inserti32x4::<3>(rows, row(3));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, rows)
}

/// `d`, `dmin` and the packed six-bit scales and mins, unpacked as `dequant::scales_and_mins` does.
///
/// # Safety
/// Four rows must have 16 bytes, the first at `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit_header(block: *const u8, stride: usize) -> QuadHeader {
    // SAFETY: the caller's promise.
    let fields = unsafe { quarters_by_row(block, stride) };
    let deltas = _mm512_castsi512_si128(fields);
    let scales = _mm512_extracti32x4_epi32::<1>(fields);
    let mins = _mm512_extracti32x4_epi32::<2>(fields);
    let high = _mm512_extracti32x4_epi32::<3>(fields);
    let (six, four, top) = (
        _mm_set1_epi8(0x3f),
        _mm_set1_epi8(0x0f),
        _mm_set1_epi8(0x30),
    );
    let join = |bits, low| {
        let upper = _mm_and_si128(_mm_srli_epi32::<2>(low), top);
        _mm_or_si128(_mm_and_si128(bits, four), upper)
    };
    let all_scales = [_mm_and_si128(scales, six), join(high, scales)];
    let all_mins = [
        _mm_and_si128(mins, six),
        join(_mm_srli_epi32::<4>(high), mins),
    ];
    // Quarter `n` takes byte `n` twice.
    let pairs = by_quarters([0xff00_ff00, 0xff01_ff01, 0xff02_ff02, 0xff03_ff03]);
    let pair = |mins| _mm512_shuffle_epi8(_mm512_broadcast_i32x4(mins), pairs);
    QuadHeader {
        scales: [
            _mm512_broadcast_i32x4(all_scales[0]),
            _mm512_broadcast_i32x4(all_scales[1]),
        ],
        of_sums: [pair(all_mins[0]), pair(all_mins[1])],
        d: _mm_cvtph_ps(_mm_packus_epi32(
            _mm_and_si128(deltas, _mm_set1_epi32(0xffff)),
            deltas,
        )),
        dmin: _mm_cvtph_ps(_mm_packus_epi32(_mm_srli_epi32::<16>(deltas), deltas)),
    }
}

/// A shuffle of bytes within lanes (see [`per_lane`]), one for each quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn by_quarters(patterns: [u32; 4]) -> __m512i {
    let quarter = |i: usize| _mm512_castsi512_si128(per_lane(patterns[i]));
    let v = _mm512_castsi128_si512(quarter(0));
    let v = _mm512_inserti32x4::<1>(v, quarter(1));
    let v = _mm512_inserti32x4::<2>(v, quarter(2));
    _mm512_inserti32x4::<3>(v, quarter(3))
}

/// One number in the lanes of the lower half, another in those of the upper.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn by_half(low: i32, high: i32) -> __m512i {
    both(_mm256_set1_epi32(low), _mm256_set1_epi32(high))
}

/// One number in the lanes of the even quarters, another in those of the odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn by_quarter(even: i32, odd: i32) -> __m512i {
    let half = _mm256_setr_epi32(even, even, even, even, odd, odd, odd, odd);
    both(half, half)
}

/// The scales of both parts of piece `p` from the bytes of four groups: those of groups 0 and 2 in the halves of the
/// first, of 1 and 3 in those of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn six_bit_pair(header: &QuadHeader, p: usize) -> [__m512i; 2] {
    let first = by_quarters([0xffff_ff00, 0xffff_ff00, 0xffff_ff02, 0xffff_ff02]);
    let second = by_quarters([0xffff_ff01, 0xffff_ff01, 0xffff_ff03, 0xffff_ff03]);
    [
        _mm512_shuffle_epi8(header.scales[p], first),
        _mm512_shuffle_epi8(header.scales[p], second),
    ]
}

/// `total` and two sums, each times its scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_scaled(total: __m512i, sums: [__m512i; 2], scales: [__m512i; 2]) -> __m512i {
    let first = _mm512_mullo_epi32(sums[0], scales[0]);
    let second = _mm512_mullo_epi32(sums[1], scales[1]);
    _mm512_add_epi32(total, _mm512_add_epi32(first, second))
}

/// See `PanelKernel::spread`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn spread<K: OneRow>(act: &[u8], out: &mut [SpreadBlock]) {
    assert!(out.len() <= act.len() / Q8K_BYTES, "activations");
    for (block, out) in out.iter_mut().enumerate() {
        // SAFETY: the block is there by the assertion; its parts are where the format has them.
        unsafe {
            let act = act.as_ptr().add(block * Q8K_BYTES);
            out.scale = act.cast::<f32>().read_unaligned();
            for (part, [low, high]) in out.parts.iter_mut().zip(K::HALVES) {
                let half = |at: usize| _mm256_loadu_si256(act.add(4 + at).cast());
                let all = both(half(low), half(high));
                store(&mut part[0], _mm512_shuffle_epi32::<0x00>(all));
                store(&mut part[1], _mm512_shuffle_epi32::<0x55>(all));
                store(&mut part[2], _mm512_shuffle_epi32::<0xaa>(all));
                store(&mut part[3], _mm512_shuffle_epi32::<0xff>(all));
            }
            // Pair `n` of the eight pairs of sums in all lanes of quarter `n % 4`.
            for (n, sums) in out.sums.iter_mut().enumerate() {
                let pairs = _mm_loadu_si128(act.add(Q8K_SUMS + 16 * n).cast());
                let order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                store(
                    sums,
                    _mm512_permutexvar_epi32(order, _mm512_castsi128_si512(pairs)),
                );
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn store(line: &mut [i32; 16], v: __m512i) {
    // SAFETY: the array is a whole vector; the store asks for no alignment.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), v) }
}

/// See `PanelKernel::begin`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn begin(weights: &[u8]) {
    let first = weights.len().min(AHEAD_BYTES);
    for at in (0..first).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(weights.as_ptr().wrapping_add(at).cast());
    }
}

/// The sum of the quarters of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_quarters(v: __m512i) -> __m128i {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}

/// See `PanelKernel::one`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn one<K: OneRow>(span: &Span<'_>, act: One<'_>) -> Sums {
    span.check(K::BYTES);
    let acts = &act.spread[span.blocks.clone()];
    let stride = span.rows.row_bytes();
    let mut sums = [0.0; PANEL_ROWS];
    for (q, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        // SAFETY: the span's blocks are there in every row by the check; the features are those of this function.
        unsafe {
            let rows = span.rows.start().add(4 * q * stride);
            // All segments of the rows together ask for each byte once, in the order in which they lie.
            let ahead = rows.wrapping_add(4 * span.blocks.start * K::BYTES + AHEAD_BYTES);
            let first = rows.add(span.blocks.start * K::BYTES);
            let acc = four_sums::<K>((first, ahead), stride, acts);
            _mm_storeu_ps(sums.as_mut_ptr(), acc);
        }
    }
    sums
}

/// The products of four rows with an activation row. A share of the bytes from `ahead` on is asked for with each block.
///
/// # Safety
/// Each row must have as many blocks as there are of activations, the first row from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four_sums<K: OneRow>(
    (first, mut ahead): (*const u8, *const u8),
    stride: usize,
    acts: &[SpreadBlock],
) -> __m128 {
    let mut acc = _mm_setzero_ps();
    for (b, act) in acts.iter().enumerate() {
        for line in 0..(4 * K::BYTES).div_ceil(64) {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * line).cast());
        }
        ahead = ahead.wrapping_add(4 * K::BYTES);
        // SAFETY: the caller's promise; the features are those of this function.
        let (header, total) = unsafe {
            let block = first.add(b * K::BYTES);
            let header = K::quad_header(block, stride);
            let total = K::quad(block, stride, &header, act);
            (header, total)
        };
        let of_sums = _mm512_add_epi32(
            _mm512_madd_epi16(header.of_sums[0], load(&act.sums[0])),
            _mm512_madd_epi16(header.of_sums[1], load(&act.sums[1])),
        );
        let scale = _mm_set1_ps(act.scale);
        let d = _mm_mul_ps(header.d, scale);
        if K::MINS {
            acc = _mm_fmadd_ps(d, _mm_cvtepi32_ps(add_quarters(total)), acc);
            let dmin = _mm_mul_ps(header.dmin, scale);
            acc = _mm_fnmadd_ps(dmin, _mm_cvtepi32_ps(add_quarters(of_sums)), acc);
        } else {
            let sum = add_quarters(_mm512_add_epi32(total, of_sums));
            acc = _mm_fmadd_ps(d, _mm_cvtepi32_ps(sum), acc);
        }
    }
    acc
}
