//! Cache rows back to f32.
//!
//! Owns the exact widening of stored values. It never rounds. The idea: attention takes a few rows, or a few
//! columns of many rows, at a time, so that what was widened is used from the innermost cache.
#![allow(
    unsafe_code,
    reason = "vector loads take pointers, functions with target features are called after a check for them"
)]

use super::q8::BLOCK;
use crate::Isa;
use crate::weight::f16_to_f32;

/// Keys or values of one head in one page: `[position][value]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Block<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// Stored values and the scales of 32 of them each.
    Q8(&'a [i8], &'a [f32]),
}

/// A part of a block: some columns of some rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Values of a whole row of the block.
    pub(crate) dim: usize,
    /// The first row.
    pub(crate) row: usize,
    /// How many rows.
    pub(crate) rows: usize,
    /// The first column, a multiple of 32.
    pub(crate) col: usize,
    /// How many columns.
    pub(crate) cols: usize,
}

impl Part {
    /// Where row `i` of the part begins in a block.
    #[inline(always)]
    fn at(&self, i: usize) -> usize {
        (self.row + i) * self.dim + self.col
    }
}

impl Block<'_> {
    /// Asks for part `index` of `parts` equal parts of the block, to be there when they are widened.
    pub(crate) fn prefetch(&self, index: usize, parts: usize) {
        match *self {
            Block::F32(all) => prefetch_part(all, index, parts),
            Block::F16(all) => prefetch_part(all, index, parts),
            Block::Q8(all, scales) => {
                prefetch_part(all, index, parts);
                prefetch_part(scales, index, parts);
            }
        }
    }

    /// Widens `part` into the front of the rows of `out`, `stride` values each; what is behind stays as it is.
    ///
    /// # Panics
    /// If the part reaches beyond the block or `out`.
    pub(crate) fn widen(&self, isa: Isa, part: &Part, out: &mut [f32], stride: usize) {
        assert!(
            part.cols <= stride && part.col + part.cols <= part.dim,
            "columns outside"
        );
        assert!(part.rows * stride <= out.len(), "rows outside the output");
        match *self {
            Block::F32(all) => widen_f32(isa, all, part, out, stride),
            Block::F16(all) => widen_f16(isa, all, part, out, stride),
            Block::Q8(all, scales) => widen_q8(isa, (all, scales), part, out, stride),
        }
    }
}

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for part `index` of `parts` equal parts of `all`.
fn prefetch_part<T>(all: &[T], index: usize, parts: usize) {
    let len = all.len().div_ceil(parts);
    let part = all.chunks(len.max(1)).nth(index).unwrap_or_default();
    #[cfg(target_arch = "x86_64")]
    for line in part.chunks((LINE_BYTES / size_of::<T>()).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 processor has SSE, and a prefetch changes no memory and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = part;
}

#[inline(always)]
fn f32_body(all: &[f32], part: &Part, out: &mut [f32], stride: usize) {
    for (i, out) in out.chunks_exact_mut(stride).take(part.rows).enumerate() {
        out[..part.cols].copy_from_slice(&all[part.at(i)..][..part.cols]);
    }
}

#[inline(always)]
fn q8_body((all, scales): (&[i8], &[f32]), part: &Part, out: &mut [f32], stride: usize) {
    for (i, out) in out.chunks_exact_mut(stride).take(part.rows).enumerate() {
        let stored = &all[part.at(i)..][..part.cols];
        let scales = &scales[part.at(i) / BLOCK..];
        let blocks = out[..part.cols].as_chunks_mut::<BLOCK>().0.iter_mut();
        for ((out, stored), scale) in blocks.zip(stored.as_chunks::<BLOCK>().0).zip(scales) {
            for (out, stored) in out.iter_mut().zip(stored) {
                *out = scale * f32::from(*stored);
            }
        }
    }
}

kernel! {
    fn widen_f32(all: &[f32], part: &Part, out: &mut [f32], stride: usize) = f32_body
}

kernel! {
    fn widen_q8(stored: (&[i8], &[f32]), part: &Part, out: &mut [f32], stride: usize) = q8_body
}

fn widen_f16(isa: Isa, all: &[u16], part: &Part, out: &mut [f32], stride: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx512 if isa.available() => unsafe { x86::f16_avx512(all, part, out, stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx2 if isa.available() => unsafe { x86::f16_avx2(all, part, out, stride) },
        _ => {
            for (i, out) in out.chunks_exact_mut(stride).take(part.rows).enumerate() {
                let stored = &all[part.at(i)..][..part.cols];
                for (out, stored) in out.iter_mut().zip(stored) {
                    *out = f16_to_f32(*stored);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Part, f16_to_f32};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn f16_avx2(all: &[u16], part: &Part, out: &mut [f32], stride: usize) {
        for (i, out) in out.chunks_exact_mut(stride).take(part.rows).enumerate() {
            let (stored, rest) = all[part.at(i)..][..part.cols].as_chunks::<8>();
            let (vectors, singles) = out[..part.cols].as_chunks_mut::<8>();
            for (out, stored) in vectors.iter_mut().zip(stored) {
                // SAFETY: 8 stored values are 16 bytes, 8 values are 32; neither access asks for alignment.
                unsafe {
                    let eight = _mm256_cvtph_ps(_mm_loadu_si128(stored.as_ptr().cast()));
                    _mm256_storeu_ps(out.as_mut_ptr(), eight);
                }
            }
            for (out, stored) in singles.iter_mut().zip(rest) {
                *out = f16_to_f32(*stored);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
    pub(super) fn f16_avx512(all: &[u16], part: &Part, out: &mut [f32], stride: usize) {
        for (i, out) in out.chunks_exact_mut(stride).take(part.rows).enumerate() {
            let (stored, rest) = all[part.at(i)..][..part.cols].as_chunks::<16>();
            let (vectors, singles) = out[..part.cols].as_chunks_mut::<16>();
            for (out, stored) in vectors.iter_mut().zip(stored) {
                // SAFETY: 16 stored values are 32 bytes, 16 values are 64; neither access asks for alignment.
                unsafe {
                    let sixteen = _mm512_cvtph_ps(_mm256_loadu_si256(stored.as_ptr().cast()));
                    _mm512_storeu_ps(out.as_mut_ptr(), sixteen);
                }
            }
            for (out, stored) in singles.iter_mut().zip(rest) {
                *out = f16_to_f32(*stored);
            }
        }
    }
}
