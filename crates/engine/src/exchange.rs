//! What a run asks of the owners of expert groups, what they answer, and how the answers meet.
//!
//! A request names rows by their number in the step and carries them in the format that the experts' weights consume.
//! An owner answers with one partial row per maximal subtree that it holds; where every chosen expert is covered once,
//! the sum has the shape that it has on one machine.

use kernels::{ActFormat, Acts};
use proto::facts::expert_groups;

use crate::EngineError;
use crate::groups::{GroupSet, Subtree, group_of};
use crate::moe::{SUMS, TREE_LEVELS};
use crate::slice::Weights;

/// The experts of rows with their weights, ascending by id inside a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routes {
    ends: Vec<u32>,
    experts: Vec<(u32, f32)>,
}

impl Routes {
    /// Rows of `used` experts each, one after the other.
    pub(crate) fn even(experts: Vec<(u32, f32)>, used: usize) -> Self {
        let rows = experts.len() / used.max(1);
        let end = |row: usize| u32::try_from(row * used).unwrap_or(u32::MAX);
        Self {
            ends: (1..=rows).map(end).collect(),
            experts,
        }
    }

    /// Rows of so many experts each, one after the other.
    ///
    /// # Errors
    /// When the counts do not add up to the experts, or a row's experts are not ascending by id.
    pub fn from_counts(
        counts: impl IntoIterator<Item = u32>,
        experts: Vec<(u32, f32)>,
    ) -> Result<Self, EngineError> {
        let mut end = 0u32;
        let ends = counts.into_iter().map(|count| {
            end = end.saturating_add(count);
            end
        });
        let routes = Self {
            ends: ends.collect(),
            experts,
        };
        let wrong = |what, got: usize, expected: usize| EngineError::Step {
            what,
            got: got as u64,
            expected: expected as u64,
        };
        if end as usize != routes.experts.len() {
            return Err(wrong(
                "experts of all rows",
                routes.experts.len(),
                end as usize,
            ));
        }
        for (row, experts) in routes.rows().enumerate() {
            if !experts.is_sorted_by(|a, b| a.0 < b.0) {
                return Err(wrong("row with experts out of order", row, 0));
            }
        }
        Ok(routes)
    }

    /// Adds a row.
    pub fn push(&mut self, experts: impl IntoIterator<Item = (u32, f32)>) {
        self.experts.extend(experts);
        self.ends
            .push(u32::try_from(self.experts.len()).unwrap_or(u32::MAX));
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The experts of every row.
    pub fn rows(&self) -> impl Iterator<Item = &[(u32, f32)]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| {
            let row = self.experts.get(start as usize..*end as usize);
            row.unwrap_or_default()
        })
    }

    /// The experts of all rows, one row after the other.
    #[must_use]
    pub fn all(&self) -> &[(u32, f32)] {
        &self.experts
    }

    /// Takes it apart: the number of experts of each row, and all experts.
    #[must_use]
    pub fn into_counts(self) -> (Vec<u32>, Vec<(u32, f32)>) {
        let counts = self
            .rows()
            .map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX));
        (counts.collect(), self.experts)
    }
}

/// Rows that need expert groups which live elsewhere.
#[derive(Debug, Clone)]
pub struct ExpertRequest {
    /// The layer.
    pub layer: u32,
    /// The groups that are missing here and that some row needs.
    pub missing: GroupSet,
    /// Experts of the layer.
    pub experts: u32,
    /// The normed rows of the step, in the format that the experts' weights consume.
    pub acts: Acts,
    /// One route per row.
    pub routes: Routes,
}

/// What one owner is asked: rows of a step with those of their experts that it holds.
#[derive(Debug, Clone)]
pub struct OwnerRows {
    /// The rows, by their number in the step.
    pub rows: Vec<u32>,
    /// One route per row.
    pub routes: Routes,
    /// How the rows are stored.
    pub format: ActFormat,
    /// Values of a row.
    pub cols: usize,
    /// The rows one after the other.
    pub bytes: Vec<u8>,
}

impl ExpertRequest {
    /// The rows that need an owner of the groups `held`: at most `most` of them, from row `from` of the step on, and
    /// the row at which to go on. None where no row is left that needs it.
    #[must_use]
    pub fn part(&self, held: GroupSet, from: usize, most: usize) -> Option<(OwnerRows, usize)> {
        let mut part = OwnerRows {
            rows: Vec::new(),
            routes: Routes::default(),
            format: self.acts.format(),
            cols: self.acts.cols(),
            bytes: Vec::new(),
        };
        let mut next = from;
        for (row, experts) in self.routes.rows().enumerate().skip(from) {
            if part.rows.len() == most {
                break;
            }
            next = row + 1;
            let theirs = |(expert, _): &&(u32, f32)| held.contains(group_of(*expert, self.experts));
            if experts.iter().any(|expert| theirs(&expert)) {
                part.routes.push(experts.iter().filter(theirs).copied());
                part.rows.push(u32::try_from(row).unwrap_or(u32::MAX));
                part.bytes.extend_from_slice(self.acts.row_bytes(row));
            }
        }
        (!part.rows.is_empty()).then_some((part, next))
    }
}

/// Partial sums of one owner: one row per held maximal subtree that a row has an expert in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Partials {
    /// (row of the request, subtree), in order of row, then subtree.
    pub entries: Vec<(u32, Subtree)>,
    /// `[entries.len()][hidden]`.
    pub values: Vec<f32>,
}

impl Partials {
    /// Numbers the rows as the step does, given the rows of the request.
    ///
    /// # Errors
    /// When an entry names no row of the request.
    pub fn renumber(&mut self, rows: &[u32]) -> Result<(), EngineError> {
        for (row, _) in &mut self.entries {
            *row = *rows.get(*row as usize).ok_or(EngineError::Step {
                what: "row of the request",
                got: u64::from(*row),
                expected: rows.len() as u64,
            })?;
        }
        Ok(())
    }
}

/// A partial row that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Come {
    row: u32,
    node: Subtree,
    part: usize,
    entry: usize,
}

/// One layer of a run between its request and its sum.
#[derive(Debug)]
pub(crate) struct Meeting {
    layer: u32,
    experts: u32,
    hidden: usize,
    pub routes: Routes,
    /// Groups that each row still waits for.
    waits: Vec<GroupSet>,
    /// Groups that each row has.
    met: Vec<GroupSet>,
    /// Rows that wait for some group.
    open: usize,
    come: Vec<Come>,
    parts: Vec<Partials>,
}

impl Meeting {
    pub fn new(layer: u32, weights: &Weights, routes: Routes) -> Self {
        let experts = weights.experts;
        let of_row = |row: &[(u32, f32)]| {
            let groups = row.iter().map(|(expert, _)| group_of(*expert, experts));
            groups.fold(GroupSet::none(), GroupSet::with)
        };
        let waits: Vec<GroupSet> = routes.rows().map(of_row).collect();
        Self {
            layer,
            experts,
            hidden: weights.hidden,
            met: vec![GroupSet::none(); waits.len()],
            open: waits.iter().filter(|set| !set.is_empty()).count(),
            waits,
            routes,
            come: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Whether every row has all of its experts.
    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Takes partial sums of one owner, or none of them.
    ///
    /// # Errors
    /// When a partial row has another shape, was not asked for, or came before.
    pub fn take(&mut self, part: Partials) -> Result<(), EngineError> {
        let expected = part.entries.len() * self.hidden;
        if part.values.len() != expected {
            return Err(self.wrong("values", part.values.len() as u64, expected as u64));
        }
        let groups = expert_groups(self.experts);
        for (entry, (row, node)) in part.entries.iter().enumerate() {
            let at = *row as usize;
            let (Some(waits), Some(met)) = (self.waits.get(at), self.met.get(at)) else {
                return Err(self.wrong("row", u64::from(*row), self.waits.len() as u64));
            };
            if node.0 == 0 || u32::from(node.0) >= 2 * groups {
                return Err(self.wrong("subtree", u64::from(node.0), u64::from(2 * groups)));
            }
            let below = node.groups(groups);
            if !below.common(*met).is_empty() {
                return Err(self.wrong(
                    "subtree with groups that came before",
                    u64::from(node.0),
                    0,
                ));
            }
            if below.common(*waits).is_empty() {
                return Err(self.wrong("subtree not asked for", u64::from(node.0), 0));
            }
            let (waits, met) = (waits.without(below), met.and(below));
            if let (Some(w), Some(m)) = (self.waits.get_mut(at), self.met.get_mut(at)) {
                (*w, *m) = (waits, met);
            }
            self.open -= usize::from(waits.is_empty());
            self.come.push(Come {
                row: *row,
                node: *node,
                part: self.parts.len(),
                entry,
            });
        }
        self.parts.push(part);
        Ok(())
    }

    fn wrong(&self, what: &'static str, got: u64, expected: u64) -> EngineError {
        EngineError::Partials {
            layer: self.layer,
            what,
            got,
            expected,
        }
    }

    /// `x += routed + shared`, once it is complete. `shared` is empty or has the shape of `x`, `[rows, hidden]`.
    pub fn add_to(&mut self, weights: &Weights, shared: &[f32], x: &mut [f32]) {
        self.come.sort_unstable();
        let (hidden, isa) = (self.hidden, weights.exec.isa);
        let this = &*self;
        kernels::parallel_chunks(&weights.exec.pool, x, hidden, |row, x| {
            SUMS.with_borrow_mut(|buffer| {
                buffer.resize((TREE_LEVELS + 1) * hidden, 0.0);
                let (sum, spare) = buffer.split_at_mut(hidden);
                if !this.below(isa, this.come_of(row), Subtree(1), (sum, spare)) {
                    sum.fill(0.0);
                }
                if let Some(shared) = shared.get(row * hidden..(row + 1) * hidden) {
                    kernels::add(isa, sum, shared);
                }
                kernels::add(isa, x, sum);
            });
        });
    }

    /// The partial rows of one row.
    fn come_of(&self, row: usize) -> &[Come] {
        let first = self.come.partition_point(|come| (come.row as usize) < row);
        let end = self.come.partition_point(|come| come.row as usize <= row);
        self.come.get(first..end).unwrap_or_default()
    }

    /// Writes the sum below `node` to `out`: a row that came is taken, else the two halves are added, left and right,
    /// an empty half skipped. False where nothing below it came. `spare` has a row for each level below the node.
    fn below(
        &self,
        isa: kernels::Isa,
        come: &[Come],
        node: Subtree,
        (out, spare): (&mut [f32], &mut [f32]),
    ) -> bool {
        if let Some(come) = come.iter().find(|come| come.node == node) {
            let width = out.len();
            let values = self.parts.get(come.part).map(|part| part.values.as_slice());
            let values = values.unwrap_or_default();
            let row = values.get(come.entry * width..(come.entry + 1) * width);
            out.copy_from_slice(row.unwrap_or_default());
            return true;
        }
        let (left, right) = (
            node.0.saturating_mul(2),
            node.0.saturating_mul(2).saturating_add(1),
        );
        // A heap of groups: what came lies below a node if halving its number leads there.
        let lies_below = |come: &Come| {
            let up = u32::from(come.node.0)
                .ilog2()
                .checked_sub(u32::from(node.0).ilog2());
            up.is_some_and(|up| come.node.0 >> up == node.0)
        };
        if !come.iter().any(lies_below) {
            return false;
        }
        if !self.below(isa, come, Subtree(left), (out, spare)) {
            return self.below(isa, come, Subtree(right), (out, spare));
        }
        let (other, spare) = spare.split_at_mut(out.len());
        if self.below(isa, come, Subtree(right), (other, spare)) {
            kernels::add(isa, out, other);
        }
        true
    }
}
