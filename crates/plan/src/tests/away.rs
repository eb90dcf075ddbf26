//! Plans with expert groups and head blocks away from their stages: checked, adopted, counted.

use proptest::prelude::*;
use proto::GroupSet;

use super::*;
use crate::{
    ExpertsPlan, HeadBlocksPlan, Holding, LayerSpan, Plan, adopt, check, holding_bytes, slice_bytes,
};

/// Two stages of four layers on `a` and `b`; `c` and `d` are idle.
fn halves() -> (Plan, ModelFacts, Vec<NodeFacts>) {
    let text = r#"{"model":"moe","kv":"f16","context":1024,"pages":32,"slots":2,"chunk_rows":64,"stages":[
        {"node":"a","first_layer":0,"end_layer":4,"embedding":true,"head":false},
        {"node":"b","first_layer":4,"end_layer":8,"embedding":false,"head":true}]}"#;
    let nodes = ["a", "b", "c", "d"].map(|name| node(name, 8 * GIB, 1.0));
    (Plan::from_json(text).unwrap(), moe(8), nodes.to_vec())
}

fn experts(node: &str, first_layer: u32, end_layer: u32, groups: &[u32]) -> ExpertsPlan {
    ExpertsPlan {
        node: id(node),
        name: String::new(),
        first_layer,
        end_layer,
        groups: groups.to_vec(),
    }
}

fn blocks(node: &str, blocks: &[u32]) -> HeadBlocksPlan {
    HeadBlocksPlan {
        node: id(node),
        name: String::new(),
        blocks: blocks.to_vec(),
    }
}

fn spread() -> (Plan, ModelFacts, Vec<NodeFacts>) {
    let (mut plan, model, nodes) = halves();
    let all: Vec<u32> = (0..16).collect();
    plan.experts = vec![
        experts("c", 0, 2, &all),
        experts("b", 2, 4, &[0, 1, 2]),
        experts("c", 2, 8, &[7]),
        experts("a", 4, 5, &[15]),
    ];
    plan.head_blocks = vec![blocks("a", &[0, 1]), blocks("d", &[15])];
    (plan, model, nodes)
}

#[test]
fn parts_are_what_the_lists_say() {
    let (plan, model, nodes) = spread();
    let plan = adopt(&plan, &of(&model, &nodes)).unwrap();
    let parts = plan.parts(&model);
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["a-box", "b-box", "c-box", "d-box"]);
    let held = |part: usize, layer: u32| {
        let groups = &parts[part].holding.groups;
        groups.get(&layer).copied().unwrap_or_default()
    };
    assert_eq!(held(0, 0), GroupSet::none(), "a stage may keep no groups");
    assert_eq!(held(2, 1), GroupSet::all(16));
    assert_eq!(
        held(0, 2),
        GroupSet::all(16).without(GroupSet::from_bits(0b1000_0111))
    );
    assert_eq!(held(1, 3), GroupSet::from_bits(0b111));
    assert_eq!(held(0, 4), GroupSet::none().with(15));
    assert_eq!(held(1, 4).len(), 14);
    assert_eq!(parts[0].holding.head_blocks, GroupSet::from_bits(0b11));
    assert_eq!(parts[1].holding.head_blocks.len(), 13);
    assert!(parts[0].holding.asks_for_experts(&model) && parts[0].holding.serves_experts());
    assert!(parts[2].stage.is_none() && !parts[2].holding.asks_for_experts(&model));
    assert!(plan.left_out.is_empty(), "{:?}", plan.left_out);
}

#[test]
fn away_lists_survive_the_file_and_empty_ones_are_not_written() {
    let (plan, ..) = spread();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(Plan::from_json(&json).unwrap(), plan);
    let (plain, ..) = halves();
    let json = serde_json::to_string(&plain).unwrap();
    assert!(
        !json.contains("experts") && !json.contains("head_blocks"),
        "{json}"
    );
}

#[test]
fn a_whole_stage_takes_what_its_slice_takes() {
    let (plan, model, _) = halves();
    let budget = plan.budget();
    for tied_head in [false, true] {
        let model = ModelFacts {
            tied_head,
            embedding_bytes: if tied_head { 399 * MIB } else { 300 * MIB },
            ..model.clone()
        };
        for (first_layer, end_layer) in [(0, 8), (0, 3), (3, 8), (2, 5)] {
            let span = LayerSpan {
                first_layer,
                end_layer,
                embedding: first_layer == 0,
                head: end_layer == 8,
            };
            let held = holding_bytes(&model, &Holding::stage(&model, span), &budget);
            assert_eq!(held.unwrap(), slice_bytes(&model, &span, &budget).unwrap());
        }
    }
}

#[test]
fn a_node_with_groups_alone_has_no_caches() {
    let (plan, model, _) = spread();
    let parts = plan.parts(&model);
    let bytes = |at: usize| holding_bytes(&model, &parts[at].holding, &plan.budget()).unwrap();
    assert_eq!(bytes(2).weight_bytes, (2 * 16 + 6) * 30 * MIB);
    assert_eq!(bytes(2).cache_bytes, 0);
    assert!(bytes(2).scratch_bytes > 64 * 2048 * 48 * 4);
    let rows = 150_000 - 150_000 * 15 / 16;
    assert_eq!(bytes(3).weight_bytes, rows * (400 * MIB / 150_000));
    assert_eq!(bytes(3).cache_bytes, 0);
}

#[test]
fn a_block_of_a_tied_head_costs_nothing_beside_the_embedding() {
    let (mut plan, mut model, _) = halves();
    (model.tied_head, model.head_bytes) = (true, 300 * MIB + 8192);
    plan.head_blocks = vec![blocks("a", &[3]), blocks("c", &[4])];
    let parts = plan.parts(&model);
    let weights = |at: usize| {
        let bytes = holding_bytes(&model, &parts[at].holding, &plan.budget());
        bytes.unwrap().weight_bytes
    };
    let own = Holding::stage(&model, plan.stages[0].span());
    let alone = holding_bytes(&model, &own, &plan.budget()).unwrap();
    assert_eq!(weights(0), alone.weight_bytes);
    assert!(weights(2) > 18 * MIB, "the others map their rows");
}

#[test]
fn a_printed_plan_names_what_is_away() {
    let (plan, model, nodes) = spread();
    let text = crate::table::render_table(&adopt(&plan, &of(&model, &nodes)).unwrap());
    for line in [
        "experts of layers 2-3, groups 0, 1, 2: on b-box",
        "head blocks 15: on d-box",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }
}

#[test]
fn misplaced_groups_and_blocks_are_refused() {
    type Spoil = fn(&mut Plan, &mut Vec<NodeFacts>);
    let cases: [(&str, &str, Spoil); 15] = [
        ("plan_entry", "at least one layer", |p, _| {
            p.experts[0].end_layer = 0;
        }),
        ("plan_entry", "at least one layer", |p, _| {
            p.experts[2].end_layer = 9;
        }),
        ("plan_entry", "at least one layer", |p, _| {
            p.experts[2].end_layer = u32::MAX;
        }),
        ("plan_entry", "below 16", |p, _| p.experts[0].groups[3] = 16),
        ("plan_entry", "each number once", |p, _| {
            p.experts[0].groups[3] = 4;
        }),
        ("plan_entry", "at least one number", |p, _| {
            p.experts[0].groups.clear();
        }),
        ("plan_entry", "one owner", |p, _| {
            p.experts.push(experts("d", 7, 8, &[7]));
        }),
        ("plan_entry", "another node", |p, _| {
            p.experts.push(experts("b", 3, 5, &[9]));
        }),
        ("plan_entry", "here are: a-box, b-box", |p, _| {
            p.experts.push(experts("z", 3, 4, &[9]));
        }),
        ("plan_entry", "below 16", |p, _| {
            p.head_blocks[1].blocks.push(16);
        }),
        ("plan_entry", "one owner", |p, _| {
            p.head_blocks[1].blocks.push(1);
        }),
        ("plan_entry", "another node", |p, _| {
            p.head_blocks.push(blocks("b", &[9]));
        }),
        ("plan_entry", "here are", |p, _| {
            p.head_blocks.push(blocks("z", &[9]));
        }),
        ("plan_part_too_large", "offers 1.00 GiB", |_, nodes| {
            nodes[2].memory_bytes = GIB;
        }),
        ("plan_stage_too_large", "offers 1.00 GiB", |_, nodes| {
            nodes[1].memory_bytes = GIB;
        }),
    ];
    for (at, (code, words, spoil)) in cases.into_iter().enumerate() {
        let (mut plan, model, mut nodes) = spread();
        spoil(&mut plan, &mut nodes);
        let error = check(&plan, &model, &nodes).unwrap_err();
        assert_eq!(error.code(), code, "case {at}: {error}");
        assert!(error.to_string().contains(words), "case {at}: {error}");
    }
    let (mut plan, _, nodes) = halves();
    (plan.model, plan.experts) = ("dense".to_owned(), vec![experts("c", 0, 1, &[0])]);
    let error = check(&plan, &dense(8), &nodes).unwrap_err();
    assert!(error.to_string().contains("layers with experts"), "{error}");
}

#[test]
fn files_with_too_many_entries_are_refused() {
    let (plan, ..) = halves();
    let mut long = plan.clone();
    long.experts = vec![experts("c", 0, 1, &[0]); 4097];
    let mut wide = plan.clone();
    wide.head_blocks = vec![blocks("c", &[0; 17])];
    let mut named = plan;
    named.experts = vec![ExpertsPlan {
        name: "x".repeat(65),
        ..experts("c", 0, 1, &[0])
    }];
    for plan in [long, wide, named] {
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(Plan::from_json(&text).unwrap_err().code(), "plan_file");
    }
}

proptest! {
    /// However groups and blocks are spread, every byte of the model is somewhere, once.
    #[test]
    fn weights_are_on_one_node_each(owners in proptest::collection::vec(0usize..4, 8 * 16 + 16)) {
        let (mut plan, model, nodes) = halves();
        let names = ["a", "b", "c", "d"];
        for layer in 0..8u32 {
            for group in 0..16u32 {
                let owner = owners[(layer * 16 + group) as usize];
                if owner != layer as usize / 4 {
                    plan.experts.push(experts(names[owner], layer, layer + 1, &[group]));
                }
            }
        }
        for block in 0..16u32 {
            let owner = owners[128 + block as usize];
            if owner != 1 {
                plan.head_blocks.push(blocks(names[owner], &[block]));
            }
        }
        check(&plan, &model, &nodes).unwrap();
        let parts = plan.parts(&model);
        let sum: u64 = parts
            .iter()
            .map(|part| holding_bytes(&model, &part.holding, &plan.budget()).unwrap().weight_bytes)
            .sum();
        prop_assert_eq!(sum, model.weight_bytes());
    }
}

#[test]
fn groups_leave_their_stage_over_any_link_where_no_split_fits() {
    // One layer cannot be split, and no node holds its experts beside embedding and head.
    let nodes = vec![node("a", 1100 * MIB, 20.0), node("b", 1100 * MIB, 20.0)];
    let mut request = request(moe(1), nodes, PlanMode::Auto);
    request.context = Some(512);
    request.sequences = 1;
    request.links = vec![link("a", "b", 0.05)];
    assert!(crate::plan(&request).is_err());
    request.exchange = true;
    let plan = crate::plan(&request).unwrap();
    assert!(plan.exchanges(), "{plan:?}");
    check(&plan, &request.model, &request.nodes).unwrap();
}
