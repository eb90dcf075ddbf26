//! Panels of quantised rows for AVX-512 with VNNI.
//!
//! `dpbusd` multiplies four unsigned weights of a row, which are one lane, with four activations that all lanes
//! share, and adds the products to the lane: 16 rows by 4 columns in one instruction, exact in `i32`. Signed weights
//! are stored with 128 added (Q4_0: with 8), which the sum of the activations takes off again.
#![allow(
    unsafe_code,
    reason = "vector loads take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

mod many_rows;
mod one_row;
mod scales;
mod small_blocks;
mod super_blocks;

use std::arch::x86_64::*;

use super::panel::{PANEL_ROWS, PanelKernel, PanelRows};
use super::tile::Tile;
use super::{avx512_floats, panel};
use crate::WeightType;

/// How products of a type are computed.
pub(super) fn kernel(ty: WeightType) -> Option<&'static PanelKernel> {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => None,
        WeightType::Q8_0 => Some(&small_blocks::Q8_0),
        WeightType::Q4_0 => Some(&small_blocks::Q4_0),
        WeightType::Q4K => Some(&super_blocks::Q4K),
        WeightType::Q5K => Some(&super_blocks::Q5K),
        WeightType::Q6K => Some(&super_blocks::Q6K),
    }
}

/// The tiles of a float type, wide ones first.
pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    avx512_floats::tiles(ty)
}

/// Sixteen columns of a panel: lane `r` of the vector `i` holds bytes `4 i .. 4 i + 4` of row `r`, counted from `at`.
///
/// # Safety
/// Every row must have 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn columns(rows: PanelRows<'_>, at: usize) -> [__m512i; 4] {
    let stride = rows.row_bytes();
    let mut v = [_mm512_setzero_si512(); 4];
    // SAFETY: the caller promises the bytes in each of the rows; the loads ask for no alignment.
    unsafe {
        let first = rows.start().add(at);
        let quarters = [
            first,
            first.add(4 * stride),
            first.add(8 * stride),
            first.add(12 * stride),
        ];
        for i in 0..4 {
            let row = |quarter: usize| _mm_loadu_si128(quarters[quarter].add(i * stride).cast());
            let low = _mm512_castsi128_si512(row(0));
            let low = _mm512_inserti32x4::<1>(low, row(1));
            let low = _mm512_inserti32x4::<2>(low, row(2));
            v[i] = _mm512_inserti32x4::<3>(low, row(3));
        }
    }
    transpose(v)
}

/// Transposes four rows of dwords within each quarter of the vectors: lane `4 q + r` of the result `i` is dword
/// `4 q + i` of row `r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn transpose(v: [__m512i; 4]) -> [__m512i; 4] {
    let t0 = _mm512_unpacklo_epi32(v[0], v[1]);
    let t1 = _mm512_unpackhi_epi32(v[0], v[1]);
    let t2 = _mm512_unpacklo_epi32(v[2], v[3]);
    let t3 = _mm512_unpackhi_epi32(v[2], v[3]);
    [
        _mm512_unpacklo_epi64(t0, t2),
        _mm512_unpackhi_epi64(t0, t2),
        _mm512_unpacklo_epi64(t1, t3),
        _mm512_unpackhi_epi64(t1, t3),
    ]
}

/// Asks for `bytes` bytes of every row of the panel after this one, as many as block `block` takes. They are asked for
/// in the order in which they lie in memory. Past the end of the weights that asks for something useless, no more.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "once a block, and a call would spill every register"
)]
fn prefetch(rows: PanelRows<'_>, block: usize, bytes: usize) {
    let panel = PANEL_ROWS * rows.row_bytes();
    let ahead = rows
        .start()
        .wrapping_add(panel + block * PANEL_ROWS * bytes);
    for line in 0..(PANEL_ROWS * bytes).div_ceil(64) {
        // SAFETY: a prefetch reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * line).cast()) };
    }
}

/// Four activations for all lanes.
///
/// # Safety
/// `act` must have four bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four(act: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's promise; no alignment is needed.
    _mm512_set1_epi32(unsafe { act.add(at).cast::<i32>().read_unaligned() })
}

/// The scale at the start of an activation block, for all lanes.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn act_scale(act: *const u8) -> __m512 {
    // SAFETY: a block starts with an f32; no alignment is needed.
    _mm512_set1_ps(unsafe { act.cast::<f32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn load_sums(sums: &panel::Sums) -> __m512 {
    // SAFETY: the array is a whole vector; the load asks for no alignment.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}

/// The sums so far: zero before the first blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn so_far(w: &panel::Unpacked, sums: &panel::Sums) -> __m512 {
    if w.first {
        return _mm512_setzero_ps();
    }
    load_sums(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn store_sums(sums: &mut panel::Sums, v: __m512) {
    // SAFETY: the array is a whole vector; the store asks for no alignment.
    unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), v) }
}

/// Two halves as one vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn both(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// A line of an `Unpacked`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn load_line<T>(line: &[T; PANEL_ROWS]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array is a whole vector; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn store_line<T>(line: &mut [T; PANEL_ROWS], v: __m512i) {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array is a whole vector; the store asks for no alignment.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_double<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    assert!(at + 64 <= N);
    // SAFETY: in bounds by the assertion; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().add(at).cast()) }
}
