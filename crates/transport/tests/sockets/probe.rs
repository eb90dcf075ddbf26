//! Probes of links: what they find, who may ask for one, and that frames go first.

use proto::NodeId;
use transport::{ProbeError, Role};

use crate::house::{Rogue, close_of, closed, down, frame, open, peer, soon, up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_measured_both_ways() {
    let (a, b) = (open(Role::Node), open(Role::Node));
    b.endpoint.expect_probe(a.endpoint.node_id().clone());
    let link = soon(a.endpoint.probe(&peer(&b))).await.unwrap();
    assert!(
        !link.rtt.is_zero() && link.rtt.as_secs_f64() < 1.0,
        "{link:?}"
    );
    for bytes_per_s in [link.out_bytes_per_s, link.in_bytes_per_s] {
        assert!((1e4..1e13).contains(&bytes_per_s), "{link:?}");
    }
    a.endpoint.close().await;
    b.endpoint.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_probes_and_is_not_probed() {
    let (house, node) = (open(Role::Coordinator), open(Role::Node));
    let early = house.endpoint.clone();
    let at = peer(&node);
    let probe = tokio::spawn(async move { early.probe(&at).await });
    // The word that allows it may come later than the probe itself.
    soon(async {
        while node.endpoint.connections() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.endpoint.expect_probe(house.endpoint.node_id().clone());
    soon(probe).await.unwrap().unwrap();
    house.endpoint.expect_probe(node.endpoint.node_id().clone());
    let refused = soon(node.endpoint.probe(&peer(&house))).await;
    assert!(matches!(refused, Err(ProbeError::Dial(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_expected_is_refused() {
    let (a, b) = (open(Role::Node), open(Role::Node));
    let someone = NodeId::new("12D3KooWsomeone").unwrap();
    b.endpoint.expect_probe(someone);
    let refused = soon(a.endpoint.probe(&peer(&b))).await;
    assert!(
        matches!(&refused, Err(ProbeError::Broken { text, .. }) if text.contains("expects no probe")),
        "{refused:?}"
    );
    // An expectation is used up by one probe.
    b.endpoint.expect_probe(a.endpoint.node_id().clone());
    soon(a.endpoint.probe(&peer(&b))).await.unwrap();
    assert!(soon(a.endpoint.probe(&peer(&b))).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_probe_end_the_connection() {
    let node = open(Role::Node);
    let rogue = Rogue::new();
    for bytes in [[7u8; 16], [255; 16]] {
        node.endpoint.expect_probe(rogue.node_id());
        let connection = rogue.dial(&node, "hearth-probe/1").await;
        let (mut send, _recv) = soon(connection.open_bi()).await.unwrap();
        send.write_all(&bytes).await.unwrap();
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, 3, "{reason}");
    }
    // Pings without end are cut off.
    node.endpoint.expect_probe(rogue.node_id());
    let connection = rogue.dial(&node, "hearth-probe/1").await;
    let (mut send, _recv) = soon(connection.open_bi()).await.unwrap();
    let pings = vec![0u8; (16 + (8 << 10)) * 100];
    let _cut_off = send.write_all(&pings).await;
    assert_eq!(closed(&connection).await.0, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_end_a_probe_on_both_of_their_ends() {
    let (mut a, mut b, c) = (open(Role::Node), open(Role::Node), open(Role::Node));
    let (id_a, id_b) = (a.endpoint.node_id().clone(), b.endpoint.node_id().clone());
    a.mesh.set_peers(vec![peer(&b)]);
    b.mesh.set_peers(vec![peer(&a)]);
    up(&mut a.mesh_events, &id_b).await;
    up(&mut b.mesh_events, &id_a).await;
    // Nobody is expected at `c`, so that these probes wait there.
    let waits = |from: transport::Endpoint| {
        let at = peer(&c);
        tokio::spawn(async move { from.probe(&at).await })
    };
    let before = c.endpoint.connections();
    let (one, other) = (waits(a.endpoint.clone()), waits(b.endpoint.clone()));
    soon(async {
        while c.endpoint.connections() < before + 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    a.mesh.send(&id_b, &close_of(1)).await.unwrap();
    assert_eq!(frame(&mut b.mesh_events).await, close_of(1));
    assert_eq!(soon(one).await.unwrap(), Err(ProbeError::GaveWay));
    assert_eq!(soon(other).await.unwrap(), Err(ProbeError::GaveWay));
    b.endpoint.close().await;
    down(&mut a.mesh_events, &id_b).await;
}
