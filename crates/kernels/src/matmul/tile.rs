//! What a tile is: a few weight rows against a few activation rows, up to twelve outputs at once.
//!
//! Owns the operands of a tile, the choice of a tile for the rows at hand, and the tree over segments, which
//! is the same for every instruction set.

use super::SEGMENTS_MAX;
use super::scalar::{FLOAT_LANES, lane_tree};

/// The most weight rows in a tile.
pub(super) const W_MAX: usize = 4;
/// The most activation rows in a tile.
pub(super) const A_MAX: usize = 8;
/// The most outputs of a tile.
pub(super) const LANES: usize = 12;

/// The rows of one tile, whole; a tile cuts them into segments.
pub(super) struct Operands<'a> {
    /// Weight rows; as many as the tile takes, the rest empty.
    pub(super) w: [&'a [u8]; W_MAX],
    /// Activation rows; as many as the tile takes, the rest empty.
    pub(super) a: [&'a [u8]; A_MAX],
    /// Equal parts of the columns.
    pub(super) segments: usize,
    /// Bytes from a weight row to the one that the next tile reads in its place, for prefetching.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "no stable prefetch on this target")
    )]
    pub(super) ahead: usize,
}

/// The shape of a tile and the function that computes it. Output `i * acts + j` belongs to weight row `i` and
/// activation row `j`.
pub(super) struct Tile {
    pub(super) weights: usize,
    pub(super) acts: usize,
    /// Needs the instruction set of the table it stands in.
    run: unsafe fn(&Operands<'_>) -> [f32; LANES],
}

impl Tile {
    /// # Safety
    /// `run` may only need instructions that the processor has wherever this tile is handed out.
    #[allow(unsafe_code, reason = "the promise that `compute` relies on")]
    pub(super) const unsafe fn new(
        weights: usize,
        acts: usize,
        run: unsafe fn(&Operands<'_>) -> [f32; LANES],
    ) -> Tile {
        assert!(weights <= W_MAX && acts <= A_MAX && weights * acts <= LANES);
        Tile { weights, acts, run }
    }

    /// The outputs of the tile.
    #[allow(unsafe_code, reason = "calls a kernel built for more features")]
    pub(super) fn compute(&self, operands: &Operands<'_>) -> [f32; LANES] {
        // SAFETY: whoever made the tile promised that the processor can run it where it is handed out.
        unsafe { (self.run)(operands) }
    }
}

/// The tile for `left` activation rows: the widest that is at least two thirds full. Tables go from wide to narrow
/// and end with tiles of one activation row.
pub(super) fn fitting(tiles: &'static [Tile], left: usize) -> &'static Tile {
    tiles
        .iter()
        .find(|tile| left * 3 >= tile.acts * 2)
        .unwrap_or(&tiles[tiles.len() - 1])
}

/// The outputs of every segment, and the binary tree over them.
pub(super) struct Parts {
    sums: [[f32; LANES]; SEGMENTS_MAX],
}

impl Parts {
    #[inline]
    pub(super) fn new() -> Self {
        Parts {
            sums: [[0.0; LANES]; SEGMENTS_MAX],
        }
    }

    #[inline]
    pub(super) fn set(&mut self, segment: usize, sums: [f32; LANES]) {
        self.sums[segment] = sums;
    }

    /// Neighbours are added until one is left: `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`.
    #[inline]
    pub(super) fn tree(mut self, segments: usize) -> [f32; LANES] {
        let mut count = segments;
        while count > 1 {
            count /= 2;
            for i in 0..count {
                for lane in 0..LANES {
                    self.sums[i][lane] = self.sums[2 * i][lane] + self.sums[2 * i + 1][lane];
                }
            }
        }
        self.sums[0]
    }
}

/// Part `index` of `count` equal parts of a row.
#[inline]
pub(super) fn part(row: &[u8], index: usize, count: usize) -> &[u8] {
    let len = row.len() / count;
    &row[index * len..(index + 1) * len]
}

/// The blocks of one segment of the first `W` weight and `A` activation rows, all with as many as the first weight row.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
#[allow(
    clippy::type_complexity,
    clippy::inline_always,
    reason = "weight blocks and activation blocks, no more; called once a tile, so a call would cost as much as the work"
)]
pub(super) fn blocks<
    'a,
    const BYTES: usize,
    const ACT_BYTES: usize,
    const W: usize,
    const A: usize,
>(
    operands: &Operands<'a>,
    segment: usize,
) -> ([&'a [[u8; BYTES]]; W_MAX], [&'a [[u8; ACT_BYTES]]; A_MAX]) {
    // Loops, not `map`: its closure would stay a call inside functions of another instruction set.
    let mut w = [&[] as &[[u8; BYTES]]; W_MAX];
    for (blocks, row) in w.iter_mut().zip(&operands.w).take(W) {
        *blocks = part(row, segment, operands.segments).as_chunks().0;
    }
    let mut a = [&[] as &[[u8; ACT_BYTES]]; A_MAX];
    for (blocks, row) in a.iter_mut().zip(&operands.a).take(A) {
        *blocks = part(row, segment, operands.segments).as_chunks().0;
    }
    (w, a)
}

/// The last columns, fewer than 32, one lane each, then the tree.
#[inline]
pub(super) fn finish_lanes(
    lanes: &mut [f32; FLOAT_LANES],
    weights: impl Iterator<Item = f32>,
    acts: &[u8],
) -> f32 {
    for ((lane, w), a) in lanes.iter_mut().zip(weights).zip(acts.chunks_exact(4)) {
        let a = f32::from_le_bytes([a[0], a[1], a[2], a[3]]);
        *lane = w.mul_add(a, *lane);
    }
    lane_tree(lanes)
}

/// The little-endian number at a constant place of a block.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian float at a constant place of a block.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn f32_at<const N: usize>(bytes: &[u8; N], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
