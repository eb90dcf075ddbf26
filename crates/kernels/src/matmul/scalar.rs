//! Dot products in portable Rust: the definition that every other instruction set is tested against.

use crate::WeightType;
use crate::acts::{Q8_0_BYTES, Q8K_BYTES, Q8K_SUMS};
use crate::dequant::{
    half, packed_scales, q4k_quants, q5k_quants, q6k_quants, q40_quants, q80_quants,
    scales_and_mins,
};
use crate::weight::{SUPER, bf16_to_f32};

use super::tile::{LANES, Operands, Parts, Tile, part};

/// The virtual lanes of a dot of float rows.
pub(super) const FLOAT_LANES: usize = 32;

pub(super) fn tiles(ty: WeightType) -> &'static [Tile] {
    macro_rules! one {
        ($dot:expr) => {{
            fn run(operands: &Operands<'_>) -> [f32; LANES] {
                let mut parts = Parts::new();
                for s in 0..operands.segments {
                    let w = part(operands.w[0], s, operands.segments);
                    let a = part(operands.a[0], s, operands.segments);
                    let mut sums = [0.0; LANES];
                    sums[0] = $dot(w, a);
                    parts.set(s, sums);
                }
                parts.tree(operands.segments)
            }
            #[allow(unsafe_code, reason = "the constructor takes a promise")]
            // SAFETY: portable code.
            const TILES: &[Tile] = &[unsafe { Tile::new(1, 1, run) }];
            TILES
        }};
    }
    match ty {
        WeightType::F32 => one!(|w, a| floats(w, a, 4, |b: &[u8]| f32::from_le_bytes([
            b[0], b[1], b[2], b[3]
        ]))),
        WeightType::F16 => one!(|w, a| floats(w, a, 2, |b: &[u8]| half(b, 0))),
        WeightType::BF16 => one!(|w, a| floats(w, a, 2, |b: &[u8]| bf16_to_f32(
            u16::from_le_bytes([b[0], b[1]])
        ))),
        WeightType::Q8_0 => one!(|w, a| small_blocks(w, a, 34, q80_quants)),
        WeightType::Q4_0 => one!(|w, a| small_blocks(w, a, 18, q40_quants)),
        WeightType::Q4K => one!(|w, a| with_mins(w, a, 144, q4k_quants)),
        WeightType::Q5K => one!(|w, a| with_mins(w, a, 176, q5k_quants)),
        WeightType::Q6K => one!(q6k),
    }
}

fn float(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn floats(w: &[u8], a: &[u8], width: usize, widen: impl Fn(&[u8]) -> f32) -> f32 {
    let mut lanes = [0f32; FLOAT_LANES];
    for (k, (w, a)) in w.chunks_exact(width).zip(a.chunks_exact(4)).enumerate() {
        let lane = &mut lanes[k % FLOAT_LANES];
        *lane = widen(w).mul_add(float(a, 0), *lane);
    }
    lane_tree(&mut lanes)
}

/// Lane `l` takes lane `l + 16`, then `l + 8`, and so on.
pub(super) fn lane_tree(lanes: &mut [f32; FLOAT_LANES]) -> f32 {
    for apart in [16, 8, 4, 2, 1] {
        for l in 0..apart {
            lanes[l] += lanes[l + apart];
        }
    }
    lanes[0]
}

fn small_blocks(w: &[u8], a: &[u8], bytes: usize, quants: impl Fn(&[u8]) -> [i8; 32]) -> f32 {
    let mut acc = 0f32;
    for (w, a) in w.chunks_exact(bytes).zip(a.chunks_exact(Q8_0_BYTES)) {
        let sum: i32 = quants(w)
            .iter()
            .zip(&a[4..])
            .map(|(q, a)| i32::from(*q) * i32::from(a.cast_signed()))
            .sum();
        acc = (half(w, 0) * float(a, 0)).mul_add(sum as f32, acc);
    }
    acc
}

/// The sum of products over a run of quants.
fn group(q: &[u8], a: &[u8]) -> i32 {
    q.iter()
        .zip(a)
        .map(|(q, a)| i32::from(*q) * i32::from(a.cast_signed()))
        .sum()
}

/// The sum of the 16 activation quants of group `index`.
fn group_sum(a: &[u8], index: usize) -> i32 {
    let at = Q8K_SUMS + 2 * index;
    i32::from(i16::from_le_bytes([a[at], a[at + 1]]))
}

fn with_mins(w: &[u8], a: &[u8], bytes: usize, quants: impl Fn(&[u8]) -> [u8; SUPER]) -> f32 {
    let mut acc = 0f32;
    for (w, a) in w.chunks_exact(bytes).zip(a.chunks_exact(Q8K_BYTES)) {
        let (scales, mins) = scales_and_mins(&packed_scales(w, 4));
        let (scales, mins) = (scales.to_le_bytes(), mins.to_le_bytes());
        let q = quants(w);
        let (mut sum, mut min_sum) = (0i32, 0i32);
        for j in 0..8 {
            let at = 32 * j;
            sum += i32::from(scales[j]) * group(&q[at..at + 32], &a[4 + at..]);
            min_sum += i32::from(mins[j]) * (group_sum(a, 2 * j) + group_sum(a, 2 * j + 1));
        }
        let d = float(a, 0);
        acc = (half(w, 0) * d).mul_add(sum as f32, acc);
        acc = (-(half(w, 2) * d)).mul_add(min_sum as f32, acc);
    }
    acc
}

fn q6k(w: &[u8], a: &[u8]) -> f32 {
    let mut acc = 0f32;
    for (w, a) in w.chunks_exact(210).zip(a.chunks_exact(Q8K_BYTES)) {
        let q = q6k_quants(w);
        let mut sum = 0i32;
        for j in 0..16 {
            let at = 16 * j;
            let scale = i32::from(w[192 + j].cast_signed());
            sum += scale * (group(&q[at..at + 16], &a[4 + at..]) - 32 * group_sum(a, j));
        }
        acc = (half(w, 208) * float(a, 0)).mul_add(sum as f32, acc);
    }
    acc
}
