//! Mixture of experts: which experts a row goes to, what the held groups make of it, and how sums meet.
//!
//! The sum over experts has one shape whatever the placement: ascending ids inside a group, then the fixed
//! tree over groups (see `groups`). Rows leave for other owners in the format that the kernels consume, so
//! an owner elsewhere computes on the same bits.

use std::cell::RefCell;

use kernels::{Rows, parallel_gated, parallel_matmul};
use proto::facts::expert_groups;

use crate::exchange::{Partials, Routes};
use crate::groups::{GroupSet, Subtree, cover, group_of, span};
use crate::scratch::{ActSet, sized};
use crate::slice::Weights;
use crate::weights::{Experts, FfnWeights, MoeWeights};
use crate::{EngineError, dense};

/// Buffers of one layer's experts.
#[derive(Debug, Default)]
pub struct MoeScratch {
    pairs: Pairs,
    experts: FfnBuffers,
    shared: FfnBuffers,
}

/// Rows inside and after gated feed-forwards.
#[derive(Debug, Default)]
struct FfnBuffers {
    mid: Vec<f32>,
    acts: ActSet,
    down: Vec<f32>,
}

/// One expert of one row.
#[derive(Debug, Clone, Copy)]
struct Term {
    group: u32,
    weight: f32,
    /// The row of its output.
    pair: usize,
}

/// Which (row, expert) pairs are computed here, grouped by expert.
#[derive(Debug, Default)]
struct Pairs {
    /// Rows of the request, grouped by expert ascending, rows ascending inside.
    rows: Vec<u32>,
    /// (expert, first pair, end).
    experts: Vec<(u32, usize, usize)>,
    /// The terms of all rows, ascending by expert inside a row.
    terms: Vec<Term>,
    /// The end of each row's terms.
    row_ends: Vec<usize>,
    /// The next free pair of each expert.
    next: Vec<usize>,
}

impl Pairs {
    /// Takes the pairs of `routes` whose experts are held.
    fn fill(&mut self, held: &Experts, routes: &Routes) {
        let by_id = &held.by_id;
        let held = |expert: u32| {
            let weights = by_id.get(expert as usize);
            weights.is_some_and(Option::is_some)
        };
        self.next.clear();
        self.next.resize(by_id.len(), 0);
        for (expert, _) in routes.all() {
            if let (true, Some(count)) = (held(*expert), self.next.get_mut(*expert as usize)) {
                *count += 1;
            }
        }
        self.experts.clear();
        let mut first = 0;
        for (expert, count) in (0u32..).zip(&mut self.next) {
            let end = first + *count;
            if *count > 0 {
                self.experts.push((expert, first, end));
            }
            *count = first;
            first = end;
        }
        self.rows.clear();
        self.rows.resize(first, 0);
        self.terms.clear();
        self.row_ends.clear();
        let experts = u32::try_from(by_id.len()).unwrap_or(u32::MAX);
        for (row, route) in (0u32..).zip(routes.rows()) {
            for (expert, weight) in route {
                if let (true, Some(next)) = (held(*expert), self.next.get_mut(*expert as usize)) {
                    if let Some(place) = self.rows.get_mut(*next) {
                        *place = row;
                    }
                    self.terms.push(Term {
                        group: group_of(*expert, experts),
                        weight: *weight,
                        pair: *next,
                    });
                    *next += 1;
                }
            }
            self.row_ends.push(self.terms.len());
        }
    }

    fn terms(&self, row: usize) -> &[Term] {
        let start = row.checked_sub(1).and_then(|r| self.row_ends.get(r));
        let end = self.row_ends.get(row).copied().unwrap_or(0);
        self.terms
            .get(start.copied().unwrap_or(0)..end)
            .unwrap_or_default()
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

fn held(experts: &Experts, expert: u32) -> Result<&FfnWeights, EngineError> {
    experts
        .by_id
        .get(expert as usize)
        .and_then(Option::as_ref)
        .ok_or(EngineError::NotHeld("expert of a group it serves"))
}

/// Runs the held experts on their rows, and the shared expert on all `rows` rows if it is given: one parallel region
/// for all gates and ups, one for all downs. `scratch.experts.down` becomes `[pairs][hidden]`,
/// `scratch.shared.down` `[rows][hidden]`.
fn run_experts(
    weights: &Weights,
    (experts, shared): (&Experts, Option<&FfnWeights>),
    rows: usize,
    acts: &ActSet,
    scratch: &mut MoeScratch,
) -> Result<(), EngineError> {
    let MoeScratch {
        pairs,
        experts: own,
        shared: common,
    } = scratch;
    let width = match pairs.experts.first() {
        Some((expert, ..)) => held(experts, *expert)?.gate.rows,
        None => 0,
    };
    let exec = &weights.exec;
    let mut tasks = Vec::with_capacity(pairs.experts.len() + 1);
    let outs = outputs(sized(&mut own.mid, pairs.rows.len() * width), pairs, width);
    for ((expert, first, end), out) in pairs.experts.iter().zip(outs) {
        let rows = pairs.rows.get(*first..*end).unwrap_or_default();
        let ffn = held(experts, *expert)?;
        tasks.push(dense::gated(weights, ffn, acts, Rows::List(rows), out)?);
    }
    if let Some(ffn) = shared {
        let out = sized(&mut common.mid, rows * ffn.gate.rows);
        tasks.push(dense::gated(weights, ffn, acts, Rows::Range(0..rows), out)?);
    }
    parallel_gated(&exec.pool, exec.isa, &mut tasks);
    own.acts.clear();
    for (expert, ..) in &pairs.experts {
        let format = held(experts, *expert)?.down.ty.act_format();
        own.acts.need(exec, format, &own.mid, width);
    }
    let hidden = weights.hidden;
    let mut tasks = Vec::with_capacity(pairs.experts.len() + 1);
    let outs = outputs(
        sized(&mut own.down, pairs.rows.len() * hidden),
        pairs,
        hidden,
    );
    for ((expert, first, end), out) in pairs.experts.iter().zip(outs) {
        let ffn = held(experts, *expert)?;
        tasks.push(dense::output(
            weights,
            &ffn.down,
            &own.acts,
            *first..*end,
            out,
        )?);
    }
    if let Some(ffn) = shared {
        let format = ffn.down.ty.act_format();
        common.acts.clear();
        common.acts.need(exec, format, &common.mid, ffn.down.cols);
        let out = sized(&mut common.down, rows * hidden);
        tasks.push(dense::output(
            weights,
            &ffn.down,
            &common.acts,
            0..rows,
            out,
        )?);
    }
    parallel_matmul(&exec.pool, exec.isa, &mut tasks);
    Ok(())
}

/// One row's sum below a node of the tree.
struct RowSum<'a> {
    /// Ascending by expert.
    terms: &'a [Term],
    /// `[pairs][hidden]`.
    outputs: &'a [f32],
    groups: u32,
    isa: kernels::Isa,
}

/// Levels of the tree over 16 groups below the root.
pub(crate) const TREE_LEVELS: usize = 4;

thread_local! {
    /// One row for each level of the tree, and one for the sum.
    pub(crate) static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl RowSum<'_> {
    fn within(&self, first: u32, size: u32) -> impl Iterator<Item = &Term> {
        self.terms
            .iter()
            .filter(move |t| (first..first + size).contains(&t.group))
    }

    /// Writes the sum below `node` to `out`; false where no term lies below it. `spare` has a row for each level
    /// below the node.
    fn below(&self, node: Subtree, out: &mut [f32], spare: &mut [f32]) -> bool {
        let (first, size) = span(node, self.groups);
        if self.within(first, size).next().is_none() {
            return false;
        }
        let width = out.len();
        if size == 1 {
            out.fill(0.0);
            for term in self.within(first, 1) {
                let y = self.outputs.get(term.pair * width..(term.pair + 1) * width);
                kernels::axpy(self.isa, out, term.weight, y.unwrap_or_default());
            }
            return true;
        }
        let (left, right) = (Subtree(node.0 * 2), Subtree(node.0 * 2 + 1));
        if !self.below(left, out, spare) {
            return self.below(right, out, spare);
        }
        let (other, spare) = spare.split_at_mut(width);
        if self.below(right, other, spare) {
            kernels::add(self.isa, out, other);
        }
        true
    }
}

impl MoeScratch {
    fn row_sum(&self, weights: &Weights, row: usize) -> RowSum<'_> {
        RowSum {
            terms: self.pairs.terms(row),
            outputs: &self.experts.down,
            groups: expert_groups(weights.experts),
            isa: weights.exec.isa,
        }
    }

    /// The shared expert's rows, `[rows][hidden]`, scaled by `sigmoid(gates)`.
    fn scaled_shared(&self, weights: &Weights, gates: &[f32]) -> Vec<f32> {
        let mut scaled = self.shared.down.clone();
        let exec = &weights.exec;
        kernels::parallel_chunks(&exec.pool, &mut scaled, weights.hidden, |row, out| {
            let gate = gates.get(row).copied().unwrap_or(f32::NAN);
            kernels::scale(exec.isa, out, kernels::sigmoid(gate));
        });
        scaled
    }
}

/// Makes the normed rows (`[rows, hidden]`) available in the format of every gate and up matrix.
pub fn quantise(weights: &Weights, moe: &MoeWeights, normed: &[f32], acts: &mut ActSet) {
    for format in &moe.formats {
        acts.need(&weights.exec, *format, normed, weights.hidden);
    }
}

/// A layer all of whose chosen experts are here: `x += routed + shared`. `acts` must hold the rows in the format of
/// every gate and up matrix; `gates` are the logits of the shared expert's gate, one a row.
pub fn whole_layer(
    weights: &Weights,
    moe: &MoeWeights,
    (routes, gates): (&Routes, &[f32]),
    acts: &ActSet,
    scratch: &mut MoeScratch,
    x: &mut [f32],
) -> Result<(), EngineError> {
    scratch.pairs.fill(&moe.experts, routes);
    run_experts(
        weights,
        (&moe.experts, moe.shared.as_ref()),
        routes.len(),
        acts,
        scratch,
    )?;
    let (hidden, isa) = (weights.hidden, weights.exec.isa);
    let shared = moe.shared.as_ref().map(|_| scratch.shared.down.as_slice());
    let scratch = &*scratch;
    kernels::parallel_chunks(&weights.exec.pool, x, hidden, |row, x| {
        SUMS.with_borrow_mut(|buffer| {
            buffer.resize((TREE_LEVELS + 1) * hidden, 0.0);
            let (sum, spare) = buffer.split_at_mut(hidden);
            if !scratch.row_sum(weights, row).below(Subtree(1), sum, spare) {
                sum.fill(0.0);
            }
            if let Some(shared) = shared.and_then(|s| s.get(row * hidden..(row + 1) * hidden)) {
                let scaled = spare.get_mut(..hidden).unwrap_or_default();
                scaled.copy_from_slice(shared);
                let gate = gates.get(row).copied().unwrap_or(f32::NAN);
                kernels::scale(isa, scaled, kernels::sigmoid(gate));
                kernels::add(isa, sum, scaled);
            }
            kernels::add(isa, x, sum);
        });
    });
    Ok(())
}

/// What the trunk of a layer computes while other owners work: the partial sums of its own groups, and the shared
/// expert scaled by its gate (`[rows][hidden]`, empty without one).
pub fn own_part(
    weights: &Weights,
    moe: &MoeWeights,
    (routes, gates): (&Routes, &[f32]),
    acts: &ActSet,
    scratch: &mut MoeScratch,
) -> Result<(Partials, Vec<f32>), EngineError> {
    scratch.pairs.fill(&moe.experts, routes);
    run_experts(
        weights,
        (&moe.experts, moe.shared.as_ref()),
        routes.len(),
        acts,
        scratch,
    )?;
    let shared = match &moe.shared {
        Some(_) => scratch.scaled_shared(weights, gates),
        None => Vec::new(),
    };
    let own = collect(weights, moe.experts.groups, routes.len(), scratch);
    Ok((own, shared))
}

/// What the held groups of a layer make of the rows: one partial row per maximal held subtree with an expert of the row.
///
/// `acts` must hold the rows in the format of every gate and up matrix. Experts that are not held are left out.
pub fn partials(
    weights: &Weights,
    experts: &Experts,
    routes: &Routes,
    acts: &ActSet,
    scratch: &mut MoeScratch,
) -> Result<Partials, EngineError> {
    scratch.pairs.fill(experts, routes);
    run_experts(weights, (experts, None), routes.len(), acts, scratch)?;
    Ok(collect(weights, experts.groups, routes.len(), scratch))
}

/// The partial rows of what the held experts computed.
fn collect(weights: &Weights, set: GroupSet, rows: usize, scratch: &MoeScratch) -> Partials {
    let groups = expert_groups(weights.experts);
    let cover = cover(set, groups);
    let mut entries = Vec::new();
    for (index, row) in (0..rows).zip(0u32..) {
        let sum = scratch.row_sum(weights, index);
        for node in &cover {
            let (first, size) = span(*node, groups);
            if sum.within(first, size).next().is_some() {
                entries.push((row, *node));
            }
        }
    }
    let hidden = weights.hidden.max(1);
    let mut values = vec![0.0; entries.len() * hidden];
    kernels::parallel_chunks(&weights.exec.pool, &mut values, hidden, |index, out| {
        if let Some((row, node)) = entries.get(index) {
            SUMS.with_borrow_mut(|spare| {
                spare.resize((TREE_LEVELS + 1) * hidden, 0.0);
                let sum = scratch.row_sum(weights, *row as usize);
                sum.below(*node, out, spare);
            });
        }
    });
    Partials { entries, values }
}
