//! The record on a real disk: one use, bounds, crashes, and files that are not ours.

use super::admission::CLOSED_INVITE_S;
use super::*;

const NOW: i64 = 1_700_000_000;

fn bearer(secret: u8, node: &str) -> Bearer {
    Bearer {
        fingerprint: [secret; 32],
        node: NodeId::new(node).unwrap(),
        name: format!("{node}'s machine"),
    }
}

async fn names(store: &Store) -> Vec<String> {
    let members = store.members().await.unwrap();
    members.into_iter().map(|m| m.node.to_string()).collect()
}

#[tokio::test]
async fn an_invite_admits_once_and_the_others_hear_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for (secret, expires) in [(1, NOW + 60), (2, NOW + 60), (3, NOW)] {
        store.issue([secret; 32], NOW - 5, expires).await.unwrap();
    }
    let cases = [
        (1, "a", NOW, Redeemed::Admitted),
        (1, "b", NOW, Redeemed::Used),
        (1, "a", NOW, Redeemed::Used),
        (9, "b", NOW, Redeemed::Unknown),
        (3, "b", NOW, Redeemed::Expired),
        (2, "b", NOW + 60, Redeemed::Expired),
        (2, "b", NOW + 59, Redeemed::Admitted),
    ];
    for (secret, node, now, expected) in cases {
        let got = store.redeem(bearer(secret, node), now).await.unwrap();
        assert_eq!(got, expected, "secret {secret} shown by {node}");
    }
    assert_eq!(names(&store).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_is_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for secret in 0..20 {
        store.issue([secret; 32], NOW, NOW + 60).await.unwrap();
        let (one, two) = (store.clone(), store.clone());
        let one = tokio::spawn(async move { one.redeem(bearer(secret, "a"), NOW).await.unwrap() });
        let two = tokio::spawn(async move { two.redeem(bearer(secret, "b"), NOW).await.unwrap() });
        let mut got = [one.await.unwrap(), two.await.unwrap()];
        got.sort_by_key(|g| *g == Redeemed::Used);
        assert_eq!(got, [Redeemed::Admitted, Redeemed::Used]);
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let household = store.household().await.unwrap();
    store.issue([1; 32], NOW, NOW + 60).await.unwrap();
    store.issue([2; 32], NOW, NOW + 60).await.unwrap();
    store.redeem(bearer(1, "a"), NOW).await.unwrap();
    for expected in 1..=3 {
        assert_eq!(store.next_epoch().await.unwrap(), Epoch(expected));
    }
    // The files as they lie there while the process runs are what a crash leaves.
    let after = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), after.path().join(file.file_name())).unwrap();
    }
    let store = Store::open(after.path()).await.unwrap();
    assert_eq!(store.household().await.unwrap(), household);
    assert_eq!(store.last_epoch().await.unwrap(), Epoch(3));
    assert_eq!(store.next_epoch().await.unwrap(), Epoch(4));
    assert_eq!(names(&store).await, ["a"]);
    assert_eq!(
        store.redeem(bearer(1, "b"), NOW).await.unwrap(),
        Redeemed::Used
    );
    assert_eq!(
        store.redeem(bearer(2, "b"), NOW).await.unwrap(),
        Redeemed::Admitted
    );
}

#[tokio::test]
async fn a_removed_member_is_out_until_it_is_invited_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    store.issue([1; 32], NOW, NOW + 60).await.unwrap();
    store.redeem(bearer(1, "a"), NOW).await.unwrap();
    let node = NodeId::new("a").unwrap();
    assert!(store.remove(node.clone(), NOW).await.unwrap());
    assert!(!store.remove(node.clone(), NOW).await.unwrap());
    assert!(names(&store).await.is_empty());
    let store = Store::open(dir.path()).await.unwrap();
    assert!(names(&store).await.is_empty(), "for good");
    store.issue([2; 32], NOW, NOW + 60).await.unwrap();
    assert_eq!(
        store.redeem(bearer(2, "a"), NOW).await.unwrap(),
        Redeemed::Admitted
    );
    assert_eq!(names(&store).await, ["a"]);
}

#[tokio::test]
async fn an_invite_that_a_removed_member_may_have_seen_is_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for secret in 1..=3 {
        store.issue([secret; 32], NOW, NOW + 60).await.unwrap();
    }
    store.redeem(bearer(1, "a"), NOW).await.unwrap();
    let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
    // Nothing is withdrawn for somebody who was no member.
    assert!(!store.remove(b.clone(), NOW + 1).await.unwrap());
    assert_eq!(
        store.redeem(bearer(2, "b"), NOW + 1).await.unwrap(),
        Redeemed::Admitted
    );
    assert!(store.removed().await.unwrap().is_empty());
    assert!(store.remove(a.clone(), NOW + 2).await.unwrap());
    assert_eq!(store.removed().await.unwrap(), std::slice::from_ref(&a));
    for who in ["a", "c"] {
        let got = store.redeem(bearer(3, who), NOW + 2).await.unwrap();
        assert_eq!(got, Redeemed::Expired, "{who}");
    }
    // One made afterwards is the owner's word.
    store.issue([4; 32], NOW + 2, NOW + 60).await.unwrap();
    assert_eq!(
        store.redeem(bearer(4, "a"), NOW + 2).await.unwrap(),
        Redeemed::Admitted
    );
    assert!(store.removed().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_approved_machine_is_a_member_if_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let node = |name: String| NodeId::new(name).unwrap();
    for at in 0..limits::NODES_MAX {
        let admitted = store.admit(node(format!("n{at}")), "x".into(), NOW).await;
        assert!(admitted.unwrap(), "{at}");
    }
    assert!(
        !store
            .admit(node("more".into()), "x".into(), NOW)
            .await
            .unwrap()
    );
    assert!(
        store
            .admit(node("n0".into()), "y".into(), NOW)
            .await
            .unwrap()
    );
    assert!(store.remove(node("n0".into()), NOW).await.unwrap());
    assert!(
        store
            .admit(node("more".into()), "x".into(), NOW)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn invites_and_members_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let members = u8::try_from(limits::NODES_MAX).unwrap();
    for secret in 0..members {
        store.issue([secret; 32], NOW, NOW + 60).await.unwrap();
    }
    let error = store.issue([200; 32], NOW, NOW + 60).await.unwrap_err();
    assert_eq!(error.code(), "too_many_invites");
    for secret in 0..members {
        let node = format!("n{secret}");
        assert_eq!(
            store.redeem(bearer(secret, &node), NOW).await.unwrap(),
            Redeemed::Admitted
        );
    }
    store.issue([200; 32], NOW, NOW + 60).await.unwrap();
    assert_eq!(
        store.redeem(bearer(200, "more"), NOW).await.unwrap(),
        Redeemed::Full
    );
    assert_eq!(
        store.redeem(bearer(200, "n0"), NOW).await.unwrap(),
        Redeemed::Admitted
    );
}

#[tokio::test]
async fn closed_invites_are_forgotten_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    store.issue([1; 32], NOW, NOW + 60).await.unwrap();
    let later = NOW + 61 + CLOSED_INVITE_S;
    assert_eq!(
        store.redeem(bearer(1, "a"), later).await.unwrap(),
        Redeemed::Expired
    );
    store.issue([2; 32], later, later + 60).await.unwrap();
    assert_eq!(
        store.redeem(bearer(1, "a"), later).await.unwrap(),
        Redeemed::Unknown
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_ours_is_refused_with_what_to_do() {
    let text = "this is not a database, whatever its name says. ".repeat(40);
    let other = "CREATE TABLE t (a)";
    let newer = "PRAGMA application_id = 1215460456; PRAGMA user_version = 3; CREATE TABLE t (a)";
    for (content, sql, code) in [
        (Some(text.as_str()), None, "store_damaged"),
        (None, Some(other), "store_foreign"),
        (None, Some(newer), "store_newer"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        if let Some(sql) = sql {
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        }
        let error = Store::open(dir.path()).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(FILE_NAME), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_page_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for secret in 0..60 {
        store.issue([secret; 32], NOW, NOW + 60).await.unwrap();
    }
    drop(store);
    let path = dir.path().join(FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 8192, "the log was written back on closing");
    bytes[4096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(dir.path()).await.unwrap_err();
    assert_eq!(error.code(), "store_damaged", "{error}");
}

#[tokio::test]
async fn a_record_of_the_first_form_is_taken_on() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    old.execute_batch(TABLES).unwrap();
    old.execute_batch("INSERT INTO household VALUES (1, 'abc', 7)")
        .unwrap();
    old.pragma_update(None, "application_id", APPLICATION)
        .unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    for _ in 0..2 {
        let store = Store::open(dir.path()).await.unwrap();
        assert_eq!(store.household().await.unwrap(), "abc");
        assert_eq!(store.last_epoch().await.unwrap(), Epoch(7));
        assert!(store.keys().await.unwrap().is_empty());
    }
}

fn used(day: i64, person: &str, requests: u64) -> Used {
    Used {
        day,
        date: String::new(),
        person: person.to_owned(),
        model: "m".to_owned(),
        requests,
        prompt_tokens: 10 * requests,
        completion_tokens: 100 * requests,
    }
}

#[tokio::test]
async fn counts_are_added_up_and_old_days_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    store
        .add_usage(vec![used(19_676, "a", 1), used(19_675, "a", 2)])
        .await
        .unwrap();
    store
        .add_usage(vec![used(19_676, "a", 3), used(19_676, "b", 1)])
        .await
        .unwrap();
    let rows = store.usage_since(19_676).await.unwrap();
    let short: Vec<_> = rows
        .iter()
        .map(|u| (u.person.as_str(), u.requests, u.completion_tokens))
        .collect();
    assert_eq!(short, [("a", 4, 400), ("b", 1, 100)]);
    assert_eq!(rows[0].date, "2023-11-15");
    assert_eq!(store.usage_since(0).await.unwrap().len(), 3);
    store
        .add_usage(vec![used(19_676 + 400, "a", 1)])
        .await
        .unwrap();
    let left = store.usage_since(0).await.unwrap();
    assert_eq!(
        left.iter().map(|u| u.day).collect::<Vec<_>>(),
        [20_076, 19_676, 19_676]
    );
}
