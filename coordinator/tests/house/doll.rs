//! A node without an engine: it joins, takes what it is assigned, and draws the position as the token.

use std::net::SocketAddr;

use proto::control::{
    Assign, CONTROL_PROTOCOL, CoordinatorMessage, Hello, LinkRates, Loaded, Measure, Measured,
    NodeMessage, Peer,
};
use proto::frame::{Frame, RowsFrame, SamplesFrame};
use proto::step::{Logits, Sampled, Step};
use proto::{Epoch, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use transport::{
    ControlError, ControlLink, Endpoint, Identity, Invite, Mesh, MeshEvent, PairError, Role,
    Settings, Sockets, Timing,
};

/// What the test tells a doll.
#[derive(Debug)]
pub enum Order {
    Say(NodeMessage),
}

/// What a doll has heard last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    pub assigned: Option<Epoch>,
    pub released: Option<Epoch>,
    pub kicked: bool,
    pub steps: u64,
    /// Why its control connection ended.
    pub ended: Option<String>,
}

pub struct Doll {
    pub identity: Identity,
    pub endpoint: Endpoint,
    pub heard: watch::Receiver<Heard>,
    /// Steps are answered while this is true.
    pub works: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

pub fn node_sockets(identity: &Identity) -> Sockets {
    let bind = "127.0.0.1:0".parse().unwrap();
    transport::open(
        identity,
        Settings {
            bind,
            role: Role::Node,
            timing: Timing::default(),
        },
    )
    .unwrap()
}

pub fn hello(name: &str) -> Hello {
    Hello {
        protocol: CONTROL_PROTOCOL,
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        kernels: "scalar".to_owned(),
        threads: 1,
        memory_bytes: 64 << 20,
        read_bytes_per_s: 1e10,
        macs_per_s: 1e10,
        addresses: Vec::new(),
        paused: String::new(),
    }
}

/// Asks to be let in and goes away again.
pub async fn pair(identity: &Identity, invite: &Invite) -> Result<(), PairError> {
    let sockets = node_sockets(identity);
    let paired = sockets.endpoint.pair(invite, "doll").await;
    sockets.endpoint.close().await;
    paired
}

impl Doll {
    /// Pairs and connects.
    pub async fn join(invite: &Invite, name: &str) -> Self {
        let identity = Identity::generate();
        pair(&identity, invite).await.unwrap();
        let at = Peer {
            node: invite.coordinator.clone(),
            addresses: invite.addresses.clone(),
        };
        Self::attach(identity, &at, name).await.unwrap()
    }

    /// Connects as a member.
    pub async fn attach(
        identity: Identity,
        coordinator: &Peer,
        name: &str,
    ) -> Result<Self, ControlError> {
        let Sockets {
            endpoint,
            mesh,
            mesh_events,
            ..
        } = node_sockets(&identity);
        let link = endpoint.attach(coordinator, hello(name)).await?;
        let (tell, heard) = watch::channel(Heard::default());
        let (works, working) = watch::channel(true);
        let (orders, inbox) = mpsc::channel(8);
        let body = Body {
            endpoint: endpoint.clone(),
            mesh,
            link,
            tell,
            working,
            assign: None,
            home: coordinator.addresses.clone(),
            held: Vec::new(),
        };
        let task = tokio::spawn(body.live(mesh_events, inbox));
        Ok(Self {
            identity,
            endpoint,
            heard,
            works,
            orders,
            task,
        })
    }

    pub fn id(&self) -> &NodeId {
        self.identity.node_id()
    }

    pub async fn say(&self, message: NodeMessage) {
        self.orders.send(Order::Say(message)).await.unwrap();
    }

    /// As if its plug were pulled, only quicker.
    pub async fn die(self) {
        self.task.abort();
        self.endpoint.close().await;
    }
}

struct Body {
    endpoint: Endpoint,
    mesh: Mesh,
    link: ControlLink,
    tell: watch::Sender<Heard>,
    working: watch::Receiver<bool>,
    assign: Option<Assign>,
    home: Vec<SocketAddr>,
    held: Vec<Frame>,
}

impl Body {
    async fn live(
        mut self,
        mut events: mpsc::Receiver<MeshEvent>,
        mut inbox: mpsc::Receiver<Order>,
    ) {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(300));
        loop {
            tokio::select! {
                message = self.link.receiver.recv() => match message {
                    Ok(message) => self.told(message).await,
                    Err(error) => {
                        self.tell.send_modify(|heard| heard.ended = Some(error.code().to_owned()));
                        self.mesh.set_peers(Vec::new());
                        return;
                    }
                },
                Some(event) = events.recv() => if let MeshEvent::Frame { frame, .. } = event {
                    self.held.push(frame);
                    self.work().await;
                },
                Some(Order::Say(message)) = inbox.recv() => self.say(message).await,
                Ok(()) = self.working.changed() => self.work().await,
                _ = beat.tick() => self.say(NodeMessage::Beat(proto::control::Beat::default())).await,
            }
        }
    }

    async fn say(&mut self, message: NodeMessage) {
        // A coordinator that is gone is noticed by reading.
        let _ = self.link.sender.send(message).await;
    }

    async fn told(&mut self, message: CoordinatorMessage) {
        match message {
            CoordinatorMessage::Assign(assign) => {
                let mut peers = vec![Peer {
                    node: assign.coordinator.clone(),
                    addresses: self.home.clone(),
                }];
                peers.extend(assign.previous.iter().chain(&assign.next).cloned());
                self.mesh.set_peers(peers);
                for peer in assign.previous.iter().chain(&assign.next) {
                    while !self.mesh.is_up(&peer.node) {
                        tokio::task::yield_now().await;
                    }
                }
                let epoch = assign.epoch;
                self.assign = Some(*assign);
                self.say(NodeMessage::Loaded(Loaded {
                    epoch,
                    resident_bytes: 1,
                }))
                .await;
                self.tell.send_modify(|heard| heard.assigned = Some(epoch));
            }
            CoordinatorMessage::Release { epoch } => {
                self.tell.send_modify(|heard| heard.released = Some(epoch))
            }
            CoordinatorMessage::Kicked { .. } => self.tell.send_modify(|heard| heard.kicked = true),
            CoordinatorMessage::Measure(asked) => self.measure(asked).await,
            _ => {}
        }
    }

    async fn measure(&mut self, asked: Measure) {
        let Measure { ticket, peer, dial } = asked;
        if !dial {
            return self.endpoint.expect_probe(peer.node);
        }
        let link = self.endpoint.probe(&peer).await;
        let link = link
            .map_err(|error| error.to_string())
            .map(|link| LinkRates {
                rtt_s: link.rtt.as_secs_f64(),
                out_bytes_per_s: link.out_bytes_per_s,
                in_bytes_per_s: link.in_bytes_per_s,
            });
        let node = peer.node;
        self.say(NodeMessage::Measured(Measured { ticket, node, link }))
            .await;
    }

    async fn work(&mut self) {
        if !*self.working.borrow_and_update() {
            return;
        }
        for frame in std::mem::take(&mut self.held) {
            let step = match frame {
                Frame::Step(step) => step,
                Frame::Rows(rows) => rows.step,
                _ => continue,
            };
            self.pass_on(step).await;
        }
    }

    async fn pass_on(&mut self, step: Step) {
        let Some(assign) = self
            .assign
            .as_ref()
            .filter(|assign| assign.epoch == step.epoch)
        else {
            return;
        };
        self.tell.send_modify(|heard| heard.steps += 1);
        let (to, frame) = match &assign.next {
            Some(next) => {
                let rows = vec![0.0; step.rows() as usize];
                (
                    &next.node,
                    Frame::Rows(RowsFrame {
                        step,
                        layer: assign.layers.end,
                        cols: 1,
                        rows,
                    }),
                )
            }
            None => {
                let wanted = step.segments.iter().filter(|s| s.logits != Logits::None);
                let samples = wanted.map(|segment| Sampled {
                    sequence: segment.sequence,
                    position: segment.start + segment.rows,
                    token: segment.start + segment.rows,
                    logprob: 0.0,
                    top: Vec::new(),
                });
                let samples = samples.collect();
                (
                    &assign.coordinator,
                    Frame::Samples(SamplesFrame {
                        epoch: step.epoch,
                        step: step.id,
                        samples,
                        vectors: Vec::new(),
                    }),
                )
            }
        };
        // A neighbour that is gone is the household's affair.
        let _ = self.mesh.send(to, &frame).await;
    }
}
