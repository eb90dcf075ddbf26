//! Super-blocks of 256: Q4_K, Q5_K and Q6_K.
//!
//! For many activation rows a block is transposed whole. It comes in four units of four *quads*; a quad is 16 columns
//! of a panel, four vectors. Two neighbouring quads share a scale, but in Q6_K each has its own.
//!
//! For one activation row transposing whole costs more than it saves. There each quarter of a vector keeps columns of
//! its own of the same four rows (`piece`), the activations are spread to match (`spread`), and the quarters are added
//! at the end of the block (`gather`).

use std::arch::x86_64::*;

use super::super::panel::{PANEL_ROWS, PanelKernel, PanelRows, Span, Sums, Unpacked};
use super::{
    act_scale, both, columns, four, load_line, load_sums, prefetch, store_line, store_sums,
    transpose,
};
use crate::acts::{Q8K_BYTES, Q8K_SUMS};

/// The scales of one block of a panel.
struct Header<const GROUPS: usize> {
    /// Integer scale of each group of columns.
    scales: [__m512i; GROUPS],
    /// What pairs of group sums are multiplied by.
    of_sums: [__m512i; 8],
    d: __m512,
    /// Scale of the products with the sums; unused where those belong to the integer sum.
    dmin: __m512,
}

/// The scales of one block of a panel, for one activation row.
struct LightHeader {
    /// Stored scales: Q4_K and Q5_K have the six-bit ones of groups `4 i .. 4 i + 4` in the bytes of lane `r` of vector
    /// `i`, Q6_K its signed ones likewise.
    scales: [__m512i; 4],
    /// Products with the group sums.
    of_sums: __m512i,
    d: __m512,
    dmin: __m512,
}

/// Four quads.
type Unit = [[__m512i; 4]; 4];

/// What differs between the types.
trait SuperBlock<const GROUPS: usize> {
    /// Bytes of a stored block.
    const BYTES: usize;
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;

    /// The first column of quad `k` of unit `u`.
    fn column(u: usize, k: usize) -> usize;

    /// # Safety
    /// Needs AVX-512 F, BW and VL; every row must have a block at `at`.
    unsafe fn header(rows: PanelRows<'_>, at: usize) -> Header<GROUPS>;

    /// Unsigned quants.
    ///
    /// # Safety
    /// As [`SuperBlock::header`].
    unsafe fn unit(rows: PanelRows<'_>, at: usize, u: usize) -> Unit;

    /// The first columns of the halves of both parts of piece `p`.
    fn halves(p: usize) -> [[usize; 2]; 2];

    /// Half a block of four rows, the first of which has it at `block`, the others `stride` bytes further each: unsigned
    /// quants of both parts, and by how many bits those of the second part are too far left. Lane `4 q + r` of vector
    /// `i` has four columns of row `r`: in quarters 0 and 1 from `16 q + 4 i` on in the first half of the part, in 2
    /// and 3 from `16 (q - 2) + 4 i` on in the second.
    ///
    /// # Safety
    /// As [`SuperBlock::header`].
    unsafe fn piece(block: *const u8, stride: usize, p: usize) -> [[__m512i; 4]; 2];

    /// By how many bits the quants of the second part of a piece are too far left.
    const SECOND_SHIFT: u32;

    /// What is needed for one activation row: packed scales, products of the group sums, `d` and `dmin`.
    ///
    /// # Safety
    /// As [`SuperBlock::header`]; `act` must be a block of activations.
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader;

    /// The scales of both parts of piece `p` of the rows `4 q .. 4 q + 4`.
    ///
    /// # Safety
    /// Needs AVX-512 F and BW.
    unsafe fn part_scales(header: &LightHeader, p: usize, q: usize) -> [__m512i; 2];
}

struct TypeQ4K;
struct TypeQ5K;
struct TypeQ6K;

/// The functions of a type.
macro_rules! kernel {
    ($name:ident, $ty:ty, $groups:literal) => {
        /// Panels of this type; its functions need AVX-512 F, BW, VL and VNNI.
        pub(in super::super) static $name: PanelKernel = PanelKernel {
            block_bytes: <$ty as SuperBlock<$groups>>::BYTES,
            unpack_blocks: 1,
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

    const SECOND_SHIFT: u32 = 4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece(block: *const u8, stride: usize, p: usize) -> [[__m512i; 4]; 2] {
        // SAFETY: 64 of the 128 bytes of quants after the header.
        let packed = unsafe { transpose(four_rows(block.add(16 + 64 * p), stride)) };
        let (low, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-16));
        let mut parts = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..4 {
            parts[0][i] = _mm512_and_si512(packed[i], low);
            parts[1][i] = _mm512_and_si512(packed[i], upper);
        }
        parts
    }

    fn halves(p: usize) -> [[usize; 2]; 2] {
        let c = 128 * p;
        [[c, c + 64], [c + 32, c + 96]]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_light_header(rows, at, act) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn part_scales(header: &LightHeader, p: usize, q: usize) -> [__m512i; 2] {
        let of_rows = quarter(header.scales[p], q);
        let low = halves_of(per_lane(0xffff_ff00), per_lane(0xffff_ff02));
        let upper = halves_of(per_lane(0xffff_ff01), per_lane(0xffff_ff03));
        [
            _mm512_shuffle_epi8(of_rows, low),
            _mm512_shuffle_epi8(of_rows, upper),
        ]
    }
}

impl SuperBlock<8> for TypeQ5K {
    const BYTES: usize = 176;
    const MINS: bool = true;

    #[inline]
    fn column(u: usize, k: usize) -> usize {
        TypeQ4K::column(u, k)
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

    const SECOND_SHIFT: u32 = 0;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece(block: *const u8, stride: usize, p: usize) -> [[__m512i; 4]; 2] {
        // SAFETY: 64 of the 128 bytes of low bits, and the 32 bytes of fifth bits.
        let (packed, fifth) = unsafe {
            (
                transpose(four_rows(block.add(48 + 64 * p), stride)),
                transpose(four_half_rows(block.add(16), stride)),
            )
        };
        let (nibble, place) = (_mm512_set1_epi8(15), _mm512_set1_epi8(16));
        // Bits `4 p` and `4 p + 2` of the fifth bits belong to the halves of the first part, the next ones to the second.
        let lefts = [by_half(4, 2), by_half(3, 1)];
        let rights = [by_half(0, 2), by_half(1, 3)];
        let mut parts = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..4 {
            let nibbles = [packed[i], _mm512_srli_epi32::<4>(packed[i])];
            for part in 0..2 {
                let bit = if p == 0 {
                    _mm512_sllv_epi32(fifth[i], lefts[part])
                } else {
                    _mm512_srlv_epi32(fifth[i], rights[part])
                };
                let low = _mm512_and_si512(nibbles[part], nibble);
                parts[part][i] = or_masked(low, bit, place);
            }
        }
        parts
    }

    fn halves(p: usize) -> [[usize; 2]; 2] {
        let c = 128 * p;
        [[c, c + 64], [c + 32, c + 96]]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn light_header(rows: PanelRows<'_>, at: usize, act: *const u8) -> LightHeader {
        // SAFETY: the first 16 bytes of a block.
        unsafe { six_bit_light_header(rows, at, act) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn part_scales(header: &LightHeader, p: usize, q: usize) -> [__m512i; 2] {
        let of_rows = quarter(header.scales[p], q);
        let low = halves_of(per_lane(0xffff_ff00), per_lane(0xffff_ff02));
        let upper = halves_of(per_lane(0xffff_ff01), per_lane(0xffff_ff03));
        [
            _mm512_shuffle_epi8(of_rows, low),
            _mm512_shuffle_epi8(of_rows, upper),
        ]
    }
}

impl SuperBlock<16> for TypeQ6K {
    const BYTES: usize = 210;
    const MINS: bool = false;

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

    const SECOND_SHIFT: u32 = 0;

    fn halves(p: usize) -> [[usize; 2]; 2] {
        let c = 128 * p;
        [[c, c + 32], [c + 64, c + 96]]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece(block: *const u8, stride: usize, p: usize) -> [[__m512i; 4]; 2] {
        // SAFETY: 128 bytes of low bits and 64 of high bits start the block.
        let (packed, high) = unsafe {
            (
                transpose(four_rows(block.add(64 * p), stride)),
                transpose(four_half_rows(block.add(128 + 32 * p), stride)),
            )
        };
        let (nibble, top) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let (left, right) = (by_half(4, 2), by_half(0, 2));
        let mut parts = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..4 {
            let low = _mm512_and_si512(packed[i], nibble);
            let upper = _mm512_and_si512(_mm512_srli_epi32::<4>(packed[i]), nibble);
            parts[0][i] = or_masked(low, _mm512_sllv_epi32(high[i], left), top);
            parts[1][i] = or_masked(upper, _mm512_srlv_epi32(high[i], right), top);
        }
        parts
    }

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
    unsafe fn part_scales(header: &LightHeader, p: usize, q: usize) -> [__m512i; 2] {
        // Quarter `n` takes byte `n`.
        let left = both(
            _mm256_setr_epi32(24, 24, 24, 24, 16, 16, 16, 16),
            _mm256_setr_epi32(8, 8, 8, 8, 0, 0, 0, 0),
        );
        let mut scales = [_mm512_setzero_si512(); 2];
        for (part, scales) in scales.iter_mut().enumerate() {
            let of_rows = quarter(header.scales[2 * p + part], q);
            *scales = _mm512_srai_epi32::<24>(_mm512_sllv_epi32(of_rows, left));
        }
        scales
    }
}

/// What pairs of group sums are multiplied by in Q6_K: a value is q - 32, so each sum counts -32 times its scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn offsets_of_32(scales: &[__m512i; 4]) -> [__m512i; 8] {
    let mut out = [_mm512_setzero_si512(); 8];
    for (j, out) in out.iter_mut().enumerate() {
        let pattern = if j % 2 == 0 { 0x01ff_00ff } else { 0x03ff_02ff };
        // A byte in the upper half of an i16, shifted right by three, is 32 times its value.
        let pair = _mm512_shuffle_epi8(scales[j / 2], per_lane(pattern));
        *out = _mm512_sub_epi16(_mm512_setzero_si512(), _mm512_srai_epi16::<3>(pair));
    }
    out
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

/// 32 bytes of each of four rows, twice.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four_half_rows(first: *const u8, stride: usize) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4];
    for (r, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's promise; the load asks for no alignment.
        let half = unsafe { _mm256_loadu_si256(first.add(r * stride).cast()) };
        *v = _mm512_broadcast_i64x4(half);
    }
    v
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

/// Quarter `q` of a vector, four times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quarter(v: __m512i, q: usize) -> __m512i {
    match q {
        0 => _mm512_shuffle_i32x4::<0x00>(v, v),
        1 => _mm512_shuffle_i32x4::<0x55>(v, v),
        2 => _mm512_shuffle_i32x4::<0xaa>(v, v),
        _ => _mm512_shuffle_i32x4::<0xff>(v, v),
    }
}

/// `a | (b & mask)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
}

/// A byte shuffle that takes the bytes of `pattern` (little-endian; `0xff` gives zero) within each lane of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn per_lane(pattern: u32) -> __m512i {
    let lanes = _mm_add_epi8(
        _mm_set1_epi32(pattern.cast_signed()),
        _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c),
    );
    let zero = _mm_cmpeq_epi8(_mm_set1_epi32(pattern.cast_signed()), _mm_set1_epi8(-1));
    _mm512_broadcast_i32x4(_mm_or_si128(lanes, zero))
}

/// The f16 at `at` of every row.
///
/// # Safety
/// Every row must have two bytes there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn halves(rows: PanelRows<'_>, at: usize) -> __m512 {
    // SAFETY: the caller promises the bytes; the loads ask for no alignment.
    let h = |r: usize| unsafe {
        let stored = rows.start().add(r * rows.row_bytes() + at);
        stored.cast::<i16>().read_unaligned()
    };
    let low = _mm_setr_epi16(h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7));
    let high = _mm_setr_epi16(h(8), h(9), h(10), h(11), h(12), h(13), h(14), h(15));
    _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(low),
        high,
    ))
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

/// The header of a Q4_K or Q5_K block, one byte for each scale and min: those of groups `4 i .. 4 i + 4` in lane `r` of
/// vector `i`.
struct SixBit {
    scales: [__m512i; 2],
    mins: [__m512i; 2],
    d: __m512,
    dmin: __m512,
}

/// Unpacks six-bit scales and mins as `dequant::scales_and_mins` does.
///
/// # Safety
/// Every row must have 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn six_bit(rows: PanelRows<'_>, at: usize) -> SixBit {
    // SAFETY: the caller's promise.
    let [deltas, low_scales, low_mins, high] = unsafe { columns(rows, at) };
    let six = _mm512_set1_epi8(0x3f);
    let four_bits = _mm512_set1_epi8(0x0f);
    let top = _mm512_set1_epi8(0x30);
    let scales = [
        _mm512_and_si512(low_scales, six),
        or_masked(
            _mm512_and_si512(high, four_bits),
            _mm512_srli_epi32::<2>(low_scales),
            top,
        ),
    ];
    let mins = [
        _mm512_and_si512(low_mins, six),
        or_masked(
            _mm512_and_si512(_mm512_srli_epi32::<4>(high), four_bits),
            _mm512_srli_epi32::<2>(low_mins),
            top,
        ),
    ];
    SixBit {
        scales,
        mins,
        d: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(deltas)),
        dmin: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(deltas))),
    }
}

/// The mins of groups, twice each, as pairs that group sums are multiplied by.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn min_pairs(mins: &[__m512i; 2]) -> [__m512i; 8] {
    let mut out = [_mm512_setzero_si512(); 8];
    for (j, out) in out.iter_mut().enumerate() {
        let byte = (j % 4) as u32;
        *out = _mm512_shuffle_epi8(mins[j / 4], per_lane(0xff00_ff00 | byte << 16 | byte));
    }
    out
}

/// See [`SuperBlock::light_header`].
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
        let byte = (j % 4) as u32;
        header.scales[j] = _mm512_shuffle_epi8(scales[j / 4], per_lane(0xffff_ff00 | byte));
    }
    header
}

/// Products of one block's group sums.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn with_sums(of_sums: &[__m512i; 8], act: *const u8) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); 2];
    for (j, of_sums) in of_sums.iter().enumerate() {
        // SAFETY: eight pairs of sums follow the quants.
        let pair = unsafe { four(act, Q8K_SUMS + 4 * j) };
        sums[j % 2] = _mm512_dpwssd_epi32(sums[j % 2], *of_sums, pair);
    }
    _mm512_add_epi32(sums[0], sums[1])
}

/// Ends a block: `acc + d * sum`, and less `dmin * min_sum` where there are mins.
///
/// # Safety
/// `act` must be a block of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn finish<const MINS: bool>(
    acc: __m512,
    (sum, sums): (__m512i, __m512i),
    (d, dmin): (__m512, __m512),
    act: *const u8,
) -> __m512 {
    // SAFETY: the caller's promise.
    let scale = unsafe { act_scale(act) };
    if MINS {
        let acc = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(sum), acc);
        return _mm512_fnmadd_ps(_mm512_mul_ps(dmin, scale), _mm512_cvtepi32_ps(sums), acc);
    }
    let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, sums));
    _mm512_fmadd_ps(_mm512_mul_ps(d, scale), sum, acc)
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
unsafe fn one<K: SuperBlock<GROUPS>, const GROUPS: usize>(span: &Span<'_>, act: &[u8]) -> Sums {
    span.check(K::BYTES);
    assert!(span.blocks.end <= act.len() / Q8K_BYTES, "activations");
    let mut acc = _mm512_setzero_ps();
    for block in span.blocks.clone() {
        prefetch(span.rows, block, K::BYTES);
        // SAFETY: block and activations are there by the assertions; the features are those of this function.
        unsafe {
            let act = act.as_ptr().add(block * Q8K_BYTES);
            let header = K::light_header(span.rows, block * K::BYTES, act);
            let total = block_sums::<K, GROUPS>(span.rows, block * K::BYTES, &header, act);
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
unsafe fn block_sums<K: SuperBlock<GROUPS>, const GROUPS: usize>(
    rows: PanelRows<'_>,
    at: usize,
    header: &LightHeader,
    act: *const u8,
) -> __m512i {
    let stride = rows.row_bytes();
    let mut totals = [_mm512_setzero_si512(); 4];
    for p in 0..2 {
        let [first, second] = K::halves(p);
        // SAFETY: the caller's promises; the features are those of this function.
        unsafe {
            let (first, second) = (spread(act, first), spread(act, second));
            for (q, total) in totals.iter_mut().enumerate() {
                let block = rows.start().add(at + 4 * q * stride);
                let parts = K::piece(block, stride, p);
                let scales = K::part_scales(header, p, q);
                let mut sums = [_mm512_setzero_si512(); 2];
                for i in 0..4 {
                    sums[0] = _mm512_dpbusd_epi32(sums[0], parts[0][i], first[i]);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], parts[1][i], second[i]);
                }
                if K::SECOND_SHIFT == 4 {
                    sums[1] = _mm512_srai_epi32::<4>(sums[1]);
                }
                for (sum, scale) in sums.into_iter().zip(scales) {
                    *total = _mm512_add_epi32(*total, _mm512_mullo_epi32(sum, scale));
                }
            }
        }
    }
    gather(totals)
}

/// See [`PanelKernel::unpack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<K: SuperBlock<GROUPS>, const GROUPS: usize>(span: &Span<'_>, out: &mut Unpacked) {
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
unsafe fn many<K: SuperBlock<GROUPS>, const GROUPS: usize>(
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
                finish::<true>(load_sums(&sums[j]), both, deltas, acts[j])
            } else {
                finish::<false>(load_sums(&sums[j]), both, deltas, acts[j])
            }
        };
        store_sums(&mut sums[j], acc);
    }
}
