//! A household on real sockets, with nodes that have no engine: pairing, membership, loss and restart are the real
//! ones; only the tokens are made up.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod doll;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use command::local::{Listener, call};
use coordinator::gateway::{
    Card, Event, Failure, Gateway, GenerateRequest, Phase, ServedModel, Stream,
};
use coordinator::house::{self, House, HouseSettings, PlanChoice};
use proto::Epoch;
use proto::control::{NodeMessage, Peer};
use proto::step::Sampling;
use serde_json::{Value, json};
use tempfile::TempDir;
use transport::{Identity, Invite, Secret};

use doll::{Doll, Heard, node_sockets, pair};

const HOUR: Duration = Duration::from_secs(3600);

struct Home {
    dir: TempDir,
    house: House,
    gateway: Gateway,
}

/// Asks again, as often as is polite, until the answer is there.
async fn until_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    soon(what, async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}

/// Nothing here takes longer unless it is broken.
async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(120), wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long: {what}"),
    }
}

impl Home {
    async fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap()).await
    }

    /// Uses every machine for the plan.
    async fn open_in(dir: TempDir) -> Self {
        Self::open_with(dir, |_| {}).await
    }

    async fn open_with(dir: TempDir, change: impl FnOnce(&mut HouseSettings)) -> Self {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../models/hearth-tiny.gguf"
        ));
        let model = Arc::new(model::Checkpoint::open(path).unwrap());
        let served = ServedModel {
            id: model.id().to_owned(),
            tokenizer: model.tokenizer().unwrap(),
            template: None,
            defaults: model.generation_defaults().unwrap(),
            vocab: model.facts().vocab,
            card: Card::of(&model),
            created_unix_s: 0,
        };
        let (gateway, household) = Gateway::new(Arc::new(served));
        let mesh = "127.0.0.1:0".parse().unwrap();
        let mut settings = HouseSettings::new(dir.path().to_owned(), model, mesh);
        settings.plan = PlanChoice::Layers;
        change(&mut settings);
        let local = Listener::bind(dir.path()).await.unwrap();
        let house = house::start(settings, household, local).await.unwrap();
        Self {
            dir,
            house,
            gateway,
        }
    }

    async fn join(&self, name: &str) -> Doll {
        let invite = self.house.invite(HOUR).await.unwrap();
        Doll::join(&invite, name).await
    }

    fn peer(&self) -> Peer {
        Peer {
            node: self.house.node_id().clone(),
            addresses: vec![self.house.mesh_addr()],
        }
    }

    async fn ask(&self, request: Value) -> Value {
        soon("the local socket", call(self.dir.path(), &request))
            .await
            .unwrap()
    }

    /// Waits for a service on exactly these machines.
    async fn ready_on(&self, dolls: &[&Doll]) {
        let mut plan = self.house.plan();
        soon(
            "a plan on the right machines",
            plan.wait_for(|plan| {
                let Some(plan) = plan else { return false };
                plan.stages.len() == dolls.len()
                    && dolls
                        .iter()
                        .all(|doll| plan.stages.iter().any(|s| s.node == *doll.id()))
            }),
        )
        .await
        .unwrap();
        until_some("readiness", async || {
            (self.gateway.status().phase == Phase::Ready).then_some(())
        })
        .await;
    }

    async fn generate(&self, max_tokens: u32) -> Stream {
        let request = GenerateRequest {
            prompt: vec![5; 10],
            pooling: None,
            choices: 1,
            max_tokens: Some(max_tokens),
            min_tokens: 0,
            stop_ids: Vec::new(),
            sampling: Sampling::default(),
            person: session::Person::default(),
            constraint: None,
        };
        soon("an answer", self.gateway.generate(request))
            .await
            .unwrap()
    }
}

/// The links that `nodes` shows once it knows so many.
async fn links(home: &Home, count: usize) -> Vec<Value> {
    until_some("links are measured", async || {
        let links = home.ask(json!({"do": "nodes"})).await["links"].clone();
        let links = links.as_array().unwrap().clone();
        (links.len() == count).then_some(links)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_measured_between_all_machines_and_planned_with() {
    // The third machine never comes: each question is answered with a plan of what is known by then.
    let home = Home::open_with(tempfile::tempdir().unwrap(), |settings| {
        settings.expect = Some(3)
    })
    .await;
    let (a, b) = (home.join("a").await, home.join("b").await);
    let ids = [
        a.id().to_string(),
        b.id().to_string(),
        home.house.node_id().to_string(),
    ];
    let links = links(&home, 6).await;
    for link in &links {
        let (from, to) = (link["from"].as_str().unwrap(), link["to"].as_str().unwrap());
        assert!(from != to && ids.iter().any(|id| id == from) && ids.iter().any(|id| id == to));
        assert!(link["rtt_s"].as_f64().unwrap() > 0.0, "{link}");
        assert!(link["bytes_per_s"].as_f64().unwrap() > 1e4, "{link}");
    }
    let planned = home.ask(json!({"do": "plan"})).await["links"].clone();
    assert_eq!(
        planned.as_array().map(Vec::len),
        Some(2),
        "both directions between the stages: {planned}"
    );
    a.die().await;
    self::links(&home, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_shown_before_anything_is_loaded() {
    let home = Home::open_with(tempfile::tempdir().unwrap(), |settings| {
        settings.expect = Some(3)
    })
    .await;
    let nobody = call(home.dir.path(), &json!({"do": "plan"})).await;
    assert!(nobody.unwrap_err().to_string().contains("no plan yet"));
    let a = home.join("a").await;
    let _b = home.join("b").await;
    until_some("both are in", async || {
        let nodes = home.ask(json!({"do": "nodes"})).await["nodes"].clone();
        (nodes.as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let plan = home.ask(json!({"do": "plan"})).await;
    assert_eq!(plan["stages"].as_array().unwrap().len(), 2, "{plan}");
    assert_eq!(home.gateway.status().phase, Phase::WaitingForNodes);
    assert_eq!(
        *a.heard.borrow(),
        Heard::default(),
        "nothing was asked of it"
    );
}

async fn until(doll: &Doll, what: &str, is: impl FnMut(&Heard) -> bool) -> Heard {
    let mut heard = doll.heard.clone();
    let heard = soon(what, heard.wait_for(is)).await;
    heard.unwrap().clone()
}

/// The tokens of a stream and how it broke off, if so.
async fn read(mut stream: Stream) -> (Vec<u32>, Option<Failure>) {
    let mut tokens = Vec::new();
    let reading = async {
        while let Some(event) = stream.next().await {
            match event {
                Event::Token { sampled, .. } => tokens.push(sampled.token),
                Event::Finished { .. } | Event::Vector(_) => {}
                Event::Failed(failure) => return Some(failure),
            }
        }
        None
    };
    let failure = soon("the end of an answer", reading).await;
    (tokens, failure)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_join_answer_and_are_shown() {
    let mut home = Home::open().await;
    assert_eq!(home.gateway.status().phase, Phase::WaitingForNodes);
    let (a, b) = (home.join("attic").await, home.join("basement").await);
    home.ready_on(&[&a, &b]).await;
    let (tokens, failure) = read(home.generate(20).await).await;
    assert_eq!((tokens, failure), ((10..30).collect(), None));
    let status = home.ask(json!({"do": "status"})).await;
    assert_eq!(
        (&status["phase"], &status["ready"], &status["stages"]),
        (&json!("ready"), &json!(true), &json!(2))
    );
    assert_eq!(status["generated_tokens"], json!(20));
    assert_eq!(status["model"], json!("hearth-tiny"));
    let nodes = home.ask(json!({"do": "nodes"})).await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2);
    assert!(
        nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["state"] == "serving"),
        "{nodes}"
    );
    let plan = home.ask(json!({"do": "plan"})).await;
    let plan = plan::Plan::from_json(&plan.to_string()).unwrap();
    assert_eq!(plan.stages.len(), 2);
    assert!(
        call(home.dir.path(), &json!({"do": "dance"}))
            .await
            .is_err()
    );
    home.ask(json!({"do": "stop"})).await;
    soon("the owner's wish to stop", home.house.stopped()).await;
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_answered_the_same_through_the_gateway() {
    let home = Home::open().await;
    let models = json!({"do": "models"});
    let answer = soon("an answer", home.gateway.owner(models.clone())).await;
    let answer = answer.unwrap();
    assert_eq!(answer, home.ask(models).await);
    assert_eq!(answer["served"]["id"], "hearth-tiny");
    assert_eq!(answer["models"], json!([]));
    let refused = soon("a refusal", home.gateway.owner(json!({"do": "dance"}))).await;
    assert!(refused.unwrap_err().contains("invite, status, nodes"));
    let wrong = json!({"do": "approve", "device": "1"});
    let refused = soon("a refusal", home.gateway.owner(wrong)).await;
    assert!(refused.unwrap_err().contains("node join --ask"));
    home.house.shutdown().await;
    let late = soon("the end", home.gateway.owner(json!({"do": "status"}))).await;
    assert_eq!(late.unwrap_err(), "the service is stopping");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_bad_invites_stay_outside() {
    let home = Home::open().await;
    let invite = home.house.invite(HOUR).await.unwrap();
    let stranger = Identity::generate();
    let sockets = node_sockets(&stranger);
    let refused = sockets
        .endpoint
        .attach(&home.peer(), doll::hello("stranger"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "not_member");
    let guessed = Invite::new(
        Secret::generate(),
        invite.coordinator.clone(),
        invite.addresses.clone(),
    )
    .unwrap();
    assert_eq!(
        pair(&stranger, &guessed).await.unwrap_err().code(),
        "invite_unknown"
    );
    pair(&Identity::generate(), &invite).await.unwrap();
    assert_eq!(
        pair(&stranger, &invite).await.unwrap_err().code(),
        "invite_used"
    );
    let refused = sockets
        .endpoint
        .attach(&home.peer(), doll::hello("stranger"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "not_member");
    for ttl_s in [0, 1 << 40] {
        let error = home
            .house
            .invite(Duration::from_secs(ttl_s))
            .await
            .unwrap_err();
        assert_eq!(error.code(), "invite_life");
    }
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_leaves_without_breaking_an_answer() {
    let home = Home::open().await;
    let (a, b) = (home.join("a").await, home.join("b").await);
    home.ready_on(&[&a, &b]).await;
    let stream = home.generate(400).await;
    until(&a, "some steps", |heard| heard.steps > 20).await;
    b.say(NodeMessage::Leave).await;
    let (tokens, failure) = read(stream).await;
    assert_eq!((tokens.len(), failure), (400, None));
    until(&b, "its release", |heard| heard.released == Some(Epoch(1))).await;
    home.ready_on(&[&a]).await;
    assert_eq!(read(home.generate(5).await).await.0.len(), 5);
    let absent = home.ask(json!({"do": "nodes"})).await["absent"].clone();
    assert_eq!(
        absent[0]["node"],
        json!(b.id().as_str()),
        "it is a member still"
    );
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dies_ends_the_answer_with_its_name() {
    let home = Home::open().await;
    let (a, b) = (home.join("attic").await, home.join("basement").await);
    home.ready_on(&[&a, &b]).await;
    let stream = home.generate(1000).await;
    until(&b, "some steps", |heard| heard.steps > 5).await;
    b.works.send_replace(false);
    b.die().await;
    let (_, failure) = read(stream).await;
    let failure = failure.unwrap();
    assert_eq!(failure.code, "node_lost");
    assert!(failure.message.contains("basement"), "{}", failure.message);
    home.ready_on(&[&a]).await;
    assert_eq!(read(home.generate(5).await).await.0.len(), 5);
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_machine_is_out_for_good() {
    let home = Home::open().await;
    let (a, b) = (home.join("attic").await, home.join("basement").await);
    home.ready_on(&[&a, &b]).await;
    b.works.send_replace(false);
    let stream = home.generate(100).await;
    let unknown = call(home.dir.path(), &json!({"do": "kick", "node": "cellar"}))
        .await
        .unwrap_err();
    assert!(unknown.to_string().contains("attic"), "{unknown}");
    let kicked = home.ask(json!({"do": "kick", "node": "basement"})).await;
    assert_eq!(kicked["node"], json!(b.id().as_str()));
    until(&b, "the word that it is out", |heard| heard.kicked).await;
    until(&b, "its connection's end", |heard| heard.ended.is_some()).await;
    let failure = read(stream).await.1.unwrap();
    assert!(failure.message.contains("basement"), "{}", failure.message);
    home.ready_on(&[&a]).await;
    let again = Doll::attach(b.identity.clone(), &home.peer(), "basement").await;
    assert_eq!(again.err().map(|error| error.code()), Some("not_member"));
    let Home { dir, house, .. } = home;
    house.shutdown().await;
    let home = Home::open_in(dir).await;
    let again = Doll::attach(b.identity.clone(), &home.peer(), "basement").await;
    assert_eq!(again.err().map(|error| error.code()), Some("not_member"));
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_epochs_survive_a_restart() {
    let home = Home::open().await;
    let a = home.join("a").await;
    home.ready_on(&[&a]).await;
    let key = home.house.node_id().clone();
    let Home {
        dir,
        house,
        gateway,
    } = home;
    house.shutdown().await;
    assert_eq!(gateway.status().phase, Phase::Draining);
    until(&a, "the end", |heard| heard.ended.is_some()).await;
    let home = Home::open_in(dir).await;
    assert_eq!(*home.house.node_id(), key);
    let a = Doll::attach(a.identity.clone(), &home.peer(), "a")
        .await
        .unwrap();
    home.ready_on(&[&a]).await;
    let heard = until(&a, "its slice", |heard| heard.assigned.is_some()).await;
    assert_eq!(
        (heard.assigned, heard.released),
        (Some(Epoch(2)), Some(Epoch(1)))
    );
    home.house.shutdown().await;
}

/// Better plans are looked for and used after a blink.
fn soon_calm(settings: &mut HouseSettings) {
    settings.timing.calm = Duration::from_millis(200);
    settings.timing.apart = Duration::from_millis(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_gets_a_part_of_a_running_house_and_the_plan_says_why() {
    let home = Home::open_with(tempfile::tempdir().unwrap(), soon_calm).await;
    let a = home.join("attic").await;
    home.ready_on(&[&a]).await;
    let b = home.join("basement").await;
    home.ready_on(&[&a, &b]).await;
    let plan = home.ask(json!({"do": "plan"})).await;
    let reason = plan["reasons"][0].as_str().unwrap();
    assert!(
        reason.starts_with("Planned anew because 'basement' came in")
            && reason.contains(" tokens/s instead of "),
        "{reason}"
    );
    assert!(plan["reasons"].as_array().unwrap().len() > 1, "{plan}");
    assert_eq!(read(home.generate(5).await).await.0.len(), 5);
    home.house.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_better_plan_waits_for_running_answers() {
    let home = Home::open_with(tempfile::tempdir().unwrap(), soon_calm).await;
    let a = home.join("attic").await;
    home.ready_on(&[&a]).await;
    a.works.send_replace(false);
    let stream = home.generate(20).await;
    let b = home.join("basement").await;
    let status = until_some("a better plan is found", async || {
        let status = home.ask(json!({"do": "status"})).await;
        let detail = status["detail"].as_str().unwrap();
        detail
            .contains("because 'basement' came in")
            .then_some(status)
    })
    .await;
    assert_eq!(
        (&status["phase"], &status["epoch"]),
        (&json!("ready"), &json!(1)),
        "{status}"
    );
    a.works.send_replace(true);
    let (tokens, failure) = read(stream).await;
    assert_eq!((tokens.len(), failure), (20, None));
    home.ready_on(&[&a, &b]).await;
    home.house.shutdown().await;
}
