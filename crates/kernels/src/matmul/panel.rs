//! Panels: sixteen weight rows at a time, one vector lane for each.
//!
//! Owns the loops over panels, segments and activation rows, which are the same for every instruction set.
//! A lane belongs to one weight row, so sums never cross lanes: a block's integer sum grows in its lane four
//! columns at a time, and one fused multiply-add for sixteen rows ends it. Stored rows lie one after the other,
//! so the bytes of a panel are transposed four columns at a time: on the fly for few activation rows, and once
//! into a buffer that stays in the first cache (`Unpacked`) for many.

use std::cell::RefCell;
use std::ops::Range;

use super::{Output, SEGMENTS_MAX};
use crate::Matrix;

/// Weight rows of a panel.
pub(super) const PANEL_ROWS: usize = 16;
/// Activation rows that share one transposition of a panel.
pub(super) const STRIP_ROWS: usize = 128;
/// The most activation rows that are faster one by one.
const ONE_BY_ONE_MAX: usize = 2;
/// Small blocks in one [`Unpacked`].
pub(super) const SMALL_BLOCKS: usize = 8;

/// Sums of one activation row with the rows of a panel.
pub(super) type Sums = [f32; PANEL_ROWS];

/// The stored rows of a panel, one after the other; what a panel at the end of a matrix lacks is made up.
#[derive(Clone, Copy)]
pub(super) struct PanelRows<'a> {
    /// [`PANEL_ROWS`] rows.
    bytes: &'a [u8],
    /// Bytes of a row.
    row_bytes: usize,
}

impl<'a> PanelRows<'a> {
    fn new(bytes: &'a [u8], row_bytes: usize) -> Self {
        assert_eq!(bytes.len(), PANEL_ROWS * row_bytes, "bytes of a panel");
        PanelRows { bytes, row_bytes }
    }

    /// The first byte of the first row, for [`PANEL_ROWS`] times [`PanelRows::row_bytes`] bytes.
    pub(super) fn start(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }
}

/// Up to 256 columns of a panel, transposed.
#[repr(C, align(64))]
pub(super) struct Unpacked {
    /// `q[s]`: columns `4 s .. 4 s + 4` of each row, unsigned.
    pub(super) q: [[u8; 4 * PANEL_ROWS]; 64],
    /// Integer scales, one for each row, by group of 32 or 16 columns; AVX2 has each twice, as `i16`.
    pub(super) scales: [[i32; PANEL_ROWS]; 16],
    /// Per row, what a pair of neighbouring group sums of the activations is multiplied by.
    pub(super) of_sums: [[[i16; 2]; PANEL_ROWS]; 8],
    /// Scales of the blocks; super-blocks use the first alone.
    pub(super) d: [Sums; SMALL_BLOCKS],
    /// Scale of the mins of a super-block.
    pub(super) dmin: Sums,
    /// Small blocks that are filled in.
    pub(super) blocks: usize,
    /// Whether these are the first blocks of a sum, which then starts at zero whatever stood there.
    pub(super) first: bool,
}

impl Unpacked {
    const fn new() -> Self {
        Unpacked {
            q: [[0; 4 * PANEL_ROWS]; 64],
            scales: [[0; PANEL_ROWS]; 16],
            of_sums: [[[0; 2]; PANEL_ROWS]; 8],
            d: [[0.0; PANEL_ROWS]; SMALL_BLOCKS],
            dmin: [0.0; PANEL_ROWS],
            blocks: 0,
            first: true,
        }
    }
}

/// Blocks of a panel.
pub(super) struct Span<'a> {
    /// The rows.
    pub(super) rows: PanelRows<'a>,
    /// The blocks.
    pub(super) blocks: Range<usize>,
}

impl Span<'_> {
    /// Panics unless rows of blocks of `bytes` bytes hold these blocks.
    pub(super) fn check(&self, bytes: usize) {
        assert!(
            self.blocks.end <= self.rows.row_bytes / bytes,
            "blocks {:?} in rows of {} bytes",
            self.blocks,
            self.rows.row_bytes
        );
    }
}

/// A block of 256 activations, spread over vectors for products with one row (see `avx512::one_row`).
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct SpreadBlock {
    /// Quants: four parts of four vectors.
    pub(super) parts: [[[i32; 16]; 4]; 4],
    /// Pairs of group sums, as i16.
    pub(super) sums: [[i32; 16]; 2],
    /// The scale.
    pub(super) scale: f32,
}

impl SpreadBlock {
    const ZERO: SpreadBlock = SpreadBlock {
        parts: [[[0; 16]; 4]; 4],
        sums: [[0; 16]; 2],
        scale: 0.0,
    };
}

/// A single activation row.
#[derive(Clone, Copy)]
pub(super) struct One<'a> {
    /// As stored.
    pub(super) act: &'a [u8],
    /// Its blocks spread, where the kernel has a `spread`.
    pub(super) spread: &'a [SpreadBlock],
}

/// Spreads whole blocks of an activation row.
pub(super) type SpreadBlocks = unsafe fn(&[u8], &mut [SpreadBlock]);

/// What an instruction set does with panels of one weight type. Functions need that instruction set.
pub(super) struct PanelKernel {
    /// Bytes of a weight block.
    pub(super) block_bytes: usize,
    /// Blocks that `unpack` takes at once.
    pub(super) unpack_blocks: usize,
    /// Spreads the blocks of an activation row, once for all panels.
    pub(super) spread: Option<SpreadBlocks>,
    /// Asks for the first bytes of the weights of a piece of work with one activation row.
    pub(super) begin: Option<unsafe fn(&[u8])>,
    /// The products of all blocks of a span with a whole activation row.
    pub(super) one: unsafe fn(&Span<'_>, One<'_>) -> Sums,
    /// Transposes up to `unpack_blocks` blocks.
    pub(super) unpack: unsafe fn(&Span<'_>, &mut Unpacked),
    /// Adds the products of unpacked blocks, of which the number is the first, with whole activation rows.
    pub(super) many: unsafe fn(&Unpacked, usize, &[&[u8]], &mut [Sums]),
}

/// Memory of a thread for many activation rows.
struct Scratch {
    unpacked: Unpacked,
    parts: [[Sums; STRIP_ROWS]; SEGMENTS_MAX],
}

thread_local! {
    static SPREAD: RefCell<Vec<SpreadBlock>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        unpacked: Unpacked::new(),
        parts: [[[0.0; PANEL_ROWS]; STRIP_ROWS]; SEGMENTS_MAX],
    }));
}

/// Neighbours are added until one is left: `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`. Uses up the parts.
fn tree(parts: &mut [Sums]) -> &Sums {
    let mut count = parts.len();
    while count > 1 {
        count /= 2;
        for i in 0..count {
            let (left, right) = (parts[2 * i], parts[2 * i + 1]);
            parts[i] = add(&left, &right);
        }
    }
    &parts[0]
}

fn add(left: &Sums, right: &Sums) -> Sums {
    std::array::from_fn(|lane| left[lane] + right[lane])
}

/// Writes the outputs of a panel for one activation row.
fn write(out: &Output<'_>, row: usize, panel: &Range<usize>, sums: &Sums) {
    let out = out.columns(row, panel.start, panel.len());
    match <&mut Sums>::try_from(&mut *out) {
        Ok(whole) => *whole = *sums,
        Err(_) => write_part(out, sums),
    }
}

/// Apart, so that the copy of a whole panel stays one of constant length.
#[cold]
#[inline(never)]
fn write_part(out: &mut [f32], sums: &Sums) {
    out.copy_from_slice(&sums[..out.len()]);
}

/// The panels of weight rows; the last may be short.
fn panels(rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = rows.end;
    let starts = rows.clone().step_by(PANEL_ROWS);
    starts.map(move |start| start..(start + PANEL_ROWS).min(end))
}

/// One product in panels.
pub(super) struct Panels<'a> {
    pub(super) kernel: &'static PanelKernel,
    pub(super) w: Matrix<'a>,
    pub(super) segments: usize,
}

impl<'a> Panels<'a> {
    /// Computes the outputs of weight rows `rows` with up to [`STRIP_ROWS`] activation rows, which are output rows
    /// from `first` on.
    pub(super) fn run(&self, rows: &Range<usize>, acts: &[&[u8]], first: usize, out: &Output<'_>) {
        if acts.len() > ONE_BY_ONE_MAX {
            for panel in panels(rows) {
                self.with_rows(&panel, |rows| self.many(rows, &panel, (acts, first), out));
            }
            return;
        }
        if let Some(begin) = self.kernel.begin {
            let row_bytes = self.w.row_bytes();
            let weights = &self.w.bytes[rows.start * row_bytes..rows.end * row_bytes];
            #[allow(unsafe_code, reason = "calls a kernel built for more features")]
            // SAFETY: whoever made the table promised that the processor can run it where it is handed out.
            unsafe {
                begin(weights);
            }
        }
        for (row, act) in (first..).zip(acts) {
            self.with_spread(act, |act| {
                for panel in panels(rows) {
                    self.with_rows(&panel, |rows| self.one(rows, &panel, (act, row), out));
                }
            });
        }
    }

    /// Calls `with` with an activation row, spread if the kernel wants that.
    fn with_spread(&self, act: &[u8], with: impl FnOnce(One<'_>)) {
        let Some(spread) = self.kernel.spread else {
            return with(One { act, spread: &[] });
        };
        SPREAD.with_borrow_mut(|blocks| {
            blocks.resize(
                self.w.row_bytes() / self.kernel.block_bytes,
                SpreadBlock::ZERO,
            );
            #[allow(unsafe_code, reason = "calls a kernel built for more features")]
            // SAFETY: whoever made the table promised that the processor can run it where it is handed out.
            unsafe {
                spread(act, blocks);
            }
            with(One {
                act,
                spread: blocks,
            });
        });
    }

    /// Calls `with` with the rows of a panel.
    fn with_rows(&self, panel: &Range<usize>, with: impl FnOnce(PanelRows<'_>)) {
        let row_bytes = self.w.row_bytes();
        let stored = &self.w.bytes[panel.start * row_bytes..panel.end * row_bytes];
        if panel.len() == PANEL_ROWS {
            return with(PanelRows::new(stored, row_bytes));
        }
        let mut padded = Vec::with_capacity(PANEL_ROWS * row_bytes);
        padded.extend_from_slice(stored);
        padded.resize(PANEL_ROWS * row_bytes, 0);
        with(PanelRows::new(&padded, row_bytes));
    }

    /// The blocks of one segment of a panel.
    fn span<'b>(&self, rows: PanelRows<'b>, segment: usize) -> Span<'b> {
        let each = rows.row_bytes / self.kernel.block_bytes / self.segments;
        Span {
            rows,
            blocks: segment * each..(segment + 1) * each,
        }
    }

    fn one(
        &self,
        rows: PanelRows<'_>,
        panel: &Range<usize>,
        (act, row): (One<'_>, usize),
        out: &Output<'_>,
    ) {
        let mut parts = [[0.0; PANEL_ROWS]; SEGMENTS_MAX];
        for (segment, part) in parts.iter_mut().enumerate().take(self.segments) {
            let span = self.span(rows, segment);
            #[allow(unsafe_code, reason = "calls a kernel built for more features")]
            // SAFETY: whoever made the table promised that the processor can run it where it is handed out.
            let sums = unsafe { (self.kernel.one)(&span, act) };
            *part = sums;
        }
        write(out, row, panel, tree(&mut parts[..self.segments]));
    }

    fn many(
        &self,
        rows: PanelRows<'_>,
        panel: &Range<usize>,
        (acts, first): (&[&[u8]], usize),
        out: &Output<'_>,
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            for segment in 0..self.segments {
                let span = self.span(rows, segment);
                let sums = &mut scratch.parts[segment][..acts.len()];
                self.segment(&span, acts, &mut scratch.unpacked, sums);
            }
            let mut count = self.segments;
            while count > 1 {
                count /= 2;
                for i in 0..count {
                    for j in 0..acts.len() {
                        let (left, right) = (scratch.parts[2 * i][j], scratch.parts[2 * i + 1][j]);
                        scratch.parts[i][j] = add(&left, &right);
                    }
                }
            }
            for (j, sums) in scratch.parts[0].iter().enumerate().take(acts.len()) {
                write(out, first + j, panel, sums);
            }
        });
    }

    fn segment(&self, span: &Span<'_>, acts: &[&[u8]], unpacked: &mut Unpacked, sums: &mut [Sums]) {
        let step = self.kernel.unpack_blocks;
        for start in span.blocks.clone().step_by(step) {
            let part = Span {
                blocks: start..(start + step).min(span.blocks.end),
                ..*span
            };
            #[allow(unsafe_code, reason = "calls kernels built for more features")]
            // SAFETY: whoever made the table promised that the processor can run it where it is handed out.
            unsafe {
                (self.kernel.unpack)(&part, unpacked);
                unpacked.first = start == span.blocks.start;
                (self.kernel.many)(unpacked, start, acts, sums);
            }
        }
    }
}
