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
use crate::search::spread::Spread;
use crate::search::{
    EXACT_NODES_MAX, EXCHANGE_GAIN_MIN, Effort, Found, Placement, Problem, Space, balance,
    best_alone, search, spread, unplaced_bytes,
};
use crate::speed::{Links, predict};
use crate::{
    ExpertsPlan, HeadBlocksPlan, Holding, KvType, NodeFacts, Plan, PlanError, PlanMode,
    PlanRequest, Prediction, StagePlan, holding_bytes,
};
use proto::GroupSet;
use proto::facts::{ModelFacts, expert_groups};
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
    asked.enough_parts()?;
    let base = asked.base_room()?;
    let base_problem = asked.problem(base);
    let base_found = search(&base_problem, asked.space(), Effort::Best)
        .ok_or_else(|| asked.no_room(base.context))?;
    let (problem, found) = match asked.roomier(base, &base_found) {
        Some((room, found)) => (asked.problem(room), found),
        None => (asked.problem(base), base_found.clone()),
    };
    let with_base = (&base_problem, &base_found);
    Ok(asked.assemble(base, with_base, &problem, &found))
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

    /// Whether the model has a part for every node, where every node must have one.
    fn enough_parts(&self) -> Result<(), PlanError> {
        if self.request.mode != PlanMode::Experts {
            return Ok(());
        }
        let layers = self.model.layers.iter();
        let groups: usize = layers.map(|layer| layer.group_bytes.len()).sum();
        let blocks = expert_groups(self.model.vocab) as usize;
        let most = self.model.layers.len() + groups + blocks;
        if self.nodes.len() > most {
            return Err(PlanError::TooFewParts {
                nodes: self.nodes.len(),
                most,
                layers: self.model.layers.len(),
                groups,
                blocks,
            });
        }
        Ok(())
    }

    /// Room for as many sequences as the speed of one allows, with steps of a good size. Where groups or blocks away from
    /// their stages gain too little for one sequence, they are not used to make room either.
    fn roomier(&self, base: Room, found: &Found) -> Option<(Room, Found)> {
        let shrink = if self.nodes.len() <= EXACT_NODES_MAX {
            2
        } else {
            4
        };
        let auto = self.request.mode == PlanMode::Auto;
        let space = Space {
            exchange: self.request.exchange && !(auto && found.best.spread.is_none()),
            ..self.space()
        };
        let slowest_s = found.best.decode_s * ROOM_SLOWDOWN_MAX;
        let without = found.without.as_ref().filter(|_| auto);
        let spread_s = without.map_or(slowest_s, |without| {
            slowest_s.min(without.decode_s / EXCHANGE_GAIN_MIN)
        });
        let mut sequences = self.request.sequences;
        while sequences > 0 {
            let room = Room {
                sequences,
                chunk_rows: CHUNK_ROWS_GOOD,
                ..base
            };
            if let Some(found) = search(&self.problem(room), space, Effort::Best) {
                let exchanges = found.best.spread.is_some();
                let most_s = if exchanges { spread_s } else { slowest_s };
                if found.best.decode_s <= most_s {
                    return Some((room, found));
                }
                let split = found.without.clone().filter(|_| auto);
                if let Some(best) = split.filter(|split| split.decode_s <= slowest_s) {
                    let without = None;
                    return Some((
                        room,
                        Found {
                            best,
                            without,
                            ..found
                        },
                    ));
                }
            }
            sequences /= shrink;
        }
        None
    }

    fn assemble(
        &self,
        base: Room,
        (base_problem, base_found): (&Problem<'_>, &Found),
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
        plan.left_out = left_out(problem, &plan, found, self.request.exchange);
        let alone = best_alone(base_problem);
        plan.reasons = explain(&Facts {
            base: base_problem,
            base_found,
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
        plan.experts = self.experts_away(&plan.stages, away);
        let blocks = spread::places(&away.blocks, away.blocks.iter().sum());
        for (node, blocks) in self.nodes.iter().zip(blocks) {
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
        }
        plan
    }

    /// The groups of each node of layers that it does not run, in the order of the nodes and layers.
    fn experts_away(&self, stages: &[StagePlan], away: &Spread) -> Vec<ExpertsPlan> {
        let all = away.groups.iter().sum();
        let mut by_node: Vec<Vec<ExpertsPlan>> = vec![Vec::new(); self.nodes.len()];
        for stage in stages {
            for layer in stage.first_layer..stage.end_layer {
                let facts = self.model.layers.get(layer as usize);
                if facts.is_none_or(|facts| facts.group_bytes.is_empty()) {
                    continue;
                }
                let held = self.nodes.iter().zip(away.groups_of(layer, all));
                for ((node, groups), entries) in held.zip(&mut by_node) {
                    if groups.is_empty() || node.id == stage.node {
                        continue;
                    }
                    let before = entries.last_mut().filter(|entry| {
                        let inside = entry.first_layer >= stage.first_layer;
                        inside && entry.end_layer == layer && entry.groups == groups
                    });
                    match before {
                        Some(entry) => entry.end_layer = layer + 1,
                        None => entries.push(ExpertsPlan {
                            node: node.id.clone(),
                            name: node.name.clone(),
                            first_layer: layer,
                            end_layer: layer + 1,
                            groups,
                        }),
                    }
                }
            }
        }
        by_node.into_iter().flatten().collect()
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
        if self.request.mode != PlanMode::Auto {
            let (part, needed_bytes) = self.least_part(&problem);
            let small = self
                .nodes
                .iter()
                .find(|node| node.memory_bytes < needed_bytes);
            if let Some(node) = small {
                return PlanError::NodeTooSmall {
                    name: node.name.clone(),
                    part,
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
            let nodes = self.nodes.len();
            return match self.request.mode {
                PlanMode::Experts => PlanError::NotEverybody {
                    nodes,
                    most: self.most_with_a_part(&problem),
                },
                PlanMode::Auto | PlanMode::Layers => PlanError::NoCut { nodes },
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

    /// The smallest part that the mode may give a node, in words and bytes.
    fn least_part(&self, problem: &Problem<'_>) -> (&'static str, u64) {
        let stage = (
            "one layer with caches and scratch",
            problem.least_stage_bytes(),
        );
        if self.request.mode == PlanMode::Layers {
            return stage;
        }
        let bytes = |holding: Holding| {
            let bytes = holding_bytes(self.model, &holding, &problem.budget);
            bytes.map_or(u64::MAX, |bytes| bytes.total())
        };
        let first = GroupSet::none().with(0);
        let block = bytes(Holding {
            head_blocks: first,
            ..Holding::default()
        });
        let layers = (0u32..).zip(&self.model.layers);
        let groups = layers.filter(|(_, layer)| !layer.group_bytes.is_empty());
        let group = groups.map(|(at, _)| {
            bytes(Holding {
                groups: std::iter::once((at, first)).collect(),
                ..Holding::default()
            })
        });
        let group = (
            "one expert group of one layer",
            group.min().unwrap_or(u64::MAX),
        );
        let block = ("one block of the output head", block);
        let parts = [stage, group, block].into_iter();
        parts.min_by_key(|(_, bytes)| *bytes).unwrap_or(stage)
    }

    /// How many nodes can all have a part, those with most memory first, as far as the search finds out.
    fn most_with_a_part(&self, problem: &Problem<'_>) -> usize {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|node| std::cmp::Reverse(self.nodes[*node].memory_bytes));
        let everybody = |count: u32| {
            let mut chosen = order.clone();
            chosen.truncate(count as usize);
            chosen.sort_unstable();
            let nodes: Vec<NodeFacts> = chosen.iter().map(|at| self.nodes[*at].clone()).collect();
            search(&problem.over(&nodes, &chosen), self.space(), Effort::AnyFit).is_some()
        };
        most(0, u32::try_from(order.len()).unwrap_or(u32::MAX), everybody) as usize
    }
}
