//! Devices that send what they must not: they lose their connection, and nobody else notices.

use proto::frame::{FrameHeader, HEADER_BYTES};
use proto::step::StepClass;
use transport::{MeshEvent, Role, Sockets};

use crate::house::{Rogue, close_of, closed, down, event, frame, open, peer, rows, silent, up};

fn preface(class: u8) -> Vec<u8> {
    [b"HTN1".as_slice(), &[class, 0, 0, 0], &[9; 8]].concat()
}

/// A node, an honest neighbour, and a rogue that is a neighbour as well.
async fn house() -> (Sockets, Sockets, Rogue) {
    let (mut node, mut honest, rogue) = (open(Role::Node), open(Role::Node), Rogue::new());
    node.mesh.set_peers(vec![
        silent(honest.endpoint.node_id()),
        silent(&rogue.node_id()),
    ]);
    honest.mesh.set_peers(vec![peer(&node)]);
    up(&mut node.mesh_events, honest.endpoint.node_id()).await;
    up(&mut honest.mesh_events, node.endpoint.node_id()).await;
    (node, honest, rogue)
}

async fn honest_goes_on(node: &mut Sockets, honest: &Sockets) {
    let to = node.endpoint.node_id();
    honest.mesh.send(to, &close_of(3)).await.unwrap();
    assert_eq!(frame(&mut node.mesh_events).await, close_of(3));
}

/// A frame of one decode row, with a change to its bytes.
fn broken(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = rows(1, StepClass::Decode, 1, 16).encode();
    change(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_frame_costs_its_sender_the_connection_and_nobody_else() {
    let (mut node, honest, rogue) = house().await;
    let table: [(&str, Vec<u8>); 7] = [
        ("version", broken(|b| b[0] = 2)),
        ("kind", broken(|b| b[1] = 99)),
        ("body_bytes", broken(|b| b[44] = 0xff)),
        ("rows", broken(|b| b[31] = 0xff)),
        ("meta_bytes", broken(|b| b[43] = 0xff)),
        (
            "tables",
            broken(|b| {
                // One table byte more than the segments need: it comes out of the rows that follow.
                b[40] += 1;
                b.push(0);
            }),
        ),
        ("inside a frame", broken(|b| b.truncate(HEADER_BYTES + 3))),
    ];
    for (expected, bytes) in table {
        let connection = rogue.dial(&node, "hearth-tensor/1").await;
        let mut decode = connection.open_uni().await.unwrap();
        let mut expert = connection.open_uni().await.unwrap();
        let mut prefill = connection.open_uni().await.unwrap();
        prefill.write_all(&preface(1)).await.unwrap();
        expert.write_all(&preface(2)).await.unwrap();
        decode.write_all(&preface(0)).await.unwrap();
        up(&mut node.mesh_events, &rogue.node_id()).await;
        decode.write_all(&bytes).await.unwrap();
        if expected == "inside a frame" {
            decode.finish().unwrap();
        }
        let reason = down(&mut node.mesh_events, &rogue.node_id()).await;
        assert!(reason.contains(expected), "{expected}: {reason}");
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, 3, "{reason}");
        assert!(reason.contains(expected), "{expected}: {reason}");
        honest_goes_on(&mut node, &honest).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_of_many_bytes_is_not_believed_before_they_come() {
    let (mut node, honest, rogue) = house().await;
    let connection = rogue.dial(&node, "hearth-tensor/1").await;
    let mut decode = connection.open_uni().await.unwrap();
    let mut expert = connection.open_uni().await.unwrap();
    let mut prefill = connection.open_uni().await.unwrap();
    prefill.write_all(&preface(1)).await.unwrap();
    expert.write_all(&preface(2)).await.unwrap();
    decode.write_all(&preface(0)).await.unwrap();
    up(&mut node.mesh_events, &rogue.node_id()).await;
    // 4096 rows of 16384 values are 256 MiB, the most that a header may promise.
    let mut header = broken(|_| {});
    header.truncate(HEADER_BYTES);
    header[28..32].copy_from_slice(&4096u32.to_le_bytes());
    header[32..36].copy_from_slice(&16384u32.to_le_bytes());
    header[44..48].copy_from_slice(&(256u32 << 20).to_le_bytes());
    assert!(FrameHeader::parse(header[..].try_into().unwrap()).is_ok());
    decode.write_all(&header).await.unwrap();
    honest_goes_on(&mut node, &honest).await;
    connection.close(0u32.into(), b"");
    down(&mut node.mesh_events, &rogue.node_id()).await;
    honest_goes_on(&mut node, &honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_start_otherwise_are_refused() {
    let (mut node, honest, rogue) = house().await;
    let three = |first: Vec<u8>, second: Vec<u8>| [first, second, preface(2)];
    let mut other_instance = preface(1);
    other_instance[15] ^= 1;
    for prefaces in [
        three(b"GET / HTTP/1.1\r\n".to_vec(), preface(1)),
        three(preface(0), preface(0)),
        three(preface(0), preface(7)),
        three(preface(0), other_instance),
    ] {
        let connection = rogue.dial(&node, "hearth-tensor/1").await;
        for bytes in prefaces {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.finish().unwrap();
        }
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, 3, "{reason}");
        assert!(reason.contains("version"), "{reason}");
    }
    honest_goes_on(&mut node, &honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_the_data_plane_is_refused_while_members_go_on() {
    let (mut node, honest, _) = house().await;
    let stranger = Rogue::new();
    for _ in 0..5 {
        let connection = stranger.dial(&node, "hearth-tensor/1").await;
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, 1, "{reason}");
        assert!(reason.contains("no neighbour"), "{reason}");
        honest_goes_on(&mut node, &honest).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_quic_are_ignored() {
    let (mut node, honest, _) = house().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0usize, 1, 20, 1200] {
        for byte in [0u8, 0x40, 0xc0, 0xff] {
            let junk = vec![byte; length];
            socket.send_to(&junk, node.endpoint.local_addr()).unwrap();
        }
    }
    honest_goes_on(&mut node, &honest).await;
    node.mesh.set_peers(Vec::new());
    let mut honest = honest;
    assert!(matches!(
        event(&mut honest.mesh_events).await,
        MeshEvent::Down { .. }
    ));
}
