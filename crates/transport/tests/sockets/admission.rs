//! The socket itself: ports, keys, who may use which plane.

use proto::control::Peer;
use transport::{
    ControlError, DialError, Identity, Invite, PairError, Role, Secret, Settings, TransportError,
};

use crate::house::{Rogue, closed, hello, loopback, open, peer, silent, soon, timing};

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = open(Role::Node);
    let address = first.endpoint.local_addr();
    let settings = Settings {
        bind: address,
        role: Role::Node,
        timing: timing(),
    };
    let error = transport::open(&Identity::generate(), settings).unwrap_err();
    assert!(matches!(error, TransportError::PortInUse { .. }), "{error}");
    assert_eq!(error.code(), "port_in_use");
    assert!(error.to_string().contains(&address.port().to_string()));
    // The first goes on, and the port is free once it is closed.
    first.endpoint.close().await;
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_named() {
    let settings = Settings {
        bind: "192.0.2.1:0".parse().unwrap(),
        role: Role::Node,
        timing: timing(),
    };
    let error = transport::open(&Identity::generate(), settings).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn timings_that_contradict_each_other_are_refused() {
    let mut timing = timing();
    timing.keep_alive = timing.idle;
    let settings = Settings {
        bind: loopback(),
        role: Role::Node,
        timing,
    };
    let error = transport::open(&Identity::generate(), settings).unwrap_err();
    assert_eq!(error.code(), "settings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_at_the_address_is_not_spoken_to() {
    let (node, coordinator) = (open(Role::Node), open(Role::Coordinator));
    coordinator
        .endpoint
        .members()
        .admit(node.endpoint.node_id().clone());
    let mut expected = peer(&coordinator);
    expected.node = Identity::generate().node_id().clone();
    let error = soon(node.endpoint.attach(&expected, hello("attic"))).await;
    let ControlError::Dial(DialError::WrongPeer { address, .. }) = error.unwrap_err() else {
        panic!("another error was expected");
    };
    assert_eq!(address, coordinator.endpoint.local_addr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_key_is_found_behind_a_wrong_address() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let other = open(Role::Coordinator);
    coordinator
        .endpoint
        .members()
        .admit(node.endpoint.node_id().clone());
    let mut known = peer(&coordinator);
    known.addresses.insert(0, other.endpoint.local_addr());
    let link = soon(node.endpoint.attach(&known, hello("attic")))
        .await
        .unwrap();
    assert_eq!(link.remote, coordinator.endpoint.local_addr());
    let met = soon(coordinator.control.recv()).await.unwrap();
    assert_eq!(met.node, *node.endpoint.node_id());
    assert_eq!(met.remote, node.endpoint.local_addr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_offers_the_data_plane_alone() {
    let (node, other) = (open(Role::Node), open(Role::Node));
    let error = soon(other.endpoint.attach(&peer(&node), hello("attic")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ControlError::Dial(DialError::Refused { .. })),
        "{error}"
    );
    let invite = Invite::new(
        Secret::generate(),
        node.endpoint.node_id().clone(),
        vec![node.endpoint.local_addr()],
    );
    let error = soon(other.endpoint.pair(&invite.unwrap(), "attic"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PairError::Dial(DialError::Refused { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_the_control_plane_is_refused_while_members_go_on() {
    let (stranger, member) = (open(Role::Node), open(Role::Node));
    let mut coordinator = open(Role::Coordinator);
    coordinator
        .endpoint
        .members()
        .admit(member.endpoint.node_id().clone());
    let _link = soon(member.endpoint.attach(&peer(&coordinator), hello("in")))
        .await
        .unwrap();
    let met = soon(coordinator.control.recv()).await.unwrap();
    assert_eq!(met.hello.name, "in");
    let error = soon(stranger.endpoint.attach(&peer(&coordinator), hello("out")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "not_member", "{error}");
    assert!(error.to_string().contains("invite"), "{error}");
    let rogue = Rogue::new();
    let connection = rogue.dial(&coordinator, "hearth-ctl/1").await;
    assert_eq!(closed(&connection).await.0, 1);
    assert!(coordinator.control.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_dialled_is_explained() {
    let node = open(Role::Node);
    let id = Identity::generate().node_id().clone();
    let error = soon(node.endpoint.attach(&silent(&id), hello("a")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "no_address");
    let no_key = Peer {
        node: proto::NodeId::new("attic").unwrap(),
        addresses: vec![node.endpoint.local_addr()],
    };
    let error = soon(node.endpoint.attach(&no_key, hello("a")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "not_a_key");
    let v6 = Peer {
        node: id,
        addresses: vec!["[::1]:9".parse().unwrap()],
    };
    let error = soon(node.endpoint.attach(&v6, hello("a")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "unreachable");
    assert!(error.to_string().contains("[::1]:9"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_socket_has_no_tasks_left_and_says_so() {
    let node = open(Role::Node);
    let id = Identity::generate().node_id().clone();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let known = Peer {
        node: id,
        addresses: vec![nobody.local_addr().unwrap()],
    };
    node.mesh.set_peers(vec![known.clone()]);
    soon(node.endpoint.close()).await;
    assert_eq!(node.endpoint.connections(), 0);
    let error = soon(node.endpoint.attach(&known, hello("a")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "closed");
    soon(node.endpoint.close()).await;
}
