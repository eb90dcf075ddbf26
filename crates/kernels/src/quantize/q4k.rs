//! Q4_K: 256 values in 8 parts of 32, each with a scale and a minimum of six bits below two f16 scales of the block.

use super::{byte, nearest, scale_in_half, sum, weights};

/// Values of a block, of a part, and parts of a block.
const LEN: usize = 256;
const PART: usize = 32;
const PARTS: usize = LEN / PART;
/// Scales that are tried around the one that just spans a part, in tenths of a step.
const TRIES: i8 = 12;
/// Times that all scales are fitted again around what rounding left.
const PASSES: usize = 2;

type Part = [f32; PART];

/// Scale and minimum of a part: a value is `scale * q - min`, neither below zero.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    min: f32,
}

/// A block as it would be read.
#[derive(Clone)]
struct Fitted {
    /// Bits of the two f16 scales, and their values.
    bits: [u16; 2],
    d: Line,
    /// Scales and minima of the parts, whole numbers from 0 to 63.
    lines: [Line; PARTS],
    /// Whole numbers from 0 to 15.
    quants: [Part; PARTS],
    /// Weighted squared error.
    error: f32,
}

/// Whole numbers of a part for a line, and their weighted squared error.
#[inline(always)]
fn quants(x: &Part, w: &Part, line: Line) -> (Part, f32) {
    let inverse = if line.scale == 0.0 {
        0.0
    } else {
        1.0 / line.scale
    };
    let mut q = [0f32; PART];
    for (q, x) in q.iter_mut().zip(x) {
        *q = nearest(((x + line.min) * inverse).clamp(0.0, 15.0));
    }
    let error = sum::<PART>(|i| {
        let off = line.scale * q[i] - line.min - x[i];
        w[i] * off * off
    });
    (q, error)
}

/// Weighted sums of a part that no choice of whole numbers changes.
struct Sums {
    weight: f32,
    value: f32,
    square: f32,
}

/// The line that fits given whole numbers best, its minimum not below zero, and the weighted squared error that it leaves.
#[inline(always)]
fn least_squares(x: &Part, w: &Part, q: &Part, sums: &Sums) -> Option<(Line, f32)> {
    let sq = sum::<PART>(|i| w[i] * q[i]);
    let sqq = sum::<PART>(|i| w[i] * q[i] * q[i]);
    let sxq = sum::<PART>(|i| w[i] * x[i] * q[i]);
    let determinant = sums.weight * sqq - sq * sq;
    let free = Line {
        scale: (sums.weight * sxq - sums.value * sq) / determinant,
        min: (sq * sxq - sqq * sums.value) / determinant,
    };
    let line = if determinant > 0.0 && free.min >= 0.0 {
        free
    } else if sqq > 0.0 {
        Line {
            scale: sxq / sqq,
            min: 0.0,
        }
    } else {
        return None;
    };
    let left = sums.square - line.scale * sxq + line.min * sums.value;
    (line.scale > 0.0).then_some((line, left))
}

/// The line that fits a part best, by trial of inverse scales and least squares for each.
#[inline(always)]
fn part_line(x: &Part, w: &Part) -> Line {
    let low = x.iter().fold(0f32, |m, x| m.min(*x));
    let high = x.iter().fold(low, |m, x| m.max(*x));
    if high - low < f32::MIN_POSITIVE * 64.0 {
        return Line {
            scale: 0.0,
            min: -low,
        };
    }
    let sums = Sums {
        weight: sum::<PART>(|i| w[i]),
        value: sum::<PART>(|i| w[i] * x[i]),
        square: sum::<PART>(|i| w[i] * x[i] * x[i]),
    };
    let (mut least, mut best) = (f32::INFINITY, Line::default());
    for step in -TRIES..=TRIES {
        let inverse = (15.0 + 0.1 * f32::from(step)) / (high - low);
        let mut q = [0f32; PART];
        for (q, x) in q.iter_mut().zip(x) {
            *q = nearest(((x - low) * inverse).clamp(0.0, 15.0));
        }
        if let Some((line, left)) = least_squares(x, w, &q, &sums)
            && left < least
        {
            (least, best) = (left, line);
        }
    }
    best
}

/// Rounds the parts' lines to multiples of `d`, trying the neighbours too.
#[inline(always)]
fn fit(x: &[Part; PARTS], w: &[Part; PARTS], d: Line, wanted: &[Line; PARTS]) -> Fitted {
    let (scale_bits, scale) = scale_in_half(d.scale);
    let (min_bits, min) = scale_in_half(d.min);
    let mut fitted = Fitted {
        bits: [scale_bits, min_bits],
        d: Line { scale, min },
        lines: [Line::default(); PARTS],
        quants: [[0.0; PART]; PARTS],
        error: 0.0,
    };
    let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    let six_bits = |x: f32| nearest(x.clamp(0.0, 63.0));
    for part in 0..PARTS {
        let middle = Line {
            scale: six_bits(wanted[part].scale * inverse(scale)),
            min: six_bits(wanted[part].min * inverse(min)),
        };
        let mut least = f32::INFINITY;
        for (scale_step, min_step) in NEIGHBOURS {
            let line = Line {
                scale: six_bits(middle.scale + scale_step),
                min: six_bits(middle.min + min_step),
            };
            let read = Line {
                scale: scale * line.scale,
                min: min * line.min,
            };
            let (q, error) = quants(&x[part], &w[part], read);
            if error < least {
                least = error;
                (fitted.lines[part], fitted.quants[part]) = (line, q);
            }
        }
        fitted.error += least;
    }
    fitted
}

/// Steps of a part's scale and minimum: a larger scale goes with a larger minimum, so the diagonal is tried too.
const NEIGHBOURS: [(f32, f32); 9] = [
    (0.0, 0.0),
    (-1.0, -1.0),
    (1.0, 1.0),
    (-1.0, 0.0),
    (1.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (-1.0, 1.0),
    (1.0, -1.0),
];

/// The two block scales that suit the whole numbers of `fitted` best.
#[inline(always)]
fn refined(x: &[Part; PARTS], w: &[Part; PARTS], fitted: &Fitted) -> Option<Line> {
    let (mut saa, mut sab, mut sbb, mut sxa, mut sxb) = (0f32, 0f32, 0f32, 0f32, 0f32);
    for part in 0..PARTS {
        let (x, w, q) = (&x[part], &w[part], &fitted.quants[part]);
        let Line { scale, min } = fitted.lines[part];
        let wq = sum::<PART>(|i| w[i] * q[i]);
        saa += scale * scale * sum::<PART>(|i| w[i] * q[i] * q[i]);
        sab += scale * min * wq;
        sbb += min * min * sum::<PART>(|i| w[i]);
        sxa += scale * sum::<PART>(|i| w[i] * x[i] * q[i]);
        sxb += min * sum::<PART>(|i| w[i] * x[i]);
    }
    let determinant = saa * sbb - sab * sab;
    if determinant <= 0.0 {
        return None;
    }
    let line = Line {
        scale: (sxa * sbb - sxb * sab) / determinant,
        min: (sxa * sab - sxb * saa) / determinant,
    };
    (line.scale > 0.0 && line.min >= 0.0).then_some(line)
}

/// Writes one block.
#[inline(always)]
pub(super) fn block(values: &[f32; LEN], out: &mut [u8]) {
    let mut x = [[0f32; PART]; PARTS];
    for (part, values) in x.iter_mut().zip(values.chunks_exact(PART)) {
        part.copy_from_slice(values);
    }
    let w: [Part; PARTS] = std::array::from_fn(|part| weights(&x[part]));
    let wanted: [Line; PARTS] = std::array::from_fn(|part| part_line(&x[part], &w[part]));
    let d = wanted.iter().fold(Line::default(), |m, line| Line {
        scale: m.scale.max(line.scale / 63.0),
        min: m.min.max(line.min / 63.0),
    });
    let mut best = fit(&x, &w, d, &wanted);
    for _ in 0..PASSES {
        let Some(d) = refined(&x, &w, &best) else {
            break;
        };
        let held = best.lines.map(|line| Line {
            scale: line.scale * best.d.scale,
            min: line.min * best.d.min,
        });
        let next = fit(&x, &w, d, &held);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    write(&best, out);
}

fn write(fitted: &Fitted, out: &mut [u8]) {
    out[..2].copy_from_slice(&fitted.bits[0].to_le_bytes());
    out[2..4].copy_from_slice(&fitted.bits[1].to_le_bytes());
    let scales = fitted.lines.map(|line| byte(line.scale));
    let mins = fitted.lines.map(|line| byte(line.min));
    for j in 0..4 {
        out[4 + j] = scales[j] | (scales[j + 4] >> 4) << 6;
        out[8 + j] = mins[j] | (mins[j + 4] >> 4) << 6;
        out[12 + j] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
    let pairs = fitted.quants.chunks_exact(2);
    for (out, pair) in out[16..].chunks_exact_mut(PART).zip(pairs) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = byte(pair[0][i]) | byte(pair[1][i]) << 4;
        }
    }
}
