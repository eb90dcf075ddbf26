//! Blocks of 32: Q8_0 and Q4_0.

use std::arch::x86_64::*;

use super::super::panel::{
    One, PANEL_ROWS, PanelKernel, PanelRows, SMALL_BLOCKS, Span, Sums, Unpacked,
};
use super::scales::halves;
use super::{act_scale, columns, four, load_sums, prefetch, so_far, store_sums};
use crate::acts::Q8_0_BYTES;

/// What differs between the types.
trait SmallBlock {
    /// Bytes of a stored block.
    const BYTES: usize;
    /// What was added to the values to make them unsigned.
    const OFFSET: u8;

    /// Unsigned quants, four columns a vector.
    ///
    /// # Safety
    /// Needs AVX-512 F and BW; every row must have a block at `at`.
    unsafe fn quants(rows: PanelRows<'_>, at: usize) -> [__m512i; 8];
}

struct TypeQ8_0;
struct TypeQ4_0;

/// The functions of a type.
macro_rules! kernel {
    ($name:ident, $ty:ty) => {
        /// Panels of this type; its functions need AVX-512 F, BW, VL and VNNI.
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

impl SmallBlock for TypeQ8_0 {
    const BYTES: usize = 34;
    const OFFSET: u8 = 128;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quants(rows: PanelRows<'_>, at: usize) -> [__m512i; 8] {
        let sign = _mm512_set1_epi8(-128);
        let mut q = [_mm512_setzero_si512(); 8];
        for half in 0..2 {
            // SAFETY: 32 bytes of quants follow the scale.
            let stored = unsafe { columns(rows, at + 2 + 16 * half) };
            for i in 0..4 {
                q[4 * half + i] = _mm512_xor_si512(stored[i], sign);
            }
        }
        q
    }
}

impl SmallBlock for TypeQ4_0 {
    const BYTES: usize = 18;
    const OFFSET: u8 = 8;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn quants(rows: PanelRows<'_>, at: usize) -> [__m512i; 8] {
        let nibble = _mm512_set1_epi8(15);
        // SAFETY: 16 bytes of quants follow the scale.
        let packed = unsafe { columns(rows, at + 2) };
        let mut q = [_mm512_setzero_si512(); 8];
        for i in 0..4 {
            q[i] = _mm512_and_si512(packed[i], nibble);
            q[4 + i] = _mm512_and_si512(_mm512_srli_epi32::<4>(packed[i]), nibble);
        }
        q
    }
}

/// Where a block's integer sum starts: what the offset of the weights adds to it, taken off.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn start(act: *const u8, offset: u8) -> __m512i {
    // SAFETY: 32 quants follow the scale.
    let quants = unsafe { _mm256_loadu_si256(act.add(4).cast()) };
    let offset = _mm256_set1_epi8(offset.cast_signed());
    let eight = _mm256_dpbusd_epi32(_mm256_setzero_si256(), offset, quants);
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(eight),
        _mm256_extracti128_si256::<1>(eight),
    );
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two));
    _mm512_broadcastd_epi32(_mm_sub_epi32(_mm_setzero_si128(), one))
}

/// `acc + (d * scale of the activations) * sum`.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn finish(acc: __m512, sum: __m512i, d: __m512, act: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    let d = _mm512_mul_ps(d, unsafe { act_scale(act) });
    _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(sum), acc)
}

/// See [`PanelKernel::one`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn one<K: SmallBlock>(span: &Span<'_>, One { act, .. }: One<'_>) -> Sums {
    span.check(K::BYTES);
    assert!(span.blocks.end <= act.len() / Q8_0_BYTES, "activations");
    let mut acc = _mm512_setzero_ps();
    for block in span.blocks.clone() {
        prefetch(span.rows, block, K::BYTES);
        let at = block * K::BYTES;
        // SAFETY: block and activations are there by the assertions; the features are those of this function.
        unsafe {
            let d = halves(span.rows, at);
            let q = K::quants(span.rows, at);
            let act = act.as_ptr().add(block * Q8_0_BYTES);
            let mut parts = [start(act, K::OFFSET), _mm512_setzero_si512()];
            for i in 0..8 {
                parts[i % 2] = _mm512_dpbusd_epi32(parts[i % 2], q[i], four(act, 4 + 4 * i));
            }
            acc = finish(acc, _mm512_add_epi32(parts[0], parts[1]), d, act);
        }
    }
    let mut sums = [0.0; PANEL_ROWS];
    store_sums(&mut sums, acc);
    sums
}

/// See [`PanelKernel::unpack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<K: SmallBlock>(span: &Span<'_>, out: &mut Unpacked) {
    assert!(span.blocks.len() <= SMALL_BLOCKS, "blocks of a span");
    span.check(K::BYTES);
    out.blocks = span.blocks.len();
    for (i, block) in span.blocks.clone().enumerate() {
        prefetch(span.rows, block, K::BYTES);
        // SAFETY: the block is there by the assertions; the features are those of this function.
        unsafe {
            store_sums(&mut out.d[i], halves(span.rows, block * K::BYTES));
            let q = K::quants(span.rows, block * K::BYTES);
            for (line, q) in out.q[8 * i..].iter_mut().zip(q) {
                _mm512_storeu_si512(line.as_mut_ptr().cast(), q);
            }
        }
    }
}

/// See [`PanelKernel::many`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn many<K: SmallBlock>(w: &Unpacked, block: usize, acts: &[&[u8]], sums: &mut [Sums]) {
    for act in acts {
        assert!((block + w.blocks) * Q8_0_BYTES <= act.len(), "activations");
    }
    let mut sums = sums;
    let mut acts = acts;
    // SAFETY: activations are there by the assertion; the features are those of this function.
    unsafe {
        while let Some((eight, rest)) = acts.split_first_chunk::<8>() {
            let (out, others) = sums.split_at_mut(8);
            tile::<K, 8>(w, block, eight, out);
            (acts, sums) = (rest, others);
        }
        macro_rules! rest {
            ($($n:literal),*) => {
                match acts.len() {
                    $($n => if let Some(part) = acts.first_chunk::<$n>() {
                        tile::<K, $n>(w, block, part, sums);
                    })*
                    _ => {}
                }
            };
        }
        rest!(1, 2, 3, 4, 5, 6, 7);
    }
}

/// The unpacked blocks with `A` activation rows, whose sums stay in registers.
///
/// # Safety
/// Every activation row must have the blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<K: SmallBlock, const A: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]; A],
    sums: &mut [Sums],
) {
    let mut acc = [_mm512_setzero_ps(); A];
    for j in 0..A {
        acc[j] = so_far(w, &sums[j]);
    }
    for b in 0..w.blocks.min(SMALL_BLOCKS) {
        let d = load_sums(&w.d[b]);
        // SAFETY: the caller promises the blocks, which have 32 quants; a whole line.
        unsafe {
            let acts: [*const u8; A] =
                std::array::from_fn(|j| acts[j].as_ptr().add((block + b) * Q8_0_BYTES));
            let mut sum = [_mm512_setzero_si512(); A];
            for j in 0..A {
                sum[j] = start(acts[j], K::OFFSET);
            }
            for i in 0..8 {
                let q = _mm512_loadu_si512(w.q[8 * b + i].as_ptr().cast());
                for j in 0..A {
                    sum[j] = _mm512_dpbusd_epi32(sum[j], q, four(acts[j], 4 + 4 * i));
                }
            }
            for j in 0..A {
                acc[j] = finish(acc[j], sum[j], d, acts[j]);
            }
        }
    }
    for j in 0..A {
        store_sums(&mut sums[j], acc[j]);
    }
}
