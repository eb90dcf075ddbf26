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
    /// Integer scales, one for each row, by group of 32 or 16 columns.
    pub(super) scales: [[i32; PANEL_ROWS]; 16],
    /// Per row, what a pair of neighbouring group sums of the activations is multiplied by.
    pub(super) of_sums: [[[i16; 2]; PANEL_ROWS]; 8],
    /// Scales of the blocks; super-blocks use the first alone.
    pub(super) d: [Sums; SMALL_BLOCKS],
    /// Scale of the mins of a super-block.
    pub(super) dmin: Sums,
    /// Small blocks that are filled in.
    pub(super) blocks: usize,
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

/// What an instruction set does with panels of one weight type. Functions need that instruction set.
pub(super) struct PanelKernel {
    /// Bytes of a weight block.
    pub(super) block_bytes: usize,
    /// Blocks that `unpack` takes at once.
    pub(super) unpack_blocks: usize,
    /// The products of all blocks of a span with a whole activation row.
    pub(super) one: unsafe fn(&Span<'_>, &[u8]) -> Sums,
    /// Transposes up to `unpack_blocks` blocks.
    pub(super) unpack: unsafe fn(&Span<'_>, &mut Unpacked),
    /// Adds the products of unpacked blocks, of which the argument is the first, with whole activation rows.
    pub(super) many: unsafe fn(&Unpacked, usize, &[&[u8]], &mut [Sums]),
}

/// Memory of a thread for many activation rows.
struct Scratch {
    unpacked: Unpacked,
    parts: [[Sums; STRIP_ROWS]; SEGMENTS_MAX],
}

thread_local! {
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
            parts[i] = std::array::from_fn(|lane| left[lane] + right[lane]);
        }
    }
    &parts[0]
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
        for start in rows.clone().step_by(PANEL_ROWS) {
            let panel = start..(start + PANEL_ROWS).min(rows.end);
            if acts.len() <= ONE_BY_ONE_MAX {
                self.with_rows(&panel, |rows| {
                    self.one_by_one(rows, &panel, (acts, first), out)
                });
            } else {
                self.with_rows(&panel, |rows| self.many(rows, &panel, (acts, first), out));
            }
        }
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

    fn one_by_one(
        &self,
        rows: PanelRows<'_>,
        panel: &Range<usize>,
        (acts, first): (&[&[u8]], usize),
        out: &Output<'_>,
    ) {
        for (j, act) in acts.iter().enumerate() {
            let mut parts = [[0.0; PANEL_ROWS]; SEGMENTS_MAX];
            for (segment, part) in parts.iter_mut().enumerate().take(self.segments) {
                let span = self.span(rows, segment);
                #[allow(unsafe_code, reason = "calls a kernel built for more features")]
                // SAFETY: whoever made the table promised that the processor can run it where it is handed out.
                let sums = unsafe { (self.kernel.one)(&span, act) };
                *part = sums;
            }
            write(out, first + j, panel, tree(&mut parts[..self.segments]));
        }
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
                sums.fill([0.0; PANEL_ROWS]);
                self.segment(&span, acts, &mut scratch.unpacked, sums);
            }
            if self.segments == 1 {
                for (j, sums) in scratch.parts[0].iter().enumerate().take(acts.len()) {
                    write(out, first + j, panel, sums);
                }
                return;
            }
            for j in 0..acts.len() {
                let mut parts = [[0.0; PANEL_ROWS]; SEGMENTS_MAX];
                for (part, of_segment) in parts.iter_mut().zip(&scratch.parts[..self.segments]) {
                    *part = of_segment[j];
                }
                write(out, first + j, panel, tree(&mut parts[..self.segments]));
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
                (self.kernel.many)(unpacked, start, acts, sums);
            }
        }
    }
}
