//! Several products as one parallel region.
//!
//! Owns the cutting of products into pieces of work. A piece is a range of weight rows with all activation rows;
//! threads take pieces one after the other, so a thread that is slow or interrupted holds up one piece at most.

use std::cell::RefCell;
use std::ops::Range;

use super::panel::PANEL_ROWS;
use super::{MatmulTask, Output, Product, Rows};
use crate::{Acts, Isa, Matrix, Pool, swiglu};

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

    /// Weight rows in one piece: enough bytes to be worth handing out, few enough that all threads end together.
    fn piece_rows(&self) -> usize {
        let bytes = if self.product.act_rows.len() <= 4 {
            64 * 1024
        } else {
            32 * 1024
        };
        let together = if self.gated.is_some() { 2 } else { 1 };
        let rows = bytes / (self.product.w.row_bytes() * together).max(1);
        (rows / PANEL_ROWS).max(1) * PANEL_ROWS
    }

    fn run(&self, isa: Isa, rows: Range<usize>) {
        let Some(up) = &self.gated else {
            return self.product.run(rows, &self.out);
        };
        GATED.with_borrow_mut(|[gate_out, up_out]| {
            let acts = self.product.act_rows.len();
            for (product, out) in [(&self.product, &mut *gate_out), (up, &mut *up_out)] {
                out.resize(acts * rows.len(), 0.0);
                product.run(rows.clone(), &Output::part(out, rows.clone()));
            }
            let both = gate_out
                .chunks_exact(rows.len())
                .zip(up_out.chunks_exact(rows.len()));
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
    let mut pieces = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let (step, end) = (job.piece_rows(), job.product.w.rows);
        let starts = (0..end).step_by(step);
        pieces.extend(starts.map(|start| (index, start..(start + step).min(end))));
    }
    pool.run(pieces.len(), &|index| {
        let (job, rows) = &pieces[index];
        jobs[*job].run(isa, rows.clone());
    });
}
