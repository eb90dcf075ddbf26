//! Elementary functions and sums with one meaning everywhere.
//!
//! Owns exp, ln, sigmoid, silu, softplus and the order of every sum over a row. Never calls the platform's
//! mathematics library, whose bits differ between systems. The idea: sums run in 32 virtual lanes (lane `i`
//! takes elements `i, i + 32, ..` in ascending order) and end in a fixed binary tree, whatever the processor.

/// Virtual lanes of a sum over a row.
pub(crate) const LANES: usize = 32;
/// One value for each virtual lane.
pub(crate) type Lanes = [f32; LANES];

/// 1.5 * 2^23: adding it rounds a small float to an integer, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// The part of ln 2 whose products with exponents up to 2^9 are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
/// ln 2 - `LN2_HIGH`.
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(n.wrapping_add(127).wrapping_shl(23).cast_unsigned())
}

/// `e^x` within 2 ulp, without a branch: `-inf` gives 0, more than 88.73 gives infinity, NaN stays NaN.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-105.0, 89.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let whole = shifted - ROUNDER;
    let r = whole.mul_add(-LN2_LOW, whole.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, c);
    }
    let n = (shifted.to_bits().cast_signed()).wrapping_sub(ROUNDER.to_bits().cast_signed());
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * sigmoid(x)`, as `x / (1 + e^-x)`.
#[inline(always)]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `2 artanh(s)` for `0 <= |s| <= 1/3`, by its series to `s^27`.
#[inline(always)]
fn twice_artanh(s: f64) -> f64 {
    let square = s * s;
    let mut sum = 1.0 / 27.0;
    for odd in [
        25.0, 23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0,
    ] {
        sum = square.mul_add(sum, 1.0 / odd);
    }
    2.0 * s * sum
}

/// `ln(1 + e^x)`, as `max(x, 0) + ln(1 + e^-|x|)` with the logarithm in f64.
#[inline(always)]
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    reason = "the last step rounds to f32 on purpose"
)]
pub fn softplus(x: f32) -> f32 {
    let u = f64::from(exp(-x.abs()));
    (f64::from(x.max(0.0)) + twice_artanh(u / (2.0 + u))) as f32
}

/// Natural logarithm, to about 1e-15 relative: 0 gives `-inf`, a negative number NaN.
#[must_use]
pub fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 || x == f64::INFINITY {
        return if x == 0.0 { f64::NEG_INFINITY } else { x };
    }
    // 2^54 brings a subnormal number into the normal range.
    let (x, lift) = if x < f64::MIN_POSITIVE {
        (x * 18_014_398_509_481_984.0, 54.0)
    } else {
        (x, 0.0)
    };
    let bits = x.to_bits();
    let mut m = f64::from_bits(bits & MANTISSA | 1.0f64.to_bits());
    let mut exponent = f64::from(u16::try_from(bits >> 52).unwrap_or(0)) - 1023.0 - lift;
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1.0;
    }
    exponent.mul_add(std::f64::consts::LN_2, twice_artanh((m - 1.0) / (m + 1.0)))
}

/// Sum of all lanes: lane `i` and `i + 16`, then `i` and `i + 8`, and so on.
#[inline(always)]
pub(crate) fn tree_sum(mut lanes: Lanes) -> f32 {
    #[inline(always)]
    fn fold<const HALF: usize>(lanes: &mut Lanes) {
        let (low, high) = lanes.split_at_mut(HALF);
        for (a, b) in low.iter_mut().zip(&high[..HALF]) {
            *a += *b;
        }
    }
    fold::<16>(&mut lanes);
    fold::<8>(&mut lanes);
    fold::<4>(&mut lanes);
    fold::<2>(&mut lanes);
    fold::<1>(&mut lanes);
    lanes[0]
}

/// Lanes filled from the front of `x` (at most 32 values), the others `filler`.
#[inline(always)]
pub(crate) fn padded(x: &[f32], filler: f32) -> Lanes {
    let mut lanes = [filler; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// `acc[i] += x[i] * y[i]`, fused.
#[inline(always)]
fn fma_lanes(acc: &mut Lanes, x: &Lanes, y: &Lanes) {
    for ((acc, x), y) in acc.iter_mut().zip(x).zip(y) {
        *acc = x.mul_add(*y, *acc);
    }
}

/// Body of [`dot`].
#[inline(always)]
pub(crate) fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot of rows of different lengths");
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut acc = [0.0; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        fma_lanes(&mut acc, x, y);
    }
    if !a_rest.is_empty() {
        fma_lanes(&mut acc, &padded(a_rest, 0.0), &padded(b_rest, 0.0));
    }
    tree_sum(acc)
}

/// Sum of a row in 32 lanes and the tree.
#[inline(always)]
pub(crate) fn sum_body(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut acc = [0.0; LANES];
    for block in blocks {
        for (acc, x) in acc.iter_mut().zip(block) {
            *acc += *x;
        }
    }
    if !rest.is_empty() {
        for (acc, x) in acc.iter_mut().zip(&padded(rest, 0.0)) {
            *acc += *x;
        }
    }
    tree_sum(acc)
}

/// Largest value of a row, `-inf` for an empty one; NaN is passed over.
#[inline(always)]
pub(crate) fn max_body(x: &[f32]) -> f32 {
    #[inline(always)]
    fn raise(acc: &mut Lanes, block: &Lanes) {
        for (acc, x) in acc.iter_mut().zip(block) {
            *acc = if *x > *acc { *x } else { *acc };
        }
    }
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut acc = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        raise(&mut acc, block);
    }
    if !rest.is_empty() {
        raise(&mut acc, &padded(rest, f32::NEG_INFINITY));
    }
    let mut most = f32::NEG_INFINITY;
    for x in acc {
        most = if x > most { x } else { most };
    }
    most
}

#[inline(always)]
fn exp_row_body(x: &mut [f32]) {
    for x in x {
        *x = exp(*x);
    }
}

kernel! {
    /// Sum of `a[i] * b[i]` over a row: fused, in 32 lanes and the fixed tree.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

kernel! {
    /// Replaces every value by its [`exp`].
    pub fn exp_row(x: &mut [f32]) = exp_row_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{bits, values};

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the f32 next to the wanted value sets the unit"
    )]
    /// Distance of `got` from `want` in units of the last place of `want` as f32.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = (want as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    /// Many floats over the whole range that matters.
    fn sweep() -> impl Iterator<Item = f32> {
        (-20_000..20_000).map(|i| i as f32 * 0.004_37)
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let worst = sweep()
            .filter(|x| (-87.0..88.7).contains(x))
            .map(|x| ulps(exp(x), f64::from(x).exp()))
            .fold(0.0, f64::max);
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn exp_ends_well() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        let subnormal = exp(-95.0);
        assert!(
            ((f64::from(subnormal) / (-95f64).exp()) - 1.0).abs() < 1e-3,
            "{subnormal}"
        );
    }

    #[test]
    fn gates_follow_their_formulas() {
        for x in sweep() {
            let wide = f64::from(x);
            let sigma = 1.0 / (1.0 + (-wide).exp());
            if x > -80.0 {
                assert!(ulps(sigmoid(x), sigma) < 4.0, "sigmoid({x})");
                assert!(ulps(silu(x), wide * sigma) < 4.0, "silu({x})");
                assert!(
                    ulps(softplus(x), wide.max(0.0) + (-wide.abs()).exp().ln_1p()) < 3.0,
                    "softplus({x})"
                );
            }
        }
        assert_eq!(softplus(40.0), 40.0);
        assert_eq!(silu(-1e4), 0.0);
    }

    #[test]
    fn ln_is_close_to_the_library() {
        for x in [
            1e-320, 5e-300, 1e-9, 0.3, 0.999, 1.0, 1.0001, 1.41, 1.42, 2.0, 7.5, 1e9, 1e300,
        ] {
            let want = f64::ln(x);
            assert!(
                (ln(x) - want).abs() <= 4e-15 * want.abs().max(1e-3),
                "ln({x}) {} {want}",
                ln(x)
            );
        }
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(ln(f64::INFINITY), f64::INFINITY);
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
    }

    #[test]
    fn dot_matches_f64_and_every_set_agrees() {
        for n in [0, 1, 5, 31, 32, 33, 256, 1000] {
            let (a, b) = (values(n, 1), values(n, 2));
            let want: f64 = a
                .iter()
                .zip(&b)
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum();
            let scalar = dot(Isa::Scalar, &a, &b);
            assert!(
                (f64::from(scalar) - want).abs() < 1e-4,
                "{n}: {scalar} {want}"
            );
            let sum: f64 = a.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(sum_body(&a)) - sum).abs() < 1e-4);
            for isa in Isa::usable() {
                assert_eq!(dot(isa, &a, &b).to_bits(), scalar.to_bits(), "{isa} {n}");
            }
        }
    }

    #[test]
    fn exp_row_is_exp_on_every_set() {
        let row: Vec<f32> = sweep().collect();
        let want: Vec<f32> = row.iter().map(|x| exp(*x)).collect();
        for isa in Isa::usable() {
            let mut got = row.clone();
            exp_row(isa, &mut got);
            assert_eq!(bits(&got), bits(&want), "{isa}");
        }
    }

    #[test]
    fn max_passes_over_nan() {
        assert_eq!(max_body(&[]), f32::NEG_INFINITY);
        let mut row = values(70, 3);
        row[69] = 9.0;
        row[4] = f32::NAN;
        assert_eq!(max_body(&row), 9.0);
    }
}
