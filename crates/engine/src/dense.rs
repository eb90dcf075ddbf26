//! The gated feed-forward of dense layers and of the shared expert: `down(silu(gate x) * (up x))`.

use std::ops::Range;

use kernels::{GatedTask, MatmulTask, Rows, parallel_gated, parallel_matmul, segments_for};

use crate::EngineError;
use crate::scratch::{ActSet, sized};
use crate::slice::Weights;
use crate::weights::{FfnWeights, Weight};

/// Buffers of one feed-forward.
#[derive(Debug, Default)]
pub struct FfnScratch {
    mid: Vec<f32>,
    acts: ActSet,
}

/// One product of all rows with each of several weights, as one parallel region.
///
/// `x`: `[rows, cols]`; `outs`: the weight, segments wanted or not, and the buffer that becomes `[rows, weight.rows]`.
pub fn project(
    weights: &Weights,
    x: &[f32],
    acts: &mut ActSet,
    outs: &mut [(&Weight, Vec<f32>)],
) -> Result<(), EngineError> {
    let mut tasks = Vec::with_capacity(outs.len());
    for (weight, _) in outs.iter() {
        acts.need(&weights.exec, weight.ty.act_format(), x, weight.cols);
    }
    for (weight, out) in outs {
        let acts = acts.get(weight.ty.act_format())?;
        let rows = acts.rows();
        let out = sized(out, rows * weight.rows);
        let w = weight.matrix(&weights.checkpoint)?;
        tasks.push(MatmulTask {
            w,
            acts,
            act_rows: Rows::Range(0..rows),
            segments: 1,
            out,
        });
    }
    parallel_matmul(&weights.exec.pool, weights.exec.isa, &mut tasks);
    Ok(())
}

/// `silu(gate x) * up x` of some rows, which `acts` must hold in the formats of both matrices.
pub fn gated<'a>(
    weights: &'a Weights,
    ffn: &FfnWeights,
    acts: &'a ActSet,
    act_rows: Rows<'a>,
    out: &'a mut [f32],
) -> Result<GatedTask<'a>, EngineError> {
    Ok(GatedTask {
        gate: ffn.gate.matrix(&weights.checkpoint)?,
        up: ffn.up.matrix(&weights.checkpoint)?,
        acts: [
            acts.get(ffn.gate.ty.act_format())?,
            acts.get(ffn.up.ty.act_format())?,
        ],
        act_rows,
        out,
    })
}

/// The output projection `weight` of some rows, in segments.
pub fn output<'a>(
    weights: &'a Weights,
    weight: &Weight,
    acts: &'a ActSet,
    rows: Range<usize>,
    out: &'a mut [f32],
) -> Result<MatmulTask<'a>, EngineError> {
    Ok(MatmulTask {
        w: weight.matrix(&weights.checkpoint)?,
        acts: acts.get(weight.ty.act_format())?,
        act_rows: Rows::Range(rows),
        segments: segments_for(weight.ty, weight.cols),
        out,
    })
}

/// An output projection: segments and a fixed tree, so that it can be cut by inputs later without changing a bit.
///
/// `x`: `[rows, weight.cols]`; `out` becomes `[rows, weight.rows]`.
pub fn project_out(
    weights: &Weights,
    weight: &Weight,
    x: &[f32],
    acts: &mut ActSet,
    out: &mut Vec<f32>,
) -> Result<(), EngineError> {
    acts.clear();
    acts.need(&weights.exec, weight.ty.act_format(), x, weight.cols);
    let rows = acts.get(weight.ty.act_format())?.rows();
    let out = sized(out, rows * weight.rows);
    let task = output(weights, weight, acts, 0..rows, out)?;
    parallel_matmul(&weights.exec.pool, weights.exec.isa, &mut [task]);
    Ok(())
}

/// The feed-forward of all rows. `h`: `[rows, hidden]` normed rows, `acts` the same rows quantised (or empty);
/// `out` becomes `[rows, hidden]`.
pub fn feed_forward(
    weights: &Weights,
    ffn: &FfnWeights,
    h: &[f32],
    acts: &mut ActSet,
    scratch: &mut FfnScratch,
    out: &mut Vec<f32>,
) -> Result<(), EngineError> {
    let formats = [ffn.gate.ty.act_format(), ffn.up.ty.act_format()];
    for format in formats {
        acts.need(&weights.exec, format, h, ffn.gate.cols);
    }
    let rows = acts.get(formats[0])?.rows();
    let mid = sized(&mut scratch.mid, rows * ffn.gate.rows);
    let task = gated(weights, ffn, acts, Rows::Range(0..rows), mid)?;
    parallel_gated(&weights.exec.pool, weights.exec.isa, &mut [task]);
    project_out(weights, &ffn.down, &scratch.mid, &mut scratch.acts, out)
}
