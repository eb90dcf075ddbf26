//! Requests against a pipeline of one line, without sockets: what clients get, and what they cannot hold up.

mod constrained;

use std::path::Path;

use proto::frame::SamplesFrame;
use proto::step::{Logits, Sampled, Sampling, Step};
use session::Capacity;

use super::*;
use crate::gateway::{Card, EVENTS_MAX, Event, Gateway, GatewayHousehold, ServedModel, Stream};

const CONTEXT: u32 = 4096;
const STOP: u32 = 7;

struct World {
    serving: Serving,
    gateway: Gateway,
    household: GatewayHousehold,
    closed: usize,
}

fn served_model() -> ServedModel {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/hearth-tiny.gguf"
    ));
    let model = model::Checkpoint::open(path).unwrap();
    ServedModel {
        id: model.id().to_owned(),
        tokenizer: model.tokenizer().unwrap(),
        template: None,
        defaults: model.generation_defaults().unwrap(),
        vocab: model.facts().vocab,
        card: Card::of(&model),
        created_unix_s: 0,
    }
}

fn request(choices: u32, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: vec![1, 2, 3],
        pooling: None,
        choices,
        max_tokens: Some(max_tokens),
        min_tokens: 0,
        stop_ids: vec![STOP],
        sampling: Sampling::default(),
        person: session::Person::default(),
        constraint: None,
    }
}

/// What the pipeline answers: token 100 for every row that wants one.
fn answer(step: &Step) -> SamplesFrame {
    let samples = step
        .segments
        .iter()
        .filter(|s| s.logits != Logits::None)
        .map(|segment| Sampled {
            sequence: segment.sequence,
            position: segment.start + segment.rows,
            token: 100,
            logprob: 0.0,
            top: Vec::new(),
        });
    SamplesFrame {
        epoch: step.epoch,
        step: step.id,
        samples: samples.collect(),
        vectors: Vec::new(),
    }
}

impl World {
    fn new() -> Self {
        let (gateway, household) = Gateway::new(Arc::new(served_model()));
        let mut serving = Serving::new(session::Config {
            queue_max: 2,
            ..session::Config::default()
        });
        let capacity = Capacity {
            epoch: Epoch(1),
            pages: 128,
            slots: 2,
            context: CONTEXT,
            stages: 1,
            chunk_rows: 64,
        };
        serving.input(Duration::ZERO, Input::Ready(capacity));
        Self {
            serving,
            gateway,
            household,
            closed: 0,
        }
    }

    /// Carries the API's commands over, as the actor does.
    fn commands(&mut self, door: Door) {
        while let Ok(command) = self.household.commands.try_recv() {
            self.serving.command(Duration::ZERO, command, door);
        }
    }

    async fn ask(&mut self, request: GenerateRequest, door: Door) -> Result<Stream, Refusal> {
        let gateway = self.gateway.clone();
        let asking = tokio::spawn(async move { gateway.generate(request).await });
        let command = self.household.commands.recv().await.unwrap();
        self.serving.command(Duration::ZERO, command, door);
        asking.await.unwrap()
    }

    /// Answers so many steps; fewer if no more come.
    fn run(&mut self, steps: usize) {
        let mut answered = 0;
        while let Some(effect) = self.serving.poll_effect() {
            match effect {
                Effect::Frame(Frame::Step(step)) => {
                    self.serving
                        .input(Duration::ZERO, Input::Done(answer(&step)));
                    answered += 1;
                }
                Effect::Frame(Frame::Close(close)) => self.closed += close.sequences.len(),
                other => panic!("{other:?}"),
            }
            if answered == steps {
                return;
            }
        }
    }
}

async fn all(stream: &mut Stream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn tokens_reach_their_client_and_the_last_says_so() {
    let mut world = World::new();
    let mut stream = world.ask(request(2, 3), Door::Open).await.unwrap();
    world.run(100);
    let events = all(&mut stream).await;
    for choice in 0..2 {
        let finishes: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Token {
                    choice: c, finish, ..
                } if *c == choice => Some(*finish),
                _ => None,
            })
            .collect();
        assert_eq!(
            finishes,
            [None, None, Some(gateway::FinishReason::Length)],
            "choice {choice}"
        );
    }
    assert_eq!(events.len(), 6);
    assert_eq!(world.closed, 2, "caches are given back");
    assert!(world.serving.session().is_idle());
    assert_eq!(world.serving.rate.per_second(Duration::ZERO), 6.0);
}

#[tokio::test]
async fn a_request_that_cannot_be_taken_hears_why() {
    let mut world = World::new();
    let refusal = world.ask(request(1, 1), Door::Shut).await.unwrap_err();
    assert_eq!(refusal, Refusal::NotReady);
    let refusal = world
        .ask(request(1, CONTEXT), Door::Open)
        .await
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Context {
            prompt: 3,
            wanted: CONTEXT,
            context: CONTEXT
        }
    );
    let refusal = world.ask(request(0, 1), Door::Open).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal:?}");
    // Two run, two wait, the fifth is too much.
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(world.ask(request(1, 5), Door::Open).await.unwrap());
    }
    let refusal = world.ask(request(1, 5), Door::Open).await.unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Busy {
            retry_after_s: BUSY_RETRY_S
        }
    );
    world.run(100);
    for mut stream in kept {
        assert_eq!(all(&mut stream).await.len(), 5);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let mut world = World::new();
    let mut slow = world.ask(request(1, 4000), Door::Open).await.unwrap();
    world.run(EVENTS_MAX / 2);
    let mut other = world.ask(request(1, 2000), Door::Open).await.unwrap();
    let mut read = 0;
    for _ in 0..5000 {
        world.run(1);
        // Lets the channels hand out more.
        tokio::task::yield_now().await;
        while let Some(Some(event)) = futures::FutureExt::now_or_never(other.next()) {
            assert!(matches!(event, Event::Token { .. }));
            read += 1;
        }
    }
    assert_eq!(read, 2000, "the other has its whole answer");
    let got = all(&mut slow).await;
    assert_eq!(got.len(), EVENTS_MAX, "the slow one what fitted");
    assert!(
        world.serving.session().is_idle(),
        "and nothing is computed for it any more"
    );
    assert!(world.serving.answers.is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_cache() {
    let mut world = World::new();
    let stream = world.ask(request(2, 1000), Door::Open).await.unwrap();
    world.run(10);
    drop(stream);
    world.commands(Door::Open);
    world.run(10);
    assert_eq!(world.closed, 2);
    assert!(world.serving.session().is_idle());
    assert!(world.serving.answers.is_empty());
}

#[tokio::test]
async fn a_choice_whose_text_is_complete_ends_alone() {
    let mut world = World::new();
    let mut stream = world.ask(request(2, 8), Door::Open).await.unwrap();
    world.run(2);
    stream.stop_choice(1);
    world.commands(Door::Open);
    world.run(100);
    let events = all(&mut stream).await;
    let tokens = |choice| {
        let of = |e: &&Event| matches!(e, Event::Token { choice: c, .. } if *c == choice);
        events.iter().filter(of).count()
    };
    assert_eq!(tokens(0), 8);
    assert!(tokens(1) < 8);
    let stopped = Event::Finished {
        choice: 1,
        reason: gateway::FinishReason::Stop,
    };
    assert!(events.contains(&stopped), "{events:?}");
}

#[tokio::test]
async fn a_lost_pipeline_is_told_to_whoever_was_served() {
    let mut world = World::new();
    let mut running = world.ask(request(1, 100), Door::Open).await.unwrap();
    world.run(5);
    let reason = "machine 'den' is gone".to_owned();
    world.serving.input(Duration::ZERO, Input::Lost { reason });
    let events = all(&mut running).await;
    let Some(Event::Failed(failure)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (failure.code, failure.retry),
        ("node_lost", gateway::Retry::Soon)
    );
    assert!(failure.message.contains("den"), "{}", failure.message);
}

#[tokio::test]
async fn requests_wait_for_a_better_plan_and_no_more_than_the_queue_takes() {
    let mut world = World::new();
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let gateway = world.gateway.clone();
            tokio::spawn(async move { gateway.generate(request(1, 3)).await })
        })
        .collect();
    for _ in 0..3 {
        let command = world.household.commands.recv().await.unwrap();
        world
            .serving
            .command(Duration::ZERO, command, Door::Waiting);
    }
    assert!(!world.serving.let_in(Duration::ZERO, Door::Waiting));
    assert!(world.serving.poll_effect().is_none(), "nothing runs yet");
    assert!(world.serving.let_in(Duration::ZERO, Door::Open));
    let mut answered = 0;
    for asked in asking {
        match asked.await.unwrap() {
            Ok(mut stream) => {
                world.run(100);
                assert_eq!(all(&mut stream).await.len(), 3);
                answered += 1;
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::Busy { .. }), "{refusal:?}"),
        }
    }
    assert_eq!(answered, 2);
    // A plan that does not come ends the waiting.
    let gateway = world.gateway.clone();
    let asked = tokio::spawn(async move { gateway.generate(request(1, 3)).await });
    let command = world.household.commands.recv().await.unwrap();
    world
        .serving
        .command(Duration::ZERO, command, Door::Waiting);
    assert!(world.serving.let_in(Duration::ZERO, Door::Shut));
    assert_eq!(asked.await.unwrap().unwrap_err(), Refusal::NotReady);
}
