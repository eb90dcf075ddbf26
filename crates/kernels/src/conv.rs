//! The causal depthwise convolution in front of the delta rule.
//!
//! Owns the convolution with its SiLU and the history of raw rows that a sequence carries. The idea: each
//! channel sees its own last `K` raw values, oldest first, so rows may be cut into batches anywhere:
//! `y = silu(w[0] x[t-K+1] + .. + w[K-1] x[t])`, the first product rounded, the others fused, ascending.

use std::ops::Range;

use crate::math::silu;
use crate::{Isa, Pool, parallel_columns};

/// Channels that one task computes.
const CHANNEL_BLOCK: usize = 512;
/// Longest kernel, so that a row's sources fit a fixed array.
pub(crate) const KERNEL_MAX: usize = 16;

/// Weights of the convolution, arranged by tap.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    /// `[kernel][channels]`; the last tap meets the current position.
    taps: Vec<f32>,
    channels: usize,
    kernel: usize,
}

impl ConvWeights {
    /// Takes weights `[channels][kernel]`, as model files hold them.
    ///
    /// # Panics
    /// If the length differs from that, or the kernel is not 1 to 16 long.
    #[must_use]
    pub fn new(weights: &[f32], channels: usize, kernel: usize) -> Self {
        assert!(
            (1..=KERNEL_MAX).contains(&kernel),
            "kernel of {kernel} taps"
        );
        assert_eq!(weights.len(), channels * kernel, "weights of another shape");
        let taps = (0..kernel)
            .flat_map(|tap| weights.iter().skip(tap).step_by(kernel))
            .copied()
            .collect();
        ConvWeights {
            taps,
            channels,
            kernel,
        }
    }

    /// Channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Positions that one output sees.
    #[must_use]
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Weights of each tap over all channels, the oldest position first.
    pub(crate) fn taps(&self) -> impl Iterator<Item = &[f32]> {
        self.taps.chunks(self.channels)
    }

    /// Values of a sequence's history: the last `kernel - 1` raw rows.
    #[must_use]
    pub fn history_len(&self) -> usize {
        (self.kernel - 1) * self.channels
    }
}

/// Rows of one sequence inside a batch, and what came before them.
#[derive(Debug, Clone)]
pub struct ConvSegment<'a> {
    /// The sequence's rows of the batch, consecutive positions.
    pub rows: Range<usize>,
    /// `[kernel - 1][channels]` raw rows before them, oldest first; zeros at the start of a sequence.
    pub history: &'a [f32],
}

/// One row, some channels: `sources` and `taps` hold `kernel` slices of the length of `out`.
#[inline(always)]
pub(crate) fn conv_body(sources: &[&[f32]], taps: &[&[f32]], out: &mut [f32]) {
    if let ([x0, x1, x2, x3], [w0, w1, w2, w3]) = (sources, taps) {
        return conv4_body([x0, x1, x2, x3], [w0, w1, w2, w3], out);
    }
    for (tap, (source, weights)) in sources.iter().zip(taps).enumerate() {
        let values = out.iter_mut().zip(*source).zip(*weights);
        if tap == 0 {
            values.for_each(|((out, x), w)| *out = x * w);
        } else {
            values.for_each(|((out, x), w)| *out = w.mul_add(*x, *out));
        }
    }
    for out in out {
        *out = silu(*out);
    }
}

/// [`conv_body`] of the usual four taps, in one pass.
#[inline(always)]
fn conv4_body(x: [&[f32]; 4], w: [&[f32]; 4], out: &mut [f32]) {
    let n = out.len();
    let (x, w) = (x.map(|x| &x[..n]), w.map(|w| &w[..n]));
    for i in 0..n {
        let sum = w[1][i].mul_add(x[1][i], x[0][i] * w[0][i]);
        let sum = w[2][i].mul_add(x[2][i], sum);
        out[i] = silu(w[3][i].mul_add(x[3][i], sum));
    }
}

kernel! {
    fn conv_row(sources: &[&[f32]], taps: &[&[f32]], out: &mut [f32]) = conv_body
}

/// Convolves the rows of all segments: `x` holds raw rows `[rows][channels]`, `out` the results in the same
/// places. Histories are read, not advanced: see [`conv_advance`].
///
/// # Panics
/// If lengths do not fit the weights.
pub fn conv_silu(
    pool: &Pool,
    isa: Isa,
    weights: &ConvWeights,
    segments: &[ConvSegment<'_>],
    x: &[f32],
    out: &mut [f32],
) {
    let (channels, kernel) = (weights.channels, weights.kernel);
    assert_eq!(x.len(), out.len(), "outputs of another shape");
    for segment in segments {
        assert_eq!(
            segment.history.len(),
            weights.history_len(),
            "history of another shape"
        );
        assert!(
            segment.rows.end * channels <= x.len(),
            "segment beyond the batch"
        );
    }
    parallel_columns(pool, out, (channels, CHANNEL_BLOCK), |_, mut block| {
        let columns = block.columns();
        let mut taps = [&[][..]; KERNEL_MAX];
        for (tap, row) in taps.iter_mut().zip(weights.taps.chunks(channels)) {
            *tap = &row[columns.clone()];
        }
        for segment in segments {
            for row in segment.rows.clone() {
                let mut sources = [&[][..]; KERNEL_MAX];
                for (tap, source) in sources[..kernel].iter_mut().enumerate() {
                    // Position of the source, counted from the oldest row of the history.
                    let from = row - segment.rows.start + tap;
                    let (rows, index) = if from < kernel - 1 {
                        (segment.history, from)
                    } else {
                        (x, from - (kernel - 1) + segment.rows.start)
                    };
                    *source = &rows[index * channels..][columns.clone()];
                }
                conv_row(isa, &sources[..kernel], &taps[..kernel], block.row(row));
            }
        }
    });
}

/// Moves a history past the raw rows `x` (`[n][channels]`, oldest first).
///
/// # Panics
/// If a length is not made of whole rows.
pub fn conv_advance(history: &mut [f32], x: &[f32], channels: usize) {
    assert_eq!(x.len() % channels, 0, "broken rows");
    assert_eq!(history.len() % channels, 0, "broken history");
    let kept = history.len().saturating_sub(x.len());
    history.copy_within(history.len() - kept.., 0);
    let fresh = history.len() - kept;
    history[kept..].copy_from_slice(&x[x.len() - fresh..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, bits, values};

    fn naive(w: &[f32], (channels, kernel): (usize, usize), full: &[f32], rows: usize) -> Vec<f64> {
        (0..rows * channels)
            .map(|at| {
                let (row, c) = (at / channels, at % channels);
                let tap = |j: usize| {
                    f64::from(w[c * kernel + j]) * f64::from(full[(row + j) * channels + c])
                };
                let sum: f64 = (0..kernel).map(tap).sum();
                sum / (1.0 + (-sum).exp())
            })
            .collect()
    }

    #[test]
    fn follows_the_formula_however_rows_are_cut() {
        for (channels, kernel, rows) in [(1030, 4, 9), (20, 2, 5), (33, 1, 3), (7, 6, 4)] {
            let w = values(channels * kernel, 50);
            let weights = ConvWeights::new(&w, channels, kernel);
            let start = values(weights.history_len(), 51);
            let x = values(rows * channels, 52);
            let want = naive(&w, (channels, kernel), &[&start[..], &x].concat(), rows);
            let mut first: Option<(Vec<u32>, Vec<u32>)> = None;
            for (isa, threads) in Isa::usable().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let pool = Pool::new(threads);
                for step in [1, 2, 4, rows] {
                    let mut history = start.clone();
                    let mut out = Vec::new();
                    for part in x.chunks(step * channels) {
                        let segment = ConvSegment {
                            rows: 0..part.len() / channels,
                            history: &history,
                        };
                        let mut got = vec![0.0; part.len()];
                        conv_silu(&pool, isa, &weights, &[segment], part, &mut got);
                        conv_advance(&mut history, part, channels);
                        out.extend(got);
                    }
                    assert_close(&out, &want, 3e-6);
                    let got = (bits(&out), bits(&history));
                    assert_eq!(
                        first.get_or_insert_with(|| got.clone()),
                        &got,
                        "{isa} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn segments_do_not_see_each_other() {
        let weights = ConvWeights::new(&values(40 * 4, 53), 40, 4);
        let (h1, h2) = (values(120, 54), values(120, 55));
        let x = values(5 * 40, 56);
        let pool = Pool::new(2);
        let mut both = vec![0.0; x.len()];
        let segments = [
            ConvSegment {
                rows: 0..2,
                history: &h1,
            },
            ConvSegment {
                rows: 2..5,
                history: &h2,
            },
        ];
        conv_silu(&pool, Isa::detect(), &weights, &segments, &x, &mut both);
        let mut second = vec![0.0; 3 * 40];
        let alone = [ConvSegment {
            rows: 0..3,
            history: &h2,
        }];
        conv_silu(
            &pool,
            Isa::detect(),
            &weights,
            &alone,
            &x[80..],
            &mut second,
        );
        assert_eq!(bits(&both[80..]), bits(&second));
    }
}
