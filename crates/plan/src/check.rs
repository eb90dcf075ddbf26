//! Whether a plan that somebody hands in suits the model and the nodes at hand.
//!
//! Owns the check behind `--plan FILE`. It trusts no figure of the file: layer ranges must cover the model in order, each
//! node must be here and is a stage at most once, and the bytes are counted anew.

use proto::facts::ModelFacts;
use proto::{NodeId, limits};

use crate::fill::pages_of;
use crate::request::{SEQUENCES_MAX, validate_model, validate_nodes};
use crate::{NodeFacts, Plan, PlanError, PlanRequest, holding_bytes};

mod away;

/// Checks `plan` against the model and the nodes. A node is known by its id, or else by its name where just one node
/// has it.
///
/// # Errors
/// The first thing that is wrong: another model, a gap or an overlap, an unknown node or one used twice, a group or head
/// block that does not exist or has two owners, too little memory.
pub fn check(plan: &Plan, model: &ModelFacts, nodes: &[NodeFacts]) -> Result<(), PlanError> {
    checked(plan, model, nodes).map(|_| ())
}

/// The plan with the ids and names of the nodes at hand, once it has passed its checks.
fn checked(plan: &Plan, model: &ModelFacts, nodes: &[NodeFacts]) -> Result<Plan, PlanError> {
    validate_model(model)?;
    validate_nodes(nodes)?;
    if plan.model != model.id {
        return Err(PlanError::Model {
            got: plan.model.clone(),
            expected: model.id.clone(),
        });
    }
    check_budget(plan, model)?;
    check_cover(plan, model)?;
    let mut plan = plan.clone();
    name_stages(&mut plan, nodes)?;
    away::name_owners(&mut plan, nodes)?;
    away::check(&plan, model)?;
    for part in plan.parts(model) {
        let offered = nodes.iter().find(|node| node.id == part.node);
        let offered_bytes = offered.map_or(0, |node| node.memory_bytes);
        let needed_bytes = holding_bytes(model, &part.holding, &plan.budget())?.total();
        if needed_bytes <= offered_bytes {
            continue;
        }
        let name = part.name;
        return Err(match part.stage {
            Some(stage) => PlanError::StageTooLarge {
                stage,
                name,
                needed_bytes,
                offered_bytes,
            },
            None => PlanError::PartTooLarge {
                name,
                needed_bytes,
                offered_bytes,
            },
        });
    }
    Ok(plan)
}

/// Gives every stage the id and name of its node.
fn name_stages(plan: &mut Plan, nodes: &[NodeFacts]) -> Result<(), PlanError> {
    let mut used = Vec::with_capacity(plan.stages.len());
    for (at, stage) in plan.stages.iter_mut().enumerate() {
        let node =
            node_of(&stage.node, &stage.name, nodes).ok_or_else(|| PlanError::UnknownNode {
                stage: at,
                node: label(&stage.node, &stage.name),
                known: known(nodes),
            })?;
        if used.contains(&&node.id) {
            let got = label(&stage.node, &stage.name);
            return Err(wrong(at, "the node", got, "each node once"));
        }
        used.push(&node.id);
        stage.node = node.id.clone();
        stage.name = node.name.clone();
        stage.allowance_bytes = node.memory_bytes;
    }
    Ok(())
}

/// Checks `plan` and returns it with the ids and names of the nodes at hand, the bytes of the stages counted anew and
/// the speed predicted for these nodes. Its reasons stay as written. Of `request` only
/// model, nodes, links and coordinator are looked at.
///
/// # Errors
/// As [`check`].
pub fn adopt(plan: &Plan, request: &PlanRequest) -> Result<Plan, PlanError> {
    let nodes = &request.nodes;
    let mut adopted = checked(plan, &request.model, nodes)?;
    recount(&mut adopted, &request.model)?;
    adopted.links = adopted.links_used(&request.links);
    let idle = nodes.iter().filter(|node| !adopted.has(&node.id));
    adopted.left_out = idle
        .map(|node| crate::LeftOut {
            node: node.id.clone(),
            name: node.name.clone(),
            reason: "the given plan does not use it".to_owned(),
        })
        .collect();
    adopted.prediction = crate::speed::predict(&adopted, request);
    Ok(adopted)
}

/// Counts the bytes of the stages anew.
pub(crate) fn recount(plan: &mut Plan, model: &ModelFacts) -> Result<(), PlanError> {
    let budget = plan.budget();
    for part in plan.parts(model) {
        if let Some(stage) = part.stage.and_then(|at| plan.stages.get_mut(at)) {
            let bytes = holding_bytes(model, &part.holding, &budget)?;
            stage.weight_bytes = bytes.weight_bytes;
            stage.cache_bytes = bytes.cache_bytes;
            stage.scratch_bytes = bytes.scratch_bytes;
        }
    }
    Ok(())
}

fn known(nodes: &[NodeFacts]) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    names.join(", ")
}

fn label(node: &NodeId, name: &str) -> String {
    if name.is_empty() {
        node.to_string()
    } else {
        name.to_owned()
    }
}

fn node_of<'n>(id: &NodeId, name: &str, nodes: &'n [NodeFacts]) -> Option<&'n NodeFacts> {
    if let Some(node) = nodes.iter().find(|node| node.id == *id) {
        return Some(node);
    }
    let wanted = [name, id.as_str()];
    let mut named = nodes
        .iter()
        .filter(|node| !node.name.is_empty() && wanted.contains(&node.name.as_str()));
    let node = named.next()?;
    named.next().is_none().then_some(node)
}

fn wrong(
    stage: usize,
    what: &'static str,
    got: impl std::fmt::Display,
    expected: impl Into<String>,
) -> PlanError {
    PlanError::Stage {
        stage,
        what,
        got: got.to_string(),
        expected: expected.into(),
    }
}

fn refuse(
    what: &'static str,
    got: impl std::fmt::Display,
    expected: String,
) -> Result<(), PlanError> {
    Err(PlanError::Request {
        what,
        got: got.to_string(),
        expected,
    })
}

fn check_budget(plan: &Plan, model: &ModelFacts) -> Result<(), PlanError> {
    if plan.context == 0 || plan.context > model.context {
        let expected = format!("1 to {}, what the model was made for", model.context);
        return refuse("the plan's context", plan.context, expected);
    }
    if plan.slots == 0 || plan.slots > SEQUENCES_MAX {
        return refuse(
            "the plan's slots",
            plan.slots,
            format!("1 to {SEQUENCES_MAX}"),
        );
    }
    let least = pages_of(plan.context);
    let most = least.saturating_mul(SEQUENCES_MAX);
    if plan.pages < least || plan.pages > most {
        let expected = format!("{least} to {most}: at least one sequence of full context");
        return refuse("the plan's pages", plan.pages, expected);
    }
    if plan.chunk_rows == 0 || plan.chunk_rows > limits::STEP_ROWS_MAX {
        let expected = format!("1 to {}", limits::STEP_ROWS_MAX);
        return refuse("the plan's rows of a step", plan.chunk_rows, expected);
    }
    Ok(())
}

fn check_cover(plan: &Plan, model: &ModelFacts) -> Result<(), PlanError> {
    let layers = u32::try_from(model.layers.len()).unwrap_or(u32::MAX);
    let count = plan.stages.len();
    if count == 0 || count > limits::NODES_MAX {
        let expected = format!("1 to {}", limits::NODES_MAX);
        return refuse("the plan's number of stages", count, expected);
    }
    let mut next = 0;
    for (at, stage) in plan.stages.iter().enumerate() {
        if stage.first_layer != next {
            let expected = format!("{next}, where the stage before ends");
            return Err(wrong(at, "the first layer", stage.first_layer, expected));
        }
        if stage.end_layer <= stage.first_layer || stage.end_layer > layers {
            let expected = format!("{} to {layers}", stage.first_layer + 1);
            return Err(wrong(at, "the end layer", stage.end_layer, expected));
        }
        let (first, last) = (at == 0, at + 1 == count);
        if stage.embedding != first {
            let expected = format!("{first}: the embedding is on the first stage");
            return Err(wrong(at, "`embedding`", stage.embedding, expected));
        }
        if stage.head != last {
            let expected = format!("{last}: the head is on the last stage");
            return Err(wrong(at, "`head`", stage.head, expected));
        }
        next = stage.end_layer;
    }
    if next != layers {
        let expected = format!("{layers}, the number of the model's layers");
        return Err(wrong(count - 1, "the end layer", next, expected));
    }
    Ok(())
}
