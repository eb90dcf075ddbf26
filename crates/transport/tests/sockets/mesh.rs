//! Frames between neighbours: order, classes, loss and return.

use std::net::SocketAddr;

use proto::frame::Frame;
use proto::step::StepClass;
use proto::{NodeId, StepId};
use tokio::runtime::Runtime;
use transport::{Identity, MeshEvent, Role, SendError, Sockets};

use crate::house::{
    close_of, down, event, frame, loopback, open, open_at, peer, rows, silent, soon, up,
};

/// Two neighbours that know each other's address and are connected.
async fn pair() -> (Sockets, Sockets) {
    let (mut a, mut b) = (open(Role::Node), open(Role::Node));
    a.mesh.set_peers(vec![peer(&b)]);
    b.mesh.set_peers(vec![peer(&a)]);
    up(&mut a.mesh_events, b.endpoint.node_id()).await;
    up(&mut b.mesh_events, a.endpoint.node_id()).await;
    (a, b)
}

fn step_of(frame: &Frame) -> (StepClass, StepId) {
    match frame {
        Frame::Rows(rows) => (rows.step.class, rows.step.id),
        other => panic!("rows were expected, this came: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_the_order_of_their_class() {
    let (a, mut b) = pair().await;
    let to = b.endpoint.node_id().clone();
    let chunk = rows(1000, StepClass::Prefill, 1024, 2048);
    let sending = async {
        for id in 0..300 {
            if id % 100 == 0 {
                let big = rows(1000 + id / 100, StepClass::Prefill, 1024, 2048);
                a.mesh.send(&to, &big).await.unwrap();
            }
            let small = rows(id, StepClass::Decode, 1, 2048);
            a.mesh.send(&to, &small).await.unwrap();
        }
    };
    let (mut decode, mut prefill) = (Vec::new(), Vec::new());
    let receiving = async {
        while decode.len() + prefill.len() < 303 {
            let frame = frame(&mut b.mesh_events).await;
            match step_of(&frame) {
                (StepClass::Decode, id) => decode.push(id.0),
                (StepClass::Prefill, id) => prefill.push(id.0),
            }
            if step_of(&frame).1 == StepId(1000) {
                assert_eq!(frame, chunk);
            }
        }
    };
    tokio::join!(sending, receiving);
    assert_eq!(decode, (0..300).collect::<Vec<_>>());
    assert_eq!(prefill, [1000, 1001, 1002]);
    a.endpoint.close().await;
    b.endpoint.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_may_dial_at_once_and_one_connection_stays() {
    for _ in 0..10 {
        let (mut a, mut b) = pair().await;
        let (id_a, id_b) = (a.endpoint.node_id().clone(), b.endpoint.node_id().clone());
        for n in 0..20 {
            a.mesh.send(&id_b, &close_of(n)).await.unwrap();
            b.mesh.send(&id_a, &close_of(n)).await.unwrap();
            assert_eq!(frame(&mut b.mesh_events).await, close_of(n));
            assert_eq!(frame(&mut a.mesh_events).await, close_of(n));
        }
        soon(async {
            while a.endpoint.connections() != 1 || b.endpoint.connections() != 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(a.mesh.is_up(&id_b) && b.mesh.is_up(&id_a));
        assert!(a.mesh_events.try_recv().is_err() && b.mesh_events.try_recv().is_err());
        tokio::join!(a.endpoint.close(), b.endpoint.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_side_that_knows_the_address_is_enough() {
    let (mut a, mut b) = (open(Role::Node), open(Role::Node));
    let (id_a, id_b) = (a.endpoint.node_id().clone(), b.endpoint.node_id().clone());
    a.mesh.set_peers(vec![peer(&b)]);
    b.mesh.set_peers(vec![silent(&id_a)]);
    up(&mut a.mesh_events, &id_b).await;
    up(&mut b.mesh_events, &id_a).await;
    b.mesh.send(&id_a, &close_of(1)).await.unwrap();
    assert_eq!(frame(&mut a.mesh_events).await, close_of(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_learned_later_is_dialled() {
    let (mut a, b) = (open(Role::Node), open(Role::Node));
    let (id_a, id_b) = (a.endpoint.node_id().clone(), b.endpoint.node_id().clone());
    b.mesh.set_peers(vec![silent(&id_a)]);
    a.mesh.set_peers(vec![silent(&id_b)]);
    assert_eq!(
        a.mesh.send(&id_b, &close_of(1)).await,
        Err(SendError::Down(id_b.clone()))
    );
    a.mesh.set_peers(vec![peer(&b)]);
    up(&mut a.mesh_events, &id_b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_peer_any_more_is_dropped_and_refused() {
    let (mut a, mut b) = pair().await;
    let (id_a, id_b) = (a.endpoint.node_id().clone(), b.endpoint.node_id().clone());
    a.mesh.set_peers(Vec::new());
    let reason = down(&mut b.mesh_events, &id_a).await;
    assert!(reason.contains("no neighbour"), "{reason}");
    assert_eq!(
        a.mesh.send(&id_b, &close_of(1)).await,
        Err(SendError::NotAPeer(id_b.clone()))
    );
    // B goes on dialling and is in again once A wants it.
    a.mesh.set_peers(vec![silent(&id_b)]);
    up(&mut a.mesh_events, &id_b).await;
    up(&mut b.mesh_events, &id_a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_read_fills_a_bounded_queue() {
    let (a, mut b) = pair().await;
    let to = b.endpoint.node_id().clone();
    let chunk = |id| rows(id, StepClass::Prefill, 1024, 2048);
    let mut sent = 0;
    // The receiving side holds 64 events, the windows some chunks more, the queue four.
    soon(async {
        loop {
            match a.mesh.try_send(&to, &close_of(sent)) {
                Ok(()) => sent += 1,
                Err(SendError::Full(_)) if sent > 64 => break,
                Err(SendError::Full(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
            if sent > 64 && a.mesh.try_send(&to, &chunk(sent)) == Err(SendError::Full(to.clone())) {
                break;
            }
        }
    })
    .await;
    let mut closes = 0;
    while closes < sent {
        if let Frame::Close(close) = frame(&mut b.mesh_events).await {
            assert_eq!(close.sequences[0].0, closes);
            closes += 1;
        }
    }
}

/// A node in a runtime of its own, so that it can be killed without a farewell.
fn mortal(identity: &Identity, bind: SocketAddr) -> (Runtime, Sockets) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let guard = runtime.enter();
    let sockets = open_at(identity, Role::Node, bind);
    drop(guard);
    (runtime, sockets)
}

/// An identity whose id is below or above another.
fn identity_beside(other: &NodeId, smaller: bool) -> Identity {
    loop {
        let identity = Identity::generate();
        if (identity.node_id() < other) == smaller {
            return identity;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_is_noticed_and_taken_back_after_its_restart() {
    for smaller in [true, false] {
        let mut a = open(Role::Node);
        let id_a = a.endpoint.node_id().clone();
        let identity = identity_beside(&id_a, smaller);
        let id_b = identity.node_id().clone();
        let (runtime, b) = mortal(&identity, loopback());
        a.mesh.set_peers(vec![peer(&b)]);
        b.mesh.set_peers(vec![peer(&a)]);
        up(&mut a.mesh_events, &id_b).await;
        runtime.shutdown_background();
        // It comes back somewhere else, long before its silence is noticed.
        let (runtime, mut b) = mortal(&identity, loopback());
        b.mesh.set_peers(vec![peer(&a)]);
        down(&mut a.mesh_events, &id_b).await;
        up(&mut a.mesh_events, &id_b).await;
        up(&mut b.mesh_events, &id_a).await;
        a.mesh.send(&id_b, &close_of(5)).await.unwrap();
        assert_eq!(frame(&mut b.mesh_events).await, close_of(5));
        runtime.shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_lost() {
    let mut a = open(Role::Node);
    let identity = Identity::generate();
    let (runtime, b) = mortal(&identity, loopback());
    a.mesh.set_peers(vec![peer(&b)]);
    b.mesh.set_peers(vec![peer(&a)]);
    up(&mut a.mesh_events, identity.node_id()).await;
    runtime.shutdown_background();
    let reason = down(&mut a.mesh_events, identity.node_id()).await;
    assert!(reason.contains("no sign of life"), "{reason}");
    assert!(!a.mesh.is_up(identity.node_id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_closes_is_lost_at_once() {
    let (mut a, b) = pair().await;
    let id_b = b.endpoint.node_id().clone();
    b.endpoint.close().await;
    let reason = down(&mut a.mesh_events, &id_b).await;
    assert!(reason.contains("the program ends"), "{reason}");
    let address = b.endpoint.local_addr();
    drop(b);
    // The socket's own task lets go of the port once nobody holds it.
    soon(async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_three_passes_frames_on() {
    let (mut a, mut b, mut c) = (open(Role::Coordinator), open(Role::Node), open(Role::Node));
    let ids = [&a, &b, &c].map(|s| s.endpoint.node_id().clone());
    a.mesh.set_peers(vec![peer(&b), peer(&c)]);
    b.mesh.set_peers(vec![peer(&a), peer(&c)]);
    c.mesh.set_peers(vec![peer(&b), peer(&a)]);
    for events in [&mut a.mesh_events, &mut b.mesh_events, &mut c.mesh_events] {
        for _ in 0..2 {
            assert!(matches!(event(events).await, MeshEvent::Up(_)));
        }
    }
    a.mesh.send(&ids[1], &close_of(9)).await.unwrap();
    let passed = frame(&mut b.mesh_events).await;
    b.mesh.send(&ids[2], &passed).await.unwrap();
    let MeshEvent::Frame { from, frame } = event(&mut c.mesh_events).await else {
        panic!("no frame came");
    };
    assert_eq!((from, frame), (ids[1].clone(), close_of(9)));
}
