//! Software cost of one hop: a token's row from `Mesh::send` here to the decoded frame there, over loopback.
//!
//! Half of a round trip, so that one clock suffices: rows of 2048 values (8 KiB, one token of a 35B-A3B model)
//! go there and come back. Both ends share this process and its two worker threads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a bench that meets the unexpected has failed"
)]

use std::time::{Duration, Instant};

use proto::frame::{Frame, RowsFrame};
use proto::step::{Logits, Segment, Step, StepClass};
use proto::{Epoch, NodeId, SequenceId, StepId};
use transport::{Identity, MeshEvent, Peer, Role, Settings, Sockets, Timing};

const ROUNDS: u64 = 20_000;
const WARM_UP: u64 = 2_000;
const COLS: u32 = 2048;

fn row(id: u64, rows: u32, class: StepClass) -> Frame {
    let segment = Segment {
        sequence: SequenceId(1),
        slot: 0,
        start: 0,
        rows,
        logits: Logits::Last,
        commit: 0,
        provisional: 0,
        pages: Vec::new(),
        open: None,
    };
    Frame::Rows(RowsFrame {
        step: Step {
            epoch: Epoch(1),
            id: StepId(id),
            class,
            segments: vec![segment],
            tokens: vec![1; rows as usize],
        },
        layer: 1,
        cols: COLS,
        rows: vec![0.5; (rows * COLS) as usize],
    })
}

fn open() -> Sockets {
    let settings = Settings {
        bind: "127.0.0.1:0".parse().unwrap(),
        role: Role::Node,
        timing: Timing::default(),
    };
    transport::open(&Identity::generate(), settings).unwrap()
}

fn peer(sockets: &Sockets) -> Peer {
    Peer {
        node: sockets.endpoint.node_id().clone(),
        addresses: vec![sockets.endpoint.local_addr()],
    }
}

async fn frame(sockets: &mut Sockets) -> Frame {
    match sockets.mesh_events.recv().await.unwrap() {
        MeshEvent::Frame { frame, .. } => frame,
        other => panic!("{other:?}"),
    }
}

async fn up(sockets: &mut Sockets) {
    match sockets.mesh_events.recv().await.unwrap() {
        MeshEvent::Up(_) => {}
        other => panic!("{other:?}"),
    }
}

/// Sends back what comes.
async fn echo(mut sockets: Sockets, to: NodeId) {
    loop {
        let came = frame(&mut sockets).await;
        if sockets.mesh.send(&to, &came).await.is_err() {
            return;
        }
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{what}: median {:.1} us, p90 {:.1} us, p99 {:.1} us, worst {:.1} us ({} rounds)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        times.len()
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(runtime.spawn(measure())).unwrap();
}

async fn measure() {
    let (mut here, mut there) = (open(), open());
    here.mesh.set_peers(vec![peer(&there)]);
    there.mesh.set_peers(vec![peer(&here)]);
    up(&mut here).await;
    up(&mut there).await;
    let to = there.endpoint.node_id().clone();
    let echo = tokio::spawn(echo(there, here.endpoint.node_id().clone()));
    for (what, rows, class, rounds, warm_up) in [
        (
            "hop of 1 row x 2048 f32",
            1,
            StepClass::Decode,
            ROUNDS,
            WARM_UP,
        ),
        (
            "hop of 1024 rows x 2048 f32",
            1024,
            StepClass::Prefill,
            50,
            5,
        ),
    ] {
        let mut times = Vec::new();
        for id in 0..rounds + warm_up {
            let sent = row(id, rows, class);
            let start = Instant::now();
            here.mesh.send(&to, &sent).await.unwrap();
            let came = frame(&mut here).await;
            let time = start.elapsed() / 2;
            assert!(matches!(came, Frame::Rows(rows) if rows.step.id == StepId(id)));
            if id >= warm_up {
                times.push(time);
            }
        }
        report(what, times);
    }
    echo.abort();
    here.endpoint.close().await;
}
