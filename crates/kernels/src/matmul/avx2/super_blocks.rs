//! Super-blocks of 256: Q4_K, Q5_K and Q6_K.
//!
//! A *quad* is 16 columns of eight rows, four vectors. The 16 bytes of each row that a transposition takes are two
//! quads: one in the lower nibbles, one in the upper. Some of these *pairs* share the bytes of their higher bits
//! and are a *share*.

use std::arch::x86_64::*;

use super::super::panel::{One, PANEL_ROWS, PanelKernel, Span, Sums, Unpacked};
use super::headers::{Header, eight_bit_header, six_bit_header};
use super::{
    Eight, act_scale, four, load_line, load_quants, load_sums, nibbles, pinned, prefetch,
    prefetch_half, store_line, store_quants, store_sums,
};
use crate::acts::{Q8K_BYTES, Q8K_SUMS};

/// Sixteen columns.
type Quad = [__m256i; 4];

/// What differs between the types.
trait SuperBlock<const GROUPS: usize> {
    /// Bytes of a stored block.
    const BYTES: usize;
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;
    /// Shares of a block.
    const SHARES: usize;
    /// Columns from the first quad of a pair to the second.
    const APART: usize;
    /// As many pair sums of products as fit `i16`.
    const STEPS: usize;

    /// The first column of pair `p` of share `s`.
    fn column(s: usize, p: usize) -> usize;

    /// # Safety
    /// Needs AVX2 and F16C; every row must have a block there.
    unsafe fn header(rows: Eight) -> Header<GROUPS>;

    /// The bytes of the higher bits of a share.
    ///
    /// # Safety
    /// As [`SuperBlock::header`].
    unsafe fn high(rows: Eight, s: usize) -> Quad;

    /// Unsigned quants of pair `p` of share `s`.
    ///
    /// # Safety
    /// As [`SuperBlock::header`].
    unsafe fn pair(rows: Eight, high: &Quad, s: usize, p: usize) -> [Quad; 2];
}

struct TypeQ4K;
struct TypeQ5K;
struct TypeQ6K;

/// The functions of a type.
macro_rules! kernel {
    ($name:ident, $ty:ty, $groups:literal) => {
        /// Panels of this type; its functions need AVX2, FMA and F16C.
        pub(in super::super) static $name: PanelKernel = PanelKernel {
            block_bytes: <$ty as SuperBlock<$groups>>::BYTES,
            unpack_blocks: 1,
            spread: None,
            begin: None,
            one: one::<$ty, $groups>,
            unpack: unpack::<$ty, $groups>,
            many: many::<$ty, $groups>,
        };
    };
}

kernel!(Q4K, TypeQ4K, 8);
kernel!(Q5K, TypeQ5K, 8);
kernel!(Q6K, TypeQ6K, 16);

impl SuperBlock<8> for TypeQ4K {
    const BYTES: usize = 144;
    const MINS: bool = true;
    const SHARES: usize = 4;
    const APART: usize = 32;
    /// 8 * 2 * 15 * 127 = 30480.
    const STEPS: usize = 8;

    #[inline]
    fn column(s: usize, p: usize) -> usize {
        64 * s + 16 * p
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn header(rows: Eight) -> Header<8> {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(rows) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn high(_rows: Eight, _s: usize) -> Quad {
        [_mm256_setzero_si256(); 4]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(rows: Eight, _high: &Quad, s: usize, p: usize) -> [Quad; 2] {
        // SAFETY: 16 of the 128 bytes of quants after the header.
        nibbles(unsafe { rows.columns(16 + 32 * s + 16 * p) })
    }
}

impl SuperBlock<8> for TypeQ5K {
    const BYTES: usize = 176;
    const MINS: bool = true;
    const SHARES: usize = 2;
    const APART: usize = 32;
    /// 4 * 2 * 31 * 127 = 31496.
    const STEPS: usize = 4;

    #[inline]
    fn column(s: usize, p: usize) -> usize {
        64 * p + 16 * s
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn header(rows: Eight) -> Header<8> {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(rows) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn high(rows: Eight, s: usize) -> Quad {
        // SAFETY: 16 of the 32 bytes of fifth bits after the header.
        unsafe { rows.columns(16 + 16 * s) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(rows: Eight, high: &Quad, s: usize, p: usize) -> [Quad; 2] {
        // SAFETY: 16 of the 128 bytes of low bits after the fifth bits.
        let mut pair = nibbles(unsafe { rows.columns(48 + 32 * p + 16 * s) });
        let place = _mm256_set1_epi8(16);
        // Bits `2 p` and `2 p + 1` of each byte go to bit 4; the shifts work on pairs of bytes, the mask drops strangers.
        let count = _mm_set_epi64x(0, 2 * p as i64);
        for i in 0..4 {
            let bits = _mm256_srl_epi16(high[i], count);
            let first = _mm256_and_si256(_mm256_slli_epi16::<4>(bits), place);
            let second = _mm256_and_si256(_mm256_slli_epi16::<3>(bits), place);
            pair[0][i] = _mm256_or_si256(pair[0][i], first);
            pair[1][i] = _mm256_or_si256(pair[1][i], second);
        }
        pair
    }
}

impl SuperBlock<16> for TypeQ6K {
    const BYTES: usize = 210;
    const MINS: bool = false;
    const SHARES: usize = 4;
    const APART: usize = 64;
    /// 2 * 2 * 63 * 127 = 32004.
    const STEPS: usize = 2;

    #[inline]
    fn column(s: usize, p: usize) -> usize {
        128 * (s / 2) + 16 * (s % 2) + 32 * p
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn header(rows: Eight) -> Header<16> {
        // SAFETY: a whole block.
        unsafe { eight_bit_header(rows) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn high(rows: Eight, s: usize) -> Quad {
        // SAFETY: 16 of the 64 bytes of high bits after 128 of low ones.
        unsafe { rows.columns(128 + 16 * s) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(rows: Eight, high: &Quad, s: usize, p: usize) -> [Quad; 2] {
        // SAFETY: 16 of the first 128 bytes of a block.
        let mut pair = nibbles(unsafe { rows.columns(64 * (s / 2) + 16 * (s % 2) + 32 * p) });
        let top = _mm256_set1_epi8(0x30);
        for (k, quad) in pair.iter_mut().enumerate() {
            for (q, high) in quad.iter_mut().zip(high) {
                let bits = match (p, k) {
                    (0, 0) => _mm256_slli_epi16::<4>(*high),
                    (0, _) => *high,
                    (_, 0) => _mm256_slli_epi16::<2>(*high),
                    _ => _mm256_srli_epi16::<2>(*high),
                };
                *q = _mm256_or_si256(*q, _mm256_and_si256(bits, top));
            }
        }
        pair
    }
}

/// The pairs of group sums of a block of activations: of 32 columns each where there are mins, else of 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_sums<const MINS: bool>(act: *const u8) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    if MINS {
        // SAFETY: 16 sums follow the quants; the load asks for no alignment.
        let sums = unsafe { _mm256_loadu_si256(act.add(Q8K_SUMS).cast()) };
        let of_32 = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        let of_32 = _mm256_packs_epi32(of_32, of_32);
        let of_32 = _mm256_permute4x64_epi64::<0b10_00_10_00>(of_32);
        pairs[0] = _mm256_shuffle_epi32::<0x00>(of_32);
        pairs[1] = _mm256_shuffle_epi32::<0x55>(of_32);
        pairs[2] = _mm256_shuffle_epi32::<0xaa>(of_32);
        pairs[3] = _mm256_shuffle_epi32::<0xff>(of_32);
    } else {
        for (j, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: eight pairs of sums follow the quants.
            *pair = unsafe { four(act, Q8K_SUMS + 4 * j) };
        }
    }
    pairs
}

/// Lines of [`Header::of_sums`] in use.
const fn sum_lines(mins: bool) -> usize {
    if mins { 4 } else { 8 }
}

/// Ends a block: `acc + d * sum`, and less `dmin * min_sum` where there are mins.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn finish<const MINS: bool>(
    acc: __m256,
    (sum, of_sums): (__m256i, __m256i),
    (d, dmin): (__m256, __m256),
    act: *const u8,
) -> __m256 {
    // SAFETY: the caller's promise.
    let scale = unsafe { act_scale(act) };
    if MINS {
        let acc = _mm256_fmadd_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(sum), acc);
        return _mm256_fnmadd_ps(_mm256_mul_ps(dmin, scale), _mm256_cvtepi32_ps(of_sums), acc);
    }
    // A value is q - 32.
    let sum = _mm256_sub_epi32(sum, _mm256_slli_epi32::<5>(of_sums));
    _mm256_fmadd_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(sum), acc)
}

/// See [`PanelKernel::one`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one<K: SuperBlock<GROUPS>, const GROUPS: usize>(
    span: &Span<'_>,
    One { act, .. }: One<'_>,
) -> Sums {
    span.check(K::BYTES);
    assert!(span.blocks.end <= act.len() / Q8K_BYTES, "activations");
    let mut sums = [0.0; PANEL_ROWS];
    for block in span.blocks.clone() {
        // SAFETY: block and activations are there by the assertions; the features are those of this function.
        unsafe {
            let act = act.as_ptr().add(block * Q8K_BYTES);
            for half in 0..2 {
                prefetch_half(span.rows, (block, half), K::BYTES);
                let rows = Eight::of(span.rows, half, block * K::BYTES);
                let acc = load_sums(&sums, half);
                let acc = if K::MINS {
                    one_block::<K, GROUPS, true>(rows, act, acc)
                } else {
                    one_block::<K, GROUPS, false>(rows, act, acc)
                };
                store_sums(&mut sums, half, acc);
            }
        }
    }
    sums
}

/// Adds one block of eight rows with one activation row.
///
/// # Safety
/// Every row must have a block there; `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one_block<K: SuperBlock<GROUPS>, const GROUPS: usize, const MINS: bool>(
    rows: Eight,
    act: *const u8,
    acc: __m256,
) -> __m256 {
    // SAFETY: the caller's promises; the features are those of this function.
    unsafe {
        let header = K::header(rows);
        let pairs = group_sums::<MINS>(act);
        let mut of_sums = _mm256_setzero_si256();
        for j in 0..sum_lines(MINS) {
            let with_pair = _mm256_madd_epi16(header.of_sums[j], pairs[j]);
            of_sums = _mm256_add_epi32(of_sums, with_pair);
        }
        let mut total = _mm256_setzero_si256();
        for s in 0..K::SHARES {
            let high = K::high(rows, s);
            let mut sums = [_mm256_setzero_si256(); 2];
            for p in 0..8 / K::SHARES {
                let pair = K::pair(rows, &high, s, p);
                for k in 0..2 {
                    let first = K::column(s, p) + k * K::APART;
                    for i in 0..4 {
                        let a = four(act, 4 + first + 4 * i);
                        let products = _mm256_maddubs_epi16(pair[k][i], a);
                        sums[k] = _mm256_add_epi16(sums[k], products);
                        if (first / 4 + i + 1) % K::STEPS == 0 {
                            let scale = header.scales[first * GROUPS / 256];
                            let scaled = _mm256_madd_epi16(sums[k], scale);
                            total = _mm256_add_epi32(total, scaled);
                            sums[k] = _mm256_setzero_si256();
                        }
                    }
                }
            }
        }
        finish::<MINS>(acc, (total, of_sums), (header.d, header.dmin), act)
    }
}

/// See [`PanelKernel::unpack`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<K: SuperBlock<GROUPS>, const GROUPS: usize>(span: &Span<'_>, out: &mut Unpacked) {
    let block = span.blocks.start;
    span.check(K::BYTES);
    prefetch(span.rows, block, K::BYTES);
    for half in 0..2 {
        // SAFETY: the block is there by the assertions; the features are those of this function.
        unsafe {
            let rows = Eight::of(span.rows, half, block * K::BYTES);
            let header = K::header(rows);
            for (line, scale) in out.scales.iter_mut().zip(header.scales) {
                store_line(line, half, scale);
            }
            for (line, of_sums) in out.of_sums.iter_mut().zip(header.of_sums) {
                store_line(line, half, of_sums);
            }
            store_sums(&mut out.d[0], half, header.d);
            store_sums(&mut out.dmin, half, header.dmin);
            for s in 0..K::SHARES {
                let high = K::high(rows, s);
                for p in 0..8 / K::SHARES {
                    let pair = K::pair(rows, &high, s, p);
                    for (k, quad) in pair.iter().enumerate() {
                        let first = (K::column(s, p) + k * K::APART) / 4;
                        for (i, q) in quad.iter().enumerate() {
                            store_quants(&mut out.q[first + i], half, *q);
                        }
                    }
                }
            }
        }
    }
}

/// See [`PanelKernel::many`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many<K: SuperBlock<GROUPS>, const GROUPS: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]],
    sums: &mut [Sums],
) {
    for act in acts {
        assert!((block + 1) * Q8K_BYTES <= act.len(), "activations");
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
                unsafe { tile::<K, GROUPS, $n>(w, block, part, out) };
                (acts, sums) = (rest, others);
            })*
        };
    }
    tiles!(2, 1);
}

/// One block with `A` activation rows.
///
/// # Safety
/// Every activation row must have the block.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<K: SuperBlock<GROUPS>, const GROUPS: usize, const A: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]; A],
    sums: &mut [Sums],
) {
    let steps = 64 / GROUPS;
    // SAFETY: the caller promises the blocks.
    let acts: [*const u8; A] =
        std::array::from_fn(|j| unsafe { acts[j].as_ptr().add(block * Q8K_BYTES) });
    let mut total = [[_mm256_setzero_si256(); 2]; A];
    for group in 0..GROUPS {
        for start in (0..steps).step_by(K::STEPS) {
            let mut sum = [[_mm256_setzero_si256(); 2]; A];
            for s in 0..K::STEPS {
                let step = group * steps + start + s;
                let q = [load_quants(&w.q[step], 0), load_quants(&w.q[step], 1)];
                for j in 0..A {
                    // SAFETY: four of the 256 activations.
                    let a = unsafe { four(acts[j], 4 + 4 * step) };
                    for half in 0..2 {
                        let products = _mm256_maddubs_epi16(q[half], a);
                        sum[j][half] = pinned(_mm256_add_epi16(sum[j][half], products));
                    }
                }
            }
            for half in 0..2 {
                let scale = load_line(&w.scales[group], half);
                for j in 0..A {
                    let scaled = _mm256_madd_epi16(sum[j][half], scale);
                    total[j][half] = _mm256_add_epi32(total[j][half], scaled);
                }
            }
        }
    }
    for j in 0..A {
        // SAFETY: the caller promises the block; the features are those of this function.
        unsafe {
            if K::MINS {
                end_tile::<true>(w, &total[j], acts[j], &mut sums[j]);
            } else {
                end_tile::<false>(w, &total[j], acts[j], &mut sums[j]);
            }
        }
    }
}

/// Ends a block of one activation row, of which `total` is the scaled integer sum.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn end_tile<const MINS: bool>(
    w: &Unpacked,
    total: &[__m256i; 2],
    act: *const u8,
    sums: &mut Sums,
) {
    // SAFETY: the caller's promise.
    let pairs = unsafe { group_sums::<MINS>(act) };
    for half in 0..2 {
        let mut of_sums = _mm256_setzero_si256();
        for j in 0..sum_lines(MINS) {
            let with_pair = _mm256_madd_epi16(load_line(&w.of_sums[j], half), pairs[j]);
            of_sums = _mm256_add_epi32(of_sums, with_pair);
        }
        let both = (total[half], of_sums);
        let deltas = (load_sums(&w.d[0], half), load_sums(&w.dmin, half));
        // SAFETY: the caller's promise.
        let acc = unsafe { finish::<MINS>(load_sums(sums, half), both, deltas, act) };
        store_sums(sums, half, acc);
    }
}
