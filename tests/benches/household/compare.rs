//! Placements side by side: all households wait at the same time, and each round goes through all of them.

use std::path::Path;
use std::sync::Arc;

use plan::{LinkFacts, NodeFacts, Plan, PlanMode, PlanRequest, Prediction};
use proto::NodeId;
use serde_json::{Value, json};
use tests::lan::Rig;
use tests::plans;
use tests::set::Set;

use crate::home::{Household, lan, together};
use crate::median;
use crate::speeds::Speeds;

/// Tokens of the prompt before an answer whose speed is measured.
const LEAD: u64 = 16;
/// Positions and conversations that a household has room for.
const CONTEXT: u32 = 2048;
const SLOTS: u32 = 2;

/// A plan for a placement by its name, or the planner's mode of that name.
fn placement(model: &Path, name: &str) -> Result<Value, String> {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let number = |text: &str| text.parse::<u32>().expect("a number behind the placement");
    let layers = u32::try_from(facts.layers.len()).expect("few layers");
    let mut plan = match (name.strip_prefix("cut"), name.strip_prefix("lent")) {
        (Some(cut), _) => plans::cut(&facts.id, layers, &[number(cut)]),
        (_, Some(kept)) => plans::lent(model, number(kept)),
        _ if name == "alone" => plans::cut(&facts.id, layers, &[]),
        _ => return Err(name.to_owned()),
    };
    plan["kv"] = json!("f16");
    plan["context"] = json!(CONTEXT);
    plan["slots"] = json!(SLOTS);
    plan["pages"] = json!(SLOTS * CONTEXT / 64);
    plan["chunk_rows"] = json!(256);
    Ok(plan)
}

struct Side {
    name: String,
    household: Household,
    /// Keeps its files.
    _dir: tempfile::TempDir,
    plan: Plan,
    links: Vec<LinkFacts>,
    one: Vec<f64>,
    two: Vec<f64>,
    prompt: Vec<f64>,
}

impl Side {
    async fn start(model: &Path, name: &str, set: &Set, rig: Option<&Arc<Rig>>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let plan = match placement(model, name) {
            Ok(plan) => {
                let path = plans::write(&plan, dir.path());
                path.to_str().expect("a path of plain text").to_owned()
            }
            Err(mode) => mode,
        };
        let nodes = if name == "alone" { "1" } else { "2" };
        let set = set.clone().with("plan", &plan).with("nodes", nodes);
        let household = Household::start(model, dir.path(), &set, rig).await;
        household.ready().await;
        household.complete(0, LEAD, 4).await;
        let shown = household.told("plan").await;
        println!("{name}: {}", outline(&shown));
        let mut links = household.told("nodes").await["links"].take();
        for link in links.as_array_mut().into_iter().flatten() {
            link.as_object_mut().expect("a link").remove("age_s");
        }
        Self {
            name: name.to_owned(),
            household,
            _dir: dir,
            plan: serde_json::from_value(shown).expect("a plan"),
            links: serde_json::from_value(links).expect("links"),
            one: Vec::new(),
            two: Vec::new(),
            prompt: Vec::new(),
        }
    }

    async fn round(&mut self, salt: u64, (tokens, prompt): (u64, u64)) {
        // First, because it also brings back what the system took from a household that waited.
        if prompt > 0 {
            let answer = self.household.complete(salt + 3, prompt, 1).await;
            self.prompt.push(prompt as f64 / answer.first_s());
        }
        let answers = self.household.chats(salt, (1, LEAD, tokens)).await;
        self.one.push(together(&answers));
        let answers = self.household.chats(salt + 1, (2, LEAD, tokens)).await;
        self.two.push(together(&answers));
    }
}

/// Stages and what is elsewhere, in one line.
fn outline(plan: &Value) -> String {
    let stages = plan["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|stage| {
            format!(
                "{} layers {}..{}{}",
                stage["name"].as_str().unwrap_or_default(),
                stage["first_layer"],
                stage["end_layer"],
                if stage["head"] == json!(true) {
                    " and head"
                } else {
                    ""
                },
            )
        });
    let experts = plan["experts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|part| {
            format!(
                "{} groups {} of {}..{}",
                part["name"].as_str().unwrap_or_default(),
                part["groups"],
                part["first_layer"],
                part["end_layer"]
            )
        });
    let head = plan["head_blocks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|part| {
            format!(
                "{} head blocks {}",
                part["name"].as_str().unwrap_or_default(),
                part["blocks"]
            )
        });
    stages
        .chain(experts)
        .chain(head)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What the planner predicts for the plan of a side from the speeds that its nodes had during the rounds.
fn predicted(model: &Path, side: &Side, speeds: &[Speeds]) -> Prediction {
    let plan = &side.plan;
    let named = plan.stages.iter().map(|part| (&part.node, &part.name));
    let named = named.chain(plan.experts.iter().map(|part| (&part.node, &part.name)));
    let named = named.chain(plan.head_blocks.iter().map(|part| (&part.node, &part.name)));
    let mut nodes: Vec<NodeFacts> = Vec::new();
    for (id, name) in named {
        if nodes.iter().all(|node| node.id != *id) {
            let at = name
                .trim_start_matches('n')
                .parse::<usize>()
                .expect("n0, n1");
            nodes.push(speeds[at].facts(id, name));
        }
    }
    let mut ends = side.links.iter().flat_map(|link| [&link.from, &link.to]);
    let coordinator: Option<NodeId> = ends
        .find(|end| nodes.iter().all(|node| node.id != **end))
        .cloned();
    let request = PlanRequest {
        model: model::Checkpoint::open(model).expect("a model").facts(),
        nodes,
        links: side.links.clone(),
        context: Some(plan.context),
        sequences: plan.slots,
        kv: Some(plan.kv),
        mode: PlanMode::Auto,
        exchange: true,
        coordinator,
    };
    plan::speed::predict(plan, &request)
}

/// Prints a row; gives the error of the prediction as a share of what was measured.
fn show(
    (name, what): (&str, &str),
    values: &[f64],
    first: &[f64],
    predicted: Option<f64>,
) -> Option<f64> {
    let mut values = values.to_vec();
    if values.is_empty() {
        return None;
    }
    let mut ratios: Vec<f64> = values.iter().zip(first).map(|(v, f)| v / f).collect();
    let (middle, ratio) = (median(&mut values), median(&mut ratios));
    let error = predicted.map(|predicted| predicted / middle - 1.0);
    let predicted = predicted
        .zip(error)
        .map(|(predicted, error)| format!(", {predicted:.2} predicted ({:+.0} %)", 100.0 * error));
    println!(
        "{name}, {what}: {middle:.2} tokens/s ({:.2} to {:.2}), {ratio:.2} x ({:.2} to {:.2}){}",
        values[0],
        values[values.len() - 1],
        ratios[0],
        ratios[ratios.len() - 1],
        predicted.unwrap_or_default()
    );
    error
}

/// Measures placements beside the first of them, round by round.
pub async fn compare(model: &Path, names: &str, set: &Set) {
    let (rounds, tokens) = (set.number("rounds", 5), set.number("tokens", 24));
    let prompt = set.number("prompt", 0);
    let mut set = set.clone();
    for (key, value) in [("threads", "1"), ("core", "0"), ("chats", "2")] {
        set.or(key, value);
    }
    let mut sides = Vec::new();
    let mut rigs = Vec::new();
    for name in names.split(',') {
        let rig = lan(&set, 2);
        sides.push(Side::start(model, name, &set, rig.as_ref()).await);
        rigs.extend(rig);
    }
    let mut speeds = [Speeds::new(0, &set), Speeds::new(1, &set)];
    for round in 1..=rounds {
        for speed in &mut speeds {
            speed.measure().await;
        }
        for side in &mut sides {
            side.round(round * 64, (tokens, prompt)).await;
        }
        // A run that is cut short has told what it found.
        let told = |side: &Side| {
            let last = |values: &[f64]| values.last().copied().unwrap_or_default();
            let (one, two) = (last(&side.one), last(&side.two));
            format!("{} {one:.2} and {two:.2}", side.name)
        };
        let told: Vec<String> = sides.iter().map(told).collect();
        println!("round {round}, one chat and two: {}", told.join(", "));
    }
    let mut errors = Vec::new();
    let first = &sides[0];
    for side in &sides {
        let predicted = predicted(model, side, &speeds);
        let name = side.name.as_str();
        let decode = Some(predicted.decode_tokens_per_s);
        errors.extend(show((name, "one chat"), &side.one, &first.one, decode));
        // The ratio that matters is to one chat of the first.
        show((name, "two chats"), &side.two, &first.one, None);
        // Predicted are prompts of a thousand tokens.
        let prefill = (prompt == 1000).then(|| 1000.0 / predicted.prefill_s_per_1k_tokens);
        let what = format!("prompt of {prompt}");
        show((name, &what), &side.prompt, &first.prompt, prefill);
    }
    let mut sizes: Vec<f64> = errors.iter().map(|error| 100.0 * error.abs()).collect();
    println!(
        "errors of the predicted decode speeds: median {:.0} %, largest {:.0} %",
        median(&mut sizes),
        sizes[sizes.len() - 1]
    );
}
