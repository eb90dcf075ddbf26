//! Short codes, requests on the owner's screen, and being put out for good, with real processes.

use std::time::Duration;

use serde_json::{Value, json};
use tests::process::{Ended, Process};
use tests::{Cluster, Wanted, fixtures, programs};

/// In which a machine that was put out has to be gone.
const OUT: Duration = Duration::from_secs(5);

async fn household() -> Cluster {
    // Ready: its first machine has spent its invite, so no code is open.
    Wanted::model(&fixtures::gguf("qwen3_moe")).ready().await
}

/// A machine that joins with these words, in a folder of its own in the first household's.
fn joining(cluster: &Cluster, name: &str, words: &[&str]) -> Process {
    let dir = cluster.dir().join(name);
    let facts = cluster.dir().join("facts.json");
    let mut arguments = vec![
        "join",
        "--name",
        name,
        "--memory",
        "64MiB",
        "--threads",
        "1",
    ];
    arguments.extend(["--facts", facts.to_str().unwrap()]);
    arguments.extend(["--data-dir", dir.to_str().unwrap()]);
    arguments.extend(words);
    Process::start(name, &programs::node(), &arguments)
}

async fn attempt(cluster: &Cluster, name: &str, words: &[&str]) -> Ended {
    joining(cluster, name, words).ended().await
}

fn text(answer: &Value, field: &str) -> String {
    answer[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {answer}"))
        .to_owned()
}

/// Another code than this one.
fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &code[..code.len() - 1])
}

#[tokio::test]
async fn a_short_code_admits_one_machine_and_is_one_right_with_its_url() {
    let cluster = household().await;
    let mesh = cluster.coordinator.mesh.to_string();
    let at = ["--coordinator", mesh.as_str()];
    let invite = cluster.told(&["invite"]).await;
    let (code, url) = (text(&invite, "code"), text(&invite, "url"));
    assert_eq!(text(&invite, "coordinator"), mesh);
    assert_eq!(invite["announced"], json!(false), "a mesh on loopback");
    let mut den = joining(&cluster, "den", &[&code, at[0], at[1]]);
    let paired = den.err_line("paired").await;
    assert!(paired.contains(&text(&invite, "words")), "{paired}");
    cluster
        .status("two machines", |status| status["nodes"] == 2)
        .await;
    let again = attempt(&cluster, "second", &[&code, at[0], at[1]]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("waits for a short code"), "{again:?}");
    let by_url = attempt(&cluster, "third", &[&url]).await;
    assert_eq!(by_url.code, Some(1), "{by_url:?}");
    assert!(by_url.err.contains("used"), "{by_url:?}");
    // The other way round: a URL that was used takes its code along.
    let invite = cluster.told(&["invite"]).await;
    let mut fourth = joining(&cluster, "fourth", &[&text(&invite, "url")]);
    fourth.err_line("paired").await;
    let by_code = attempt(&cluster, "fifth", &[&text(&invite, "code"), at[0], at[1]]).await;
    assert!(
        by_code.err.contains("waits for a short code"),
        "{by_code:?}"
    );
    assert_eq!(cluster.told(&["status"]).await["nodes"], 3);
}

#[tokio::test]
async fn a_wrong_code_is_refused_voids_the_right_one_and_is_shown_to_the_owner() {
    let cluster = household().await;
    let mesh = cluster.coordinator.mesh.to_string();
    let at = ["--coordinator", mesh.as_str()];
    let invite = cluster.told(&["invite"]).await;
    let code = text(&invite, "code");
    let guess = attempt(&cluster, "stranger", &[&wrong(&code), at[0], at[1]]).await;
    assert_eq!(guess.code, Some(1), "{guess:?}");
    assert!(guess.err.contains("the short code was wrong"), "{guess:?}");
    let late = attempt(&cluster, "den", &[&code, at[0], at[1]]).await;
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.err.contains("waits for a short code"), "{late:?}");
    let seen = cluster.told(&["approve"]).await;
    assert_eq!(seen["failed"]["address"], json!("127.0.0.1"), "{seen}");
    assert_eq!(seen["code_open"], json!(false));
    // The URL has a secret that nobody guesses: it is still good. And the owner makes a new code by asking again.
    let mut by_url = joining(&cluster, "attic", &[&text(&invite, "url")]);
    by_url.err_line("paired").await;
    let fresh = cluster.told(&["invite"]).await;
    assert_eq!(fresh["failed"]["address"], json!("127.0.0.1"), "{fresh}");
    let mut den = joining(&cluster, "den", &[&text(&fresh, "code"), at[0], at[1]]);
    den.err_line("paired").await;
    assert_eq!(cluster.told(&["approve"]).await["failed"], Value::Null);
}

#[tokio::test]
async fn a_code_is_not_spent_at_another_household() {
    let (ours, theirs) = (household().await, household().await);
    let at = theirs.coordinator.mesh.to_string();
    let code = text(&ours.told(&["invite"]).await, "code");
    // The other one does not wait for a code, so it is not even tried.
    let elsewhere = attempt(&ours, "den", &[&code, "--coordinator", &at]).await;
    assert!(
        elsewhere.err.contains("waits for a short code"),
        "{elsewhere:?}"
    );
    assert_eq!(theirs.told(&["approve"]).await["failed"], Value::Null);
    // Where it does, the code is wrong there, and as good as before here.
    let other = text(&theirs.told(&["invite"]).await, "code");
    assert_ne!(other, code);
    let elsewhere = attempt(&ours, "den", &[&code, "--coordinator", &at]).await;
    assert!(
        elsewhere.err.contains("the short code was wrong"),
        "{elsewhere:?}"
    );
    let mesh = ours.coordinator.mesh.to_string();
    let mut den = joining(&ours, "den", &[&code, "--coordinator", &mesh]);
    den.err_line("paired").await;
}

/// The device that waits on the screen, once there is one.
async fn pending(cluster: &Cluster) -> Value {
    let mut looks = tokio::time::interval(tests::api::LOOK);
    let found = tokio::time::timeout(tests::process::DEADLINE, async {
        loop {
            looks.tick().await;
            let mut answer = cluster.told(&["approve"]).await;
            if let Some(first) = answer["pending"].get_mut(0) {
                return first.take();
            }
        }
    });
    found.await.expect("a device waits")
}

#[tokio::test]
async fn the_owner_approves_on_the_screen_by_the_same_four_words() {
    let cluster = household().await;
    let mesh = cluster.coordinator.mesh.to_string();
    let at = ["--ask", "--coordinator", mesh.as_str()];
    let mut den = joining(&cluster, "den", &at);
    let device = pending(&cluster).await;
    let words = text(&device, "words");
    assert_eq!(words.split(' ').count(), 4, "{device}");
    assert_eq!(text(&device, "name"), "den");
    den.err_line(&words).await;
    let nobody = cluster.ask(&["approve", "99"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    let approved: Vec<&str> = ["approve"].into_iter().chain(words.split(' ')).collect();
    assert_eq!(cluster.told(&approved).await["name"], json!("den"));
    den.err_line("paired").await;
    cluster
        .status("two machines", |status| status["nodes"] == 2)
        .await;
    // Another one is refused.
    let mut attic = joining(&cluster, "attic", &at);
    let number = pending(&cluster).await["number"].to_string();
    cluster.told(&["approve", &number, "--deny"]).await;
    let ended = attic.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("said no"), "{ended:?}");
    assert_eq!(cluster.told(&["status"]).await["nodes"], 2);
}

#[tokio::test]
async fn without_a_terminal_a_new_machine_is_told_what_was_found_and_what_to_do() {
    let cluster = household().await;
    let mesh = cluster.coordinator.mesh.to_string();
    let ended = attempt(&cluster, "den", &["--coordinator", &mesh]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let words = text(&cluster.told(&["invite"]).await, "words");
    for part in [
        mesh.as_str(),
        &words,
        "coordinator invite",
        "node join CODE",
    ] {
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    let off = attempt(&cluster, "den", &["--discovery", "off"]).await;
    assert_eq!(off.code, Some(2), "{off:?}");
    assert!(off.err.contains("--coordinator"), "{off:?}");
}

#[tokio::test]
async fn a_machine_that_was_put_out_stays_out_whoever_restarts() {
    let mut cluster = household().await;
    cluster.api().ready().await;
    // It may have seen an invite that was still open, and kept what it knew of the household.
    let seen = cluster.told(&["invite"]).await;
    let dir = cluster.members[0].dir.clone();
    let kept = std::fs::read(dir.join("household.json")).unwrap();
    cluster.told(&["kick", "n0"]).await;
    let ended = tokio::time::timeout(OUT, cluster.members[0].process.ended()).await;
    let ended = ended.expect("out within 5 s");
    assert!(ended.err.contains("removed"), "{ended:?}");
    for restart in ["of the machine", "of the coordinator"] {
        if restart == "of the coordinator" {
            cluster.restart_coordinator().await;
        }
        std::fs::write(dir.join("household.json"), &kept).unwrap();
        cluster.restart(0);
        let ended = cluster.members[0].process.ended().await;
        assert_eq!(ended.code, Some(1), "{restart}: {ended:?}");
        assert!(
            ended.err.contains("its owner has removed this machine"),
            "{restart}: {ended:?}"
        );
        let old = attempt(&cluster, "n0", &[&text(&seen, "url")]).await;
        assert_eq!(old.code, Some(1), "{restart}: {old:?}");
    }
    let mesh = cluster.coordinator.mesh.to_string();
    let at = ["--coordinator", mesh.as_str()];
    let old = attempt(&cluster, "n0", &[&text(&seen, "code"), at[0], at[1]]).await;
    assert!(old.err.contains("waits for a short code"), "{old:?}");
    // A fresh invite is the owner's word.
    let fresh = cluster.told(&["invite"]).await;
    let mut back = joining(&cluster, "n0", &[&text(&fresh, "code"), at[0], at[1]]);
    back.err_line("paired").await;
    cluster.api().ready().await;
}
