//! The delta rule against its formula, and the same bits however rows are cut, committed and scheduled.

use super::*;
use crate::testing::{assert_close, bits, values};

const SHAPES: [DeltaShape; 4] = [
    DeltaShape {
        key_heads: 2,
        value_heads: 4,
        key_dim: 24,
        value_dim: 64,
        order: HeadOrder::Grouped,
    },
    DeltaShape {
        key_heads: 2,
        value_heads: 4,
        key_dim: 24,
        value_dim: 64,
        order: HeadOrder::Tiled,
    },
    DeltaShape {
        key_heads: 1,
        value_heads: 3,
        key_dim: 8,
        value_dim: 12,
        order: HeadOrder::Grouped,
    },
    DeltaShape {
        key_heads: 3,
        value_heads: 3,
        key_dim: 16,
        value_dim: 7,
        order: HeadOrder::Tiled,
    },
];

struct Inputs {
    qkv: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
}

impl Inputs {
    fn new(shape: &DeltaShape, rows: usize) -> Self {
        let mut qkv = values(rows * shape.channels(), 60);
        let keys = 2 * shape.key_heads * shape.key_dim;
        for row in qkv.chunks_mut(shape.channels()) {
            crate::l2_norm_in_place(Isa::Scalar, &mut row[..keys], shape.key_dim, 1.0);
        }
        let gate = |seed| -> Vec<f32> {
            values(rows * shape.value_heads, seed)
                .iter()
                .map(|x| sigmoid(*x))
                .collect()
        };
        Inputs {
            qkv,
            decay: gate(61),
            beta: gate(62),
        }
    }

    fn rows(&self, shape: &DeltaShape, range: Range<usize>) -> DeltaRows<'_> {
        let gates = range.start * shape.value_heads..range.end * shape.value_heads;
        DeltaRows {
            qkv: &self.qkv[range.start * shape.channels()..range.end * shape.channels()],
            decay: &self.decay[gates.clone()],
            beta: &self.beta[gates],
        }
    }
}

/// Outputs by the formula in f64, from a zero state.
fn naive(shape: &DeltaShape, inputs: &Inputs, rows: usize) -> Vec<f64> {
    let (dk, dv, channels) = (shape.key_dim, shape.value_dim, shape.channels());
    let mut out = vec![0.0; rows * shape.value_len()];
    for j in 0..shape.value_heads {
        let head = match shape.order {
            HeadOrder::Grouped => j / (shape.value_heads / shape.key_heads),
            HeadOrder::Tiled => j % shape.key_heads,
        };
        let mut s = vec![vec![0.0f64; dv]; dk];
        for t in 0..rows {
            let row: Vec<f64> = inputs.qkv[t * channels..][..channels]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            let (q, k) = (
                &row[head * dk..][..dk],
                &row[shape.key_heads * dk + head * dk..][..dk],
            );
            let v = &row[2 * shape.key_heads * dk + j * dv..][..dv];
            let gate = |of: &[f32]| f64::from(of[t * shape.value_heads + j]);
            for c in 0..dv {
                for s in &mut s {
                    s[c] *= gate(&inputs.decay);
                }
                let read: f64 = s.iter().zip(k).map(|(s, k)| s[c] * k).sum();
                let delta = (v[c] - read) * gate(&inputs.beta);
                for (s, k) in s.iter_mut().zip(k) {
                    s[c] += k * delta;
                }
                out[t * shape.value_len() + j * dv + c] =
                    s.iter().zip(q).map(|(s, q)| s[c] * q).sum();
            }
        }
    }
    out
}

/// Outputs and final state, the rows cut into steps of `step`.
fn run(
    shape: &DeltaShape,
    inputs: &Inputs,
    (pool, isa): (&Pool, Isa),
    (rows, step): (usize, usize),
) -> (Vec<f32>, Vec<f32>) {
    let (mut state, mut records) = (vec![0.0; shape.state_len()], DeltaRecords::default());
    let mut out = vec![0.0; rows * shape.value_len()];
    for (i, out) in out.chunks_mut(step * shape.value_len()).enumerate() {
        let n = out.len() / shape.value_len();
        let segment = DeltaSegment {
            rows: 0..n,
            provisional: 0,
            state: &mut state,
            records: &mut records,
        };
        delta_rows(
            pool,
            isa,
            shape,
            &inputs.rows(shape, i * step..i * step + n),
            &mut [segment],
            out,
        );
    }
    (out, state)
}

#[test]
fn follows_the_formula_with_equal_bits_for_every_set_pool_and_cut() {
    for shape in &SHAPES {
        let inputs = Inputs::new(shape, 11);
        let want = naive(shape, &inputs, 11);
        let mut first: Option<(Vec<u32>, Vec<u32>)> = None;
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for (isa, step) in Isa::usable().flat_map(|isa| [1, 3, 4, 11].map(|step| (isa, step))) {
                let (out, state) = run(shape, &inputs, (&pool, isa), (11, step));
                assert_close(&out, &want, 1e-5);
                let got = (bits(&out), bits(&state));
                assert!(
                    first.get_or_insert_with(|| got.clone()) == &got,
                    "{isa} {step} {shape:?}"
                );
            }
        }
    }
}

#[test]
fn provisional_rows_then_commit_equal_settled_rows() {
    let pool = Pool::new(2);
    for shape in &SHAPES {
        let inputs = Inputs::new(shape, 9);
        for isa in Isa::usable() {
            let (plain, _) = run(shape, &inputs, (&pool, isa), (9, 9));
            for (provisional, accepted) in [(1, 0), (1, 1), (4, 2), (4, 4), (9, 5), (9, 0)] {
                let (mut state, mut records) =
                    (vec![0.0; shape.state_len()], DeltaRecords::default());
                let mut out = vec![0.0; plain.len()];
                let segment = DeltaSegment {
                    rows: 0..9,
                    provisional,
                    state: &mut state,
                    records: &mut records,
                };
                delta_rows(
                    &pool,
                    isa,
                    shape,
                    &inputs.rows(shape, 0..9),
                    &mut [segment],
                    &mut out,
                );
                assert_eq!(bits(&out), bits(&plain));
                assert_eq!(records.rows(), provisional);
                let settled = 9 - provisional;
                assert_eq!(
                    bits(&state),
                    bits(&run(shape, &inputs, (&pool, isa), (settled, 9)).1)
                );
                delta_commit(&pool, isa, shape, &mut state, &mut records, accepted);
                let want = run(shape, &inputs, (&pool, isa), (settled + accepted, 9)).1;
                assert_eq!(bits(&state), bits(&want), "{isa} {provisional} {accepted}");
                assert_eq!(records.rows(), 0);
            }
        }
    }
}

#[test]
fn sequences_of_one_batch_do_not_meet() {
    let pool = Pool::new(3);
    let shape = &SHAPES[0];
    let inputs = Inputs::new(shape, 8);
    let (mut s1, mut s2) = (vec![0.0; shape.state_len()], vec![0.0; shape.state_len()]);
    let (mut r1, mut r2) = (DeltaRecords::default(), DeltaRecords::default());
    let mut out = vec![7.0; 8 * shape.value_len()];
    let mut segments = [
        DeltaSegment {
            rows: 0..3,
            provisional: 1,
            state: &mut s1,
            records: &mut r1,
        },
        DeltaSegment {
            rows: 4..8,
            provisional: 0,
            state: &mut s2,
            records: &mut r2,
        },
    ];
    delta_rows(
        &pool,
        Isa::detect(),
        shape,
        &inputs.rows(shape, 0..8),
        &mut segments,
        &mut out,
    );
    let (alone, _) = run(shape, &inputs, (&pool, Isa::detect()), (3, 3));
    assert_eq!(bits(&out[..alone.len()]), bits(&alone));
    assert!(
        out[alone.len()..4 * shape.value_len()]
            .iter()
            .all(|x| *x == 7.0),
        "a row of no segment was written"
    );
    let mut want = vec![0.0; 4 * shape.value_len()];
    let mut state = vec![0.0; shape.state_len()];
    let mut records = DeltaRecords::default();
    let segment = DeltaSegment {
        rows: 0..4,
        provisional: 0,
        state: &mut state,
        records: &mut records,
    };
    delta_rows(
        &pool,
        Isa::detect(),
        shape,
        &inputs.rows(shape, 4..8),
        &mut [segment],
        &mut want,
    );
    assert_eq!(bits(&out[4 * shape.value_len()..]), bits(&want));
    assert_eq!(bits(&s2), bits(&state));
}

#[test]
fn gates_follow_their_formulas_on_every_set() {
    let (a, b) = (values(15, 70), values(15, 71));
    let (rate, bias) = ([-0.1, -2.0, -7.0], [0.5, -1.0, 3.0]);
    let mut first: Option<(Vec<u32>, Vec<u32>)> = None;
    for isa in Isa::usable() {
        let (mut decay, mut beta) = (vec![0.0; 15], vec![0.0; 15]);
        let gates = DeltaGates {
            a: &a,
            b: &b,
            decay_rate: &rate,
            dt_bias: &bias,
        };
        delta_gates(isa, gates, &mut decay, &mut beta);
        for i in 0..15 {
            let g =
                f64::from(rate[i % 3]) * (f64::from(a[i]) + f64::from(bias[i % 3])).exp().ln_1p();
            assert!((f64::from(decay[i]) - g.exp()).abs() < 1e-5);
            assert!((f64::from(beta[i]) - 1.0 / (1.0 + (-f64::from(b[i])).exp())).abs() < 1e-6);
        }
        let got = (bits(&decay), bits(&beta));
        assert_eq!(first.get_or_insert_with(|| got.clone()), &got, "{isa}");
    }
}
