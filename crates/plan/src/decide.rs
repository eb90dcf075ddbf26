//! From a request to a plan.
//!
//! Owns the order of the decisions: cache type, context, room for sequences, nodes and their order, cuts, and what is
//! left over. Context comes first because people notice it; room for more sequences may cost one conversation a tenth
//! of its speed and no more.

use crate::fill::{
    CHUNK_ROWS_GOOD, CHUNK_ROWS_LEAST, CHUNK_ROWS_SMALL, Room, fill, most, pages_of,
};
use crate::reasons::{Facts, explain, left_out};
use crate::search::{
    EXACT_NODES_MAX, Effort, Found, Problem, balance, best_alone, search, unplaced_bytes,
};
use crate::speed::predict;
use crate::{KvType, NodeFacts, Plan, PlanError, PlanMode, PlanRequest};
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
    let base_found = search(&base_problem, request.mode, Effort::Best)
        .ok_or_else(|| asked.no_room(base.context))?;
    let (problem, found) = match asked.roomier(base, base_found.best.decode_s) {
        Some((room, found)) => (asked.problem(room), found),
        None => (asked.problem(base), base_found),
    };
    Ok(asked.assemble(base, &base_problem, &problem, &found))
}

impl Asked<'_> {
    fn problem(&self, room: Room) -> Problem<'_> {
        Problem::new(self.model, &self.nodes, &self.request.links, room.budget())
    }

    fn fits(&self, room: Room) -> bool {
        search(&self.problem(room), self.request.mode, Effort::AnyFit).is_some()
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
            let found = search(&self.problem(room), self.request.mode, Effort::Best);
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
        let placement = balance(problem, found.best.clone());
        let wanted = Room {
            sequences: self.request.sequences,
            ..base
        };
        let stages = problem.stages(&placement.parts);
        let budget = fill(self.model, &stages, problem.budget, wanted);
        let filled = Problem::new(self.model, &self.nodes, &self.request.links, budget);
        let stages = filled.stages(&placement.parts);
        let prediction = predict(
            self.model,
            &stages,
            &budget,
            &self.nodes,
            &self.request.links,
        );
        let mut plan = Plan {
            model: self.model.id.clone(),
            kv: self.kv,
            context: base.context,
            pages: budget.pages,
            slots: budget.slots,
            chunk_rows: budget.chunk_rows,
            stages,
            experts: Vec::new(),
            head_blocks: Vec::new(),
            prediction,
            reasons: Vec::new(),
            left_out: Vec::new(),
            links: Vec::new(),
        };
        plan.links = plan.links_used(&self.request.links);
        plan.left_out = left_out(base_problem, &plan, found);
        let alone = best_alone(base_problem);
        plan.reasons = explain(&Facts {
            base: base_problem,
            plan: &plan,
            found,
            alone: alone.as_ref(),
            mode: self.request.mode,
            context_wanted: self.wanted_context(),
            sequences_wanted: self.request.sequences,
        });
        plan
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
            if search(&problem, PlanMode::Auto, Effort::AnyFit).is_some() {
                return PlanError::NoCut {
                    nodes: self.nodes.len(),
                };
            }
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
