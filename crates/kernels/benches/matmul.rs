//! Speed of matrix products on one thread, by weight type and instruction set.
//!
//! `one_row` reads far more weights than caches hold and prints GB/s of weight bytes: the speed of decoding.
//! `one_row_cached` does the same with weights that stay in the second cache: what the arithmetic alone allows.
//! `many_rows` takes 16 or 64 activation rows and prints operations a second (two for each weight and row, shown as
//! "items"): the speed of prefill. Run with `cargo bench -p kernels --bench matmul`.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kernels::{Acts, Isa, MatmulTask, Matrix, Rows, WeightType, matmul};

fn main() {
    divan::main();
}

/// Weight bytes of the one-row bench.
const STREAMED_BYTES: usize = 128 << 20;
/// Weight bytes of the cached one-row bench.
const CACHED_BYTES: usize = 256 << 10;
const COLS: usize = 2048;

#[derive(Clone, Copy)]
struct Case {
    isa: Isa,
    ty: WeightType,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.ty, self.isa)
    }
}

fn cases() -> Vec<Case> {
    WeightType::ALL
        .into_iter()
        .flat_map(|ty| Isa::usable().map(move |isa| Case { isa, ty }))
        .collect()
}

fn vector_cases() -> Vec<Case> {
    cases()
        .into_iter()
        .filter(|case| case.isa != Isa::Scalar)
        .collect()
}

/// Any bytes do: only subnormal scales could change the speed, and these patterns have none.
fn weights(len: usize) -> Vec<u8> {
    (0u8..=251).map(|b| b & 0x3f).cycle().take(len).collect()
}

fn acts(case: Case, rows: usize) -> Acts {
    let x: Vec<f32> = (0i16..977)
        .map(|v| f32::from(v - 488) * 0.01)
        .cycle()
        .take(rows * COLS)
        .collect();
    let mut acts = Acts::new();
    acts.quantize(case.isa, case.ty.act_format(), &x, COLS);
    acts
}

#[divan::bench(args = vector_cases(), sample_count = 5, sample_size = 1)]
fn one_row(bencher: Bencher<'_, '_>, case: Case) {
    stream(bencher, case, STREAMED_BYTES);
}

#[divan::bench(args = vector_cases(), sample_count = 20, sample_size = 20)]
fn one_row_cached(bencher: Bencher<'_, '_>, case: Case) {
    stream(bencher, case, CACHED_BYTES);
}

fn stream(bencher: Bencher<'_, '_>, case: Case, bytes: usize) {
    let row = case.ty.row_bytes(COLS).unwrap_or(1);
    let rows = bytes / row;
    let bytes = weights(rows * row);
    let acts = acts(case, 1);
    let mut out = vec![0f32; rows];
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| product(case, &bytes, &acts, &mut out));
}

#[divan::bench(consts = [16, 64], args = cases(), sample_count = 5, sample_size = 1)]
fn many_rows<const ACT_ROWS: usize>(bencher: Bencher<'_, '_>, case: Case) {
    const ROWS: usize = 256;
    let row = case.ty.row_bytes(COLS).unwrap_or(1);
    let bytes = weights(ROWS * row);
    let acts = acts(case, ACT_ROWS);
    let mut out = vec![0f32; ROWS * ACT_ROWS];
    bencher
        .counter(ItemsCount::new(2 * ROWS * ACT_ROWS * COLS))
        .bench_local(|| product(case, &bytes, &acts, &mut out));
}

fn product(case: Case, bytes: &[u8], acts: &Acts, out: &mut [f32]) {
    let rows = out.len() / acts.rows();
    let Ok(w) = Matrix::new(case.ty, rows, COLS, bytes) else {
        return;
    };
    matmul(
        case.isa,
        &mut MatmulTask {
            w,
            acts,
            act_rows: Rows::Range(0..acts.rows()),
            segments: 1,
            out,
        },
    );
}
