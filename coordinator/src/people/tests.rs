//! Keys, limits and counts, on a real record.

use serde_json::{Value, json};

use super::*;

const NOON: i64 = 1_700_006_400 + 43_200;

async fn open(dir: &tempfile::TempDir) -> People {
    People::open(dir.path(), None).await.unwrap()
}

async fn make(people: &People, ask: Value) -> String {
    let made = people.answer(&ask).await.unwrap();
    made["key"].as_str().unwrap().to_owned()
}

fn knows_key(people: &People, key: &str) -> bool {
    people.recognise(Some(key.as_bytes())).is_ok()
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_as_a_hash() {
    let dir = tempfile::tempdir().unwrap();
    let people = open(&dir).await;
    let made = people
        .answer(
            &json!({"do": "key_create", "name": "ada", "tokens_per_day": 50, "priority": "high"}),
        )
        .await
        .unwrap();
    assert_eq!(made["first"], true);
    let key = made["key"].as_str().unwrap();
    let listed = people.answer(&json!({"do": "key_list"})).await.unwrap();
    assert_eq!(listed["keys"][0]["name"], "ada");
    assert_eq!(listed["keys"][0]["tokens_per_day"], 50);
    assert_eq!(listed["keys"][0]["priority"], "high");
    assert!(!listed.to_string().contains(key));
    assert!(!format!("{people:?}").contains(key));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let held = bytes.windows(key.len()).any(|part| part == key.as_bytes());
        assert!(!held, "the key is in a file");
    }
    let caller = people.recognise(Some(key.as_bytes())).unwrap();
    assert_eq!(
        (caller.name(), caller.person().priority),
        ("ada", Priority::High)
    );
    // After a restart too.
    assert!(knows_key(&open(&dir).await, key));
}

#[tokio::test]
async fn who_is_let_in_depends_on_the_keys_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let people = open(&dir).await;
    assert_eq!(people.recognise(None).unwrap().name(), LOCAL);
    assert_eq!(people.recognise(Some(b"whatever")).unwrap().name(), LOCAL);
    let ada = make(&people, json!({"do": "key_create", "name": "ada"})).await;
    let ben = make(&people, json!({"do": "key_create", "name": "ben"})).await;
    assert_eq!(people.recognise(None).unwrap_err(), Stranger::NoKey);
    for wrong in [
        "",
        "hearth-",
        &ada[..ada.len() - 1],
        &format!("{ada}0"),
        "ada",
        "1",
    ] {
        let stranger = people.recognise(Some(wrong.as_bytes())).unwrap_err();
        assert_eq!(stranger, Stranger::WrongKey, "{wrong}");
    }
    let revoked = people
        .answer(&json!({"do": "key_revoke", "key": "ada"}))
        .await
        .unwrap();
    assert_eq!(
        (&revoked["name"], &revoked["last"]),
        (&json!("ada"), &json!(false))
    );
    assert!(
        !knows_key(&people, &ada) && knows_key(&people, &ben),
        "at once"
    );
    assert!(!knows_key(&open(&dir).await, &ada), "for good");
    // The name is free again; a key has a number as well.
    let again = make(&people, json!({"do": "key_create", "name": "ada"})).await;
    assert!(knows_key(&people, &again) && !knows_key(&people, &ada));
    let last = people
        .answer(&json!({"do": "key_revoke", "key": "2"}))
        .await
        .unwrap();
    assert_eq!(last["name"], "ben");
    let last = people
        .answer(&json!({"do": "key_revoke", "key": "ada"}))
        .await
        .unwrap();
    assert_eq!(last["last"], true);
    assert_eq!(people.recognise(None).unwrap().name(), LOCAL);
    let listed = people.answer(&json!({"do": "key_list"})).await.unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn the_key_of_a_file_stands_beside_those_of_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let people = People::open(dir.path(), Some(ApiKey::new("from-a-file-123")))
        .await
        .unwrap();
    assert!(people.guarded());
    let caller = people.recognise(Some(b"from-a-file-123")).unwrap();
    assert_eq!(caller.name(), OWNER);
    let ada = make(&people, json!({"do": "key_create", "name": "ada"})).await;
    assert!(knows_key(&people, &ada) && knows_key(&people, "from-a-file-123"));
    assert!(
        !knows_key(&open(&dir).await, "from-a-file-123"),
        "it ends with the setting"
    );
}

#[tokio::test]
async fn what_the_owner_asks_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let people = open(&dir).await;
    make(&people, json!({"do": "key_create", "name": "ada"})).await;
    let long = "a".repeat(65);
    for (ask, words) in [
        (
            json!({"do": "key_create", "name": "ada"}),
            "'ada' has a key",
        ),
        (json!({"do": "key_create", "name": ""}), "expected letters"),
        (
            json!({"do": "key_create", "name": "a b"}),
            "expected letters",
        ),
        (
            json!({"do": "key_create", "name": "a\nb"}),
            "expected letters",
        ),
        (json!({"do": "key_create", "name": "12"}), "not only digits"),
        (json!({"do": "key_create", "name": "local"}), "taken"),
        (json!({"do": "key_create", "name": "owner"}), "taken"),
        (json!({"do": "key_create", "name": long}), "at most 64"),
        (
            json!({"do": "key_create", "name": "b", "priority": "top"}),
            "low, normal or high",
        ),
        (
            json!({"do": "key_create", "name": "b", "tokens_per_day": 0}),
            "at least 1",
        ),
        (
            json!({"do": "key_create", "name": "b", "requests_at_once": 0}),
            "at least 1",
        ),
        (
            json!({"do": "key_create", "name": "b", "tokens_per_day": -1}),
            "understand",
        ),
        (
            json!({"do": "key_create", "name": "b", "tokens": 1}),
            "understand",
        ),
        (json!({"do": "key_create"}), "understand"),
        (
            json!({"do": "key_revoke", "key": "ben"}),
            "such keys are: ada",
        ),
        (json!({"do": "usage", "days": 0}), "1 to 400"),
        (json!({"do": "usage", "days": 401}), "1 to 400"),
    ] {
        let text = people.answer(&ask).await.unwrap_err();
        assert!(text.contains(words), "{ask}: {text}");
    }
    let nobody = People::default();
    let text = nobody.answer(&json!({"do": "key_list"})).await.unwrap_err();
    assert_eq!(text, "this service keeps no record, and so no keys");
}

#[tokio::test]
async fn as_many_keys_work_as_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let people = open(&dir).await;
    for at in 0..proto::limits::KEYS_MAX {
        make(
            &people,
            json!({"do": "key_create", "name": format!("p{at}")}),
        )
        .await;
    }
    let text = people
        .answer(&json!({"do": "key_create", "name": "more"}))
        .await
        .unwrap_err();
    assert!(text.contains("at most 256"), "{text}");
}

fn caller(people: &People, limits: Limits) -> Caller {
    people.caller("ada", Priority::Normal, limits)
}

#[test]
fn a_days_tokens_are_a_days() {
    let people = People::default();
    let ada = caller(
        &people,
        Limits {
            tokens_per_day: Some(100),
            requests_at_once: None,
        },
    );
    let add = |unix_s: i64, tokens: u64| {
        let counts = books::Counts {
            completion_tokens: tokens,
            ..books::Counts::default()
        };
        people
            .state()
            .books
            .add(day(unix_s), &Arc::from("ada"), &Arc::from("m"), counts);
    };
    add(NOON, 99);
    assert!(ada.enter_at(NOON, "m").is_ok());
    add(NOON, 1);
    let over = ada.enter_at(NOON, "m").unwrap_err();
    assert_eq!(
        (over.code(), over.retry_after_s()),
        ("tokens_per_day", 43_200)
    );
    assert!(over.to_string().contains("100 of 100") && over.to_string().contains("midnight UTC"));
    let late = ada.enter_at(NOON + 43_199, "m").unwrap_err();
    assert_eq!(late.retry_after_s(), 1);
    assert!(ada.enter_at(NOON + 43_200, "m").is_ok(), "a new day");
    add(NOON + 43_200, 100);
    assert!(
        ada.enter_at(NOON, "m").is_err(),
        "a clock that is set back gives nothing back"
    );
}

#[test]
fn requests_at_once_are_those_that_are_held() {
    let people = People::default();
    let ada = caller(
        &people,
        Limits {
            tokens_per_day: None,
            requests_at_once: Some(2),
        },
    );
    let first = ada.enter("m").unwrap();
    let _second = ada.enter("m").unwrap();
    let over = ada.enter("m").unwrap_err();
    assert_eq!((over.code(), over.retry_after_s()), ("requests_at_once", 2));
    let ben = people.caller("ben", Priority::Normal, Limits::default());
    assert!(ben.enter("m").is_ok(), "others are not concerned");
    drop(first);
    assert!(ada.enter("m").is_ok());
}

#[tokio::test]
async fn counts_reach_the_record_and_come_back_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let people = open(&dir).await;
    let limits = Limits {
        tokens_per_day: Some(18),
        requests_at_once: None,
    };
    let books = people.keep_books();
    for (name, prompt, tokens) in [("ada", 10, 3), ("ada", 5, 0), ("ben", 7, 1)] {
        let caller = people.caller(name, Priority::Normal, limits);
        let visit = caller.enter("tiny").unwrap();
        visit.begin(prompt);
        for _ in 0..tokens {
            visit.answered(1);
        }
    }
    books.close().await;
    assert!(
        people.state().books.take().is_empty(),
        "all is written down"
    );
    let people = open(&dir).await;
    let used = people.answer(&json!({"do": "usage"})).await.unwrap();
    let row = |person: &str, requests: u64, prompt: u64, completion: u64| {
        json!({"day": used["usage"][0]["day"], "person": person, "model": "tiny",
            "requests": requests, "prompt_tokens": prompt, "completion_tokens": completion})
    };
    assert_eq!(
        used["usage"],
        json!([row("ada", 2, 15, 3), row("ben", 1, 7, 1)])
    );
    assert_eq!(
        used["usage"][0]["day"].as_str().unwrap().len(),
        "2026-01-01".len()
    );
    let over = people.caller("ada", Priority::Normal, limits).enter("tiny");
    assert_eq!(
        over.unwrap_err().code(),
        "tokens_per_day",
        "a restart gives nothing back"
    );
    assert!(
        people
            .caller("ben", Priority::Normal, limits)
            .enter("tiny")
            .is_ok()
    );
}

#[test]
fn counts_that_could_not_be_written_are_kept() {
    let people = People::default();
    let visit = caller(&people, Limits::default()).enter("m").unwrap();
    visit.begin(4);
    let counts = people.state().books.take();
    visit.answered(2);
    people.state().books.put_back(counts);
    let counts = people.state().books.take();
    assert_eq!(counts.len(), 1);
    assert_eq!(
        (
            counts[0].requests,
            counts[0].prompt_tokens,
            counts[0].completion_tokens
        ),
        (1, 4, 2)
    );
}
