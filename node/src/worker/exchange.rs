//! Between runs and the owners of expert groups and head blocks, in both directions.
//!
//! Rows leave once per layer and owner, coalesced over the sequences of the step. Those of prompt chunks leave in parts,
//! so that an owner computes on the first while the next is on its way.

use engine::{ExpertRequest, HeadPart, HeadRequest, Partials, Routes, Subtree};
use kernels::{ActFormat, Acts};
use proto::control::Owner;
use proto::frame::{
    Asked, Dtype, ExpertsFrame, FaultFrame, Frame, HeadFrame, LogitsFrame, PartialsFrame,
};
use proto::step::StepClass;
use proto::{GroupSet, NodeId, limits};

use super::queue::Request;
use super::{Bench, Stage};

/// Rows of a prompt chunk that leave at once.
const PREFILL_ROWS: usize = 64;

fn dtype(format: ActFormat) -> Dtype {
    match format {
        ActFormat::F32 => Dtype::F32,
        ActFormat::Q8_0 => Dtype::Q8_0,
        ActFormat::Q8K => Dtype::Q8K,
    }
}

/// Rows as they came, checked.
fn acts(dtype: Dtype, rows: u32, cols: u32, bytes: &[u8]) -> Result<Acts, String> {
    let format = match dtype {
        Dtype::F32 => ActFormat::F32,
        Dtype::Q8_0 => ActFormat::Q8_0,
        Dtype::Q8K => ActFormat::Q8K,
        Dtype::None => return Err("rows came without a format".to_owned()),
    };
    let acts = Acts::from_bytes(format, rows as usize, cols as usize, bytes);
    acts.map_err(|error| error.to_string())
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Bench {
    /// Sends the rows of a layer to all owners that they need.
    pub(super) fn ask_experts(&mut self, at: usize, request: &ExpertRequest) {
        let Some(stage) = &mut self.stage else { return };
        let owners = &stage.assign.owners;
        let Some(active) = stage.queue.run_mut(at) else {
            return;
        };
        let step = active.run.step();
        let most = match step.class {
            StepClass::Decode => limits::EXPERT_ROWS_MAX as usize,
            StepClass::Prefill => PREFILL_ROWS,
        };
        let mut asked = Asked {
            epoch: stage.assign.epoch,
            step: step.id,
            class: step.class,
            layer: request.layer,
            part: 0,
        };
        let mut frames = Vec::with_capacity(owners.len());
        for owner in owners {
            let held = owner
                .groups
                .get(&request.layer)
                .copied()
                .unwrap_or_default();
            let (mut from, mut part) = (0, 0);
            while let Some((rows, next)) = request.part(held, from, most) {
                let (counts, experts) = rows.routes.into_counts();
                asked.part = part;
                active.open.push((owner.peer.node.clone(), asked));
                let frame = ExpertsFrame {
                    asked,
                    dtype: dtype(rows.format),
                    cols: narrow(rows.cols),
                    rows: rows.rows.into_iter().zip(counts).collect(),
                    experts,
                    bytes: rows.bytes,
                };
                frames.push((part, owner.peer.node.clone(), Frame::Experts(frame)));
                (from, part) = (next, part + 1);
            }
        }
        // The first part of every owner goes before the second of any.
        frames.sort_by_key(|(part, ..)| *part);
        for (_, to, frame) in &frames {
            self.send(to, frame);
        }
    }

    /// Sends rows to all owners of head blocks.
    pub(super) fn ask_head(&mut self, at: usize, request: &HeadRequest) {
        let Some(stage) = &mut self.stage else { return };
        let Some(active) = stage.queue.run_mut(at) else {
            return;
        };
        let step = active.run.step();
        let asked = Asked {
            epoch: stage.assign.epoch,
            step: step.id,
            class: step.class,
            layer: stage.assign.layers.end,
            part: request.first,
        };
        let frame = Frame::Head(HeadFrame {
            asked,
            dtype: dtype(request.acts.format()),
            cols: narrow(request.acts.cols()),
            rows: narrow(request.acts.rows()),
            bytes: request.acts.as_bytes().to_vec(),
        });
        let owners = stage.assign.owners.iter();
        let owners = owners.filter(|owner| !owner.head_blocks.is_empty());
        let owners: Vec<NodeId> = owners.map(|owner| owner.peer.node.clone()).collect();
        active
            .open
            .extend(owners.iter().map(|owner| (owner.clone(), asked)));
        for owner in &owners {
            self.send(owner, &frame);
        }
    }

    /// A member asks for what is here.
    pub(super) fn asked(&mut self, from: &NodeId, request: Request) {
        let Some(stage) = &mut self.stage else { return };
        let step = request.asked().step;
        if !stage.queue.add_request(from, request) {
            let text = "more requests came than this node can queue".to_owned();
            self.fault_to(Some(from), step, text);
        }
    }

    /// Computes the answer to one request.
    pub(super) fn serve(&mut self, at: usize) {
        let Some(stage) = &mut self.stage else { return };
        let Some((asker, request)) = stage.queue.take_request(at) else {
            return;
        };
        let step = request.asked().step;
        let answer = match request {
            Request::Experts(frame) => experts(stage, frame).map(Frame::Partials),
            Request::Head(frame) => head(stage, &frame).map(Frame::Logits),
        };
        if self.model_changed(step, Some(&asker)) {
            return;
        }
        match answer {
            Ok(frame) => self.send(&asker, &frame),
            Err(text) => self.fault_to(Some(&asker), step, text),
        }
    }

    /// An owner brings partial sums.
    pub(super) fn partials(&mut self, from: &NodeId, answer: PartialsFrame) {
        let Some((stage, at)) = self.awaited(from, &answer.asked) else {
            return;
        };
        let subtree = |node: u32| Subtree(u8::try_from(node).unwrap_or(0));
        let entries = answer.entries.into_iter();
        let partials = Partials {
            entries: entries.map(|(row, node)| (row, subtree(node))).collect(),
            values: answer.values,
        };
        let foreign = not_held(stage, from, answer.asked.layer, &partials);
        let Some(active) = stage.queue.run_mut(at) else {
            return;
        };
        active.ready = true;
        let taken = match foreign {
            Some(text) => Err(text),
            None => active.run.provide(partials).map_err(|e| e.to_string()),
        };
        if let Err(text) = taken {
            self.give_up(at, from, &text);
        }
    }

    /// An owner brings logits.
    pub(super) fn logits(&mut self, from: &NodeId, answer: &LogitsFrame) {
        let Some((stage, at)) = self.awaited(from, &answer.asked) else {
            return;
        };
        let blocks = owner(stage, from).map_or(GroupSet::none(), |owner| owner.head_blocks);
        let Some(active) = stage.queue.run_mut(at) else {
            return;
        };
        active.ready = true;
        let part = HeadPart {
            first: answer.asked.part,
            blocks: answer.blocks,
            values: answer.values.clone(),
        };
        let taken = if answer.blocks == blocks {
            let taken = active.run.provide_head(&stage.slice, &part);
            taken.map_err(|error| error.to_string())
        } else {
            Err(format!(
                "logits of blocks {} came, {blocks} were asked for",
                answer.blocks
            ))
        };
        if let Err(text) = taken {
            self.give_up(at, from, &text);
        }
    }

    /// An owner could not answer.
    pub(super) fn owner_failed(&mut self, from: &NodeId, fault: &FaultFrame) {
        let Some(stage) = &self.stage else { return };
        let waits = |at: &usize| {
            let active = stage.queue.run(*at);
            active.is_some_and(|active| active.open.iter().any(|(owner, _)| owner == from))
        };
        if let Some(at) = stage.queue.run_of(fault.step).filter(waits) {
            self.give_up(at, from, &fault.text);
        }
    }

    /// The run that waits for this answer. An answer that came twice, or for a run that is over, is dropped.
    fn awaited(&mut self, from: &NodeId, asked: &Asked) -> Option<(&mut Stage, usize)> {
        let stage = self.stage.as_mut()?;
        let found = stage.queue.run_of(asked.step).filter(|at| {
            let active = stage.queue.run_mut(*at);
            active.is_some_and(|active| {
                let open = &mut active.open;
                let place = open
                    .iter()
                    .position(|(owner, open)| owner == from && open == asked);
                place.map(|place| open.swap_remove(place)).is_some()
            })
        });
        match found {
            Some(at) => Some((stage, at)),
            None => {
                tracing::debug!(%from, step = asked.step.0, "an answer that nobody waits for, dropped");
                None
            }
        }
    }

    fn give_up(&mut self, at: usize, owner: &NodeId, text: &str) {
        let Some(stage) = &mut self.stage else { return };
        let step = stage.queue.end_run(at).into_step();
        self.fault(step.id, format!("{owner} did not do its part: {text}"));
    }
}

fn owner<'s>(stage: &'s Stage, node: &NodeId) -> Option<&'s Owner> {
    let mut owners = stage.assign.owners.iter();
    owners.find(|owner| owner.peer.node == *node)
}

/// What is wrong with partial sums of groups that their sender does not hold.
fn not_held(stage: &Stage, from: &NodeId, layer: u32, partials: &Partials) -> Option<String> {
    let held = owner(stage, from).and_then(|owner| owner.groups.get(&layer));
    let held = held.copied().unwrap_or_default();
    let strange = |(_, node): &&(u32, Subtree)| {
        let groups = node.groups(stage.slice.groups());
        !groups.without(held).is_empty()
    };
    let (_, node) = partials.entries.iter().find(strange)?;
    Some(format!(
        "partial sums of layer {layer}: subtree {} has groups that it does not hold, it has {held}",
        node.0
    ))
}

fn experts(stage: &mut Stage, frame: ExpertsFrame) -> Result<PartialsFrame, String> {
    let text = |error: engine::EngineError| error.to_string();
    let acts = acts(
        frame.dtype,
        narrow(frame.rows.len()),
        frame.cols,
        &frame.bytes,
    )?;
    let counts = frame.rows.iter().map(|(_, count)| *count);
    let routes = Routes::from_counts(counts, frame.experts).map_err(text)?;
    let layer = frame.asked.layer;
    if !stage.assign.foreign.contains_key(&layer) {
        return Err(format!(
            "no expert group of layer {layer} is here for others"
        ));
    }
    let mut sums = stage.slice.experts(layer, acts, &routes).map_err(text)?;
    let rows: Vec<u32> = frame.rows.iter().map(|(row, _)| *row).collect();
    sums.renumber(&rows).map_err(text)?;
    let entries = sums.entries.into_iter();
    Ok(PartialsFrame {
        asked: frame.asked,
        entries: entries.map(|(row, node)| (row, node.0.into())).collect(),
        cols: narrow(stage.slice.hidden()),
        values: sums.values,
    })
}

fn head(stage: &mut Stage, frame: &HeadFrame) -> Result<LogitsFrame, String> {
    if stage.assign.head_blocks.is_empty() {
        return Err("no head block is here for others".to_owned());
    }
    let acts = acts(frame.dtype, frame.rows, frame.cols, &frame.bytes)?;
    let values = stage.slice.head_rows(&acts).map_err(|e| e.to_string())?;
    Ok(LogitsFrame {
        asked: frame.asked,
        blocks: stage.slice.head_blocks(),
        rows: frame.rows,
        cols: narrow(values.len() / (frame.rows as usize).max(1)),
        values,
    })
}
