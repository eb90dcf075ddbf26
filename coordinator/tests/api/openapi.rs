//! The document that says what is served: it is well formed, names every path, and names no other.

use std::collections::BTreeSet;

use coordinator::http::HttpConfig;
use coordinator::people::{ApiKey, People};
use serde_json::Value;

use crate::client::{ask, get, raw};
use crate::household::Served;

const METHODS: [&str; 3] = ["get", "post", "delete"];

/// The files that hold tables of paths.
const TABLES: [&str; 3] = [
    include_str!("../../src/http/routes.rs"),
    include_str!("../../src/http/responses.rs"),
    include_str!("../../src/http/ollama.rs"),
];

async fn document(served: &Served) -> Value {
    let reply = get(served.address, "/openapi.json").await;
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.head.header("content-type"), Some("application/json"));
    reply.json()
}

/// All paths of the document with their methods.
fn named(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = BTreeSet::new();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            assert!(METHODS.contains(&method.as_str()), "{method} {path}");
            all.insert((method.clone(), path.clone()));
        }
    }
    all
}

/// All paths of the tables with their methods; those that are no texts and those for browsers are left out.
fn routed() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for table in TABLES {
        for route in table.split(".route(").skip(1) {
            let Some((path, rest)) = route.strip_prefix('"').and_then(|r| r.split_once('"')) else {
                continue;
            };
            let handlers = rest.split('\n').next().unwrap();
            for method in METHODS {
                if path != "/" && handlers.contains(&format!("{method}(")) {
                    all.insert((method.to_owned(), path.to_owned()));
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn every_path_is_in_the_document() {
    let document = document(&Served::start().await).await;
    assert_eq!(document["openapi"], "3.1.0");
    let (named, routed) = (named(&document), routed());
    assert!(routed.len() > 20, "{routed:?}");
    assert_eq!(routed.difference(&named).collect::<Vec<_>>(), [] as [&_; 0]);
}

#[tokio::test]
async fn every_path_of_the_document_is_served() {
    let served = Served::start().await;
    for (method, path) in named(&document(&served).await) {
        let at = path.replace("{id}", "none");
        let head = [("Content-Type", "application/json")];
        let request = raw(&method.to_uppercase(), &at, &head, b"{}");
        let reply = ask(served.address, &request).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_ne!(reply.status(), 405, "{method} {path}");
        assert!(!text.contains("nothing is served"), "{method} {path}");
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    fn references(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(target)) = object.get("$ref") {
                    all.push(target.clone());
                }
                object.values().for_each(|value| references(value, all));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, all)),
            _ => {}
        }
    }
    let document = document(&Served::start().await).await;
    let mut all = Vec::new();
    references(&document, &mut all);
    assert!(all.len() > 40, "{}", all.len());
    for target in all {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
}

#[tokio::test]
async fn the_document_needs_no_key_as_it_says_nothing_of_the_household() {
    let config = HttpConfig {
        people: People::with_key(ApiKey::new("k-123")),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    document(&served).await;
}
