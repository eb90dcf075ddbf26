//! Plan files that tests hand to `--plan FILE`.

use std::path::{Path, PathBuf};

use plan::{NodeFacts, PlanMode, PlanRequest};
use proto::NodeId;
use serde_json::{Value, json};

/// Positions that the plans of the tests allow; the recorded prompts and answers fit.
pub const CONTEXT: u32 = 512;

/// A plan that cuts `layers` layers of `model` at `cuts` and gives the parts to nodes `n0`, `n1`, … in order.
#[must_use]
pub fn cut(model: &str, layers: u32, cuts: &[u32]) -> Value {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([layers]);
    let stages: Vec<Value> = starts
        .zip(ends)
        .enumerate()
        .map(|(at, (first, end))| {
            let name = format!("n{at}");
            json!({
                "node": name, "name": name, "first_layer": first, "end_layer": end,
                "embedding": first == 0, "head": end == layers,
            })
        })
        .collect();
    json!({
        "model": model, "kv": "f32", "context": CONTEXT, "pages": 4 * CONTEXT / 64, "slots": 4,
        "chunk_rows": 64, "stages": stages,
    })
}

/// Numbers that look random and are the same on every run.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).expect("31 bits") % n.max(1)
    }
}

/// A plan for nodes `n0`, `n1`, … that cuts a model's layers at random places and puts random expert groups and head
/// blocks on random nodes.
#[must_use]
pub fn spread(model: &Path, nodes: u32, dice: &mut Dice) -> Value {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let layers = u32::try_from(facts.layers.len()).expect("few layers");
    let mut cuts: Vec<u32> = (0..dice.below(nodes))
        .map(|_| 1 + dice.below(layers - 1))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut plan = cut(&facts.id, layers, &cuts);
    let stays = dice.below(4);
    let mut owner = |stage: usize| {
        let other = usize::try_from(dice.below(nodes)).expect("few nodes");
        let stays = dice.below(4) < stays;
        (!stays && other != stage).then(|| format!("n{other}"))
    };
    let mut experts = Vec::new();
    for (layer, of_layer) in (0..layers).zip(&facts.layers) {
        let stage = cuts.iter().filter(|cut| **cut <= layer).count();
        for group in 0..of_layer.group_bytes.len() {
            if let Some(node) = owner(stage) {
                experts.push(json!({
                    "node": node, "first_layer": layer, "end_layer": layer + 1, "groups": [group],
                }));
            }
        }
    }
    let blocks: Vec<Value> = (0..proto::facts::expert_groups(facts.vocab))
        .filter_map(|block| Some(json!({"node": owner(cuts.len())?, "blocks": [block]})))
        .collect();
    plan["experts"] = json!(experts);
    plan["head_blocks"] = json!(blocks);
    plan
}

/// A plan with all layers on `n0`, and groups from `first_group` on and half of the head on `n1`.
#[must_use]
pub fn lent(model: &Path, first_group: u32) -> Value {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let layers = u32::try_from(facts.layers.len()).expect("few layers");
    let mut plan = cut(&facts.id, layers, &[]);
    let groups: Vec<u32> = (first_group..proto::facts::expert_groups(facts.experts)).collect();
    let blocks = proto::facts::expert_groups(facts.vocab);
    let blocks: Vec<u32> = (blocks / 2..blocks).collect();
    plan["experts"] = json!([{
        "node": "n1", "first_layer": 0, "end_layer": layers, "groups": groups,
    }]);
    plan["head_blocks"] = json!([{"node": "n1", "blocks": blocks}]);
    plan
}

/// Writes a plan to a file.
#[must_use]
pub fn write(plan: &Value, folder: &Path) -> PathBuf {
    let path = folder.join("plan.json");
    std::fs::write(&path, plan.to_string()).expect("the plan can be written");
    path
}

/// The least memory per node with which `nodes` nodes can run a model with one sequence of `context` positions; fewer
/// nodes with as much cannot.
#[must_use]
pub fn least_memory(model: &Path, nodes: usize, context: u32) -> u64 {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let works = |nodes: usize, memory_bytes: u64| {
        let node = |at: usize| NodeFacts {
            id: NodeId::new(format!("n{at}")).expect("an id"),
            name: format!("n{at}"),
            memory_bytes,
            read_bytes_per_s: 1e9,
            macs_per_s: 1e9,
        };
        let request = PlanRequest {
            model: facts.clone(),
            nodes: (0..nodes).map(node).collect(),
            links: Vec::new(),
            context: Some(context),
            sequences: 1,
            kv: None,
            mode: PlanMode::Layers,
            exchange: false,
            coordinator: None,
        };
        plan::plan(&request).is_ok()
    };
    let (mut fails, mut good) = (0, facts.file_bytes * 64);
    assert!(works(nodes, good), "much memory is enough");
    while good - fails > 1024 {
        let middle = fails.midpoint(good);
        if works(nodes, middle) {
            good = middle;
        } else {
            fails = middle;
        }
    }
    assert!(
        nodes == 1 || !works(nodes - 1, good),
        "fewer nodes would do as well"
    );
    good
}

/// All ways to cut `layers` layers into `parts` parts.
#[must_use]
pub fn cuts(layers: u32, parts: usize) -> Vec<Vec<u32>> {
    fn extend(from: u32, layers: u32, left: usize, cut: &mut Vec<u32>, all: &mut Vec<Vec<u32>>) {
        if left == 0 {
            all.push(cut.clone());
            return;
        }
        for at in from..layers {
            cut.push(at);
            extend(at + 1, layers, left - 1, cut, all);
            cut.pop();
        }
    }
    let mut all = Vec::new();
    extend(1, layers, parts - 1, &mut Vec::new(), &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_is_made_once() {
        assert_eq!(cuts(8, 1), [Vec::<u32>::new()]);
        assert_eq!(cuts(4, 2), [[1], [2], [3]]);
        assert_eq!(cuts(8, 3).len(), 21);
    }

    #[test]
    fn spread_plans_are_plans_and_move_something() {
        let mut dice = Dice(1);
        let model = crate::fixtures::gguf("qwen3_5_moe");
        let moved = (0..8).filter(|round| {
            let text = spread(&model, 1 + round % 4, &mut dice).to_string();
            plan::Plan::from_json(&text).unwrap().exchanges()
        });
        assert!(moved.count() >= 4);
        assert!(
            plan::Plan::from_json(&lent(&model, 2).to_string())
                .unwrap()
                .exchanges()
        );
    }

    #[test]
    fn a_cut_is_a_plan_that_the_service_reads() {
        let text = cut("m", 8, &[3, 5]).to_string();
        let plan = plan::Plan::from_json(&text).unwrap();
        assert_eq!(plan.stages.len(), 3);
        assert_eq!(plan.stages[1].first_layer, 3);
    }
}
