//! Several products as one parallel region.
//!
//! Owns the cutting of products into pieces of work. A piece is a range of weight rows with all activation rows;
//! threads take pieces one after the other, so a thread that is slow or interrupted holds up one piece at most.

use std::cell::RefCell;
use std::ops::Range;

use super::panel::PANEL_ROWS;
use super::{MatmulTask, Output, Product, Rows};
use crate::{Acts, Isa, Matrix, Pool, swiglu};

/// Up to so many activation rows reading the weights takes longer than computing with them.
const FEW_ROWS: usize = 4;

/// A gate and what it lets through: `out[r * rows + j] = silu(dot(gate row j, a_r)) * dot(up row j, a_r)`.
#[derive(Debug)]
pub struct GatedTask<'a> {
    /// The gate, `[rows, cols]`.
    pub gate: Matrix<'a>,
    /// What is gated, of the same shape.
    pub up: Matrix<'a>,
    /// Activations in the format of each of both.
    pub acts: [&'a Acts; 2],
    /// The rows of `acts` that take part.
    pub act_rows: Rows<'a>,
    /// `[act_rows.len(), rows]`, row-major.
    pub out: &'a mut [f32],
}

/// One product, or a gated pair, and where its outputs go.
struct Job<'a> {
    product: Product<'a>,
    gated: Option<Product<'a>>,
    out: Output<'a>,
}

impl<'a> Job<'a> {
    fn of_product(isa: Isa, task: &'a mut MatmulTask<'_>) -> Self {
        task.check();
        Job {
            product: Product::new(isa, task.w, task.acts, &task.act_rows, task.segments),
            gated: None,
            out: Output::new(task.out, task.w.rows),
        }
    }

    fn of_gated(isa: Isa, task: &'a mut GatedTask<'_>) -> Self {
        let (gate, up) = (task.gate, task.up);
        assert_eq!(gate.rows, up.rows, "outputs of a gate and what it gates");
        for (w, acts) in [gate, up].into_iter().zip(task.acts) {
            let act_rows = task.act_rows.clone();
            MatmulTask {
                w,
                acts,
                act_rows,
                segments: 1,
                out: &mut *task.out,
            }
            .check();
        }
        let product = |w, acts| Product::new(isa, w, acts, &task.act_rows, 1);
        Job {
            product: product(gate, task.acts[0]),
            gated: Some(product(up, task.acts[1])),
            out: Output::new(task.out, gate.rows),
        }
    }

    /// Bytes of weights behind one output column.
    fn column_bytes(&self) -> usize {
        let of_gated = self.gated.as_ref().map_or(0, |up| up.w.row_bytes());
        (self.product.w.row_bytes() + of_gated).max(1)
    }

    /// Weight rows in the next piece, when all threads together have `left` bytes of weights before them. With few
    /// activation rows memory is the limit, and long runs suit it, but threads must end together: pieces shrink
    /// towards the end. With many the weights of a piece stay in the second cache for all activation rows.
    fn piece_rows(&self, left: usize, threads: usize) -> usize {
        let bytes = if self.product.act_rows.len() <= FEW_ROWS {
            (left / (4 * threads)).clamp(64 << 10, 256 << 10)
        } else {
            32 << 10
        };
        let rows = bytes / self.column_bytes();
        (rows / PANEL_ROWS).max(1) * PANEL_ROWS
    }

    fn run(&self, isa: Isa, rows: Range<usize>) {
        let Some(up) = &self.gated else {
            return self.product.run(rows, &self.out);
        };
        GATED.with_borrow_mut(|[gate_out, up_out]| {
            let len = self.product.act_rows.len() * rows.len();
            for (product, out) in [(&self.product, &mut *gate_out), (up, &mut *up_out)] {
                // Grown, never shrunk: filling what is overwritten anyway costs time in every piece.
                out.resize(len.max(out.len()), 0.0);
                product.run(rows.clone(), &Output::part(&mut out[..len], rows.clone()));
            }
            let both = gate_out[..len]
                .chunks_exact(rows.len())
                .zip(up_out[..len].chunks_exact(rows.len()));
            for (row, (gate, up)) in both.enumerate() {
                let out = self.out.columns(row, rows.start, rows.len());
                swiglu(isa, gate, up, out);
            }
        });
    }
}

thread_local! {
    /// Outputs of a gate and of what it gates.
    static GATED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Computes several independent products as one parallel region.
///
/// # Panics
/// If shapes do not fit each other or `isa` cannot run here.
pub fn parallel_matmul(pool: &Pool, isa: Isa, tasks: &mut [MatmulTask<'_>]) {
    let jobs = tasks.iter_mut().map(|task| Job::of_product(isa, task));
    run(pool, isa, jobs.collect());
}

/// Computes several independent gated pairs as one parallel region.
///
/// # Panics
/// If shapes do not fit each other or `isa` cannot run here.
pub fn parallel_gated(pool: &Pool, isa: Isa, tasks: &mut [GatedTask<'_>]) {
    let jobs = tasks.iter_mut().map(|task| Job::of_gated(isa, task));
    run(pool, isa, jobs.collect());
}

fn run(pool: &Pool, isa: Isa, jobs: Vec<Job<'_>>) {
    assert!(isa.available(), "{isa} kernels on a processor without it");
    let bytes = |job: &Job<'_>| job.product.w.rows * job.column_bytes();
    let mut left: usize = jobs.iter().map(bytes).sum();
    let mut pieces = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let (mut start, end) = (0, job.product.w.rows);
        while start < end {
            let stop = (start + job.piece_rows(left, pool.threads())).min(end);
            pieces.push((index, start..stop));
            left -= (stop - start) * job.column_bytes();
            start = stop;
        }
    }
    pool.run(pieces.len(), &|index| {
        let (job, rows) = &pieces[index];
        jobs[*job].run(isa, rows.clone());
    });
}
