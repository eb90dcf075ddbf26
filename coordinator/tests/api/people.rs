//! People with keys: who is let in, what they may use, what they have used, where they stand in the queue.

use std::sync::Arc;
use std::time::Duration;

use coordinator::gateway::FinishReason;
use coordinator::http::{CERT_FILE, HttpConfig, HttpLimits, Keyless, Tls};
use coordinator::people::People;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use session::Priority;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::client::{Connection, Reply, ask, get, post, raw};
use crate::household::{END, Say, Served, within};

/// A household with a record.
struct Home {
    people: People,
    served: Served,
    _dir: TempDir,
}

async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let people = People::open(dir.path(), None).await.unwrap();
    let config = HttpConfig {
        people: people.clone(),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    Home {
        people,
        served,
        _dir: dir,
    }
}

impl Home {
    async fn key(&self, name: &str, limits: Value) -> String {
        let mut request = json!({"do": "key_create", "name": name});
        request
            .as_object_mut()
            .unwrap()
            .extend(limits.as_object().unwrap().clone());
        let made = self.people.answer(&request).await.unwrap();
        made["key"].as_str().unwrap().to_owned()
    }

    async fn chat(&self, key: &str) -> Reply {
        ask(self.served.address, &chat(key, Delivery::Whole)).await
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Delivery {
    Whole,
    Stream,
}

fn chat(key: &str, delivery: Delivery) -> Vec<u8> {
    let body = json!({"model": "hearth-test", "stream": delivery == Delivery::Stream,
        "messages": [{"role": "user", "content": "Go."}]});
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", &format!("Bearer {key}")),
    ];
    raw(
        "POST",
        "/v1/chat/completions",
        &headers,
        body.to_string().as_bytes(),
    )
}

#[tokio::test]
async fn a_key_is_asked_for_once_one_works_and_no_longer_when_it_is_revoked() {
    let home = home().await;
    let look = async |headers: &[(&str, &str)]| {
        let request = raw("GET", "/v1/models", headers, b"");
        ask(home.served.address, &request).await
    };
    assert_eq!(look(&[]).await.status(), 200);
    let key = home.key("ada", json!({})).await;
    let bearer = format!("Bearer {key}");
    for (headers, status) in [
        (vec![], 401),
        (vec![("Authorization", bearer.as_str())], 200),
        (vec![("x-api-key", key.as_str())], 200),
        (vec![("x-api-key", "hearth-0")], 401),
        (
            vec![("x-api-key", key.as_str()), ("Authorization", "Bearer x")],
            200,
        ),
        (vec![("Authorization", key.as_str())], 401),
    ] {
        let reply = look(&headers).await;
        assert_eq!(reply.status(), status, "{} headers", headers.len());
        if status == 401 {
            let error = reply.json()["error"].clone();
            assert_eq!(error["type"], "authentication_error");
            assert!(error["message"].as_str().unwrap().contains("x-api-key"));
            assert!(!error.to_string().contains(&key));
        }
    }
    home.people
        .answer(&json!({"do": "key_revoke", "key": "ada"}))
        .await
        .unwrap();
    home.key("ben", json!({})).await;
    assert_eq!(look(&[("x-api-key", &key)]).await.status(), 401);
}

#[tokio::test]
async fn an_api_that_others_can_reach_answers_nobody_without_keys() {
    let config = HttpConfig {
        keyless: Keyless::Refused,
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let reply = get(served.address, "/v1/models").await;
    assert_eq!(reply.status(), 401);
    assert!(reply.json().to_string().contains("coordinator key create"));
    assert_eq!(get(served.address, "/healthz").await.status(), 200);
}

#[tokio::test]
async fn requests_carry_their_person_and_its_priority() {
    let home = home().await;
    let ada = home.key("ada", json!({"priority": "high"})).await;
    let ben = home.key("ben", json!({"priority": "low"})).await;
    let mut people = Vec::new();
    for key in [&ada, &ben, &ada] {
        assert_eq!(home.chat(key).await.status(), 200);
        people.push(home.served.request().await.person);
    }
    let priorities: Vec<Priority> = people.iter().map(|p| p.priority).collect();
    assert_eq!(priorities, [Priority::High, Priority::Low, Priority::High]);
    assert_eq!(people[0], people[2]);
    assert_ne!(people[0].id, people[1].id);
}

#[tokio::test]
async fn tokens_are_counted_by_person_and_end_with_the_days_share() {
    let home = home().await;
    home.served.say(home.served.speak("Five or so tokens."));
    let ada = home.key("ada", json!({"tokens_per_day": 10})).await;
    let ben = home.key("ben", json!({})).await;
    let first = home.chat(&ada).await;
    assert_eq!(first.status(), 200);
    let used = first.json()["usage"].clone();
    assert!(used["total_tokens"].as_u64().unwrap() >= 10, "{used}");

    let over = home.chat(&ada).await;

    assert_eq!(over.status(), 429);
    let after: u64 = over.head.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&after));
    let error = over.json()["error"].clone();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("rate_limit_error"), &json!("tokens_per_day"))
    );
    assert!(error["message"].as_str().unwrap().contains("midnight UTC"));
    assert_eq!(home.chat(&ben).await.status(), 200);
    let told = home.people.answer(&json!({"do": "usage"})).await.unwrap();
    let row = &told["usage"][0];
    assert_eq!(
        (&row["person"], &row["model"]),
        (&json!("ada"), &json!("hearth-test"))
    );
    assert_eq!(row["requests"], 1, "what was refused is no request");
    for field in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(row[field], used[field], "{field}");
    }
}

#[tokio::test]
async fn so_many_at_once_and_no_more() {
    let home = home().await;
    let go = Arc::new(Notify::new());
    let token = home.served.ids("A")[0];
    let wait = Say::Wait(Arc::clone(&go));
    home.served.say(vec![
        Say::Token(0, token),
        wait,
        Say::Last(0, END, FinishReason::Stop),
    ]);
    let ada = home.key("ada", json!({"requests_at_once": 1})).await;
    let mut first = Connection::open(home.served.address).await;
    first.send(&chat(&ada, Delivery::Stream)).await;
    first.head().await;
    first.chunk().await.unwrap();

    let over = home.chat(&ada).await;

    assert_eq!(over.status(), 429);
    assert_eq!(over.json()["error"]["code"], "requests_at_once");
    assert!(over.head.header("retry-after").is_some());
    go.notify_one();
    while first.chunk().await.is_some() {}
    home.served.say(home.served.speak("B"));
    assert_eq!(home.chat(&ada).await.status(), 200);
}

#[tokio::test]
async fn a_stream_says_where_it_stands_until_it_begins() {
    let served = Served::start().await;
    let steps: Vec<Arc<Notify>> = (0..2).map(|_| Arc::new(Notify::new())).collect();
    let mut script = vec![
        Say::Queued(3),
        Say::Wait(Arc::clone(&steps[0])),
        Say::Queued(1),
        Say::Wait(Arc::clone(&steps[1])),
    ];
    script.extend(served.speak("B"));
    served.say(script);
    let mut client = Connection::open(served.address).await;
    let body = json!({"model": "hearth-test", "stream": true, "prompt": "a"});
    client
        .send(&post("/v1/completions", &body.to_string()))
        .await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(": queued 3\n\n"));
    steps[0].notify_one();
    assert_eq!(client.chunk().await.as_deref(), Some(": queued 1\n\n"));
    steps[1].notify_one();
    assert!(client.chunk().await.unwrap().contains("\"text\":\"B\""));
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so() {
    let mut config = HttpConfig::default();
    config.limits.connections_loopback_max = 1;
    let served = Served::with(config, |_| {}).await;
    let mut first = Connection::open(served.address).await;
    first.send(&raw("GET", "/healthz", &[], b"")).await;
    assert_eq!(first.reply().await.status(), 200);
    let reply = get(served.address, "/healthz").await;
    assert_eq!(reply.status(), 429);
    assert_eq!(reply.json()["error"]["code"], "too_many_connections");
    assert_eq!(reply.head.header("retry-after"), Some("5"));
}

#[test]
fn slow_clients_have_ten_seconds() {
    let limits = HttpLimits::default();
    assert!(limits.header_deadline <= Duration::from_secs(10));
    assert!(limits.connections_per_source_max < limits.connections_loopback_max);
    assert!(limits.connections_loopback_max < limits.connections_max);
}

/// GET of a path over TLS, by a client that trusts this certificate alone.
async fn get_over_tls(address: std::net::SocketAddr, cert: &[u8], path: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(cert).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = within(connector.connect(name, stream)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn over_tls_the_same_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::household(dir.path(), vec!["192.0.2.1".to_owned()]).unwrap();
    let mut config = HttpConfig {
        tls: Some(tls),
        ..HttpConfig::default()
    };
    config.limits.header_deadline = Duration::from_millis(300);
    let served = Served::with(config, |_| {}).await;
    let cert = std::fs::read(dir.path().join(CERT_FILE)).unwrap();
    // Who never begins to agree is cut off, and nobody waits for it.
    let mut silent = Connection::open(served.address).await;
    let answer = get_over_tls(served.address, &cert, "/v1/models").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("hearth-test"),
        "{answer}"
    );
    assert_eq!(silent.rest().await, b"");
    // Plain words are no TLS.
    let mut plain = Connection::open(served.address).await;
    plain.send(&raw("GET", "/healthz", &[], b"")).await;
    let rest = plain.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
}
