//! How the work of a batch is cut into tasks.
//!
//! Owns the tiles, the heads that stay together, and the decision which tiles are cut by spans. Nothing decided
//! here changes a bit. The idea: large tiles use each key often, small ones keep all threads busy; cut only what
//! would keep the others waiting, the longest first.

use super::{Attend, AttendRow, SPAN_KEYS};

/// Most queries (rows times heads) of a tile: with 256 values each, queries, outputs and what is merged take
/// less than half of a 1 MiB second-level cache.
const TILE_QUERIES: usize = 128;
/// Fewest queries that a tile of several rows is shrunk to.
const TILE_QUERIES_MIN: usize = 16;
/// Tasks that each thread should find, so that one slow thread costs only its share.
const TASKS_PER_THREAD: usize = 4;
/// Most values in the spans of cut tiles: 32 MiB.
const PARTIALS_MAX: usize = 8 << 20;

/// Neighbouring rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// Spans that the last row sees.
    pub(super) spans: usize,
    /// Number of the first partial, if the tile is cut by spans.
    pub(super) partials: Option<usize>,
}

impl Tile {
    /// Spans that `row` sees.
    pub(super) fn spans_of(&self, row: &AttendRow<'_>) -> usize {
        (row.len as usize).div_ceil(SPAN_KEYS)
    }
}

/// One task: a tile's heads of one unit, over all spans or one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) tile: usize,
    pub(super) unit: usize,
    pub(super) span: Option<usize>,
}

/// The tasks of one call.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) tiles: Vec<Tile>,
    pub(super) tasks: Vec<Task>,
    /// Query heads of a task, all of one kv head.
    pub(super) together: usize,
    /// Groups of heads: `heads / together`.
    pub(super) units: usize,
    /// Partials of all cut tiles.
    pub(super) partials: usize,
}

/// Rows that belong in one tile with at most `most` rows.
fn tiles(rows: &[AttendRow<'_>], most: usize) -> Vec<Tile> {
    let mut tiles: Vec<Tile> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let spans = (row.len as usize).div_ceil(SPAN_KEYS);
        let before = index.checked_sub(1).map(|i| &rows[i]);
        let follows = before.is_some_and(|before| {
            std::ptr::eq(before.pages, row.pages) && before.len + 1 == row.len
        });
        match tiles.last_mut() {
            Some(tile) if follows && tile.rows < most => {
                tile.rows += 1;
                tile.spans = spans;
            }
            _ => tiles.push(Tile {
                first_row: index,
                rows: 1,
                spans,
                partials: None,
            }),
        }
    }
    tiles
}

impl Cut {
    pub(super) fn new(attend: &Attend<'_>, threads: usize) -> Self {
        let shape = attend.shape;
        let group = shape.heads / shape.kv_heads;
        let wanted = if threads == 1 {
            1
        } else {
            TASKS_PER_THREAD * threads
        };
        let fair = attend.rows.len() * shape.heads / wanted;
        let queries = fair.clamp(TILE_QUERIES_MIN, TILE_QUERIES);
        let tiles = tiles(attend.rows, (queries / group).max(1));
        let mut cut = Cut::plain(tiles, group, shape.heads);
        cut.by_spans(wanted, shape.head_dim);
        let tasks: usize = cut.tiles.iter().map(|tile| cut.tasks_of(tile)).sum();
        // Heads apart widen their keys twice, so only threads without any work justify it.
        while cut.partials == 0
            && cut.together.is_multiple_of(2)
            && tasks * group / cut.together < threads
        {
            cut.together /= 2;
            cut.units *= 2;
        }
        cut.list();
        cut
    }

    /// Tiles that nobody has cut.
    pub(super) fn plain(tiles: Vec<Tile>, together: usize, heads: usize) -> Self {
        Cut {
            tiles,
            tasks: Vec::new(),
            together,
            units: heads / together,
            partials: 0,
        }
    }

    /// Cuts tiles that are more than a fair share of the whole work, as far as their partials may go.
    fn by_spans(&mut self, wanted: usize, dim: usize) {
        let work = |tile: &Tile| tile.rows * tile.spans;
        let whole: usize = self.tiles.iter().map(work).sum::<usize>() * self.units;
        for index in 0..self.tiles.len() {
            let tile = &self.tiles[index];
            let partials = self.partials + tile.rows * tile.spans * self.units;
            let fits = partials * self.partial_len(dim) <= PARTIALS_MAX;
            if wanted > 1 && tile.spans > 1 && work(tile) * wanted > whole && fits {
                self.tiles[index].partials = Some(self.partials);
                self.partials = partials;
            }
        }
    }

    fn tasks_of(&self, tile: &Tile) -> usize {
        self.units
            * if tile.partials.is_some() {
                tile.spans
            } else {
                1
            }
    }

    /// Lists the tasks, those with most work first.
    pub(super) fn list(&mut self) {
        self.tasks.clear();
        for (index, tile) in self.tiles.iter().enumerate() {
            let spans = if tile.partials.is_some() {
                tile.spans
            } else {
                1
            };
            for unit in 0..self.units {
                self.tasks.extend((0..spans).map(|span| Task {
                    tile: index,
                    unit,
                    span: tile.partials.map(|_| span),
                }));
            }
        }
        let tiles = &self.tiles;
        self.tasks.sort_by_key(|task| {
            let tile = &tiles[task.tile];
            let spans = if task.span.is_some() { 1 } else { tile.spans };
            std::cmp::Reverse(tile.rows * spans)
        });
    }

    /// Values of a partial: the heads' outputs, then maximum and sum of each.
    pub(super) fn partial_len(&self, dim: usize) -> usize {
        self.together * (dim + 2)
    }

    /// Number of the partial of a cut tile.
    pub(super) fn partial(&self, tile: &Tile, row: usize, unit: usize, span: usize) -> usize {
        tile.partials.unwrap_or(0) + (row * self.units + unit) * tile.spans + span
    }
}
