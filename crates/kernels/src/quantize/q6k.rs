//! Q6_K: 256 values in 16 parts of 16, each with a scale of eight bits below the f16 scale of the block.

use super::{byte, nearest, scale_in_half, sum, weights};

/// Values of a block, of a part, and parts of a block.
const LEN: usize = 256;
const PART: usize = 16;
const PARTS: usize = LEN / PART;
/// Scales that are tried on either side of the one that just reaches the largest value, in tenths of a step.
const TRIES: i8 = 9;
/// Times that all scales are fitted again around what rounding left.
const PASSES: usize = 2;

type Part = [f32; PART];

/// A block as it would be read.
#[derive(Clone)]
struct Fitted {
    /// Bits of the f16 scale, and its value.
    bits: u16,
    d: f32,
    /// Scales of the parts, whole numbers from -128 to 127.
    scales: [f32; PARTS],
    /// Whole numbers from -32 to 31.
    quants: [Part; PARTS],
    /// Weighted squared error.
    error: f32,
}

/// The scale that fits a part best, by trial of inverse scales and least squares for each.
#[inline(always)]
fn part_scale(x: &Part, w: &Part) -> f32 {
    let extreme = x
        .iter()
        .fold(0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    if extreme.abs() < f32::MIN_POSITIVE * 64.0 {
        return 0.0;
    }
    let (mut best, mut scale) = (-1f32, 0f32);
    for step in -TRIES..=TRIES {
        // The extreme value lands on -32, which reaches further than 31.
        let inverse = -(32.0 + 0.1 * f32::from(step)) / extreme;
        let q = rounded(x, inverse);
        let squares = sum::<PART>(|i| w[i] * q[i] * q[i]);
        let product = sum::<PART>(|i| w[i] * x[i] * q[i]);
        // What the best scale for these whole numbers takes off the error.
        let gain = product * product / squares;
        if squares > 0.0 && gain > best {
            (best, scale) = (gain, product / squares);
        }
    }
    scale
}

#[inline(always)]
fn rounded(x: &Part, inverse: f32) -> Part {
    let mut q = [0f32; PART];
    for (q, x) in q.iter_mut().zip(x) {
        *q = nearest((x * inverse).clamp(-32.0, 31.0));
    }
    q
}

/// Whole numbers of a part for a scale, and their weighted squared error.
#[inline(always)]
fn quants(x: &Part, w: &Part, scale: f32) -> (Part, f32) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let q = rounded(x, inverse);
    let error = sum::<PART>(|i| w[i] * (x[i] - scale * q[i]) * (x[i] - scale * q[i]));
    (q, error)
}

/// Rounds the parts' scales to multiples of `d`, trying the neighbours too.
#[inline(always)]
fn fit(x: &[Part; PARTS], w: &[Part; PARTS], d: f32, wanted: &[f32; PARTS]) -> Fitted {
    let (bits, d) = scale_in_half(d);
    let mut fitted = Fitted {
        bits,
        d,
        scales: [0.0; PARTS],
        quants: [[0.0; PART]; PARTS],
        error: 0.0,
    };
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for part in 0..PARTS {
        let middle = nearest((wanted[part] * inverse).clamp(-128.0, 127.0));
        let mut least = f32::INFINITY;
        for step in [0.0, -1.0, 1.0] {
            let scale = (middle + step).clamp(-128.0, 127.0);
            let (q, error) = quants(&x[part], &w[part], d * scale);
            if error < least {
                least = error;
                (fitted.scales[part], fitted.quants[part]) = (scale, q);
            }
        }
        fitted.error += least;
    }
    fitted
}

/// The block scale that suits the whole numbers of `fitted` best.
#[inline(always)]
fn refined(x: &[Part; PARTS], w: &[Part; PARTS], fitted: &Fitted) -> Option<f32> {
    let (mut product, mut squares) = (0f32, 0f32);
    for part in 0..PARTS {
        let (x, w, q) = (&x[part], &w[part], &fitted.quants[part]);
        let scale = fitted.scales[part];
        product += scale * sum::<PART>(|i| w[i] * x[i] * q[i]);
        squares += scale * scale * sum::<PART>(|i| w[i] * q[i] * q[i]);
    }
    (squares > 0.0).then(|| product / squares)
}

/// Writes one block.
#[inline(always)]
pub(super) fn block(values: &[f32; LEN], out: &mut [u8]) {
    let mut x = [[0f32; PART]; PARTS];
    for (part, values) in x.iter_mut().zip(values.chunks_exact(PART)) {
        part.copy_from_slice(values);
    }
    let w: [Part; PARTS] = std::array::from_fn(|part| weights(&x[part]));
    let wanted: [f32; PARTS] = std::array::from_fn(|part| part_scale(&x[part], &w[part]));
    let extreme = wanted
        .iter()
        .fold(0f32, |m, s| if s.abs() > m.abs() { *s } else { m });
    let mut best = fit(&x, &w, extreme / -128.0, &wanted);
    for _ in 0..PASSES {
        let Some(d) = refined(&x, &w, &best) else {
            break;
        };
        let held = best.scales.map(|scale| scale * best.d);
        let next = fit(&x, &w, d, &held);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    write(&best, out);
}

fn write(fitted: &Fitted, out: &mut [u8]) {
    let mut q = [0u8; LEN];
    for (q, value) in q.iter_mut().zip(fitted.quants.as_flattened()) {
        *q = byte(value + 32.0);
    }
    for (n, q) in q.chunks_exact(128).enumerate() {
        for i in 0..64 {
            out[64 * n + i] = (q[i] & 15) | (q[i + 64] & 15) << 4;
        }
        for i in 0..32 {
            out[128 + 32 * n + i] =
                q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 | (q[i + 96] >> 4) << 6;
        }
    }
    for (out, scale) in out[192..208].iter_mut().zip(&fitted.scales) {
        // In two's complement.
        *out = byte(if *scale < 0.0 { *scale + 256.0 } else { *scale });
    }
    out[208..210].copy_from_slice(&fitted.bits.to_le_bytes());
}
