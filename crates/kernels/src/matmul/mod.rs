//! Products of stored weight matrices with rows of activations.
//!
//! Owns the numeric contract of dot products and the loops over tiles or panels of weight and activation rows;
//! `region` cuts several products into one parallel region. The arithmetic of a tile lives in one file per
//! instruction set; `scalar` is the definition and the others give equal bits.
//!
//! A dot of quantised rows keeps each block's integer sum exact in `i32` and adds it with one f32 fused
//! multiply-add, blocks ascending; formats with mins add a second one. A dot of float rows widens weights and
//! runs 32 lanes, lane `l` taking the columns `l mod 32` ascending, then adds lanes 16, 8, 4, 2 and 1 apart. `segments`
//! cuts the columns into equal parts, each with its own dot, added by a binary tree. So one output depends on
//! one weight row, one activation row and `segments` alone: never on tiles, threads or the rest of the batch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_floats;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_floats;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_floats;
mod panel;
mod region;
mod scalar;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use crate::{Acts, Isa, Matrix, WeightType};
use panel::{PanelKernel, Panels, STRIP_ROWS};
use tile::{A_MAX, LANES, Operands, Tile, W_MAX};

pub use region::{GatedTask, parallel_gated, parallel_matmul};

/// The largest number of segments that the columns of a product are cut into.
pub const SEGMENTS_MAX: usize = 8;

/// Into how many segments an output projection of `cols` columns is cut: 8, or the largest power of two below
/// that leaves whole blocks in each segment; 1 if none does.
#[must_use]
pub fn segments_for(ty: WeightType, cols: usize) -> usize {
    let mut segments = SEGMENTS_MAX;
    while segments > 1 && !cols.is_multiple_of(segments * ty.block_len()) {
        segments /= 2;
    }
    segments
}

/// Which activation rows a product takes, in the order of its output rows.
#[derive(Debug, Clone)]
pub enum Rows<'a> {
    /// Neighbouring rows.
    Range(Range<usize>),
    /// Any rows, repeats allowed.
    List(&'a [u32]),
}

impl Rows<'_> {
    /// How many rows these are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Rows::Range(range) => range.len(),
            Rows::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, index: usize) -> usize {
        match self {
            Rows::Range(range) => range.start + index,
            Rows::List(list) => list[index] as usize,
        }
    }

    fn all_below(&self, rows: usize) -> bool {
        match self {
            Rows::Range(range) => range.end <= rows,
            Rows::List(list) => list.iter().all(|row| (*row as usize) < rows),
        }
    }
}

/// One product: `out[r * w.rows + j] = dot(w row j, act_rows[r])`.
#[derive(Debug)]
pub struct MatmulTask<'a> {
    /// The weights.
    pub w: Matrix<'a>,
    /// Activations in the format of the weights ([`WeightType::act_format`]), `w.cols` wide.
    pub acts: &'a Acts,
    /// The rows of `acts` that take part.
    pub act_rows: Rows<'a>,
    /// Into how many equal segments the columns are cut: 1, or [`segments_for`] for output projections.
    pub segments: usize,
    /// `[act_rows.len(), w.rows]`, row-major.
    pub out: &'a mut [f32],
}

impl MatmulTask<'_> {
    /// Checks the shapes; a mistake in them is a mistake of the caller.
    fn check(&self) {
        let MatmulTask {
            w, acts, segments, ..
        } = self;
        assert_eq!(acts.format(), w.ty.act_format(), "activations for {}", w.ty);
        assert_eq!(acts.cols(), w.cols, "columns of activations and weights");
        assert!(
            self.act_rows.all_below(acts.rows()),
            "{:?} of {} activation rows",
            self.act_rows,
            acts.rows()
        );
        assert!(
            segments.is_power_of_two()
                && *segments <= SEGMENTS_MAX
                && w.cols.is_multiple_of(segments * w.ty.block_len()),
            "{segments} segments of {} columns of {}",
            w.cols,
            w.ty
        );
        assert_eq!(
            self.out.len(),
            self.act_rows.len() * w.rows,
            "output of {} by {}",
            self.act_rows.len(),
            w.rows
        );
    }
}

/// Computes one product on the calling thread.
///
/// # Panics
/// If shapes do not fit each other or `isa` cannot run here.
pub fn matmul(isa: Isa, task: &mut MatmulTask<'_>) {
    assert!(isa.available(), "{isa} kernels on a processor without it");
    task.check();
    let rows = 0..task.w.rows;
    let out = Output::new(task.out, task.w.rows);
    Product::new(isa, task.w, task.acts, &task.act_rows, task.segments).run(rows, &out);
}

/// The output of one product, written by several threads at once, each its own columns.
struct Output<'a> {
    start: *mut f32,
    len: usize,
    /// Columns in a row.
    width: usize,
    /// The weight row that belongs to the first column.
    first: usize,
    _borrow: PhantomData<&'a mut [f32]>,
}

#[allow(
    unsafe_code,
    reason = "threads write disjoint columns of one row-major output"
)]
// SAFETY: `Output` is a mutable borrow of f32s. It is shared only by regions, whose chunks cover
// disjoint columns, so no element is written by two threads; nothing is read through it.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Rows of `width` columns.
    fn new(out: &'a mut [f32], width: usize) -> Self {
        Output::part(out, 0..width)
    }

    /// Rows that hold the outputs of the weight rows `columns` alone.
    fn part(out: &'a mut [f32], columns: Range<usize>) -> Self {
        Output {
            start: out.as_mut_ptr(),
            len: out.len(),
            width: columns.len(),
            first: columns.start,
            _borrow: PhantomData,
        }
    }

    /// Neighbouring outputs of a row; the caller owns these columns in every row.
    #[allow(
        clippy::mut_from_ref,
        unsafe_code,
        reason = "threads write disjoint columns of one row-major output"
    )]
    fn columns(&self, row: usize, column: usize, count: usize) -> &mut [f32] {
        let column = column - self.first;
        let at = row * self.width + column;
        assert!(
            column + count <= self.width && at + count <= self.len,
            "outputs {at} + {count} of {}",
            self.len
        );
        // SAFETY: in bounds by the assertion, and no other thread touches these columns.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}

/// How an instruction set computes products of a type.
#[derive(Clone, Copy)]
enum Method {
    Tiles(&'static [Tile]),
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "panels exist for x86 alone")
    )]
    Panels(&'static PanelKernel),
}

impl Method {
    fn of(isa: Isa, ty: WeightType) -> Method {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Method::Tiles(avx2::tiles(ty)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match avx512::kernel(ty) {
                Some(kernel) => Method::Panels(kernel),
                None => Method::Tiles(avx512::tiles(ty)),
            },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Method::Tiles(neon::tiles(ty)),
            _ => Method::Tiles(scalar::tiles(ty)),
        }
    }
}

/// One product, ready to be computed for any range of weight rows.
struct Product<'a> {
    method: Method,
    w: Matrix<'a>,
    acts: &'a Acts,
    act_rows: &'a Rows<'a>,
    segments: usize,
}

impl<'a> Product<'a> {
    /// The instruction set must have been checked.
    fn new(
        isa: Isa,
        w: Matrix<'a>,
        acts: &'a Acts,
        act_rows: &'a Rows<'a>,
        segments: usize,
    ) -> Self {
        Product {
            method: Method::of(isa, w.ty),
            w,
            acts,
            act_rows,
            segments,
        }
    }

    /// Computes the outputs of `rows` of the weights.
    fn run(&self, rows: Range<usize>, out: &Output<'_>) {
        match self.method {
            Method::Tiles(tiles) => self.run_tiles(tiles, &rows, out),
            Method::Panels(kernel) => self.run_panels(kernel, &rows, out),
        }
    }

    /// Strips of activation rows are the outer loop: a strip stays in the second cache while panels pass by.
    fn run_panels(&self, kernel: &'static PanelKernel, rows: &Range<usize>, out: &Output<'_>) {
        let panels = Panels {
            kernel,
            w: self.w,
            segments: self.segments,
        };
        let mut acts = [&[] as &[u8]; STRIP_ROWS];
        for first in (0..self.act_rows.len()).step_by(STRIP_ROWS) {
            let count = STRIP_ROWS.min(self.act_rows.len() - first);
            for (i, act) in acts[..count].iter_mut().enumerate() {
                *act = self.acts.row_bytes(self.act_rows.get(first + i));
            }
            panels.run(rows, &acts[..count], first, out);
        }
    }

    /// Activation tiles are the outer loop: a tile stays in the first cache while the weight rows, a chunk that fits
    /// the second, pass by.
    fn run_tiles(&self, tiles: &'static [Tile], rows: &Range<usize>, out: &Output<'_>) {
        let mut first = 0;
        while first < self.act_rows.len() {
            let left = self.act_rows.len() - first;
            let tile = tile::fitting(tiles, left);
            let count = left.min(tile.acts);
            self.run_tile(tile, rows.clone(), first..first + count, out);
            first += count;
        }
    }

    fn run_tile(&self, tile: &Tile, rows: Range<usize>, acts: Range<usize>, out: &Output<'_>) {
        let row_bytes = self.w.row_bytes();
        let mut operands = Operands {
            w: [&[]; W_MAX],
            a: [&[]; A_MAX],
            segments: self.segments,
            ahead: tile.weights * row_bytes,
        };
        // A tile with rows to spare computes its last row again.
        for (i, a) in operands.a[..tile.acts].iter_mut().enumerate() {
            let index = (acts.start + i).min(acts.end - 1);
            *a = self.acts.row_bytes(self.act_rows.get(index));
        }
        for start in rows.clone().step_by(tile.weights) {
            for (i, w) in operands.w[..tile.weights].iter_mut().enumerate() {
                *w = self.w.row((start + i).min(rows.end - 1));
            }
            let sums: [f32; LANES] = tile.compute(&operands);
            for i in 0..tile.weights.min(rows.end - start) {
                for (j, row) in acts.clone().enumerate() {
                    out.columns(row, start + i, 1)[0] = sums[i * tile.acts + j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
