//! The gated delta net: what lies between the input and the output projections of such a layer.
//!
//! Owns the order of its parts (convolution, norms, gates, delta rule, gated norm) and the state that a
//! sequence carries through the layer. Never multiplies by a weight matrix. The idea: one call serves the rows
//! of many sequences, each with its own state, and gives each row the bits it would have alone.

use std::ops::Range;

use crate::conv::{ConvWeights, conv_advance};
use crate::delta::{DeltaRecords, DeltaShape, delta_commit};
use crate::{Isa, Pool};

mod task;

/// Small weights and shape of one layer.
#[derive(Debug, Clone)]
pub struct DeltaNet {
    /// Heads and dimensions.
    pub shape: DeltaShape,
    /// Convolution over `shape.channels()` channels.
    pub conv: ConvWeights,
    /// `A = -exp(A_log)` of each value head.
    pub decay_rate: Vec<f32>,
    /// Added to `a` of each value head.
    pub dt_bias: Vec<f32>,
    /// Plain weight of the gated norm, `value_dim` values.
    pub norm: Vec<f32>,
    /// Added to the mean square in the gated norm.
    pub eps: f32,
}

/// What one sequence carries through one layer.
#[derive(Debug, Clone)]
pub struct DeltaState {
    /// Raw rows before the next position, `[kernel - 1][channels]`.
    history: Vec<f32>,
    /// State of the delta rule.
    state: Vec<f32>,
    records: DeltaRecords,
    /// Raw rows of the recorded positions.
    raw: Vec<f32>,
}

impl DeltaState {
    /// The state at the start of a sequence: zeros.
    #[must_use]
    pub fn new(net: &DeltaNet) -> Self {
        DeltaState {
            history: vec![0.0; net.conv.history_len()],
            state: vec![0.0; net.shape.state_len()],
            records: DeltaRecords::default(),
            raw: Vec::new(),
        }
    }

    /// Back to the start of a sequence.
    pub fn reset(&mut self) {
        self.history.fill(0.0);
        self.state.fill(0.0);
        self.records.clear();
        self.raw.clear();
    }

    /// Rows that wait for [`DeltaNet::commit`].
    #[must_use]
    pub fn provisional(&self) -> usize {
        self.records.rows()
    }
}

/// Projections of the rows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct DeltaInput<'a> {
    /// `[rows][channels]`: queries, keys, values as projected.
    pub mixed: &'a [f32],
    /// `[rows][value_heads * value_dim]`: the output gate.
    pub z: &'a [f32],
    /// `[rows][value_heads]`: makes the decay.
    pub a: &'a [f32],
    /// `[rows][value_heads]`: makes beta.
    pub b: &'a [f32],
}

/// The rows of one sequence inside a batch.
#[derive(Debug)]
pub struct DeltaRun<'a> {
    /// Its rows, consecutive positions.
    pub rows: Range<usize>,
    /// How many of them, at the end, wait for [`DeltaNet::commit`].
    pub provisional: usize,
    /// What the sequence carries; its last provisional rows must have been committed.
    pub state: &'a mut DeltaState,
}

/// Memory that calls reuse.
#[derive(Debug, Default)]
pub struct DeltaScratch {
    /// Where the histories after the rows are written while the ones before are still read, one for each run.
    histories: Vec<Vec<f32>>,
}

impl DeltaNet {
    /// Bytes that one sequence carries, provisional rows apart.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        (self.conv.history_len() + self.shape.state_len()) * size_of::<f32>()
    }

    /// Computes `out[rows][value_heads * value_dim]` for all runs (ascending, disjoint row ranges that cover the
    /// batch) and moves their states past the settled rows.
    ///
    /// # Panics
    /// If lengths do not fit the shape, or a state has rows that wait.
    pub fn forward(
        &self,
        (pool, isa): (&Pool, Isa),
        input: &DeltaInput<'_>,
        runs: &mut [DeltaRun<'_>],
        scratch: &mut DeltaScratch,
        out: &mut [f32],
    ) {
        self.check(input, runs, out);
        let histories = &mut scratch.histories;
        histories.resize_with(runs.len().max(histories.len()), Vec::new);
        for history in histories.iter_mut().take(runs.len()) {
            history.resize(self.conv.history_len(), 0.0);
        }
        task::run((pool, isa), self, input, (runs, histories), out);
        for (run, history) in runs.iter_mut().zip(histories) {
            std::mem::swap(&mut run.state.history, history);
        }
    }

    /// Whether everything has the shape of the layer.
    fn check(&self, input: &DeltaInput<'_>, runs: &[DeltaRun<'_>], out: &[f32]) {
        let (shape, channels) = (&self.shape, self.shape.channels());
        shape.check();
        assert_eq!(
            self.conv.channels(),
            channels,
            "convolution of another shape"
        );
        let rows = out.len() / shape.value_len();
        assert_eq!(out.len(), rows * shape.value_len(), "broken output rows");
        assert_eq!(input.z.len(), out.len(), "gates of another shape");
        assert_eq!(input.mixed.len(), rows * channels, "rows of another shape");
        let gates = rows * shape.value_heads;
        assert!(
            input.a.len() == gates && input.b.len() == gates,
            "gates of another shape"
        );
        assert!(
            self.decay_rate.len() == shape.value_heads && self.dt_bias.len() == shape.value_heads,
            "heads of another shape"
        );
        assert_eq!(self.norm.len(), shape.value_dim, "norm of another shape");
        let mut at = 0;
        for run in runs {
            assert!(
                run.rows.start >= at && run.rows.end >= run.rows.start,
                "runs out of order"
            );
            assert!(run.rows.end <= rows, "run beyond the batch");
            assert!(
                run.provisional <= run.rows.len(),
                "more provisional rows than rows"
            );
            assert_eq!(
                run.state.provisional(),
                0,
                "records of an earlier step wait for their commit"
            );
            let lens = (run.state.history.len(), run.state.state.len());
            assert_eq!(
                lens,
                (self.conv.history_len(), shape.state_len()),
                "state of another shape"
            );
            at = run.rows.end;
        }
    }

    /// Makes the first `n` rows that wait real, with the bits of settled rows, and forgets the others.
    ///
    /// # Panics
    /// If fewer rows wait.
    pub fn commit(&self, (pool, isa): (&Pool, Isa), state: &mut DeltaState, n: usize) {
        let channels = self.shape.channels();
        delta_commit(
            pool,
            isa,
            &self.shape,
            &mut state.state,
            &mut state.records,
            n,
        );
        conv_advance(&mut state.history, &state.raw[..n * channels], channels);
        state.raw.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadOrder;
    use crate::testing::{bits, values};

    fn net() -> DeltaNet {
        let shape = DeltaShape {
            key_heads: 2,
            value_heads: 4,
            key_dim: 16,
            value_dim: 32,
            order: HeadOrder::Tiled,
        };
        net_of(shape)
    }

    fn net_of(shape: DeltaShape) -> DeltaNet {
        let heads = shape.value_heads;
        DeltaNet {
            shape,
            conv: ConvWeights::new(&values(4 * shape.channels(), 80), shape.channels(), 4),
            decay_rate: (0..heads).map(|i| -0.2 - 0.8 * i as f32).collect(),
            dt_bias: values(heads, 81),
            norm: values(shape.value_dim, 82),
            eps: 1e-6,
        }
    }

    struct Batch {
        mixed: Vec<f32>,
        z: Vec<f32>,
        a: Vec<f32>,
        b: Vec<f32>,
    }

    impl Batch {
        fn new(net: &DeltaNet, rows: usize) -> Self {
            Batch {
                mixed: values(rows * net.shape.channels(), 83),
                z: values(rows * net.shape.value_len(), 84),
                a: values(rows * net.shape.value_heads, 85),
                b: values(rows * net.shape.value_heads, 86),
            }
        }

        fn part(&self, net: &DeltaNet, rows: Range<usize>) -> DeltaInput<'_> {
            let cut = |all: &'_ [f32], row: usize| -> Range<usize> {
                assert!(rows.end * row <= all.len());
                rows.start * row..rows.end * row
            };
            DeltaInput {
                mixed: &self.mixed[cut(&self.mixed, net.shape.channels())],
                z: &self.z[cut(&self.z, net.shape.value_len())],
                a: &self.a[cut(&self.a, net.shape.value_heads)],
                b: &self.b[cut(&self.b, net.shape.value_heads)],
            }
        }
    }

    /// Outputs of `rows` and the state after them, in steps of (rows, provisional, accepted); rows that were
    /// not accepted are computed again.
    fn run(
        net: &DeltaNet,
        batch: &Batch,
        pool: &Pool,
        steps: &[(usize, usize, usize)],
    ) -> (Vec<f32>, DeltaState) {
        let (mut state, mut scratch) = (DeltaState::new(net), DeltaScratch::default());
        let (mut all, mut at) = (Vec::new(), 0);
        for (n, provisional, accepted) in steps.iter().copied() {
            let mut out = vec![0.0; n * net.shape.value_len()];
            let mut runs = [DeltaRun {
                rows: 0..n,
                provisional,
                state: &mut state,
            }];
            net.forward(
                (pool, Isa::detect()),
                &batch.part(net, at..at + n),
                &mut runs,
                &mut scratch,
                &mut out,
            );
            net.commit((pool, Isa::detect()), &mut state, accepted);
            let kept = n - provisional + accepted;
            all.extend_from_slice(&out[..kept * net.shape.value_len()]);
            at += kept;
        }
        (all, state)
    }

    #[test]
    fn cuts_and_rejections_change_nothing() {
        let (net, pool) = (net(), Pool::new(2));
        let batch = Batch::new(&net, 10);
        let (plain, end) = run(&net, &batch, &pool, &[(10, 0, 0)]);
        let cuts: [&[(usize, usize, usize)]; 4] = [
            &[(1, 0, 0); 10],
            &[(3, 0, 0), (5, 0, 0), (2, 0, 0)],
            &[(4, 2, 2), (6, 6, 6)],
            &[(4, 3, 1), (5, 4, 0), (3, 3, 2), (5, 1, 1)],
        ];
        for cut in cuts {
            let (out, state) = run(&net, &batch, &pool, cut);
            assert_eq!(bits(&out), bits(&plain), "{cut:?}");
            assert_eq!(bits(&state.state), bits(&end.state), "{cut:?}");
            assert_eq!(bits(&state.history), bits(&end.history), "{cut:?}");
            assert_eq!(state.provisional(), 0);
        }
    }

    #[test]
    fn sequences_share_a_batch_without_meeting() {
        let (net, pool) = (net(), Pool::new(3));
        let batch = Batch::new(&net, 7);
        let alone = run(&net, &batch, &pool, &[(3, 0, 0)]).0;
        let (mut one, mut two) = (DeltaState::new(&net), DeltaState::new(&net));
        let mut out = vec![0.0; 7 * net.shape.value_len()];
        let mut runs = [
            DeltaRun {
                rows: 0..3,
                provisional: 0,
                state: &mut one,
            },
            DeltaRun {
                rows: 3..7,
                provisional: 1,
                state: &mut two,
            },
        ];
        let mut scratch = DeltaScratch::default();
        net.forward(
            (&pool, Isa::Scalar),
            &batch.part(&net, 0..7),
            &mut runs,
            &mut scratch,
            &mut out,
        );
        assert_eq!(bits(&out[..alone.len()]), bits(&alone));
        assert_eq!(two.provisional(), 1);
        two.reset();
        assert_eq!(two.provisional(), 0);
        assert!(two.state.iter().chain(&two.history).all(|x| *x == 0.0));
    }

    /// Outputs, records and histories of one run by the parts alone, each over whole rows.
    fn by_parts(
        net: &DeltaNet,
        batch: &Batch,
        (rows, provisional): (usize, usize),
    ) -> (Vec<f32>, DeltaState) {
        let (pool, isa, shape) = (Pool::new(1), Isa::Scalar, &net.shape);
        let mut state = DeltaState::new(net);
        let input = batch.part(net, 0..rows);
        let segment = crate::ConvSegment {
            rows: 0..rows,
            history: &state.history,
        };
        let mut qkv = vec![0.0; input.mixed.len()];
        crate::conv_silu(&pool, isa, &net.conv, &[segment], input.mixed, &mut qkv);
        let keys = shape.key_heads * shape.key_dim;
        for row in qkv.chunks_mut(shape.channels()) {
            let scale = 1.0 / (shape.key_dim as f32).sqrt();
            crate::l2_norm_in_place(isa, &mut row[..keys], shape.key_dim, scale);
            crate::l2_norm_in_place(isa, &mut row[keys..2 * keys], shape.key_dim, 1.0);
        }
        let (mut decay, mut beta) = (vec![0.0; input.a.len()], vec![0.0; input.b.len()]);
        let gates = crate::DeltaGates {
            a: input.a,
            b: input.b,
            decay_rate: &net.decay_rate,
            dt_bias: &net.dt_bias,
        };
        crate::delta_gates(isa, gates, &mut decay, &mut beta);
        let inputs = crate::DeltaRows {
            qkv: &qkv,
            decay: &decay,
            beta: &beta,
        };
        let mut out = vec![0.0; rows * shape.value_len()];
        let segment = crate::DeltaSegment {
            rows: 0..rows,
            provisional,
            state: &mut state.state,
            records: &mut state.records,
        };
        crate::delta_rows(&pool, isa, shape, &inputs, &mut [segment], &mut out);
        crate::gated_rms_norm(isa, &mut out, &net.norm, net.eps, input.z);
        let settled = &input.mixed[..(rows - provisional) * shape.channels()];
        conv_advance(&mut state.history, settled, shape.channels());
        (out, state)
    }

    #[test]
    fn one_region_has_the_bits_of_the_parts_alone() {
        // With one thread a task takes a key head, with three a value head; rows exceed what a task takes at once.
        for order in [HeadOrder::Grouped, HeadOrder::Tiled] {
            let net = net_of(DeltaShape {
                key_heads: 4,
                value_heads: 8,
                key_dim: 24,
                value_dim: 64,
                order,
            });
            let batch = Batch::new(&net, 75);
            for (rows, provisional) in [(1, 0), (1, 1), (75, 0), (75, 2), (75, 40), (40, 40)] {
                let (want, end) = by_parts(&net, &batch, (rows, provisional));
                for (isa, threads) in Isa::usable().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                    let mut state = DeltaState::new(&net);
                    let mut out = vec![0.0; want.len()];
                    let runs = &mut [DeltaRun {
                        rows: 0..rows,
                        provisional,
                        state: &mut state,
                    }];
                    let (input, mut scratch) = (batch.part(&net, 0..rows), DeltaScratch::default());
                    let on = (&Pool::new(threads), isa);
                    net.forward(on, &input, runs, &mut scratch, &mut out);
                    let facts = |state: &DeltaState| {
                        let records = &state.records;
                        [
                            &state.state,
                            &state.history,
                            &records.keys,
                            &records.deltas,
                            &records.decays,
                        ]
                        .map(|x| bits(x))
                    };
                    assert_eq!(
                        bits(&out),
                        bits(&want),
                        "{isa} {threads} {rows} {provisional}"
                    );
                    assert!(
                        facts(&state) == facts(&end),
                        "{isa} {threads} {rows} {provisional}"
                    );
                }
            }
        }
    }
}
