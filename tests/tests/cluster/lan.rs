//! A household over an emulated LAN gives the same answers as over loopback.

use std::sync::Arc;

use tests::lan::{Link, Rig};
use tests::{Wanted, fixtures};

#[tokio::test]
async fn two_nodes_over_a_gigabit_wire_give_the_recorded_ids() {
    let Some(rig) = Rig::or_skip(&[Link::GIGABIT; 3], 1) else {
        return;
    };
    let rig = Arc::new(rig);
    let cluster = Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .nodes(2)
        .serve(&["--plan", "layers"])
        .on(&rig, 0, &[1, 2])
        .ready()
        .await;
    let before = rig.report().counts;
    let api = cluster.api();
    for golden in fixtures::goldens("qwen3_5_moe") {
        let answer = api.greedy(&golden.prompt, golden.greedy.len(), 0).await;
        assert_eq!(answer.ids, golden.greedy, "{}", golden.name);
    }
    // The rows of every token have crossed the wire from one machine to the other: f32 rows of the hidden size.
    let after = rig.report().counts;
    for machine in [1, 2] {
        let received = after[machine].received - before[machine].received;
        assert!(received > 20, "machine {machine}: {after:?}");
    }
    let nodes = cluster.told(&["nodes"]).await;
    for (at, node) in nodes["nodes"].as_array().unwrap().iter().enumerate() {
        let remote: std::net::SocketAddr = node["remote"].as_str().unwrap().parse().unwrap();
        assert!(
            tests::lan::rig::is_machine(remote.ip()),
            "node {at}: {node}"
        );
    }
}
