//! Speed of everything in a layer that is not a matrix product, on one thread, by instruction set.
//!
//! Shapes are those of Qwen3.5-35B-A3B. Run with `cargo bench -p kernels --bench layers`.

use std::hint::black_box;

use divan::Bencher;
use kernels::{
    AttendRow, AttendShape, ConvSegment, ConvWeights, DeltaRecords, DeltaRows, DeltaSegment,
    DeltaShape, HeadOrder, Isa, KvStore, KvType, LogSum, Pool, Weights, attend_rows, conv_silu,
    delta_rows, gated_rms_norm, rms_norm, route, swiglu,
};

fn main() {
    divan::main();
}

fn sets() -> Vec<Isa> {
    Isa::usable().collect()
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

fn attention(bencher: Bencher<'_, '_>, isa: Isa, ty: KvType) {
    let shape = AttendShape {
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        scale: 1.0 / 16.0,
    };
    let pages: Vec<u32> = (0..64).collect();
    let Ok(mut store) = KvStore::new(ty, 64, 2, 256) else {
        return;
    };
    for position in 0..4096 {
        store.write(&pages, position, &values(512), &values(512));
    }
    let pool = Pool::new(1);
    let (q, mut out) = (values(16 * 256), values(16 * 256));
    bencher.bench_local(|| {
        let row = AttendRow {
            pages: &pages,
            len: 4096,
        };
        attend_rows(&pool, isa, &shape, &store, &[row], &q, black_box(&mut out));
    });
}

#[divan::bench(args = sets())]
fn attention_4096_f16(bencher: Bencher<'_, '_>, isa: Isa) {
    attention(bencher, isa, KvType::F16);
}

#[divan::bench(args = sets())]
fn attention_4096_f32(bencher: Bencher<'_, '_>, isa: Isa) {
    attention(bencher, isa, KvType::F32);
}
