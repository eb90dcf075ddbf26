//! A household in virtual time with a planner of one rule: the model has 12 layers and needs `need` machines.

use plan::{KvType, Prediction, StagePlan};
use proto::control::{Beat, CONTROL_PROTOCOL, LoadFailed, Loaded};
use proto::facts::{LayerFacts, MixerKind};

use super::super::*;

pub const LAYERS: u32 = 12;
pub const GIB: u64 = 1 << 30;
/// Tokens per second of every running plan.
pub const SPEED: f64 = 10.0;

pub struct World {
    pub h: Household,
    pub now: Duration,
    /// Machines without which there is no plan.
    pub need: usize,
    /// Whether plans and trials are answered at once.
    pub plans: bool,
    /// What plans made from now on reach, where the running one reaches [`SPEED`].
    pub tokens_per_s: f64,
    /// Their context.
    pub context: u32,
    pub epoch: Epoch,
    /// What was done since it was looked at last.
    pub acts: Vec<Act>,
    last_link: u64,
}

pub fn id(name: &str) -> NodeId {
    NodeId::new(format!("id{name}")).unwrap()
}

pub fn hello(name: &str) -> Hello {
    Hello {
        protocol: CONTROL_PROTOCOL,
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        kernels: "avx2".to_owned(),
        threads: 4,
        memory_bytes: GIB,
        read_bytes_per_s: 1e10,
        macs_per_s: 1e10,
        addresses: Vec::new(),
        paused: String::new(),
    }
}

/// A model of 12 layers with 4 expert groups each.
pub fn facts() -> ModelFacts {
    let layer = LayerFacts {
        mixer: MixerKind::Attention,
        trunk_bytes: 100,
        trunk_macs: 1,
        group_bytes: vec![10; 4],
        expert_bytes: 10,
        expert_macs: 1,
        kv_values_per_position: 1,
        state_bytes_per_sequence: 0,
    };
    ModelFacts {
        id: "m".to_owned(),
        family: "qwen3moe".to_owned(),
        hidden: 8,
        vocab: 16,
        context: 512,
        experts: 4,
        experts_used: 1,
        embedding_bytes: 16,
        tied_head: false,
        head_bytes: 16,
        head_macs: 1,
        layers: vec![layer; LAYERS as usize],
        file_bytes: 7,
        quantised: true,
        types: Vec::new(),
    }
}

pub fn rules() -> Rules {
    Rules {
        expect: None,
        anew: Anew::Better,
        timing: HouseTiming::default(),
        coordinator: id("home"),
        household: "household".to_owned(),
        model: ModelPlace {
            path: "/m.gguf".to_owned(),
            size_bytes: 7,
            blake3: [7; 32],
            facts: facts(),
        },
        neighbours: Vec::new(),
    }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Short names, one after the other.
fn joined<'n>(nodes: impl Iterator<Item = &'n NodeId>) -> String {
    let names: Vec<&str> = nodes.map(|n| n.as_str().trim_start_matches("id")).collect();
    names.join("+")
}

pub fn plan_of(nodes: &[NodeFacts], need: usize) -> Result<Plan, PlanFailure> {
    if nodes.len() < need {
        let missing = u64::try_from(need - nodes.len()).unwrap() * GIB;
        let text = format!("{missing} bytes more are needed");
        return Err(PlanFailure {
            missing_bytes: missing,
            text,
            retry: false,
        });
    }
    let count = u32::try_from(nodes.len()).unwrap();
    let stages = (0..count).zip(nodes).map(|(at, node)| StagePlan {
        node: node.id.clone(),
        name: node.name.clone(),
        first_layer: LAYERS * at / count,
        end_layer: LAYERS * (at + 1) / count,
        embedding: at == 0,
        head: at + 1 == count,
        weight_bytes: 1000,
        cache_bytes: 10,
        scratch_bytes: 1,
        allowance_bytes: node.memory_bytes,
    });
    Ok(Plan {
        model: "m".to_owned(),
        kv: KvType::F16,
        context: 512,
        pages: 16,
        slots: 2,
        chunk_rows: 64,
        stages: stages.collect(),
        experts: Vec::new(),
        head_blocks: Vec::new(),
        prediction: Prediction::default(),
        reasons: Vec::new(),
        left_out: Vec::new(),
        links: Vec::new(),
    })
}

impl World {
    pub fn new(rules: Rules, need: usize) -> Self {
        Self {
            h: Household::new(rules, Epoch(0)),
            now: Duration::ZERO,
            need,
            plans: true,
            tokens_per_s: SPEED,
            context: 512,
            epoch: Epoch(0),
            acts: Vec::new(),
            last_link: 0,
        }
    }

    pub fn event(&mut self, event: Event) {
        self.h.handle_input(self.now, event);
        self.settle();
    }

    pub fn settle(&mut self) {
        while let Some(act) = self.h.poll_output() {
            if self.plans {
                self.answer(&act);
            }
            self.acts.push(act);
        }
    }

    fn answer(&mut self, act: &Act) {
        let answer = match act {
            Act::Plan { ticket, nodes } => Event::Planned {
                ticket: *ticket,
                result: self.plan(nodes).map(|plan| {
                    self.epoch = self.epoch.next();
                    (plan, self.epoch)
                }),
            },
            Act::Try { ticket, nodes, .. } => self.trial(*ticket, nodes),
            _ => return,
        };
        self.h.handle_input(self.now, answer);
    }

    fn plan(&self, nodes: &[NodeFacts]) -> Result<Plan, PlanFailure> {
        let mut plan = plan_of(nodes, self.need)?;
        plan.prediction.decode_tokens_per_s = self.tokens_per_s;
        plan.context = self.context;
        Ok(plan)
    }

    /// The answer to a question for a trial.
    pub fn trial(&self, ticket: u64, nodes: &[NodeFacts]) -> Event {
        let trial = self.plan(nodes).map(|plan| Trial {
            plan,
            running_tokens_per_s: SPEED,
        });
        Event::Tried {
            ticket,
            result: trial.map_err(|failure| failure.text),
        }
    }

    /// Lets time pass, with everything that falls due on the way. Machines in `beating` give signs of life.
    pub fn pass(&mut self, time: Duration, beating: &[&str]) {
        let end = self.now + time;
        while self.now < end {
            for name in beating {
                self.hear(name, NodeMessage::Beat(Beat::default()));
            }
            let step = end.min(self.now + ms(1000));
            while let Some(due) = self.h.poll_timeout().filter(|due| *due <= step) {
                self.now = self.now.max(due);
                self.h.handle_timeout(self.now);
                self.settle();
            }
            self.now = step;
        }
    }

    pub fn join(&mut self, name: &str) -> LinkId {
        self.join_as(name, hello(name))
    }

    pub fn join_as(&mut self, name: &str, hello: Hello) -> LinkId {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let remote = "10.0.0.9:7411".parse().unwrap();
        self.event(Event::Joined(Newcomer {
            link,
            node: id(name),
            remote,
            hello,
            up: false,
        }));
        link
    }

    pub fn link(&self, name: &str) -> LinkId {
        let node = self.h.nodes().find(|node| node.id == id(name));
        node.map_or(LinkId(0), |node| node.link)
    }

    pub fn hear(&mut self, name: &str, message: NodeMessage) {
        let link = self.link(name);
        self.event(Event::Heard { link, message });
    }

    pub fn loaded(&mut self, name: &str, epoch: Epoch) {
        self.hear(
            name,
            NodeMessage::Loaded(Loaded {
                epoch,
                resident_bytes: 1,
            }),
        );
    }

    pub fn load_failed(&mut self, name: &str, epoch: Epoch) {
        let (code, text) = ("memory".to_owned(), "too little memory".to_owned());
        self.hear(
            name,
            NodeMessage::LoadFailed(LoadFailed { epoch, code, text }),
        );
    }

    pub fn close(&mut self, name: &str) {
        let link = self.link(name);
        self.event(Event::Closed {
            link,
            reason: "unplugged".to_owned(),
        });
    }

    /// Everything that the machines of the loading epoch do when all is well.
    pub fn load_all(&mut self) {
        let epoch = self.h.run().unwrap().epoch;
        let nodes: Vec<NodeId> = self
            .h
            .run()
            .unwrap()
            .plan
            .stages
            .iter()
            .map(|s| s.node.clone())
            .collect();
        for node in nodes {
            self.event(Event::Up(node.clone()));
            let name = node.as_str().trim_start_matches("id").to_owned();
            self.loaded(&name, epoch);
        }
    }

    /// A household that serves with these machines.
    pub fn serving(names: &[&str], need: usize) -> Self {
        Self::serving_by(rules(), names, need)
    }

    pub fn serving_by(rules: Rules, names: &[&str], need: usize) -> Self {
        let mut world = World::new(rules, need);
        for name in names {
            world.join(name);
        }
        world.pass(ms(400), &[]);
        world.load_all();
        assert_eq!(world.phase(), crate::gateway::Phase::Ready);
        world.acts.clear();
        world
    }

    pub fn phase(&self) -> crate::gateway::Phase {
        self.h.status(self.now).phase
    }

    pub fn detail(&self) -> String {
        self.h.status(self.now).detail
    }

    /// The machines of the epoch that stands.
    pub fn stages(&self) -> Vec<String> {
        let stages = self
            .h
            .run()
            .map(|run| run.plan.stages.iter().map(|s| s.name.clone()).collect());
        stages.unwrap_or_default()
    }

    /// What was done since the last look, in short words.
    pub fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.acts)
            .iter()
            .map(|act| self.short(act))
            .collect()
    }

    fn short(&self, act: &Act) -> String {
        let of = |link: &LinkId| match self.h.nodes().find(|node| node.link == *link) {
            Some(node) => node.name.clone(),
            None => format!("link{}", link.0),
        };
        match act {
            Act::Plan { nodes, .. } => {
                let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
                format!("plan {}", names.join("+"))
            }
            Act::Try { nodes, running, .. } => {
                let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
                format!("try {} for {}", names.join("+"), running.stages.len())
            }
            Act::Send { link, message } => {
                let message = match message {
                    CoordinatorMessage::Welcome(_) => "welcome".to_owned(),
                    CoordinatorMessage::Assign(a) => {
                        format!("assign e{} {}-{}", a.epoch, a.layers.start, a.layers.end)
                    }
                    CoordinatorMessage::Release { epoch } => format!("release e{epoch}"),
                    CoordinatorMessage::Drain => "drain".to_owned(),
                    CoordinatorMessage::Refused(r) => format!("refused {}", r.code),
                    CoordinatorMessage::Kicked { .. } => "kicked".to_owned(),
                    CoordinatorMessage::Sources(sources) => match &sources.wares {
                        Ok(wares) => {
                            let names = wares.sources.iter().map(|s| &s.peer.node);
                            format!("sources {}", joined(names))
                        }
                        Err(text) => format!("no sources ({text})"),
                    },
                    CoordinatorMessage::Lend(nodes) => format!("lend {}", joined(nodes.iter())),
                    CoordinatorMessage::Measure(_) => "measure".to_owned(),
                };
                format!("{message} to {}", of(link))
            }
            Act::Catalogue => "catalogue".to_owned(),
            Act::Part { link } => format!("part {}", of(link)),
            Act::Peers(peers) => {
                let ids: Vec<&str> = peers
                    .iter()
                    .map(|p| p.node.as_str().trim_start_matches("id"))
                    .collect();
                format!("peers {}", ids.join("+"))
            }
            Act::Session(session::Input::Ready(capacity)) => format!("ready e{}", capacity.epoch),
            Act::Session(session::Input::Lost { .. }) => "lost".to_owned(),
            Act::Session(session::Input::Hold) => "hold".to_owned(),
            Act::Session(session::Input::Drain) => "drain".to_owned(),
            Act::Session(other) => format!("{other:?}"),
        }
    }
}
