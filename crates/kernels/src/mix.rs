//! Elementwise mixing of rows, and facts about a row of logits.
//!
//! Owns the gated activation, additions, softmax, maximum and log-sum-exp. Never chooses what is added in
//! which order: that is the caller's contract. The idea: elementwise work has one rounding a step, and sums
//! use the 32 lanes of `math`.

use crate::Isa;
use crate::math::{exp, ln, max_body, sigmoid, silu, sum_body};

/// Logits that one partial sum of [`LogSum::of`] covers.
const LOG_SUM_BLOCK: usize = 64;

#[inline(always)]
fn swiglu_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(
        gate.len() == out.len() && up.len() == out.len(),
        "rows of different lengths"
    );
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = silu(*gate) * up;
    }
}

#[inline(always)]
fn add_body(acc: &mut [f32], x: &[f32]) {
    assert_eq!(acc.len(), x.len(), "rows of different lengths");
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc += x;
    }
}

#[inline(always)]
fn axpy_body(acc: &mut [f32], w: f32, y: &[f32]) {
    assert_eq!(acc.len(), y.len(), "rows of different lengths");
    for (acc, y) in acc.iter_mut().zip(y) {
        *acc = w.mul_add(*y, *acc);
    }
}

#[inline(always)]
fn scale_body(x: &mut [f32], w: f32) {
    for x in x {
        *x *= w;
    }
}

#[inline(always)]
fn sigmoid_gate_body(x: &mut [f32], gate: &[f32]) {
    assert_eq!(x.len(), gate.len(), "rows of different lengths");
    for (x, gate) in x.iter_mut().zip(gate) {
        *x *= sigmoid(*gate);
    }
}

/// Body of [`softmax`].
#[inline(always)]
pub(crate) fn softmax_body(x: &mut [f32]) {
    let most = max_body(x);
    for x in x.iter_mut() {
        *x = exp(*x - most);
    }
    let sum = sum_body(x);
    for x in x {
        *x /= sum;
    }
}

kernel! {
    /// `out = silu(gate) * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = swiglu_body
}

kernel! {
    /// `acc += x`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(acc: &mut [f32], x: &[f32]) = add_body
}

kernel! {
    /// `acc += w * y`, fused.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn axpy(acc: &mut [f32], w: f32, y: &[f32]) = axpy_body
}

kernel! {
    /// `x *= w`.
    pub fn scale(x: &mut [f32], w: f32) = scale_body
}

kernel! {
    /// `x *= sigmoid(gate)`, value by value.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn sigmoid_gate(x: &mut [f32], gate: &[f32]) = sigmoid_gate_body
}

kernel! {
    /// Softmax of a row in place: `e^(x - max) / sum`.
    pub fn softmax(x: &mut [f32]) = softmax_body
}

kernel! {
    /// Largest value of a row, `-inf` for an empty one; NaN is passed over.
    pub fn max(x: &[f32]) -> f32 = max_body
}

/// The lowest index of the largest value; 0 for a row without any number.
#[must_use]
pub fn argmax(isa: Isa, x: &[f32]) -> u32 {
    let most = max(isa, x);
    let found = (0u32..).zip(x).find(|(_, x)| **x == most);
    found.map_or(0, |(at, _)| at)
}

/// `log(sum(e^x))` of some logits, in a form that adds up: `sum` counts in units of `e^max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSum {
    /// The largest logit, `-inf` if there is none.
    pub max: f32,
    /// Sum of `e^(x - max)`.
    pub sum: f64,
}

impl LogSum {
    /// No logits at all.
    pub const EMPTY: LogSum = LogSum {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// The sum over one row: blocks of 64 logits in 32 lanes of f32, blocks added in f64 in ascending order.
    #[must_use]
    pub fn of(isa: Isa, row: &[f32]) -> LogSum {
        let most = max(isa, row);
        if most == f32::NEG_INFINITY {
            return LogSum::EMPTY;
        }
        LogSum {
            max: most,
            sum: shifted_exp_sum(isa, row, most),
        }
    }

    /// The sum over both sets of logits.
    #[must_use]
    pub fn merge(self, other: LogSum) -> LogSum {
        let most = if other.max > self.max {
            other.max
        } else {
            self.max
        };
        if most == f32::NEG_INFINITY {
            return LogSum::EMPTY;
        }
        let part = |of: LogSum| of.sum * f64::from(exp(of.max - most));
        LogSum {
            max: most,
            sum: part(self) + part(other),
        }
    }

    /// Merges by a fixed binary tree: neighbours first, an odd last one passes up unchanged.
    #[must_use]
    pub fn tree(parts: &[LogSum]) -> LogSum {
        match parts {
            [] => LogSum::EMPTY,
            [one] => *one,
            _ => {
                let half = parts.len().next_power_of_two() / 2;
                let (low, high) = parts.split_at(half);
                LogSum::tree(low).merge(LogSum::tree(high))
            }
        }
    }

    /// `log(sum(e^x))`.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.max) + ln(self.sum)
    }
}

#[inline(always)]
fn shifted_exp_sum_body(row: &[f32], shift: f32) -> f64 {
    let mut total = 0.0;
    for block in row.chunks(LOG_SUM_BLOCK) {
        let mut terms = [0.0; LOG_SUM_BLOCK];
        for (term, x) in terms.iter_mut().zip(block) {
            *term = exp(*x - shift);
        }
        total += f64::from(sum_body(&terms));
    }
    total
}

kernel! {
    /// Sum of `e^(x - shift)`.
    fn shifted_exp_sum(row: &[f32], shift: f32) -> f64 = shifted_exp_sum_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, bits, values};

    fn sigma(x: f32) -> f64 {
        1.0 / (1.0 + (-f64::from(x)).exp())
    }

    /// Runs `f` on a copy of `x` for every instruction set and compares with `want` and among the sets.
    fn check(x: &[f32], want: &[f64], f: impl Fn(Isa, &mut [f32])) {
        let mut first: Option<Vec<u32>> = None;
        for isa in Isa::usable() {
            let mut got = x.to_vec();
            f(isa, &mut got);
            assert_close(&got, want, 2e-6);
            assert_eq!(
                first.get_or_insert_with(|| bits(&got)),
                &bits(&got),
                "{isa}"
            );
        }
    }

    #[test]
    fn elementwise_rows_follow_their_formulas_on_every_set() {
        let (x, y) = (values(77, 20), values(77, 21));
        let each = |f: &dyn Fn(f32, f32) -> f64| -> Vec<f64> {
            x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect()
        };
        let wide = f64::from;
        check(
            &x,
            &each(&|x, y| wide(x) * sigma(x) * wide(y)),
            |isa, out| {
                let gate = out.to_vec();
                swiglu(isa, &gate, &y, out);
            },
        );
        check(&x, &each(&|x, y| wide(x) + wide(y)), |isa, acc| {
            add(isa, acc, &y)
        });
        check(&x, &each(&|x, y| wide(x) + 0.3 * wide(y)), |isa, acc| {
            axpy(isa, acc, 0.3, &y)
        });
        check(&x, &each(&|x, _| wide(x) * 0.7), |isa, x| {
            scale(isa, x, 0.7)
        });
        check(&x, &each(&|x, y| wide(x) * sigma(y)), |isa, x| {
            sigmoid_gate(isa, x, &y)
        });
    }

    #[test]
    fn softmax_follows_its_formula_on_every_set() {
        let x: Vec<f32> = values(256, 22).iter().map(|x| x * 8.0).collect();
        let most = f64::from(max(Isa::Scalar, &x));
        let sum: f64 = x.iter().map(|x| (f64::from(*x) - most).exp()).sum();
        let want: Vec<f64> = x
            .iter()
            .map(|x| (f64::from(*x) - most).exp() / sum)
            .collect();
        check(&x, &want, softmax);
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        let mut x = values(1000, 23);
        x[700] = 5.0;
        x[300] = 5.0;
        for isa in Isa::usable() {
            assert_eq!(argmax(isa, &x), 300);
            assert_eq!(argmax(isa, &[f32::NEG_INFINITY; 3]), 0);
            assert_eq!(argmax(isa, &[f32::NAN, -3.0, -1.0]), 2);
        }
    }

    #[test]
    fn log_sum_is_close_whole_and_in_parts() {
        let x: Vec<f32> = values(5000, 24).iter().map(|x| x * 10.0).collect();
        let want = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        let whole = LogSum::of(Isa::Scalar, &x);
        assert!(
            (whole.value() - want).abs() < 1e-6,
            "{} {want}",
            whole.value()
        );
        for isa in Isa::usable() {
            assert_eq!(LogSum::of(isa, &x), whole, "{isa}");
            let parts: Vec<LogSum> = x.chunks(700).map(|part| LogSum::of(isa, part)).collect();
            assert!((LogSum::tree(&parts).value() - want).abs() < 1e-6);
        }
        assert_eq!(LogSum::tree(&[]), LogSum::EMPTY);
        assert_eq!(LogSum::of(Isa::Scalar, &[]).merge(whole), whole);
    }
}
