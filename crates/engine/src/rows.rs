//! Elementwise work on all rows of a batch, shared out over the threads.

use kernels::{Chunks, parallel_chunks, parallel_chunks2};

use crate::slice::Weights;
use crate::spec::Exec;

/// Values that one thread takes at a time.
const CHUNK: usize = 4096;

fn part(all: &[f32], index: usize, len: usize) -> &[f32] {
    all.get(index * CHUNK..index * CHUNK + len)
        .unwrap_or_default()
}

/// RMS norm of every row. `x`, `out`: `[rows, hidden]`.
pub fn norm(weights: &Weights, x: &[f32], norm: &[f32], out: &mut [f32]) {
    let eps = weights.checkpoint.arch().norm_eps;
    let isa = weights.exec.isa;
    parallel_chunks(&weights.exec.pool, out, weights.hidden, |row, out| {
        let first = row * weights.hidden;
        let x = x.get(first..first + out.len()).unwrap_or_default();
        kernels::rms_norm(isa, x, norm, eps, out);
    });
}

/// `acc += x`, elementwise.
pub fn add(exec: &Exec, acc: &mut [f32], x: &[f32]) {
    parallel_chunks(&exec.pool, acc, CHUNK, |index, acc| {
        kernels::add(exec.isa, acc, part(x, index, acc.len()));
    });
}

/// `x += y` and RMS norm of the new rows. `x`, `y`, `out`: `[rows, hidden]`.
pub fn add_and_norm(weights: &Weights, x: &mut [f32], y: &[f32], norm: &[f32], out: &mut [f32]) {
    let (eps, hidden) = (weights.checkpoint.arch().norm_eps, weights.hidden);
    let isa = weights.exec.isa;
    let (xs, outs) = (Chunks::new(x, hidden), Chunks::new(out, hidden));
    parallel_chunks2(&weights.exec.pool, xs, outs, |row, x, out| {
        let first = row * hidden;
        kernels::add(isa, x, y.get(first..first + x.len()).unwrap_or_default());
        kernels::rms_norm(isa, x, norm, eps, out);
    });
}
