//! Super-blocks with many activation rows: a block is transposed whole into a buffer.
//!
//! A block comes in four units of four *quads*; a quad is 16 columns of a panel, four vectors. Two neighbouring quads
//! share a scale, but in Q6_K each has its own.

use std::arch::x86_64::*;

use super::super::panel::{PanelRows, Span, Sums, Unpacked};
use super::scales::{
    SixBit, finish, halves, min_pairs, offsets_of_32, or_masked, per_lane, six_bit,
};
use super::super_blocks::{SuperBlock, TypeQ4K, TypeQ5K, TypeQ6K};
use super::{columns, four, load_line, load_sums, prefetch, so_far, store_line, store_sums};
use crate::acts::{Q8K_BYTES, Q8K_SUMS};

/// The scales of one block of a panel.
pub(super) struct Header<const GROUPS: usize> {
    /// Integer scale of each group of columns.
    scales: [__m512i; GROUPS],
    /// What pairs of group sums are multiplied by.
    of_sums: [__m512i; 8],
    d: __m512,
    /// Scale of the products with the sums; unused where those belong to the integer sum.
    dmin: __m512,
}

/// Four quads.
pub(super) type Unit = [[__m512i; 4]; 4];

/// What differs between the types; `GROUPS` groups of columns have a scale each.
pub(super) trait ManyRows<const GROUPS: usize>: SuperBlock {
    /// The first column of quad `k` of unit `u`.
    fn column(u: usize, k: usize) -> usize;

    /// # Safety
    /// Needs AVX-512 F, BW and VL; every row must have a block at `at`.
    unsafe fn header(rows: PanelRows<'_>, at: usize) -> Header<GROUPS>;

    /// Unsigned quants.
    ///
    /// # Safety
    /// As [`ManyRows::header`].
    unsafe fn unit(rows: PanelRows<'_>, at: usize, u: usize) -> Unit;
}

impl ManyRows<8> for TypeQ4K {
    #[inline]
    fn column(u: usize, k: usize) -> usize {
        64 * u + 16 * k
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn header(rows: PanelRows<'_>, at: usize) -> Header<8> {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(rows, at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unit(rows: PanelRows<'_>, at: usize, u: usize) -> Unit {
        // SAFETY: 32 of the 128 bytes of quants after the header.
        unsafe { nibbles(rows, at + 16 + 32 * u) }
    }
}

impl ManyRows<8> for TypeQ5K {
    #[inline]
    fn column(u: usize, k: usize) -> usize {
        <TypeQ4K as ManyRows<8>>::column(u, k)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn header(rows: PanelRows<'_>, at: usize) -> Header<8> {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_header(rows, at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unit(rows: PanelRows<'_>, at: usize, u: usize) -> Unit {
        // SAFETY: 32 of the 128 bytes of low bits, and the 32 bytes of fifth bits.
        let (mut quads, fifth) = unsafe {
            (
                nibbles(rows, at + 48 + 32 * u),
                [columns(rows, at + 16), columns(rows, at + 32)],
            )
        };
        let place = _mm512_set1_epi8(16);
        // Bit `2 u` (for low nibbles) or `2 u + 1` of each byte goes to bit 4.
        let to_low = _mm_set_epi64x(0, 4 - 2 * u as i64);
        let to_right = _mm_set_epi64x(0, 2 * u as i64 - 4);
        for (k, quad) in quads.iter_mut().enumerate() {
            for (q, bits) in quad.iter_mut().zip(fifth[k % 2]) {
                let bits = match (u, k / 2) {
                    (0..=1, 0) => _mm512_sll_epi32(bits, to_low),
                    (0..=1, _) => _mm512_sll_epi32(_mm512_srli_epi32::<1>(bits), to_low),
                    (_, 0) => _mm512_srl_epi32(bits, to_right),
                    _ => _mm512_srl_epi32(_mm512_srli_epi32::<1>(bits), to_right),
                };
                *q = or_masked(*q, bits, place);
            }
        }
        quads
    }
}

impl ManyRows<16> for TypeQ6K {
    #[inline]
    fn column(u: usize, k: usize) -> usize {
        128 * (u / 2) + 16 * (u % 2) + 32 * k
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn header(rows: PanelRows<'_>, at: usize) -> Header<16> {
        // SAFETY: 16 bytes of scales, and the last two bytes of a block.
        let (stored, d) = unsafe { (columns(rows, at + 192), halves(rows, at + 208)) };
        let mut scales = [_mm512_setzero_si512(); 16];
        for i in 0..4 {
            let s = stored[i];
            scales[4 * i] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(s));
            scales[4 * i + 1] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(s));
            scales[4 * i + 2] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(s));
            scales[4 * i + 3] = _mm512_srai_epi32::<24>(s);
        }
        Header {
            scales,
            of_sums: offsets_of_32(&stored),
            d,
            dmin: d,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn unit(rows: PanelRows<'_>, at: usize, u: usize) -> Unit {
        let (half, part) = (u / 2, u % 2);
        let low_at = at + 64 * half + 16 * part;
        // SAFETY: 128 bytes of low bits and 64 of high bits start the block.
        let (first, second, high) = unsafe {
            (
                columns(rows, low_at),
                columns(rows, low_at + 32),
                columns(rows, at + 128 + 32 * half + 16 * part),
            )
        };
        let (nibble, top) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let mut quads = [[_mm512_setzero_si512(); 4]; 4];
        for i in 0..4 {
            let (a, b, h) = (first[i], second[i], high[i]);
            let low = |v| _mm512_and_si512(v, nibble);
            let upper = |v| _mm512_and_si512(_mm512_srli_epi32::<4>(v), nibble);
            quads[0][i] = or_masked(low(a), _mm512_slli_epi32::<4>(h), top);
            quads[1][i] = or_masked(low(b), _mm512_slli_epi32::<2>(h), top);
            quads[2][i] = or_masked(upper(a), h, top);
            quads[3][i] = or_masked(upper(b), _mm512_srli_epi32::<2>(h), top);
        }
        quads
    }
}

/// 32 bytes of every row: the lower nibbles are the first two quads, the upper ones the others.
///
/// # Safety
/// Every row must have 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn nibbles(rows: PanelRows<'_>, at: usize) -> Unit {
    let nibble = _mm512_set1_epi8(15);
    let mut quads = [[_mm512_setzero_si512(); 4]; 4];
    for half in 0..2 {
        // SAFETY: the caller's promise.
        let packed = unsafe { columns(rows, at + 16 * half) };
        for i in 0..4 {
            quads[half][i] = _mm512_and_si512(packed[i], nibble);
            quads[2 + half][i] = _mm512_and_si512(_mm512_srli_epi32::<4>(packed[i]), nibble);
        }
    }
    quads
}

/// `d`, `dmin` and the packed six-bit scales and mins (see `dequant::scales_and_mins`).
///
/// # Safety
/// Every row must have 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit_header(rows: PanelRows<'_>, at: usize) -> Header<8> {
    // SAFETY: the caller's promise.
    let SixBit {
        scales,
        mins,
        d,
        dmin,
    } = unsafe { six_bit(rows, at) };
    let mut header = Header {
        scales: [_mm512_setzero_si512(); 8],
        of_sums: min_pairs(&mins),
        d,
        dmin,
    };
    for j in 0..8 {
        let byte = [0, 1, 2, 3][j % 4];
        header.scales[j] = _mm512_shuffle_epi8(scales[j / 4], per_lane(0xffff_ff00 | byte));
    }
    header
}

/// See [`PanelKernel::unpack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn unpack<K: ManyRows<GROUPS>, const GROUPS: usize>(
    span: &Span<'_>,
    out: &mut Unpacked,
) {
    let block = span.blocks.start;
    span.check(K::BYTES);
    prefetch(span.rows, block, K::BYTES);
    let at = block * K::BYTES;
    // SAFETY: the block is there by the assertions; the features are those of this function.
    unsafe {
        let header = K::header(span.rows, at);
        for (line, scale) in out.scales.iter_mut().zip(header.scales) {
            store_line(line, scale);
        }
        for (line, of_sums) in out.of_sums.iter_mut().zip(header.of_sums) {
            store_line(line, of_sums);
        }
        store_sums(&mut out.d[0], header.d);
        store_sums(&mut out.dmin, header.dmin);
        for u in 0..4 {
            let unit = K::unit(span.rows, at, u);
            for (k, quad) in unit.iter().enumerate() {
                let first = K::column(u, k) / 4;
                for (i, q) in quad.iter().enumerate() {
                    _mm512_storeu_si512(out.q[first + i].as_mut_ptr().cast(), *q);
                }
            }
        }
    }
}

/// See [`PanelKernel::many`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn many<K: ManyRows<GROUPS>, const GROUPS: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]],
    sums: &mut [Sums],
) {
    for act in acts {
        assert!((block + 1) * Q8K_BYTES <= act.len(), "activations");
    }
    let mut sums = sums;
    let mut acts = acts;
    // SAFETY: activations are there by the assertion; the features are those of this function.
    unsafe {
        while let Some((eight, rest)) = acts.split_first_chunk::<8>() {
            let (out, others) = sums.split_at_mut(8);
            tile::<K, GROUPS, 8>(w, block, eight, out);
            (acts, sums) = (rest, others);
        }
        macro_rules! rest {
            ($($n:literal),*) => {
                match acts.len() {
                    $($n => if let Some(part) = acts.first_chunk::<$n>() {
                        tile::<K, GROUPS, $n>(w, block, part, sums);
                    })*
                    _ => {}
                }
            };
        }
        rest!(1, 2, 3, 4, 5, 6, 7);
    }
}

/// One block with `A` activation rows, whose sums stay in registers.
///
/// # Safety
/// Every activation row must have the block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<K: ManyRows<GROUPS>, const GROUPS: usize, const A: usize>(
    w: &Unpacked,
    block: usize,
    acts: &[&[u8]; A],
    sums: &mut [Sums],
) {
    let steps = 64 / GROUPS;
    // SAFETY: the caller promises the blocks.
    let acts: [*const u8; A] =
        std::array::from_fn(|j| unsafe { acts[j].as_ptr().add(block * Q8K_BYTES) });
    let mut total = [_mm512_setzero_si512(); A];
    for group in 0..GROUPS {
        let mut sum = [_mm512_setzero_si512(); A];
        for s in 0..steps {
            let step = group * steps + s;
            // SAFETY: a whole line, and four of the 256 activations.
            unsafe {
                let q = _mm512_loadu_si512(w.q[step].as_ptr().cast());
                for j in 0..A {
                    sum[j] = _mm512_dpbusd_epi32(sum[j], q, four(acts[j], 4 + 4 * step));
                }
            }
        }
        let scale = load_line(&w.scales[group]);
        for j in 0..A {
            total[j] = _mm512_add_epi32(total[j], _mm512_mullo_epi32(sum[j], scale));
        }
    }
    let mut of_sums = [_mm512_setzero_si512(); A];
    for (i, line) in w.of_sums.iter().enumerate() {
        let line = load_line(line);
        for j in 0..A {
            // SAFETY: eight pairs of sums follow the quants.
            let pair = unsafe { four(acts[j], Q8K_SUMS + 4 * i) };
            of_sums[j] = _mm512_dpwssd_epi32(of_sums[j], line, pair);
        }
    }
    let deltas = (load_sums(&w.d[0]), load_sums(&w.dmin));
    for j in 0..A {
        let both = (total[j], of_sums[j]);
        // SAFETY: the caller promises the block.
        let acc = unsafe {
            if K::MINS {
                finish::<true>(so_far(w, &sums[j]), both, deltas, acts[j])
            } else {
                finish::<false>(so_far(w, &sums[j]), both, deltas, acts[j])
            }
        };
        store_sums(&mut sums[j], acc);
    }
}
