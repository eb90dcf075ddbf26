//! Super-blocks with one activation row, where transposing whole costs more than it saves.
//!
//! Each quarter of a vector keeps columns of its own of the same four rows (`quad`), the activations are spread to
//! match (`spread`), and the quarters are added at the end of the block (`gather`).

use std::arch::x86_64::*;

use super::super::panel::{PANEL_ROWS, PanelRows, Span, Sums};
use super::scales::{
    finish, halves, min_pairs, offsets_of_32, or_masked, per_lane, six_bit, with_sums,
};
use super::super_blocks::{SuperBlock, TypeQ4K, TypeQ5K, TypeQ6K};
use super::{both, columns, prefetch, store_sums, transpose};
use crate::acts::Q8K_BYTES;

/// The scales of one block of a panel, for one activation row.
pub(super) struct LightHeader {
    /// Stored scales: Q4_K and Q5_K have the six-bit ones of groups `4 i .. 4 i + 4` in the bytes of lane `r` of vector
    /// `i`, Q6_K its signed ones likewise.
    scales: [__m512i; 4],
    /// Products with the group sums.
    of_sums: __m512i,
    d: __m512,
    dmin: __m512,
}

/// What differs between the types.
pub(super) trait OneRow: SuperBlock {
    /// The first columns of the halves of the four parts of a block.
    const HALVES: [[usize; 2]; 4];

    /// What is needed for one activation row: packed scales, products of the group sums, `d` and `dmin`.
    ///
    /// # Safety
    /// Needs AVX-512 F, BW and VL; every row must have a block at `at`; `act` must be a block of activations.
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader;

    /// The scaled products of the rows `4 q .. 4 q + 4`, the first of which has its block at `block`, the others
    /// `stride` bytes further each: lane `4 n + r` is the sum of row `r` over the columns of quarter `n`. In quarters 0
    /// and 1 of part `i` those are 32 from `HALVES[i][0]` on, in 2 and 3 from `HALVES[i][1]`; `acts` are the
    /// activations of the parts, spread alike.
    ///
    /// # Safety
    /// As [`OneRow::light_header`], with the block of four rows at `block`.
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &LightHeader,
        q: usize,
        acts: &Spread,
    ) -> __m512i;
}

/// Activations of the four parts of a block.
pub(super) type Spread = [[__m512i; 4]; 4];

impl OneRow for TypeQ4K {
    const HALVES: [[usize; 2]; 4] = [[0, 64], [32, 96], [128, 192], [160, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_light_header(rows, at, act) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &LightHeader,
        q: usize,
        acts: &Spread,
    ) -> __m512i {
        let (low, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-16));
        let mut total = _mm512_setzero_si512();
        for p in 0..2 {
            // SAFETY: 64 of the 128 bytes of quants after the header.
            let packed = unsafe { transpose(four_rows(block.add(16 + 64 * p), stride)) };
            let mut sums = [_mm512_setzero_si512(); 2];
            for i in 0..4 {
                let (first, second) = (acts[2 * p][i], acts[2 * p + 1][i]);
                let quants = _mm512_and_si512(packed[i], low);
                sums[0] = _mm512_dpbusd_epi32(sums[0], quants, first);
                // Sixteen times too large; shifting the sum once is cheaper than shifting the quants.
                let quants = _mm512_and_si512(packed[i], upper);
                sums[1] = _mm512_dpbusd_epi32(sums[1], quants, second);
            }
            sums[1] = _mm512_srai_epi32::<4>(sums[1]);
            total = add_scaled(total, sums, six_bit_pair(header.scales[p], q));
        }
        total
    }
}

impl OneRow for TypeQ5K {
    const HALVES: [[usize; 2]; 4] = [[0, 64], [32, 96], [128, 192], [160, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_light_header(rows, at, act) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &LightHeader,
        q: usize,
        acts: &Spread,
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
                for (part, sum) in sums.iter_mut().enumerate() {
                    let bit = if p == 0 {
                        _mm512_sllv_epi32(fifth[i], lefts[part])
                    } else {
                        _mm512_srlv_epi32(fifth[i], rights[part])
                    };
                    let quants = or_masked(_mm512_and_si512(nibbles[part], nibble), bit, place);
                    *sum = _mm512_dpbusd_epi32(*sum, quants, acts[2 * p + part][i]);
                }
            }
            total = add_scaled(total, sums, six_bit_pair(header.scales[p], q));
        }
        total
    }
}

impl OneRow for TypeQ6K {
    const HALVES: [[usize; 2]; 4] = [[0, 128], [32, 160], [64, 192], [96, 224]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
        // SAFETY: 16 bytes of scales, and the last two bytes of a block; the caller's activations.
        unsafe {
            let scales = columns(rows, at + 192);
            let d = halves(rows, at + 208);
            let of_sums = with_sums(&offsets_of_32(&scales), act);
            LightHeader {
                scales,
                of_sums,
                d,
                dmin: d,
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quad(
        block: *const u8,
        stride: usize,
        header: &LightHeader,
        q: usize,
        acts: &Spread,
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
            let quants = [
                or_masked(_mm512_and_si512(a, nibble), _mm512_slli_epi32::<4>(h), top),
                or_masked(_mm512_and_si512(b, nibble), _mm512_slli_epi32::<2>(h), top),
                or_masked(_mm512_and_si512(_mm512_srli_epi32::<4>(a), nibble), h, top),
                or_masked(
                    _mm512_and_si512(_mm512_srli_epi32::<4>(b), nibble),
                    _mm512_srli_epi32::<2>(h),
                    top,
                ),
            ];
            for part in 0..4 {
                sums[part] = _mm512_dpbusd_epi32(sums[part], quants[part], acts[part][i]);
            }
        }
        // Groups `4 i .. 4 i + 4` of both halves of the block, in the bytes of each lane of a row.
        let scales = [
            two_quarters(header.scales[0], header.scales[2], q),
            two_quarters(header.scales[1], header.scales[3], q),
        ];
        let lefts = [by_quarter(24, 16), by_quarter(8, 0)];
        let mut total = _mm512_setzero_si512();
        for pair in 0..2 {
            let bytes = lefts.map(|left| _mm512_sllv_epi32(scales[pair], left));
            let scales = [
                _mm512_srai_epi32::<24>(bytes[0]),
                _mm512_srai_epi32::<24>(bytes[1]),
            ];
            total = add_scaled(total, [sums[2 * pair], sums[2 * pair + 1]], scales);
        }
        total
    }
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

/// The lower half of one vector and the upper half of another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn halves_of(low: __m512i, high: __m512i) -> __m512i {
    _mm512_shuffle_i64x2::<0b11_10_01_00>(low, high)
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

/// Quarter `q` of one vector twice, then that of another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn two_quarters(low: __m512i, high: __m512i, q: usize) -> __m512i {
    match q {
        0 => _mm512_shuffle_i32x4::<0x00>(low, high),
        1 => _mm512_shuffle_i32x4::<0x55>(low, high),
        2 => _mm512_shuffle_i32x4::<0xaa>(low, high),
        _ => _mm512_shuffle_i32x4::<0xff>(low, high),
    }
}

/// The scales of two parts from the bytes of four groups, for the rows of quarter `q`: those of groups 0 and 2 in the
/// halves of the first result, of 1 and 3 in those of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn six_bit_pair(scales: __m512i, q: usize) -> [__m512i; 2] {
    let of_rows = two_quarters(scales, scales, q);
    let first = halves_of(per_lane(0xffff_ff00), per_lane(0xffff_ff02));
    let second = halves_of(per_lane(0xffff_ff01), per_lane(0xffff_ff03));
    [
        _mm512_shuffle_epi8(of_rows, first),
        _mm512_shuffle_epi8(of_rows, second),
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

/// See [`OneRow::light_header`].
///
/// # Safety
/// Every row must have 16 bytes at `at`; `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit_light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
    // SAFETY: the caller's promise.
    unsafe {
        let six = six_bit(rows, at);
        LightHeader {
            scales: [six.scales[0], six.scales[1], six.scales[0], six.scales[1]],
            of_sums: with_sums(&min_pairs(&six.mins), act),
            d: six.d,
            dmin: six.dmin,
        }
    }
}

/// The activations of one part, spread: vector `i` has dword `4 q + i` of the part in all lanes of quarter `q`.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn spread(act: *const u8, halves: [usize; 2]) -> [__m512i; 4] {
    // SAFETY: 32 of the 256 quants each; the loads ask for no alignment.
    let part = unsafe {
        both(
            _mm256_loadu_si256(act.add(4 + halves[0]).cast()),
            _mm256_loadu_si256(act.add(4 + halves[1]).cast()),
        )
    };
    [
        _mm512_shuffle_epi32::<0x00>(part),
        _mm512_shuffle_epi32::<0x55>(part),
        _mm512_shuffle_epi32::<0xaa>(part),
        _mm512_shuffle_epi32::<0xff>(part),
    ]
}

/// Adds the quarters of each vector; lane `4 q + r` of the result is the sum of lanes `r` of vector `q`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn gather(v: [__m512i; 4]) -> __m512i {
    let pairs = |a: __m512i, b: __m512i| {
        _mm512_add_epi32(
            _mm512_shuffle_i32x4::<0x44>(a, b),
            _mm512_shuffle_i32x4::<0xee>(a, b),
        )
    };
    let (low, high) = (pairs(v[0], v[1]), pairs(v[2], v[3]));
    _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0x88>(low, high),
        _mm512_shuffle_i32x4::<0xdd>(low, high),
    )
}

/// See [`PanelKernel::one`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn one<K: OneRow>(span: &Span<'_>, act: &[u8]) -> Sums {
    span.check(K::BYTES);
    assert!(span.blocks.end <= act.len() / Q8K_BYTES, "activations");
    let mut acc = _mm512_setzero_ps();
    for block in span.blocks.clone() {
        prefetch(span.rows, block, K::BYTES);
        // SAFETY: block and activations are there by the assertions; the features are those of this function.
        unsafe {
            let act = act.as_ptr().add(block * Q8K_BYTES);
            let header = K::light_header(span.rows, block * K::BYTES, act);
            let total = block_sums::<K>(span.rows, block * K::BYTES, &header, act);
            let sums = (total, header.of_sums);
            acc = if K::MINS {
                finish::<true>(acc, sums, (header.d, header.dmin), act)
            } else {
                finish::<false>(acc, sums, (header.d, header.d), act)
            };
        }
    }
    let mut sums = [0.0; PANEL_ROWS];
    store_sums(&mut sums, acc);
    sums
}

/// The scaled integer sums of one block with one activation block.
///
/// # Safety
/// Every row must have a block at `at`; `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn block_sums<K: OneRow>(
    rows: PanelRows<'_>,
    at: usize,
    header: &LightHeader,
    act: *const u8,
) -> __m512i {
    let stride = rows.row_bytes();
    let mut acts = [[_mm512_setzero_si512(); 4]; 4];
    for (acts, halves) in acts.iter_mut().zip(K::HALVES) {
        // SAFETY: the caller's promise.
        *acts = unsafe { spread(act, halves) };
    }
    let mut totals = [_mm512_setzero_si512(); 4];
    for (q, total) in totals.iter_mut().enumerate() {
        // SAFETY: the caller's promises; the features are those of this function.
        *total = unsafe {
            let block = rows.start().add(at + 4 * q * stride);
            K::quad(block, stride, header, q, &acts)
        };
    }
    gather(totals)
}
