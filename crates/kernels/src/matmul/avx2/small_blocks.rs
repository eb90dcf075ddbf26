//! Blocks of 32: Q8_0 and Q4_0.

use std::arch::x86_64::*;

use super::super::panel::{One, PANEL_ROWS, PanelKernel, SMALL_BLOCKS, Span, Sums, Unpacked};
use super::{
    Eight, act_scale, four, load_quants, load_sums, nibbles, pinned, prefetch, store_quants,
    store_sums,
};
use crate::acts::Q8_0_BYTES;

/// What differs between the types.
trait SmallBlock {
    /// Bytes of a stored block.
    const BYTES: usize;

    /// Quants as [`SmallBlock::add`] takes them, four columns a vector.
    ///
    /// # Safety
    /// Needs AVX2; every row must have a block there.
    unsafe fn quants(rows: Eight) -> [__m256i; 8];

    /// What is added to the sum of a block in the end: it takes off what quants are too large by.
    ///
    /// # Safety
    /// Needs AVX2; `act` must be a block of activations.
    unsafe fn offset(act: *const u8) -> __m256i;

    /// Adds the products of four columns to a sum.
    ///
    /// # Safety
    /// Needs AVX2.
    unsafe fn add(sum: __m256i, q: __m256i, act: __m256i) -> __m256i;

    /// The whole sum in `i32`.
    ///
    /// # Safety
    /// Needs AVX2.
    unsafe fn widen(sum: __m256i, offset: __m256i) -> __m256i;
}

struct TypeQ8_0;
struct TypeQ4_0;

/// The functions of a type.
macro_rules! kernel {
    ($name:ident, $ty:ty) => {
        /// Panels of this type; its functions need AVX2, FMA and F16C.
        pub(in super::super) static $name: PanelKernel = PanelKernel {
            block_bytes: <$ty as SmallBlock>::BYTES,
            unpack_blocks: SMALL_BLOCKS,
            spread: None,
            begin: None,
            one: one::<$ty>,
            unpack: unpack::<$ty>,
            many: many::<$ty>,
        };
    };
}

kernel!(Q8_0, TypeQ8_0);
kernel!(Q4_0, TypeQ4_0);

/// Signed weights go as magnitude times activation with the weight's sign: a pair sum of at most
/// 2 * 128 * 127 = 32512, alone in `i16`.
impl SmallBlock for TypeQ8_0 {
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(rows: Eight) -> [__m256i; 8] {
        // SAFETY: 32 bytes of quants follow the scale.
        let (low, high) = unsafe { (rows.columns(2), rows.columns(18)) };
        [
            low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn offset(_act: *const u8) -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(sum: __m256i, q: __m256i, act: __m256i) -> __m256i {
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(act, q));
        _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(sum: __m256i, _offset: __m256i) -> __m256i {
        sum
    }
}

/// Quants are 8 too large, which the sum of the activations takes off again: a whole sum of pairs is at most
/// 8 * 2 * 8 * 127 = 16256, and what wraps on the way wraps back.
impl SmallBlock for TypeQ4_0 {
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(rows: Eight) -> [__m256i; 8] {
        // SAFETY: 16 bytes of quants follow the scale.
        let [low, high] = nibbles(unsafe { rows.columns(2) });
        [
            low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn offset(act: *const u8) -> __m256i {
        // SAFETY: 32 quants follow the scale; the load asks for no alignment.
        let quants = unsafe { _mm256_loadu_si256(act.add(4).cast()) };
        let eights = _mm256_maddubs_epi16(_mm256_set1_epi8(8), quants);
        let swapped = _mm256_permute4x64_epi64::<0b01_00_11_10>(eights);
        let four = _mm256_add_epi16(eights, swapped);
        let two = _mm256_add_epi16(four, _mm256_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm256_add_epi16(two, _mm256_shuffle_epi32::<0b10_11_00_01>(two));
        _mm256_sub_epi16(_mm256_setzero_si256(), one)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(sum: __m256i, q: __m256i, act: __m256i) -> __m256i {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(q, act))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(sum: __m256i, offset: __m256i) -> __m256i {
        let sum = _mm256_add_epi16(sum, offset);
        _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
    }
}

/// `acc + (d * scale of the activations) * sum`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish(acc: __m256, sum: __m256i, d: __m256, scale: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(sum), acc)
}

/// See [`PanelKernel::one`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one<K: SmallBlock>(span: &Span<'_>, One { act, .. }: One<'_>) -> Sums {
    span.check(K::BYTES);
    assert!(span.blocks.end <= act.len() / Q8_0_BYTES, "activations");
    let mut acc = [_mm256_setzero_ps(); 2];
    for block in span.blocks.clone() {
        prefetch(span.rows, block, K::BYTES);
        // SAFETY: block and activations are there by the assertions; the features are those of this function.
        unsafe {
            let act = act.as_ptr().add(block * Q8_0_BYTES);
            let (offset, scale) = (K::offset(act), act_scale(act));
            for half in 0..2 {
                let rows = Eight::of(span.rows, half, block * K::BYTES);
                let q = K::quants(rows);
                let mut sum = _mm256_setzero_si256();
                for i in 0..8 {
                    sum = K::add(sum, q[i], four(act, 4 + 4 * i));
                }
                acc[half] = finish(acc[half], K::widen(sum, offset), rows.halves(0), scale);
            }
        }
    }
    let mut sums = [0.0; PANEL_ROWS];
    for half in 0..2 {
        store_sums(&mut sums, half, acc[half]);
    }
    sums
}

/// See [`PanelKernel::unpack`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<K: SmallBlock>(span: &Span<'_>, out: &mut Unpacked) {
    assert!(span.blocks.len() <= SMALL_BLOCKS, "blocks of a span");
    span.check(K::BYTES);
    out.blocks = span.blocks.len();
    for (i, block) in span.blocks.clone().enumerate() {
        prefetch(span.rows, block, K::BYTES);
        for half in 0..2 {
            // SAFETY: the block is there by the assertions; the features are those of this function.
            let (d, q) = unsafe {
                let rows = Eight::of(span.rows, half, block * K::BYTES);
                (rows.halves(0), K::quants(rows))
            };
            store_sums(&mut out.d[i], half, d);
            for k in 0..8 {
                store_quants(&mut out.q[8 * i + k], half, q[k]);
            }
        }
    }
}

/// See [`PanelKernel::many`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many<K: SmallBlock>(w: &Unpacked, block: usize, acts: &[&[u8]], sums: &mut [Sums]) {
    for act in acts {
        assert!((block + w.blocks) * Q8_0_BYTES <= act.len(), "activations");
    }
    if w.first {
        sums.fill([0.0; PANEL_ROWS]);
    }
    let (mut sums, mut acts) = (sums, acts);
    macro_rules! tiles {
        ($($n:literal),*) => {
            $(while let Some((part, rest)) = acts.split_first_chunk::<$n>() {
                let (out, others) = sums.split_at_mut($n);
                // SAFETY: activations are there by the assertion; the features are those of this function.
                unsafe { tile::<K, $n>(w, block, part, out) };
                (acts, sums) = (rest, others);
            })*
        };
    }
    tiles!(4, 2, 1);
}

/// The unpacked blocks with `A` activation rows.
///
/// # Safety
/// Every activation row must have the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<K: SmallBlock, const A: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]; A],
    sums: &mut [Sums],
) {
    for b in 0..w.blocks.min(SMALL_BLOCKS) {
        // SAFETY: the caller promises the blocks, which have 32 quants; the features are those of this function.
        unsafe {
            let acts: [*const u8; A] =
                std::array::from_fn(|j| acts[j].as_ptr().add((block + b) * Q8_0_BYTES));
            let mut sum = [[_mm256_setzero_si256(); 2]; A];
            for i in 0..8 {
                let line = &w.q[8 * b + i];
                let q = [load_quants(line, 0), load_quants(line, 1)];
                for j in 0..A {
                    let a = four(acts[j], 4 + 4 * i);
                    for half in 0..2 {
                        sum[j][half] = pinned(K::add(sum[j][half], q[half], a));
                    }
                }
            }
            for j in 0..A {
                let (offset, scale) = (K::offset(acts[j]), act_scale(acts[j]));
                for half in 0..2 {
                    let (d, acc) = (load_sums(&w.d[b], half), load_sums(&sums[j], half));
                    let total = K::widen(sum[j][half], offset);
                    store_sums(&mut sums[j], half, finish(acc, total, d, scale));
                }
            }
        }
    }
}
