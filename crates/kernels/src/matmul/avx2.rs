//! Panels of quantised rows for AVX2: the sixteen lanes are two vectors of eight.
//!
//! `maddubs` multiplies four unsigned weights of a row, which are one lane, with four activations that all lanes share,
//! and adds the products in pairs to `i16`. As many of those are added in `i16` as surely fit: activations are never
//! -128, so the largest pair is 2 * 127 times the largest weight. One `madd` with the integer scale, twice in each
//! lane, then widens to `i32`.
#![allow(
    unsafe_code,
    reason = "vector loads take pointers, trait functions cannot carry features safely"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "constant ranges over several arrays at once, which unroll"
)]

mod headers;
mod small_blocks;
mod super_blocks;

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2_floats;
use super::panel::{PANEL_ROWS, PanelKernel, PanelRows, Sums};
use super::tile::Tile;
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
    avx2_floats::tiles(ty)
}

/// The same block of eight rows.
#[derive(Clone, Copy)]
struct Eight {
    /// The block of the first row.
    first: *const u8,
    /// Bytes from a row to the next.
    stride: usize,
}

impl Eight {
    /// What lies `at` bytes into the rows of half `half` of a panel.
    ///
    /// # Safety
    /// The rows must have so many bytes.
    #[inline]
    unsafe fn of(rows: PanelRows<'_>, half: usize, at: usize) -> Self {
        let stride = rows.row_bytes();
        Eight {
            // SAFETY: a panel has sixteen rows; the caller promises the bytes.
            first: unsafe { rows.start().add(8 * half * stride + at) },
            stride,
        }
    }

    /// Sixteen columns: lane `r` of the vector `i` holds bytes `4 i .. 4 i + 4` of row `r`, counted from `at`.
    ///
    /// # Safety
    /// Every block must have 16 bytes at `at`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(self, at: usize) -> [__m256i; 4] {
        let mut v = [_mm256_setzero_si256(); 4];
        // SAFETY: the caller promises the bytes in each of the rows; the loads ask for no alignment.
        unsafe {
            let low = self.first.add(at);
            let high = low.add(4 * self.stride);
            for i in 0..4 {
                v[i] = _mm256_inserti128_si256::<1>(
                    _mm256_castsi128_si256(_mm_loadu_si128(low.add(i * self.stride).cast())),
                    _mm_loadu_si128(high.add(i * self.stride).cast()),
                );
            }
        }
        transpose(v)
    }

    /// The f16 at `at` of every row.
    ///
    /// # Safety
    /// Every block must have two bytes there.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn halves(self, at: usize) -> __m256 {
        // SAFETY: the caller promises the bytes; the loads ask for no alignment.
        let h = |r: usize| unsafe {
            let stored = self.first.add(r * self.stride + at);
            stored.cast::<i16>().read_unaligned()
        };
        _mm256_cvtph_ps(_mm_setr_epi16(
            h(0),
            h(1),
            h(2),
            h(3),
            h(4),
            h(5),
            h(6),
            h(7),
        ))
    }
}

/// Transposes four rows of dwords within each half of the vectors: lane `4 h + r` of the result `i` is dword
/// `4 h + i` of row `r`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(v: [__m256i; 4]) -> [__m256i; 4] {
    let t0 = _mm256_unpacklo_epi32(v[0], v[1]);
    let t1 = _mm256_unpackhi_epi32(v[0], v[1]);
    let t2 = _mm256_unpacklo_epi32(v[2], v[3]);
    let t3 = _mm256_unpackhi_epi32(v[2], v[3]);
    [
        _mm256_unpacklo_epi64(t0, t2),
        _mm256_unpackhi_epi64(t0, t2),
        _mm256_unpacklo_epi64(t1, t3),
        _mm256_unpackhi_epi64(t1, t3),
    ]
}

/// The lower and the upper nibbles of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(packed: [__m256i; 4]) -> [[__m256i; 4]; 2] {
    let nibble = _mm256_set1_epi8(15);
    let mut q = [[_mm256_setzero_si256(); 4]; 2];
    for i in 0..4 {
        q[0][i] = _mm256_and_si256(packed[i], nibble);
        q[1][i] = _mm256_and_si256(_mm256_srli_epi16::<4>(packed[i]), nibble);
    }
    q
}

/// The same value, computed here and now: the compiler may not regroup a sum across this. Sums of many products,
/// regrouped, need more registers than there are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pinned(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Asks for `bytes` bytes of eight rows of the panel after this one, as many as half `half` of block `block` takes. They
/// are asked for in the order in which they lie in memory. Past the end of the weights that asks for something useless, no more.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "once a block, and a call would spill every register"
)]
fn prefetch_half(rows: PanelRows<'_>, (block, half): (usize, usize), bytes: usize) {
    let panel = PANEL_ROWS * rows.row_bytes();
    let ahead = rows
        .start()
        .wrapping_add(panel + (2 * block + half) * 8 * bytes);
    for line in 0..(8 * bytes).div_ceil(64) {
        // SAFETY: a prefetch reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * line).cast()) };
    }
}

/// Four activations for all lanes.
///
/// # Safety
/// `act` must have four bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn four(act: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's promise; no alignment is needed.
    _mm256_set1_epi32(unsafe { act.add(at).cast::<i32>().read_unaligned() })
}

/// The scale at the start of an activation block, for all lanes.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn act_scale(act: *const u8) -> __m256 {
    // SAFETY: a block starts with an f32; no alignment is needed.
    _mm256_set1_ps(unsafe { act.cast::<f32>().read_unaligned() })
}

/// Half `half` of sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_sums(sums: &Sums, half: usize) -> __m256 {
    // SAFETY: eight of sixteen floats; the load asks for no alignment.
    unsafe { _mm256_loadu_ps(sums.as_chunks::<8>().0[half].as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_sums(sums: &mut Sums, half: usize, v: __m256) {
    // SAFETY: eight of sixteen floats; the store asks for no alignment.
    unsafe { _mm256_storeu_ps(sums.as_chunks_mut::<8>().0[half].as_mut_ptr(), v) }
}

/// Half `half` of a line of an `Unpacked`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_line<T>(line: &[T; PANEL_ROWS], half: usize) -> __m256i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: eight of sixteen lanes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(line.as_chunks::<8>().0[half].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_line<T>(line: &mut [T; PANEL_ROWS], half: usize, v: __m256i) {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: eight of sixteen lanes; the store asks for no alignment.
    unsafe { _mm256_storeu_si256(line.as_chunks_mut::<8>().0[half].as_mut_ptr().cast(), v) }
}

/// Half `half` of four columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_quants(line: &[u8; 4 * PANEL_ROWS], half: usize) -> __m256i {
    // SAFETY: 32 of 64 bytes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(line.as_chunks::<32>().0[half].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_quants(line: &mut [u8; 4 * PANEL_ROWS], half: usize, v: __m256i) {
    // SAFETY: 32 of 64 bytes; the store asks for no alignment.
    unsafe { _mm256_storeu_si256(line.as_chunks_mut::<32>().0[half].as_mut_ptr().cast(), v) }
}

/// Asks for what a whole block takes; see [`prefetch_half`].
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "once a block, and a call would spill every register"
)]
fn prefetch(rows: PanelRows<'_>, block: usize, bytes: usize) {
    for half in 0..2 {
        prefetch_half(rows, (block, half), bytes);
    }
}

/// Asks for the bytes `ahead` of a block, which another tile will read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch_row<const N: usize>(block: &[u8; N], ahead: usize) {
    for at in (0..N).step_by(64) {
        let address = block.as_ptr().wrapping_add(ahead).wrapping_add(at);
        #[allow(unused_unsafe, reason = "older standard libraries call it unsafe")]
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
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
