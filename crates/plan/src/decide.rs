//! From a request to a plan.
//!
//! Owns the order of the decisions: cache type, context, room for sequences, nodes and their order, cuts, and what is
//! left over. Context comes first because people notice it; room for more sequences may cost one conversation a tenth
//! of its speed and no more.

use crate::check::recount;
use crate::fill::{
    CHUNK_ROWS_GOOD, CHUNK_ROWS_LEAST, CHUNK_ROWS_SMALL, Room, fill, most, pages_of,
};
use crate::reasons::{Facts, explain, left_out};
use crate::search::{
    EXACT_NODES_MAX, Effort, Found, Placement, Problem, Space, balance, best_alone, search, spread,
    unplaced_bytes,
};
use crate::speed::{Links, predict};
use crate::{
    ExpertsPlan, HeadBlocksPlan, KvType, NodeFacts, Plan, PlanError, PlanMode, PlanRequest,
    Prediction,
};
use proto::facts::ModelFacts;
use proto::limits::PAGE_POSITIONS;

/// Positions that a plan gives a sequence when nobody asks for more.
const CONTEXT_DEFAULT: u32 = 32_768;
/// Positions below which a default context is not lowered.
const CONTEXT_LEAST: u32 = 512;
/// What room for more sequences may cost one conversation.
const ROOM_SLOWDOWN_MAX: f64 = 1.1;

/// A checked request with its nodes in the order of their ids.
pub(crate) struct Asked<'r> {
    pub request: &'r PlanRequest,
    pub model: &'r ModelFacts,
    pub nodes: Vec<NodeFacts>,
    pub kv: KvType,
}

/// Makes the plan.
///
/// # Errors
/// When the request is out of range, or no split fits: the error says what is missing.
pub fn plan(request: &PlanRequest) -> Result<Plan, PlanError> {
    request.validate()?;
    let mut nodes = request.nodes.clone();
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    let asked = Asked {
        request,
        model: &request.model,
        nodes,
        kv: request
            .kv
            .unwrap_or_else(|| KvType::for_model(&request.model)),
    };
    let layers = asked.model.layers.len();
    if request.mode == PlanMode::Layers && asked.nodes.len() > layers {
        return Err(PlanError::TooManyNodes {
            nodes: asked.nodes.len(),
            layers,
        });
    }
    let base = asked.base_room()?;
    let base_problem = asked.problem(base);
    let base_found = search(&base_problem, asked.space(), Effort::Best)
        .ok_or_else(|| asked.no_room(base.context))?;
    let (problem, found) = match asked.roomier(base, base_found.best.decode_s) {
        Some((room, found)) => (asked.problem(room), found),
        None => (asked.problem(base), base_found),
    };
    Ok(asked.assemble(base, &base_problem, &problem, &found))
}

impl Asked<'_> {
    fn problem(&self, room: Room) -> Problem<'_> {
        let (model, request) = (self.model, self.request);
        let coordinator = request.coordinator.as_ref();
        let links = Links::new(model, &self.nodes, &request.links, coordinator);
        Problem::new(model, &self.nodes, links, room.budget())
    }

    fn space(&self) -> Space {
        Space {
            mode: self.request.mode,
            exchange: self.request.exchange,
        }
    }

    fn fits(&self, room: Room) -> bool {
        search(&self.problem(room), self.space(), Effort::AnyFit).is_some()
    }

    /// The context that is wanted: as asked, or the default.
    fn wanted_context(&self) -> u32 {
        let default = self.model.context.min(CONTEXT_DEFAULT);
        self.request.context.unwrap_or(default)
    }

    /// One sequence of the longest context that fits.
    fn base_room(&self) -> Result<Room, PlanError> {
        let wanted = Room {
            kv: self.kv,
            context: self.wanted_context(),
            sequences: 1,
            chunk_rows: CHUNK_ROWS_SMALL,
        };
        if self.fits(wanted) {
            return Ok(wanted);
        }
        let small = Room {
            chunk_rows: CHUNK_ROWS_LEAST,
            ..wanted
        };
        if self.fits(small) {
            return Ok(small);
        }
        if self.request.context.is_some() {
            return Err(self.no_room(small.context));
        }
        self.longest(small)
            .ok_or_else(|| self.no_room(small.context.min(CONTEXT_LEAST)))
    }

    /// `room` with the longest context in whole pages that fits; None where not even the least does.
    fn longest(&self, room: Room) -> Option<Room> {
        let least = Room {
            context: room.context.min(CONTEXT_LEAST),
            ..room
        };
        if !self.fits(least) {
            return None;
        }
        let with_pages = |pages: u32| Room {
            context: pages.saturating_mul(PAGE_POSITIONS).min(room.context),
            ..room
        };
        let pages = most(pages_of(least.context), pages_of(room.context), |pages| {
            self.fits(with_pages(pages))
        });
        let longest = with_pages(pages);
        Some(if longest.context > least.context {
            longest
        } else {
            least
        })
    }

    /// Room for as many sequences as the speed of one allows, with steps of a good size.
    fn roomier(&self, base: Room, base_s: f64) -> Option<(Room, Found)> {
        let shrink = if self.nodes.len() <= EXACT_NODES_MAX {
            2
        } else {
            4
        };
        let mut sequences = self.request.sequences;
        while sequences > 0 {
            let room = Room {
                sequences,
                chunk_rows: CHUNK_ROWS_GOOD,
                ..base
            };
            let found = search(&self.problem(room), self.space(), Effort::Best);
            if let Some(found) = found
                && found.best.decode_s <= base_s * ROOM_SLOWDOWN_MAX
            {
                return Some((room, found));
            }
            sequences /= shrink;
        }
        None
    }

    fn assemble(
        &self,
        base: Room,
        base_problem: &Problem<'_>,
        problem: &Problem<'_>,
        found: &Found,
    ) -> Plan {
        let placement = match &found.best.spread {
            Some(_) => found.best.clone(),
            None => balance(problem, found.best.clone()),
        };
        let wanted = Room {
            sequences: self.request.sequences,
            ..base
        };
        let mut plan = self.draft(base.context, problem, &placement);
        let held = plan.parts(self.model).into_iter().map(|part| {
            let node = self.nodes.iter().find(|node| node.id == part.node);
            (part.holding, node.map_or(0, |node| node.memory_bytes))
        });
        let held: Vec<_> = held.collect();
        let budget = fill(self.model, &held, problem.budget, wanted);
        (plan.pages, plan.slots, plan.chunk_rows) = (budget.pages, budget.slots, budget.chunk_rows);
        // The placement was found inside the model.
        let _counted = recount(&mut plan, self.model);
        plan.prediction = predict(&plan, self.request);
        plan.links = plan.links_used(&self.request.links);
        plan.left_out = left_out(base_problem, &plan, found, self.request.exchange);
        let alone = best_alone(base_problem);
        plan.reasons = explain(&Facts {
            base: base_problem,
            plan: &plan,
            found,
            alone: alone.as_ref(),
            space: self.space(),
            context_wanted: self.wanted_context(),
            sequences_wanted: self.request.sequences,
        });
        plan
    }

    /// A placement as a plan, before its caches are filled up and its reasons are known.
    fn draft(&self, context: u32, problem: &Problem<'_>, placement: &Placement) -> Plan {
        let budget = problem.budget;
        let stages = problem.stages(&placement.parts);
        let mut plan = Plan {
            model: self.model.id.clone(),
            kv: self.kv,
            context,
            pages: budget.pages,
            slots: budget.slots,
            chunk_rows: budget.chunk_rows,
            stages,
            experts: Vec::new(),
            head_blocks: Vec::new(),
            prediction: Prediction::default(),
            reasons: Vec::new(),
            left_out: Vec::new(),
            links: Vec::new(),
        };
        let Some(away) = &placement.spread else {
            return plan;
        };
        let groups = spread::places(&away.groups, away.groups.iter().sum());
        let blocks = spread::places(&away.blocks, away.blocks.iter().sum());
        for (node, (groups, blocks)) in self.nodes.iter().zip(groups.into_iter().zip(blocks)) {
            let last = plan
                .stages
                .last()
                .is_some_and(|stage| stage.node == node.id);
            if !blocks.is_empty() && !last {
                plan.head_blocks.push(HeadBlocksPlan {
                    node: node.id.clone(),
                    name: node.name.clone(),
                    blocks,
                });
            }
            if groups.is_empty() {
                continue;
            }
            for stage in plan.stages.iter().filter(|stage| stage.node != node.id) {
                for range in self.expert_layers(stage.first_layer..stage.end_layer) {
                    plan.experts.push(ExpertsPlan {
                        node: node.id.clone(),
                        name: node.name.clone(),
                        first_layer: range.start,
                        end_layer: range.end,
                        groups: groups.clone(),
                    });
                }
            }
        }
        plan
    }

    /// The runs of layers with experts inside a range.
    fn expert_layers(&self, range: std::ops::Range<u32>) -> Vec<std::ops::Range<u32>> {
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        for (at, layer) in (0u32..).zip(&self.model.layers) {
            if !range.contains(&at) || layer.group_bytes.is_empty() {
                continue;
            }
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => run.end = at + 1,
                None => runs.push(at..at + 1),
            }
        }
        runs
    }

    /// Why nothing fits with `context` positions for one sequence.
    fn no_room(&self, context: u32) -> PlanError {
        let least = Room {
            kv: self.kv,
            context,
            sequences: 1,
            chunk_rows: CHUNK_ROWS_LEAST,
        };
        let problem = self.problem(least);
        if self.request.mode == PlanMode::Layers {
            let needed_bytes = problem.least_stage_bytes();
            let small = self
                .nodes
                .iter()
                .find(|node| node.memory_bytes < needed_bytes);
            if let Some(node) = small {
                return PlanError::NodeTooSmall {
                    name: node.name.clone(),
                    offered_bytes: node.memory_bytes,
                    needed_bytes,
                };
            }
        }
        let auto = Space {
            mode: PlanMode::Auto,
            ..self.space()
        };
        if self.request.mode != PlanMode::Auto && search(&problem, auto, Effort::AnyFit).is_some() {
            return PlanError::NoCut {
                nodes: self.nodes.len(),
            };
        }
        let shorter = self
            .request
            .context
            .and_then(|_| self.longest(least))
            .map(|room| {
                format!(
                    "With --context {} it would fit; otherwise add",
                    room.context
                )
            })
            .unwrap_or_else(|| "Add".to_owned());
        PlanError::Memory {
            missing_bytes: unplaced_bytes(&problem),
            needed_bytes: problem.stage_bytes(0, problem.cuts()),
            offered_bytes: self
                .nodes
                .iter()
                .fold(0, |sum, node| sum.saturating_add(node.memory_bytes)),
            nodes: self.nodes.len(),
            context,
            hint: format!(
                "{shorter} a machine that offers as much as is missing, or raise --memory"
            ),
        }
    }
}
