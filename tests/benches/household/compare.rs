//! Placements side by side: all households wait at the same time, and each round goes through all of them.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tests::lan::{Link, Rig};
use tests::plans;
use tests::set::Set;

use crate::home::{Household, together};
use crate::median;

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
    predicted: Value,
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
        let mut set = set.clone().with("plan", &plan).with("nodes", nodes);
        for (key, value) in [("threads", "1"), ("core", "0"), ("chats", "2")] {
            set.or(key, value);
        }
        let household = Household::start(model, dir.path(), &set, rig).await;
        household.ready().await;
        household.complete(0, LEAD, 4).await;
        let shown = household.told("plan").await;
        if shown["stages"].as_array().is_some() && !name.starts_with("alone") {
            println!("{name}: {}", outline(&shown));
        }
        Self {
            name: name.to_owned(),
            household,
            _dir: dir,
            predicted: shown["prediction"].clone(),
            one: Vec::new(),
            two: Vec::new(),
            prompt: Vec::new(),
        }
    }

    async fn round(&mut self, salt: u64, (tokens, prompt): (u64, u64)) {
        let answers = self.household.chats(salt, (1, LEAD, tokens)).await;
        self.one.push(together(&answers));
        let answers = self.household.chats(salt + 1, (2, LEAD, tokens)).await;
        self.two.push(together(&answers));
        if prompt > 0 {
            let answer = self.household.complete(salt + 3, prompt, 1).await;
            self.prompt.push(prompt as f64 / answer.first_s());
        }
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

fn show(side: &Side, what: &str, values: &[f64], first: &[f64], predicted: Option<f64>) {
    let mut values = values.to_vec();
    if values.is_empty() {
        return;
    }
    let mut ratios: Vec<f64> = values.iter().zip(first).map(|(v, f)| v / f).collect();
    let (middle, ratio) = (median(&mut values), median(&mut ratios));
    let predicted = predicted.map_or(String::new(), |p| {
        format!(", {p:.2} predicted ({:+.0} %)", 100.0 * (p / middle - 1.0))
    });
    println!(
        "{}, {what}: {middle:.2} tokens/s ({:.2} to {:.2}), {ratio:.2} x ({:.2} to {:.2}){predicted}",
        side.name,
        values[0],
        values[values.len() - 1],
        ratios[0],
        ratios[ratios.len() - 1],
    );
}

/// Measures placements beside the first of them, round by round.
pub async fn compare(model: &Path, names: &str, set: &Set) {
    let (rounds, tokens) = (set.number("rounds", 5), set.number("tokens", 24));
    let prompt = set.number("prompt", 0);
    let mut sides = Vec::new();
    let mut rigs = Vec::new();
    for name in names.split(',') {
        let rig = set.get("link").map(|link| {
            let link: Link = link.parse().expect("a link");
            Arc::new(Rig::new(&[link, link], 7).expect("an emulated LAN"))
        });
        sides.push(Side::start(model, name, set, rig.as_ref()).await);
        rigs.extend(rig);
    }
    for round in 1..=rounds {
        for side in &mut sides {
            side.round(round * 64, (tokens, prompt)).await;
        }
    }
    for side in &sides {
        let first = &sides[0];
        let number = |name: &str| side.predicted[name].as_f64();
        show(
            side,
            "one chat",
            &side.one,
            &first.one,
            number("decode_tokens_per_s"),
        );
        // The ratio that matters is to one chat of the first.
        show(side, "two chats", &side.two, &first.one, None);
        let prompts = number("prefill_s_per_1k_tokens").map(|s| 1000.0 / s);
        show(
            side,
            &format!("prompt of {prompt}"),
            &side.prompt,
            &first.prompt,
            prompts,
        );
    }
}
