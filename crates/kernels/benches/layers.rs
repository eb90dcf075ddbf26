//! Speed of everything in a layer that is not a matrix product, on one thread, by instruction set.
//!
//! Shapes are those of Qwen3.5-35B-A3B. Run with `cargo bench -p kernels --bench layers`.

use std::hint::black_box;

use divan::Bencher;
use kernels::{
    ActFormat, Acts, Attend, AttendRow, AttendScratch, AttendShape, ConvSegment, ConvWeights,
    DeltaInput, DeltaNet, DeltaRecords, DeltaRows, DeltaRun, DeltaScratch, DeltaSegment,
    DeltaShape, DeltaState, HeadOrder, Isa, KvStore, KvType, LogSum, Pool, QueryLayout, Weights,
    attend_rows, conv_silu, delta_rows, gated_rms_norm, rms_norm, route, swiglu,
};

fn main() {
    divan::main();
}

fn sets() -> Vec<Isa> {
    Isa::usable().collect()
}

/// Those that are fast enough for whole layers.
fn vector_sets() -> Vec<Isa> {
    sets()
        .into_iter()
        .filter(|isa| *isa != Isa::Scalar)
        .collect()
}

/// Ordinary values without any pattern that matters for speed.
fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

#[divan::bench(args = sets())]
fn norm_2048(bencher: Bencher<'_, '_>, isa: Isa) {
    let (x, mut out) = (values(2048), values(2048));
    bencher.bench_local(|| rms_norm(isa, &x, &x, 1e-6, black_box(&mut out)));
}

#[divan::bench(args = sets())]
fn gated_norm_4096(bencher: Bencher<'_, '_>, isa: Isa) {
    let (z, weight) = (values(4096), values(128));
    bencher
        .with_inputs(|| values(4096))
        .bench_local_values(|mut x| {
            gated_rms_norm(isa, &mut x, &weight, 1e-6, &z);
            x
        });
}

#[divan::bench(args = sets())]
fn swiglu_512(bencher: Bencher<'_, '_>, isa: Isa) {
    let (x, mut out) = (values(512), values(512));
    bencher.bench_local(|| swiglu(isa, &x, &x, black_box(&mut out)));
}

#[divan::bench(args = sets())]
fn route_8_of_256(bencher: Bencher<'_, '_>, isa: Isa) {
    let mut out = [(0, 0.0); 8];
    bencher
        .with_inputs(|| values(256))
        .bench_local_values(|mut logits| {
            route(isa, &mut logits, Weights::Renormalised, black_box(&mut out));
        });
}

#[divan::bench(args = sets())]
fn log_sum_248320(bencher: Bencher<'_, '_>, isa: Isa) {
    let row = values(248_320);
    bencher.bench_local(|| LogSum::of(isa, &row));
}

#[divan::bench(args = sets())]
fn conv_8192(bencher: Bencher<'_, '_>, isa: Isa) {
    let pool = Pool::new(1);
    let weights = ConvWeights::new(&values(4 * 8192), 8192, 4);
    let (history, x, mut out) = (values(3 * 8192), values(8192), values(8192));
    bencher.bench_local(|| {
        let segment = ConvSegment {
            rows: 0..1,
            history: &history,
        };
        conv_silu(&pool, isa, &weights, &[segment], &x, black_box(&mut out));
    });
}

#[divan::bench(args = sets())]
fn delta_one_token(bencher: Bencher<'_, '_>, isa: Isa) {
    let shape = DeltaShape {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        order: HeadOrder::Grouped,
    };
    let pool = Pool::new(1);
    let qkv: Vec<f32> = values(shape.channels()).iter().map(|x| x * 0.1).collect();
    let gates = vec![0.5; 32];
    let rows = DeltaRows {
        qkv: &qkv,
        decay: &gates,
        beta: &gates,
    };
    let (mut state, mut records) = (vec![0.0; shape.state_len()], DeltaRecords::default());
    let mut out = vec![0.0; shape.value_len()];
    bencher.bench_local(|| {
        let segment = DeltaSegment {
            rows: 0..1,
            provisional: 0,
            state: &mut state,
            records: &mut records,
        };
        delta_rows(
            &pool,
            isa,
            &shape,
            &rows,
            &mut [segment],
            black_box(&mut out),
        );
    });
}

/// The whole net of `sequences` sequences of `rows` rows each; every call takes the next of `layers` states of a
/// sequence, so that with many layers states come from memory, as in a model.
fn delta_net(bencher: Bencher<'_, '_>, isa: Isa, (sequences, rows, layers): (usize, usize, usize)) {
    let shape = DeltaShape {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        order: HeadOrder::Tiled,
    };
    let net = DeltaNet {
        shape,
        conv: ConvWeights::new(&values(4 * 8192), 8192, 4),
        decay_rate: vec![-0.5; 32],
        dt_bias: vec![0.1; 32],
        norm: values(128),
        eps: 1e-6,
    };
    let n = sequences * rows;
    let (mixed, z) = (values(n * 8192), values(n * 4096));
    let (a, b) = (values(n * 32), values(n * 32));
    let input = DeltaInput {
        mixed: &mixed,
        z: &z,
        a: &a,
        b: &b,
    };
    let mut states: Vec<Vec<DeltaState>> = (0..layers)
        .map(|_| (0..sequences).map(|_| DeltaState::new(&net)).collect())
        .collect();
    let (pool, mut scratch, mut out) = (Pool::new(1), DeltaScratch::default(), vec![0.0; n * 4096]);
    let mut layer = 0;
    bencher.bench_local(|| {
        layer = (layer + 1) % layers;
        let mut runs: Vec<DeltaRun<'_>> = (0..sequences)
            .zip(&mut states[layer])
            .map(|(i, state)| DeltaRun {
                rows: i * rows..(i + 1) * rows,
                provisional: 0,
                state,
            })
            .collect();
        net.forward(
            (&pool, isa),
            &input,
            &mut runs,
            &mut scratch,
            black_box(&mut out),
        );
    });
}

#[divan::bench(args = vector_sets())]
fn delta_net_1_row(bencher: Bencher<'_, '_>, isa: Isa) {
    delta_net(bencher, isa, (1, 1, 1));
}

#[divan::bench(args = vector_sets())]
fn delta_net_1_row_30_layers(bencher: Bencher<'_, '_>, isa: Isa) {
    delta_net(bencher, isa, (1, 1, 30));
}

#[divan::bench(args = vector_sets())]
fn delta_net_8_sequences(bencher: Bencher<'_, '_>, isa: Isa) {
    delta_net(bencher, isa, (8, 1, 4));
}

#[divan::bench(args = vector_sets(), sample_count = 10)]
fn delta_net_512_rows(bencher: Bencher<'_, '_>, isa: Isa) {
    delta_net(bencher, isa, (1, 512, 1));
}

fn quantize(bencher: Bencher<'_, '_>, isa: Isa, (format, rows, cols): (ActFormat, usize, usize)) {
    let (x, mut acts) = (values(rows * cols), Acts::new());
    bencher.bench_local(|| acts.quantize(isa, format, black_box(&x), cols));
}

#[divan::bench(args = sets())]
fn quantize_q8k_2048(bencher: Bencher<'_, '_>, isa: Isa) {
    quantize(bencher, isa, (ActFormat::Q8K, 1, 2048));
}

#[divan::bench(args = sets())]
fn quantize_q8k_4096(bencher: Bencher<'_, '_>, isa: Isa) {
    quantize(bencher, isa, (ActFormat::Q8K, 1, 4096));
}

#[divan::bench(args = vector_sets())]
fn quantize_q8k_512_rows(bencher: Bencher<'_, '_>, isa: Isa) {
    quantize(bencher, isa, (ActFormat::Q8K, 512, 2048));
}

#[divan::bench(args = sets())]
fn quantize_q8_0_2048(bencher: Bencher<'_, '_>, isa: Isa) {
    quantize(bencher, isa, (ActFormat::Q8_0, 1, 2048));
}

/// One attention layer of a model, with a cache of `positions` written.
struct Attention {
    shape: AttendShape,
    store: KvStore,
    pages: Vec<u32>,
}

impl Attention {
    fn new(head_dim: usize, ty: KvType, positions: u32) -> Option<Self> {
        let heads = if head_dim == 256 { 16 } else { 32 };
        let shape = AttendShape {
            heads,
            kv_heads: heads / 8,
            head_dim,
            scale: 1.0 / 16.0,
            queries: QueryLayout::Plain,
        };
        let used = positions.div_ceil(64);
        let pages: Vec<u32> = (0..used).collect();
        let mut store = KvStore::new(ty, used, shape.kv_heads, shape.head_dim).ok()?;
        let row = values(shape.kv_heads * shape.head_dim);
        for position in 0..positions {
            store.write(&pages, position, &row, &row);
        }
        Some(Attention {
            shape,
            store,
            pages,
        })
    }

    /// Attention of the last `rows` of `len` positions by `threads` threads.
    fn measure(&self, bencher: Bencher<'_, '_>, (isa, threads): (Isa, usize), rows: u32, len: u32) {
        let pool = Pool::new(threads);
        let width = self.shape.heads * self.shape.head_dim;
        let (q, mut out) = (
            values(rows as usize * width),
            vec![0.0; rows as usize * width],
        );
        let rows: Vec<AttendRow<'_>> = (len - rows + 1..=len)
            .map(|len| AttendRow {
                pages: &self.pages,
                len,
            })
            .collect();
        let attend = Attend {
            shape: &self.shape,
            store: &self.store,
            rows: &rows,
            queries: &q,
        };
        let mut scratch = AttendScratch::default();
        let keys: usize = rows.iter().map(|row| row.len as usize).sum();
        bencher
            .counter(divan::counter::ItemsCount::new(4 * keys * width))
            .counter(divan::counter::BytesCount::new(
                self.store.bytes() * len as usize / (self.pages.len() * 64),
            ))
            .bench_local(|| {
                attend_rows(&pool, isa, &attend, black_box(&mut out), &mut scratch);
            });
    }
}

/// One new row by cache type and context: bytes are those of the cache, items floating-point operations.
#[divan::bench(args = [(KvType::F32, 1024), (KvType::F16, 1024), (KvType::F16, 8192), (KvType::F16, 32768), (KvType::Q8, 1024), (KvType::Q8, 32768)])]
fn attention_decode(bencher: Bencher<'_, '_>, (ty, len): (KvType, u32)) {
    if let Some(attention) = Attention::new(256, ty, len) {
        attention.measure(bencher, (Isa::detect(), 1), 1, len);
    }
}

/// The same on two threads.
#[divan::bench(args = [(KvType::F16, 1024), (KvType::F16, 8192), (KvType::F16, 32768)])]
fn attention_decode_2_threads(bencher: Bencher<'_, '_>, (ty, len): (KvType, u32)) {
    if let Some(attention) = Attention::new(256, ty, len) {
        attention.measure(bencher, (Isa::detect(), 2), 1, len);
    }
}

/// The last 128 of 2048 rows of a prompt, by instruction set.
#[divan::bench(args = sets().into_iter().flat_map(|isa| [(isa, 256, KvType::F16), (isa, 128, KvType::F16), (isa, 256, KvType::Q8)]))]
fn attention_prefill(bencher: Bencher<'_, '_>, (isa, head_dim, ty): (Isa, usize, KvType)) {
    if let Some(attention) = Attention::new(head_dim, ty, 2048) {
        attention.measure(bencher, (isa, 1), 128, 2048);
    }
}
