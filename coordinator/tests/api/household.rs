//! A household that plays scripts: it takes commands like the real one and answers with given tokens.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use command::local::Call;
use coordinator::gateway::{
    Card, Command, Failure, FinishReason, Gateway, GatewayHousehold, GenerateRequest, Phase,
    Refusal, Retry, ServedModel, ServiceStatus,
};
use coordinator::http::{HttpConfig, serve};
use proto::facts::{LayerFacts, MixerKind, ModelFacts, TypeFacts};
use proto::step::Sampled;
use proto::{RequestId, SequenceId};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub const CONTEXT: u32 = 512;
pub const VOCAB: u32 = 576;
pub const END: u32 = 514;
/// Values of a vector.
pub const HIDDEN: u32 = 8;

/// One thing that the household does for a request.
#[derive(Clone)]
pub enum Say {
    Token(u32, u32),
    Last(u32, u32, FinishReason),
    Sampled(u32, Sampled),
    Finished(u32, FinishReason),
    Vector(Vec<f32>),
    /// Tells the place in the queue.
    Queued(u32),
    /// Waits until the test says go.
    Wait(Arc<Notify>),
    Fail,
    /// Ends without a word.
    Vanish,
}

/// What the household was told.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Generate(GenerateRequest),
    Cancel(RequestId),
    Stop(RequestId, u32),
}

type Script = Arc<dyn Fn(&GenerateRequest) -> Result<Vec<Say>, Refusal> + Send + Sync>;

/// A running API.
pub struct Served {
    pub address: std::net::SocketAddr,
    pub model: Arc<ServedModel>,
    pub status: watch::Sender<ServiceStatus>,
    seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Seen>>,
    script: Arc<Mutex<Script>>,
    shutdown: Mutex<Option<oneshot::Sender<()>>>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(HttpConfig::default(), |_| {}).await
    }

    pub async fn with(config: HttpConfig, change: impl FnOnce(&mut ServedModel)) -> Self {
        let mut model = served_model();
        change(&mut model);
        let model = Arc::new(model);
        let (gateway, household) = Gateway::new(Arc::clone(&model));
        let GatewayHousehold {
            commands,
            owner,
            status,
        } = household;
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Arc::new(|_| {
            Ok(vec![Say::Last(0, END, FinishReason::Stop)])
        })));
        let (tell, seen) = mpsc::unbounded_channel();
        tokio::spawn(play(commands, Arc::clone(&script), tell));
        tokio::spawn(obey(owner));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, gateway, config, async {
            let _ = ended.await;
        }));
        let served = Self {
            address,
            model,
            status,
            seen: tokio::sync::Mutex::new(seen),
            script,
            shutdown: Mutex::new(Some(shutdown)),
            serving: Mutex::new(Some(serving)),
        };
        served.set_phase(Phase::Ready);
        served
    }

    pub fn set_phase(&self, phase: Phase) {
        self.status.send_modify(|status| {
            status.phase = phase;
            status.context = CONTEXT;
            status.nodes = 2;
        });
    }

    /// The same events for every request.
    pub fn say(&self, events: Vec<Say>) {
        self.script(move |_| Ok(events.clone()));
    }

    pub fn script(
        &self,
        script: impl Fn(&GenerateRequest) -> Result<Vec<Say>, Refusal> + Send + Sync + 'static,
    ) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// A choice that writes `text` and ends by itself.
    pub fn speak(&self, text: &str) -> Vec<Say> {
        let mut events: Vec<Say> = self
            .ids(text)
            .into_iter()
            .map(|id| Say::Token(0, id))
            .collect();
        events.push(Say::Last(0, END, FinishReason::Stop));
        events
    }

    pub fn ids(&self, text: &str) -> Vec<u32> {
        self.model
            .tokenizer
            .encode(text, model::Specials::Parse)
            .unwrap()
    }

    /// The next thing that the household was told.
    pub async fn seen(&self) -> Seen {
        let mut seen = self.seen.lock().await;
        within(seen.recv()).await.unwrap()
    }

    /// The next request that the household was given.
    pub async fn request(&self) -> GenerateRequest {
        loop {
            if let Seen::Generate(request) = self.seen().await {
                return request;
            }
        }
    }

    /// Nothing was told that was not looked at.
    pub async fn assert_nothing_seen(&self) {
        assert!(self.seen.lock().await.try_recv().is_err());
    }

    /// Ends the service; returns when it has ended.
    pub fn shut_down(&self) -> JoinHandle<()> {
        drop(self.shutdown.lock().unwrap().take());
        self.serving.lock().unwrap().take().unwrap()
    }
}

/// Everything in these tests happens within this time or not at all.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("nothing happened in time")
}

pub fn sampled(token: u32, logprob: f32, top: &[(u32, f32)]) -> Sampled {
    Sampled {
        sequence: SequenceId(1),
        position: 7,
        token,
        logprob,
        top: top.to_vec(),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/qwen3_5_moe"
    ));
    std::fs::read(folder.join(name)).unwrap()
}

/// Facts of a small model, as if they were read from files.
fn card() -> Card {
    Card {
        facts: facts(),
        identity: model::Identity {
            size_bytes: 20_000,
            blake3: [0xab; 32],
        },
        format: model::Format::Gguf,
    }
}

fn facts() -> ModelFacts {
    ModelFacts {
        id: "hearth-test".to_owned(),
        family: "qwen35moe".to_owned(),
        hidden: HIDDEN,
        vocab: VOCAB,
        context: 4096,
        experts: 16,
        experts_used: 2,
        embedding_bytes: 100,
        tied_head: true,
        head_bytes: 100,
        head_macs: u64::from(VOCAB) * u64::from(HIDDEN),
        layers: vec![LayerFacts {
            mixer: MixerKind::Attention,
            trunk_bytes: 2000,
            trunk_macs: 1500,
            group_bytes: vec![1000; 16],
            expert_bytes: 1000,
            expert_macs: 1500,
            kv_values_per_position: 4,
            state_bytes_per_sequence: 0,
        }],
        file_bytes: 20_000,
        quantised: true,
        types: vec![TypeFacts {
            name: "Q8_0".to_owned(),
            tensors: 20,
            bytes: 18_100,
        }],
    }
}

pub fn served_model() -> ServedModel {
    let template = String::from_utf8(fixture("chat_template.jinja")).unwrap();
    ServedModel {
        id: "hearth-test".to_owned(),
        tokenizer: model::Tokenizer::from_json(
            &fixture("tokenizer.json"),
            Some(&fixture("tokenizer_config.json")),
        )
        .unwrap(),
        template: Some(model::ChatTemplate::new(&template, None, Some("<|im_end|>")).unwrap()),
        defaults: model::GenerationDefaults {
            temperature: Some(0.75),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: None,
            repetition_penalty: None,
            eos_ids: vec![512, END],
        },
        vocab: VOCAB,
        card: card(),
        created_unix_s: 1_700_000_000,
    }
}

async fn play(
    mut commands: mpsc::Receiver<Command>,
    script: Arc<Mutex<Script>>,
    tell: mpsc::UnboundedSender<Seen>,
) {
    let mut next = RequestId(1);
    let mut running: HashMap<RequestId, JoinHandle<()>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Generate { request, reply } => {
                let script = Arc::clone(&script.lock().unwrap());
                let events = script(&request);
                let _ = tell.send(Seen::Generate(request));
                match events {
                    Err(refusal) => reply.refuse(refusal),
                    Ok(events) => {
                        let sink = reply.accept(next);
                        running.insert(next, tokio::spawn(perform(sink, events)));
                        next = next.next();
                    }
                }
            }
            Command::Cancel { request } => {
                if let Some(task) = running.remove(&request) {
                    task.abort();
                }
                let _ = tell.send(Seen::Cancel(request));
            }
            Command::StopChoice { request, choice } => {
                let _ = tell.send(Seen::Stop(request, choice));
            }
        }
    }
}

/// Answers the owner with what was asked, but lets no device in that is called `nobody`.
async fn obey(mut calls: mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        match call.request["device"].as_str() {
            Some("nobody") => call.refuse("no device waits to be let in"),
            _ => {
                let asked = call.request.clone();
                call.answer(&serde_json::json!({ "asked": asked }));
            }
        }
    }
}

async fn perform(mut sink: coordinator::gateway::EventSink, events: Vec<Say>) {
    for event in events {
        let done = match event {
            Say::Token(choice, id) => sink.token(choice, sampled(id, 0.0, &[])),
            Say::Sampled(choice, sampled) => sink.token(choice, sampled),
            Say::Last(choice, id, reason) => sink
                .token(choice, sampled(id, 0.0, &[]))
                .and_then(|()| sink.finished(choice, reason)),
            Say::Queued(place) => {
                sink.queued(place);
                Ok(())
            }
            Say::Finished(choice, reason) => sink.finished(choice, reason),
            Say::Vector(values) => sink
                .vector(values)
                .and_then(|()| sink.finished(0, FinishReason::Stop)),
            Say::Wait(notify) => {
                let flushed = sink.flush();
                notify.notified().await;
                flushed
            }
            Say::Fail => {
                let failure = Failure {
                    code: "node_lost",
                    message: "node kitchen was lost; send the request again".to_owned(),
                    retry: Retry::Soon,
                };
                let _ = sink.failed(failure);
                return;
            }
            Say::Vanish => return,
        };
        if done.is_err() {
            return;
        }
    }
    let _ = sink.flush();
    // A real household keeps the request until it is told otherwise.
    std::future::pending::<()>().await;
}
