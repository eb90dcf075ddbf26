//! Nobody gets in who was not invited, and each refusal says why.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tests::process::{DEADLINE, Ended, run};
use tests::{Cluster, Wanted, fixtures, programs};
use transport::{Invite, Secret};

async fn household() -> Cluster {
    Wanted::model(&fixtures::gguf("qwen3_moe")).start().await
}

/// A new machine that tries to join, to its end.
async fn attempt(cluster: &Cluster, name: &str, invite: &str) -> Ended {
    let dir = cluster.dir().join(name);
    let mut arguments = vec!["join", "--discovery", "off"];
    if !invite.is_empty() {
        arguments.push(invite);
    }
    arguments.extend(["--name", name, "--memory", "64MiB", "--threads", "1"]);
    let facts = cluster.dir().join("facts.json");
    arguments.extend([
        "--facts",
        facts.to_str().unwrap(),
        "--data-dir",
        dir.to_str().unwrap(),
    ]);
    run(&programs::node(), &arguments).await
}

async fn is_undisturbed(cluster: &Cluster) {
    let nodes = cluster.told(&["nodes"]).await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(cluster.api().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn an_invite_works_once() {
    let mut cluster = household().await;
    let invite = cluster.invite().await;
    cluster
        .join("second", "64MiB", &invite)
        .process
        .err_line("paired")
        .await;
    cluster
        .status("two machines", |status| status["nodes"] == 2)
        .await;
    let ended = attempt(&cluster, "third", &invite).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("used"), "{ended:?}");
    assert_eq!(cluster.told(&["status"]).await["nodes"], 2);
}

#[tokio::test]
async fn an_invite_expires() {
    let cluster = household().await;
    cluster.api().ready().await;
    let invite = cluster.told(&["invite", "--ttl", "1s"]).await;
    let expires_unix_s = invite["expires_unix_s"].as_u64().unwrap();
    let passed = async {
        let mut looks = tokio::time::interval(tests::api::LOOK);
        while SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
            <= expires_unix_s
        {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, passed).await.unwrap();
    let ended = attempt(&cluster, "late", invite["url"].as_str().unwrap()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("expired"), "{ended:?}");
    is_undisturbed(&cluster).await;
}

#[tokio::test]
async fn an_altered_invite_is_refused_by_whoever_sees_it_first() {
    let cluster = household().await;
    cluster.api().ready().await;
    let invite = cluster.invite().await;
    // A mistyped one does not leave the machine.
    let last = invite.chars().last().unwrap();
    let other = if last == 'a' { 'b' } else { 'a' };
    let mistyped = format!("{}{other}", &invite[..invite.len() - 1]);
    let ended = attempt(&cluster, "typo", &mistyped).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    // One that is well formed and has another secret is not known here.
    let mut forged: Invite = invite.parse().unwrap();
    forged.secret = Secret::generate();
    let ended = attempt(&cluster, "forger", &forged.to_string()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("invite"), "{ended:?}");
    is_undisturbed(&cluster).await;
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let cluster = household().await;
    cluster.api().ready().await;
    // It knows the household's key and address, but was never paired.
    let known = cluster.members[0].dir.join("household.json");
    let dir = cluster.dir().join("stranger");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(known, dir.join("household.json")).unwrap();
    let ended = attempt(&cluster, "stranger", "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("invite"), "{ended:?}");
    is_undisturbed(&cluster).await;
}

#[tokio::test]
async fn noise_on_the_mesh_port_disturbs_nobody() {
    let cluster = household().await;
    cluster.api().ready().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [1usize, 20, 64, 1200, 1472, 65_000] {
        for first in [0x00u8, 0x40, 0xc0, 0xff] {
            let mut datagram = vec![0xa5; length];
            datagram[0] = first;
            // One too large for the way is as good as lost.
            let _lost = socket.send_to(&datagram, cluster.coordinator.mesh).await;
        }
    }
    is_undisturbed(&cluster).await;
}

#[tokio::test]
async fn a_machine_that_was_removed_needs_a_new_invite() {
    let mut cluster = household().await;
    cluster.api().ready().await;
    let kicked = cluster.told(&["kick", "n0"]).await;
    assert_eq!(kicked["name"], json!("n0"));
    let ended = cluster.members[0].process.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("removed"), "{ended:?}");
    cluster.restart(0);
    let ended = cluster.members[0].process.ended().await;
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    assert!(ended.err.contains("invite"), "{ended:?}");
}
