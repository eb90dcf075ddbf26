//! Mixture of experts: which experts a row goes to, what the held groups make of it, and how sums meet.
//!
//! The sum over experts has one shape whatever the placement: ascending ids inside a group, then the fixed
//! tree over groups (see `groups`). Rows leave for other owners in the format that the kernels consume, so
//! an owner elsewhere computes on the same bits.

use std::collections::BTreeMap;

use kernels::{Acts, MatmulTask, Rows, parallel_matmul, segments_for};
use proto::facts::expert_groups;

use crate::EngineError;
use crate::groups::{GroupSet, Subtree, group_of, span, tree_sum};
use crate::rows;
use crate::scratch::{ActSet, sized};
use crate::slice::Weights;
use crate::weights::{FfnWeights, MoeWeights};

/// The experts of one row with their weights, ascending by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowRoute {
    /// (expert, weight as applied).
    pub experts: Vec<(u32, f32)>,
}

/// Rows that need expert groups which live elsewhere.
#[derive(Debug, Clone)]
pub struct ExpertRequest {
    /// The layer.
    pub layer: u32,
    /// The groups that are missing here.
    pub missing: GroupSet,
    /// The normed rows, in the format that the experts' weights consume.
    pub acts: Acts,
    /// One route per row.
    pub routes: Vec<RowRoute>,
}

/// Partial sums of one owner: one row per held maximal subtree that a row has an expert in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Partials {
    /// (row of the request, subtree), in order of row, then subtree.
    pub entries: Vec<(u32, Subtree)>,
    /// `[entries.len()][hidden]`.
    pub values: Vec<f32>,
}

/// Buffers of one layer's experts.
#[derive(Debug, Default)]
pub struct MoeScratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    mid: Vec<f32>,
    acts: ActSet,
    down: Vec<f32>,
}

/// Which (row, expert) pairs are computed here, grouped by expert.
struct Pairs {
    /// Rows of the request, grouped by expert ascending, rows ascending inside.
    rows: Vec<u32>,
    /// (expert, first pair, end).
    experts: Vec<(u32, usize, usize)>,
    /// Per row: (expert, weight, pair), ascending by expert.
    by_row: Vec<Vec<(u32, f32, usize)>>,
}

impl Pairs {
    fn of(moe: &MoeWeights, routes: &[RowRoute]) -> Self {
        let mut by_expert: BTreeMap<u32, Vec<(u32, f32)>> = BTreeMap::new();
        for (row, route) in (0u32..).zip(routes) {
            for (expert, weight) in &route.experts {
                if moe
                    .experts
                    .get(*expert as usize)
                    .is_some_and(Option::is_some)
                {
                    by_expert.entry(*expert).or_default().push((row, *weight));
                }
            }
        }
        let mut pairs = Pairs {
            rows: Vec::new(),
            experts: Vec::with_capacity(by_expert.len()),
            by_row: vec![Vec::new(); routes.len()],
        };
        for (expert, rows) in by_expert {
            let first = pairs.rows.len();
            for (row, weight) in rows {
                if let Some(list) = pairs.by_row.get_mut(row as usize) {
                    list.push((expert, weight, pairs.rows.len()));
                }
                pairs.rows.push(row);
            }
            pairs.experts.push((expert, first, pairs.rows.len()));
        }
        pairs
    }
}

/// Cuts `buffer` (`[pairs][cols]`) into the outputs of the experts.
fn outputs<'a>(mut buffer: &'a mut [f32], pairs: &Pairs, cols: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(pairs.experts.len());
    for (_, first, end) in &pairs.experts {
        let (part, rest) = buffer.split_at_mut((end - first) * cols);
        parts.push(part);
        buffer = rest;
    }
    parts
}

fn held(moe: &MoeWeights, expert: u32) -> Result<&FfnWeights, EngineError> {
    moe.experts
        .get(expert as usize)
        .and_then(Option::as_ref)
        .ok_or(EngineError::NotHeld("expert of a group it serves"))
}

/// Runs the held experts on their rows: fills `scratch.down` with `[pairs][hidden]`.
fn run_pairs(
    weights: &Weights,
    moe: &MoeWeights,
    pairs: &Pairs,
    acts: &ActSet,
    scratch: &mut MoeScratch,
) -> Result<(), EngineError> {
    let Some((first, ..)) = pairs.experts.first() else {
        return Ok(());
    };
    let width = held(moe, *first)?.gate.rows;
    let hidden = held(moe, *first)?.down.rows;
    let n = pairs.rows.len();
    let checkpoint = &*weights.checkpoint;
    let gate = outputs(sized(&mut scratch.gate, n * width), pairs, width);
    let up = outputs(sized(&mut scratch.up, n * width), pairs, width);
    let mut tasks = Vec::with_capacity(pairs.experts.len() * 2);
    for ((expert, first, end), (gate, up)) in pairs.experts.iter().zip(gate.into_iter().zip(up)) {
        let ffn = held(moe, *expert)?;
        for (weight, out) in [(&ffn.gate, gate), (&ffn.up, up)] {
            let acts = acts.get(weight.ty.act_format())?;
            let rows = pairs.rows.get(*first..*end).unwrap_or_default();
            let w = weight.matrix(checkpoint)?;
            tasks.push(MatmulTask {
                w,
                acts,
                act_rows: Rows::List(rows),
                segments: 1,
                out,
            });
        }
    }
    parallel_matmul(&weights.exec.pool, weights.exec.isa, &mut tasks);
    let mid = sized(&mut scratch.mid, n * width);
    rows::swiglu(&weights.exec, &scratch.gate, &scratch.up, mid);
    scratch.acts.clear();
    for (expert, ..) in &pairs.experts {
        let format = held(moe, *expert)?.down.ty.act_format();
        scratch
            .acts
            .need(&weights.exec, format, &scratch.mid, width);
    }
    let down = outputs(sized(&mut scratch.down, n * hidden), pairs, hidden);
    let mut tasks = Vec::with_capacity(pairs.experts.len());
    for ((expert, first, end), out) in pairs.experts.iter().zip(down) {
        let weight = &held(moe, *expert)?.down;
        let acts = scratch.acts.get(weight.ty.act_format())?;
        let segments = segments_for(weight.ty, weight.cols);
        let w = weight.matrix(checkpoint)?;
        tasks.push(MatmulTask {
            w,
            acts,
            act_rows: Rows::Range(*first..*end),
            segments,
            out,
        });
    }
    parallel_matmul(&weights.exec.pool, weights.exec.isa, &mut tasks);
    Ok(())
}

/// One row's sum below a node of the tree.
struct RowSum<'a> {
    /// (group, weight, the expert's output), ascending by expert.
    terms: Vec<(u32, f32, &'a [f32])>,
    groups: u32,
    isa: kernels::Isa,
}

impl RowSum<'_> {
    fn within(&self, first: u32, size: u32) -> impl Iterator<Item = &(u32, f32, &[f32])> {
        self.terms
            .iter()
            .filter(move |t| (first..first + size).contains(&t.0))
    }

    /// Writes the sum below `node` to `out`; false where no term lies below it.
    fn below(&self, node: Subtree, out: &mut [f32]) -> bool {
        let (first, size) = span(node, self.groups);
        if self.within(first, size).next().is_none() {
            return false;
        }
        if size == 1 {
            out.fill(0.0);
            for (_, weight, y) in self.within(first, 1) {
                kernels::axpy(self.isa, out, *weight, y);
            }
            return true;
        }
        let (left, right) = (Subtree(node.0 * 2), Subtree(node.0 * 2 + 1));
        if !self.below(left, out) {
            return self.below(right, out);
        }
        let half = size / 2;
        if self.within(first + half, half).next().is_some() {
            let mut other = vec![0.0; out.len()];
            self.below(right, &mut other);
            kernels::add(self.isa, out, &other);
        }
        true
    }
}

/// What the groups in `set` make of the rows: one partial row per maximal held subtree with an expert of the row.
///
/// `acts` must hold the rows in the format of every gate and up matrix. Experts that this slice does not hold are
/// left out, so `set` must be among the groups that it holds.
pub fn partials(
    weights: &Weights,
    moe: &MoeWeights,
    set: GroupSet,
    routes: &[RowRoute],
    acts: &ActSet,
    scratch: &mut MoeScratch,
) -> Result<Partials, EngineError> {
    let experts = u32::try_from(moe.experts.len()).unwrap_or(u32::MAX);
    let groups = expert_groups(experts);
    let pairs = Pairs::of(moe, routes);
    run_pairs(weights, moe, &pairs, acts, scratch)?;
    let hidden = weights.hidden;
    let cover = set.cover(groups);
    let sums: Vec<RowSum<'_>> = pairs
        .by_row
        .iter()
        .map(|row| RowSum {
            groups,
            isa: weights.exec.isa,
            terms: row
                .iter()
                .map(|(expert, weight, pair)| {
                    let y = scratch.down.get(pair * hidden..(pair + 1) * hidden);
                    (group_of(*expert, experts), *weight, y.unwrap_or_default())
                })
                .collect(),
        })
        .collect();
    let mut entries = Vec::new();
    for (row, sum) in (0u32..).zip(&sums) {
        for node in &cover {
            let (first, size) = span(*node, groups);
            if sum.within(first, size).next().is_some() {
                entries.push((row, *node));
            }
        }
    }
    let mut values = vec![0.0; entries.len() * hidden];
    kernels::parallel_chunks(
        &weights.exec.pool,
        &mut values,
        hidden.max(1),
        |index, out| {
            if let Some((row, node)) = entries.get(index)
                && let Some(sum) = sums.get(*row as usize)
            {
                sum.below(*node, out);
            }
        },
    );
    Ok(Partials { entries, values })
}

/// Sums the partial rows of all owners: `[rows][hidden]`.
///
/// # Errors
/// When a partial row is missing, repeated or not asked for.
pub fn combine(
    layer: u32,
    experts: u32,
    routes: &[RowRoute],
    parts: &[Partials],
    hidden: usize,
) -> Result<Vec<f32>, EngineError> {
    let groups = expert_groups(experts);
    let mut by_row: Vec<BTreeMap<Subtree, Vec<f32>>> = vec![BTreeMap::new(); routes.len()];
    let wrong = |what, got: u64, expected: u64| EngineError::Partials {
        layer,
        what,
        got,
        expected,
    };
    for part in parts {
        let expected = part.entries.len() * hidden;
        if part.values.len() != expected {
            return Err(wrong("values", part.values.len() as u64, expected as u64));
        }
        for ((row, node), values) in part.entries.iter().zip(part.values.chunks_exact(hidden)) {
            let rows = by_row
                .get_mut(*row as usize)
                .ok_or_else(|| wrong("row", u64::from(*row), routes.len() as u64))?;
            if rows.insert(*node, values.to_vec()).is_some() {
                return Err(wrong("repeated subtree", u64::from(node.0), 1));
            }
        }
    }
    let mut out = Vec::with_capacity(routes.len() * hidden);
    for (route, rows) in routes.iter().zip(&mut by_row) {
        let mut met = GroupSet::none();
        for node in rows.keys() {
            if node.0 == 0 || u32::from(node.0) >= 2 * groups {
                return Err(wrong("subtree", u64::from(node.0), u64::from(2 * groups)));
            }
            let (first, size) = span(*node, groups);
            for group in first..first + size {
                if met.contains(group) {
                    return Err(wrong("group sent twice", u64::from(group), 1));
                }
                met = met.with(group);
            }
        }
        let missing = route
            .experts
            .iter()
            .find(|(e, _)| !met.contains(group_of(*e, experts)));
        if let Some((expert, _)) = missing {
            return Err(wrong(
                "missing expert",
                u64::from(*expert),
                u64::from(*expert),
            ));
        }
        match tree_sum(Subtree(1), groups, rows) {
            Some(row) => out.extend(row),
            None => out.resize(out.len() + hidden, 0.0),
        }
        if !rows.is_empty() {
            return Err(wrong("subtrees not asked for", rows.len() as u64, 0));
        }
    }
    Ok(out)
}
