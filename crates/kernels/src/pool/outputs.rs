//! Outputs that the tasks of a region write in disjoint parts.
//!
//! Owns the split of a slice into chunks or column blocks, and the regions that run over them. It must never hand out
//! one element twice. The one idea: the index of a task alone decides which part it gets.

use std::marker::PhantomData;

use super::Pool;

/// One output that several tasks write in disjoint parts.
pub(crate) struct Split<'a, T> {
    base: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Split` only hands out parts through `part`, whose caller promises that they are disjoint, so
// sharing it moves each element to at most one thread; `T: Send` allows that.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Split {
            base: all.as_mut_ptr(),
            len: all.len(),
            owner: PhantomData,
        }
    }

    /// Chunk `index` of length `chunk`; the last may be shorter.
    ///
    /// # Safety
    /// No two live parts may come from the same index, nor from different chunk lengths.
    pub(crate) unsafe fn part(&self, index: usize, chunk: usize) -> &'a mut [T] {
        let start = (index * chunk).min(self.len);
        let end = (start + chunk).min(self.len);
        // SAFETY: start <= end <= len, inside the slice borrowed for 'a; the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), end - start) }
    }
}

/// An output and the length of the chunk that one task writes.
#[derive(Debug)]
pub struct Chunks<'a, T> {
    all: &'a mut [T],
    chunk: usize,
}

impl<'a, T> Chunks<'a, T> {
    /// Cuts `all` into chunks of `chunk` elements; the last may be shorter.
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn new(all: &'a mut [T], chunk: usize) -> Self {
        assert!(chunk > 0, "chunks of no elements");
        Chunks { all, chunk }
    }

    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len().div_ceil(self.chunk)
    }
}

/// Runs `f(i, chunk i of out)` for every chunk of `chunk` elements (the last may be shorter).
///
/// # Panics
/// If `chunk` is 0, or with the panic of a task.
pub fn parallel_chunks<T: Send>(
    pool: &Pool,
    out: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let chunks = Chunks::new(out, chunk);
    let tasks = chunks.count();
    let all = Split::new(chunks.all);
    // SAFETY: the pool runs each index once.
    pool.run(tasks, &|i| f(i, unsafe { all.part(i, chunk) }));
}

/// Runs `f(i, chunk i of a, chunk i of b)`: two outputs cut into equally many chunks.
///
/// # Panics
/// If the numbers of chunks differ, or with the panic of a task.
pub fn parallel_chunks2<A: Send, B: Send>(
    pool: &Pool,
    a: Chunks<'_, A>,
    b: Chunks<'_, B>,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let tasks = a.count();
    assert_eq!(
        b.count(),
        tasks,
        "outputs are cut into different numbers of chunks"
    );
    let (chunk_a, chunk_b) = (a.chunk, b.chunk);
    let (a, b) = (Split::new(a.all), Split::new(b.all));
    // SAFETY: the pool runs each index once, and each output has its own split.
    pool.run(tasks, &|i| unsafe {
        f(i, a.part(i, chunk_a), b.part(i, chunk_b))
    });
}

/// Runs `f(i, chunk i of a, chunk i of b, chunk i of c)`: three outputs cut into equally many chunks.
///
/// # Panics
/// If the numbers of chunks differ, or with the panic of a task.
pub fn parallel_chunks3<A: Send, B: Send, C: Send>(
    pool: &Pool,
    a: Chunks<'_, A>,
    b: Chunks<'_, B>,
    c: Chunks<'_, C>,
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
) {
    let tasks = a.count();
    assert_eq!(
        b.count(),
        tasks,
        "outputs are cut into different numbers of chunks"
    );
    assert_eq!(
        c.count(),
        tasks,
        "outputs are cut into different numbers of chunks"
    );
    let (chunk_a, chunk_b, chunk_c) = (a.chunk, b.chunk, c.chunk);
    let (a, b, c) = (Split::new(a.all), Split::new(b.all), Split::new(c.all));
    // SAFETY: the pool runs each index once, and each output has its own split.
    pool.run(tasks, &|i| unsafe {
        f(
            i,
            a.part(i, chunk_a),
            b.part(i, chunk_b),
            c.part(i, chunk_c),
        );
    });
}

/// A block of columns of a row-major matrix, owned by one task while others own the other columns.
#[derive(Debug)]
pub struct ColumnsMut<'a, T> {
    base: *mut T,
    rows: usize,
    stride: usize,
    first: usize,
    width: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of its elements, like `&mut [T]`.
unsafe impl<T: Send> Send for ColumnsMut<'_, T> {}

impl<'a, T> ColumnsMut<'a, T> {
    /// All columns of a matrix with rows of `stride` elements.
    ///
    /// # Panics
    /// If `stride` is 0 or does not divide the length.
    pub fn whole(all: &'a mut [T], stride: usize) -> Self {
        assert!(stride > 0, "rows of no elements");
        assert_eq!(all.len() % stride, 0, "matrix is not made of whole rows");
        ColumnsMut {
            rows: all.len() / stride,
            base: all.as_mut_ptr(),
            stride,
            first: 0,
            width: stride,
            owner: PhantomData,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns of the whole matrix that this block covers.
    #[must_use]
    pub fn columns(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.width
    }

    /// This block's part of row `row`: as many elements as [`ColumnsMut::columns`] has.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: row < rows and first + width <= stride keep the range inside the matrix; `&mut self` and the
        // disjointness of blocks make it exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.add(row * self.stride + self.first),
                self.width,
            )
        }
    }

    /// The block of `width` columns number `index` (the last may be narrower).
    ///
    /// # Safety
    /// No two live blocks may come from the same index, nor from different widths, nor live beside `self`'s rows.
    unsafe fn block(&self, index: usize, width: usize) -> ColumnsMut<'a, T> {
        let first = (index * width).min(self.width);
        ColumnsMut {
            base: self.base,
            rows: self.rows,
            stride: self.stride,
            first: self.first + first,
            width: width.min(self.width - first),
            owner: PhantomData,
        }
    }
}

/// The matrix that [`parallel_columns`] shares among its tasks.
pub(crate) struct SharedColumns<'a, T>(pub(crate) ColumnsMut<'a, T>);

// SAFETY: it only hands out disjoint blocks (see `ColumnsMut::block`), each to one thread.
unsafe impl<T: Send> Sync for SharedColumns<'_, T> {}

impl<'a, T> SharedColumns<'a, T> {
    /// # Safety
    /// As [`ColumnsMut::block`].
    pub(crate) unsafe fn block(&self, index: usize, width: usize) -> ColumnsMut<'a, T> {
        // SAFETY: passed on to the caller.
        unsafe { self.0.block(index, width) }
    }
}

/// Cuts the columns of a row-major matrix (`stride` elements a row) into blocks of `width` (the last may be
/// narrower) and runs `f(i, block i)` for each: one task writes its columns of every row.
///
/// # Panics
/// If `width` or `stride` is 0, if `out` is not made of whole rows, or with the panic of a task.
pub fn parallel_columns<T: Send>(
    pool: &Pool,
    out: &mut [T],
    (stride, width): (usize, usize),
    f: impl Fn(usize, ColumnsMut<'_, T>) + Sync,
) {
    assert!(width > 0, "blocks of no columns");
    let all = SharedColumns(ColumnsMut::whole(out, stride));
    pool.run(stride.div_ceil(width), &|i| {
        // SAFETY: the pool runs each index once, and all blocks have the same width.
        let block = unsafe { all.block(i, width) };
        f(i, block);
    });
}
