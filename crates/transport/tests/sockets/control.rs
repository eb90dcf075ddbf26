//! Messages between a node and the coordinator.

use proto::Epoch;
use proto::control::{
    Assign, Beat, CacheType, CoordinatorMessage, LoadProgress, NodeMessage, Refused, Welcome,
};
use transport::{ControlError, ControlLink, ControlPeer, Role, Sockets};

use crate::house::{hello, open, peer, soon};

async fn attached() -> (Sockets, ControlLink, Sockets, ControlPeer) {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    coordinator
        .endpoint
        .members()
        .admit(node.endpoint.node_id().clone());
    let link = soon(node.endpoint.attach(&peer(&coordinator), hello("attic")))
        .await
        .unwrap();
    let met = soon(coordinator.control.recv()).await.unwrap();
    (node, link, coordinator, met)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_both_ways_in_order() {
    let (node, mut link, coordinator, mut met) = attached().await;
    assert_eq!(met.node, *node.endpoint.node_id());
    assert_eq!(met.hello, hello("attic"));
    let welcome = CoordinatorMessage::Welcome(Welcome {
        lease_ms: 5000,
        household: "home".into(),
    });
    let assign = CoordinatorMessage::Assign(Box::new(Assign {
        epoch: Epoch(1),
        model_path: "/models/tiny.gguf".into(),
        model_bytes: 77,
        model_blake3: [3; 32],
        layers: 0..4,
        embedding: true,
        head: false,
        kv: CacheType::F32,
        pages: 64,
        slots: 4,
        context: 1024,
        chunk_rows: 128,
        previous: None,
        next: Some(peer(&node)),
        first: None,
        coordinator: coordinator.endpoint.node_id().clone(),
        owners: Vec::new(),
        foreign: [].into(),
        head_blocks: proto::GroupSet::none(),
        askers: Vec::new(),
    }));
    for message in [&welcome, &assign] {
        met.sender.send(message.clone()).await.unwrap();
    }
    assert_eq!(soon(link.receiver.recv()).await.unwrap(), welcome);
    assert_eq!(soon(link.receiver.recv()).await.unwrap(), assign);
    for done in 0..500 {
        let progress = NodeMessage::Load(LoadProgress {
            epoch: Epoch(1),
            done_bytes: done,
            total_bytes: 500,
        });
        link.sender.send(progress.clone()).await.unwrap();
        if done % 7 == 0 {
            link.sender
                .send(NodeMessage::Beat(Beat::default()))
                .await
                .unwrap();
            assert_eq!(soon(met.receiver.recv()).await.unwrap(), progress);
            let beat = soon(met.receiver.recv()).await.unwrap();
            assert_eq!(beat, NodeMessage::Beat(Beat::default()));
        } else {
            assert_eq!(soon(met.receiver.recv()).await.unwrap(), progress);
        }
    }
    node.endpoint.close().await;
    coordinator.endpoint.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_cannot_be_used_is_refused_with_its_field() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    coordinator
        .endpoint
        .members()
        .admit(node.endpoint.node_id().clone());
    let error = soon(node.endpoint.attach(&peer(&coordinator), hello(" ")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("hello.name"), "{error}");
    assert!(coordinator.control.try_recv().is_err());
    assert!(
        soon(node.endpoint.attach(&peer(&coordinator), hello("attic")))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_used_ends_the_connection_with_its_field() {
    let (_node, mut link, _coordinator, mut met) = attached().await;
    let mut broken = hello("attic");
    broken.macs_per_s = f64::NAN;
    link.sender.send(NodeMessage::Hello(broken)).await.unwrap();
    let error = soon(met.receiver.recv()).await.unwrap_err();
    assert!(matches!(error, ControlError::BadMessage(_)), "{error}");
    let error = soon(link.receiver.recv()).await.unwrap_err();
    assert!(error.to_string().contains("hello.macs_per_s"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_before_an_end_is_dropped_arrives() {
    let (_node, mut link, _coordinator, met) = attached().await;
    let refused = CoordinatorMessage::Refused(Refused {
        code: "version".into(),
        text: "update this machine".into(),
    });
    met.sender.send(refused.clone()).await.unwrap();
    drop(met);
    assert_eq!(soon(link.receiver.recv()).await.unwrap(), refused);
    assert!(soon(link.receiver.recv()).await.is_err());

    let (_node, link, _coordinator, mut met) = attached().await;
    link.sender.send(NodeMessage::Leave).await.unwrap();
    drop(link);
    assert_eq!(soon(met.receiver.recv()).await.unwrap(), NodeMessage::Leave);
    assert!(soon(met.receiver.recv()).await.is_err());
    assert!(soon(met.receiver.recv()).await.is_err(), "it stays over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_put_out_loses_its_connection_and_stays_out() {
    let (node, mut link, coordinator, mut met) = attached().await;
    coordinator
        .endpoint
        .members()
        .expel(node.endpoint.node_id());
    let error = soon(link.receiver.recv()).await.unwrap_err();
    assert_eq!(error.code(), "not_member", "{error}");
    assert!(error.to_string().contains("removed"), "{error}");
    assert!(soon(met.receiver.recv()).await.is_err());
    let error = soon(node.endpoint.attach(&peer(&coordinator), hello("attic")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "not_member", "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_either_program_reaches_the_other() {
    let (_node, mut link, coordinator, _met) = attached().await;
    coordinator.endpoint.close().await;
    let error = soon(link.receiver.recv()).await.unwrap_err();
    assert!(error.to_string().contains("program ends"), "{error}");

    let (node, _link, _coordinator, mut met) = attached().await;
    node.endpoint.close().await;
    let error = soon(met.receiver.recv()).await.unwrap_err();
    assert!(error.to_string().contains("program ends"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_has_a_second_connection() {
    let (node, link, mut coordinator, mut met) = attached().await;
    let second = soon(node.endpoint.attach(&peer(&coordinator), hello("attic")))
        .await
        .unwrap();
    let again = soon(coordinator.control.recv()).await.unwrap();
    assert_eq!(again.node, met.node);
    drop(link);
    assert!(soon(met.receiver.recv()).await.is_err());
    second.sender.send(NodeMessage::Leave).await.unwrap();
    let mut again = again;
    assert_eq!(
        soon(again.receiver.recv()).await.unwrap(),
        NodeMessage::Leave
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_an_ordinary_answer() {
    let (_node, _link, _coordinator, met) = attached().await;
    let text = "x".repeat(2000);
    let full = (0..100_000).find_map(|_| {
        let message = CoordinatorMessage::Kicked { text: text.clone() };
        met.sender.try_send(message).err()
    });
    assert_eq!(full, Some(ControlError::Full));
}
