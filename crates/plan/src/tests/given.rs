//! Plans that somebody hands in: read, checked, adopted.

use super::*;
use crate::{Plan, PlanError, adopt, check, plan};

fn planned() -> (Plan, ModelFacts, Vec<NodeFacts>) {
    let nodes: Vec<NodeFacts> = ["a", "b", "c"].map(|name| node(name, GIB, 1.0)).to_vec();
    let request = request(dense(8), nodes.clone(), PlanMode::Layers);
    (plan(&request).unwrap(), request.model, nodes)
}

#[test]
fn what_is_printed_is_read_back() {
    let (plan, model, nodes) = planned();
    let json = serde_json::to_string(&plan).unwrap();
    assert!(!json.contains('\n'));
    let order: Vec<&str> = plan
        .stages
        .iter()
        .map(|stage| stage.node.as_str())
        .collect();
    assert_eq!(
        order,
        ["a", "b", "c"],
        "equal nodes in the order of their ids"
    );
    let read = Plan::from_json(&json).unwrap();
    assert_eq!(read, plan);
    check(&read, &model, &nodes).unwrap();
}

#[test]
fn the_json_form_is_stable() {
    let plan = Plan {
        model: "m".to_owned(),
        kv: crate::KvType::F16,
        context: 64,
        pages: 1,
        slots: 1,
        chunk_rows: 16,
        stages: vec![crate::StagePlan {
            node: id("a"),
            name: "box".to_owned(),
            first_layer: 0,
            end_layer: 2,
            embedding: true,
            head: true,
            weight_bytes: 10,
            cache_bytes: 20,
            scratch_bytes: 30,
            allowance_bytes: 100,
        }],
        experts: vec![],
        head_blocks: vec![],
        prediction: crate::Prediction {
            decode_s_per_token: 0.5,
            decode_tokens_per_s: 2.0,
            hops_s_per_token: 0.0,
            prefill_s_per_1k_tokens: 4.0,
            stage_s_per_token: vec![0.5],
            positions: 64,
        },
        reasons: vec!["why".to_owned()],
        left_out: vec![],
        links: vec![],
    };
    let expected = concat!(
        r#"{"model":"m","kv":"f16","context":64,"pages":1,"slots":1,"chunk_rows":16,"#,
        r#""stages":[{"node":"a","name":"box","first_layer":0,"end_layer":2,"embedding":true,"head":true,"#,
        r#""weight_bytes":10,"cache_bytes":20,"scratch_bytes":30,"allowance_bytes":100}],"#,
        r#""prediction":{"decode_s_per_token":0.5,"decode_tokens_per_s":2.0,"hops_s_per_token":0.0,"#,
        r#""prefill_s_per_1k_tokens":4.0,"stage_s_per_token":[0.5],"positions":64},"reasons":["why"],"left_out":[]}"#
    );
    assert_eq!(serde_json::to_string(&plan).unwrap(), expected);
}

#[test]
fn a_plan_written_by_hand_needs_only_the_placement() {
    let (_, model, nodes) = planned();
    let text = r#"{"model":"dense","kv":"f32","context":128,"pages":2,"slots":1,"chunk_rows":16,"stages":[
        {"node":"a","first_layer":0,"end_layer":3,"embedding":true,"head":false},
        {"node":"offline1","name":"c-box","first_layer":3,"end_layer":8,"embedding":false,"head":true}]}"#;
    let adopted = adopt(&Plan::from_json(text).unwrap(), &of(&model, &nodes)).unwrap();
    let nodes_used: Vec<&str> = adopted
        .stages
        .iter()
        .map(|stage| stage.node.as_str())
        .collect();
    assert_eq!(nodes_used, ["a", "c"], "known by id or by name");
    assert_eq!(adopted.stages[0].weight_bytes, 32 * MIB);
    assert_eq!(adopted.left_out[0].name, "b-box");
    assert!(adopted.prediction.decode_tokens_per_s > 0.0);
}

#[test]
fn texts_that_are_no_plan_are_refused() {
    let (plan, ..) = planned();
    let json = serde_json::to_string(&plan).unwrap();
    let long = format!("{}{}", json, " ".repeat(2 << 20));
    let cases = [
        String::new(),
        "[]".to_owned(),
        "[".repeat(100_000),
        json[..json.len() / 2].to_owned(),
        json.replacen("\"kv\"", "\"colour\":1,\"kv\"", 1),
        json.replacen("\"first_layer\"", "\"colour\":1,\"first_layer\"", 1),
        json.replacen("\"pages\":", "\"pages\":-", 1),
        json.replacen("\"node\":\"a\"", "\"node\":\"../a\"", 1),
        json.replacen(
            "\"name\":\"a-box\"",
            &format!("\"name\":\"{}\"", "x".repeat(65)),
            1,
        ),
        json.replacen("\"decode_s_per_token\":", "\"decode_s_per_token\":-1", 1),
        long,
    ];
    for text in cases {
        let outcome = Plan::from_json(&text);
        assert!(
            matches!(outcome, Err(PlanError::File { .. })),
            "{outcome:?}"
        );
    }
}

#[test]
fn plans_that_do_not_suit_are_refused() {
    type Spoil = fn(&mut Plan, &mut ModelFacts, &mut Vec<NodeFacts>);
    let cases: [(&str, Spoil); 18] = [
        ("plan_model", |p, _, _| p.model = "other".to_owned()),
        ("plan_stage", |p, _, _| p.stages[1].first_layer += 1),
        ("plan_stage", |p, _, _| p.stages[1].first_layer -= 1),
        ("plan_stage", |p, _, _| p.stages[0].end_layer = 0),
        ("plan_stage", |p, _, _| p.stages[2].end_layer = 9),
        ("plan_stage", |p, _, _| p.stages[2].end_layer = u32::MAX),
        ("plan_stage", |p, _, _| {
            p.stages.pop();
        }),
        ("plan_stage", |p, _, _| p.stages[0].embedding = false),
        ("plan_stage", |p, _, _| p.stages[1].head = true),
        ("plan_stage", |p, _, _| {
            p.stages[1].node = p.stages[0].node.clone();
        }),
        ("plan_unknown_node", |p, _, _| {
            p.stages[1].node = id("z");
            p.stages[1].name = "nobody".to_owned();
        }),
        ("plan_stage_too_large", |_, _, nodes| {
            for node in nodes {
                node.memory_bytes = 5 * MIB;
            }
        }),
        ("plan_request", |p, _, _| p.context = 5000),
        ("plan_request", |p, _, _| p.pages = 1),
        ("plan_request", |p, _, _| p.pages = u32::MAX),
        ("plan_request", |p, _, _| p.slots = 0),
        ("plan_request", |p, _, _| p.chunk_rows = u32::MAX),
        ("plan_request", |p, _, _| p.stages.clear()),
    ];
    for (at, (code, spoil)) in cases.into_iter().enumerate() {
        let (mut plan, mut model, mut nodes) = planned();
        spoil(&mut plan, &mut model, &mut nodes);
        let error = check(&plan, &model, &nodes).unwrap_err();
        assert_eq!(error.code(), code, "case {at}: {error}");
    }
}

#[test]
fn a_name_that_two_nodes_have_names_neither() {
    let (mut plan, model, mut nodes) = planned();
    plan.stages[0].node = id("offline0");
    plan.stages[0].name = "twin".to_owned();
    nodes[0].name = "twin".to_owned();
    check(&plan, &model, &nodes).unwrap();
    let mut twin = node("d", GIB, 1.0);
    twin.name = "twin".to_owned();
    nodes.push(twin);
    assert_eq!(
        check(&plan, &model, &nodes).unwrap_err().code(),
        "plan_unknown_node"
    );
}
