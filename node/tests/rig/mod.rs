//! A node's computing thread behind a real link to a coordinator that the test plays.
#![allow(dead_code, reason = "each test file uses its own part of the rig")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::Exec;
use kernels::{Isa, Pool};
use model::Checkpoint;
use node::shelf::{SharedFiles, Shelf};
use node::worker::{Job, Told, Tools, Worker};
use proto::control::{Assign, CacheType, NodeMessage};
use proto::frame::Frame;
use proto::step::{Logits, Open, Sampling, Segment, Step, StepClass};
use proto::{Epoch, GroupSet, NodeId, SequenceId, StepId};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transport::{Identity, MeshEvent, Peer, Role, Settings, Sockets, Timing};

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const EPOCH: Epoch = Epoch(7);

/// A node's computing thread and the coordinator that it answers to.
pub struct Rig {
    pub coordinator: Sockets,
    // The node's endpoint lives as long as the rig.
    _node: Sockets,
    pub worker: Worker,
    pub told: mpsc::Receiver<Told>,
    pub model: PathBuf,
    pub dir: tempfile::TempDir,
}

fn sockets(role: Role) -> Sockets {
    let bind = "127.0.0.1:0".parse().unwrap();
    transport::open(
        &Identity::generate(),
        Settings {
            bind,
            role,
            timing: Timing::default(),
        },
    )
    .unwrap()
}

pub fn peer(sockets: &Sockets) -> Peer {
    Peer {
        node: sockets.endpoint.node_id().clone(),
        addresses: vec![sockets.endpoint.local_addr()],
    }
}

async fn until_up(sockets: &mut Sockets) {
    let up = async { while !matches!(sockets.mesh_events.recv().await, Some(MeshEvent::Up(_))) {} };
    timeout(DEADLINE, up).await.expect("the link comes up");
}

impl Rig {
    pub async fn new(memory_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m.gguf");
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/qwen3_5_moe/model-f16.gguf"
        );
        std::fs::copy(source, &model).unwrap();
        let (mut coordinator, mut node) = (sockets(Role::Coordinator), sockets(Role::Node));
        coordinator.mesh.set_peers(vec![peer(&node)]);
        node.mesh.set_peers(vec![peer(&coordinator)]);
        until_up(&mut coordinator).await;
        until_up(&mut node).await;
        let (told_in, told) = mpsc::channel(64);
        let tools = Tools {
            shelf: Shelf {
                files: SharedFiles::Try,
                fetcher: None,
            },
            exec: Exec {
                pool: Arc::new(Pool::new(1)),
                isa: Isa::detect(),
            },
            memory_bytes,
            mesh: node.mesh.clone(),
            runtime: tokio::runtime::Handle::current(),
            told: told_in,
        };
        let worker = Worker::start(tools).unwrap();
        Self {
            coordinator,
            _node: node,
            worker,
            told,
            model,
            dir,
        }
    }

    pub fn coordinator_id(&self) -> NodeId {
        self.coordinator.endpoint.node_id().clone()
    }

    pub fn assign(&self) -> Assign {
        let checkpoint = Checkpoint::open(&self.model).unwrap();
        let identity = checkpoint.identity();
        Assign {
            epoch: EPOCH,
            model_path: self.model.to_str().unwrap().to_owned(),
            model_bytes: identity.size_bytes,
            model_blake3: identity.blake3,
            layers: 0..8,
            embedding: true,
            head: true,
            kv: CacheType::F32,
            pages: 4,
            slots: 2,
            context: 256,
            chunk_rows: 16,
            previous: None,
            next: None,
            first: None,
            coordinator: self.coordinator_id(),
            owners: Vec::new(),
            foreign: [].into(),
            head_blocks: GroupSet::none(),
            askers: Vec::new(),
        }
    }

    pub async fn load(&mut self, assign: Assign) -> NodeMessage {
        self.worker.give(Job::Load(Box::new(assign))).unwrap();
        loop {
            match timeout(DEADLINE, self.told.recv()).await.unwrap().unwrap() {
                Told::Message(NodeMessage::Load(_)) => {}
                Told::Message(message) => return message,
                Told::ModelChanged(text) => panic!("{text}"),
            }
        }
    }

    pub async fn loaded(&mut self, assign: Assign) {
        let message = self.load(assign).await;
        assert!(matches!(message, NodeMessage::Loaded(_)), "{message:?}");
    }

    pub fn give(&self, frame: Frame) {
        let from = self.coordinator_id();
        self.worker.give(Job::Frame { from, frame }).unwrap();
    }

    /// The next frame that reaches the coordinator.
    pub async fn answer(&mut self) -> Frame {
        let next = async {
            loop {
                if let Some(MeshEvent::Frame { frame, .. }) =
                    self.coordinator.mesh_events.recv().await
                {
                    return frame;
                }
            }
        };
        timeout(DEADLINE, next).await.expect("an answer")
    }

    /// The step that is answered next: what was given before it stayed without an answer.
    pub async fn answers_only(&mut self, id: u64) {
        self.give(Frame::Step(step(id)));
        match self.answer().await {
            Frame::Samples(samples) => assert_eq!(samples.step, StepId(id)),
            other => panic!("{other:?}"),
        }
    }

    pub async fn fault(&mut self) -> String {
        match self.answer().await {
            Frame::Fault(fault) => fault.text,
            other => panic!("{other:?}"),
        }
    }
}

pub fn step(id: u64) -> Step {
    let segment = Segment {
        sequence: SequenceId(id),
        slot: 0,
        start: 0,
        rows: 3,
        logits: Logits::Last,
        commit: 0,
        provisional: 0,
        pages: vec![0],
        open: Some(Open {
            prompt_len: 3,
            sampling: Sampling::default(),
        }),
    };
    Step {
        epoch: EPOCH,
        id: StepId(id),
        class: StepClass::Prefill,
        segments: vec![segment],
        tokens: vec![5, 6, 7],
    }
}
