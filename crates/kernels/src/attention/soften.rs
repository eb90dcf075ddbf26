//! The softmax side of attention: weights from scores, the merge of spans, the last division and the gate.
//!
//! Owns every step of the definition that is not a dot product or a weighted sum of values.

use crate::kv::PAGE_POSITIONS;
use crate::math::{LANES, exp, sigmoid, sum_body};

/// Running values of the softmax of one row and head.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) max: f32,
    pub(super) sum: f32,
}

/// Before the first block of a span.
pub(super) const FRESH: State = State {
    max: f32::NEG_INFINITY,
    sum: 0.0,
};

/// Largest of a block's scores; NaN is passed over. The order of comparisons changes nothing but the sign of a
/// zero, and only differences from the maximum are used.
#[inline(always)]
fn block_max(scores: &[f32; PAGE_POSITIONS]) -> f32 {
    #[inline(always)]
    fn raise(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = if *b > *a { *b } else { *a };
        }
    }
    let mut most = [f32::NEG_INFINITY; LANES];
    for half in scores.as_chunks::<LANES>().0 {
        raise(&mut most, half);
    }
    for half in [16, 8, 4, 2, 1] {
        let (low, high) = most.split_at_mut(half);
        raise(low, &high[..half]);
    }
    most[0]
}

#[inline(always)]
fn soften_body(scores: &mut [f32], counts: &[usize], states: &mut [State], shrinks: &mut [f32]) {
    let rows = scores.as_chunks_mut::<PAGE_POSITIONS>().0.iter_mut();
    for (((scores, count), state), shrink) in rows.zip(counts).zip(states).zip(shrinks) {
        scores[*count..].fill(f32::NEG_INFINITY);
        let block = block_max(scores);
        let most = if block > state.max { block } else { state.max };
        *shrink = exp(state.max - most);
        for score in scores.iter_mut() {
            *score = exp(*score - most);
        }
        state.sum = state.sum * *shrink + sum_body(scores);
        state.max = most;
    }
}

#[inline(always)]
fn merge_body(state: &mut State, out: &mut [f32], other: &State, from: &[f32]) {
    let most = if other.max > state.max {
        other.max
    } else {
        state.max
    };
    let (a, b) = (exp(state.max - most), exp(other.max - most));
    state.sum = state.sum * a + other.sum * b;
    state.max = most;
    for (out, from) in out.iter_mut().zip(from) {
        *out = b.mul_add(*from, *out * a);
    }
}

#[inline(always)]
fn finish_body(out: &mut [f32], from: &[f32], sum: f32, gate: Option<&[f32]>) {
    for (out, from) in out.iter_mut().zip(from) {
        *out = from / sum;
    }
    if let Some(gate) = gate {
        for (out, gate) in out.iter_mut().zip(gate) {
            *out *= sigmoid(*gate);
        }
    }
}

kernel! {
    /// Turns the scores of a block (64 a row, of which `counts` are real) into weights, for one row and head after
    /// another; `shrinks` become the factors of what was summed before.
    pub(super) fn soften(
        scores: &mut [f32],
        counts: &[usize],
        states: &mut [State],
        shrinks: &mut [f32],
    ) = soften_body
}

kernel! {
    /// Adds the next span, `other` and `from`, to the merged ones.
    pub(super) fn merge(state: &mut State, out: &mut [f32], other: &State, from: &[f32]) = merge_body
}

kernel! {
    /// `from / sum`, gated.
    pub(super) fn finish(out: &mut [f32], from: &[f32], sum: f32, gate: Option<&[f32]>) = finish_body
}
