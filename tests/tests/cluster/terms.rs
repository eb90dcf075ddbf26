//! The owner's terms on running nodes: pausing gives the memory back, changed terms break no answer off, both last.

use serde_json::{Value, json};
use tests::api::LOOK;
use tests::process::{DEADLINE, run, run_with};
use tests::{Cluster, Wanted, fixtures, programs};

const PROMPT: [u32; 4] = [39, 279, 486, 11];

async fn two_nodes() -> Cluster {
    Wanted::model(&fixtures::bundled())
        .nodes(2)
        .serve(&["--context", "256"])
        .ready()
        .await
}

/// The answer of `node WORDS --json` of a member.
async fn node(cluster: &Cluster, at: usize, words: &[&str]) -> Value {
    let dir = cluster.members[at].dir.to_str().unwrap();
    let mut arguments = words.to_vec();
    arguments.extend(["--json", "--data-dir", dir]);
    run(&programs::node(), &arguments).await.ok().json()
}

/// What the coordinator says of a member.
async fn entry(cluster: &Cluster, name: &str) -> Value {
    let nodes = cluster.told(&["nodes"]).await;
    let nodes = nodes["nodes"].as_array().unwrap();
    nodes
        .iter()
        .find(|node| node["name"] == name)
        .unwrap()
        .clone()
}

/// Waits until the coordinator says of a member what is wanted.
async fn until(cluster: &Cluster, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut looks = tokio::time::interval(LOOK);
    let reached = tokio::time::timeout(DEADLINE, async {
        loop {
            looks.tick().await;
            let entry = entry(cluster, name).await;
            if wanted(&entry) {
                return entry;
            }
        }
    });
    match reached.await {
        Ok(entry) => entry,
        Err(_) => panic!("not reached: {}", entry(cluster, name).await),
    }
}

/// Bytes of RssAnon and RssFile of a member's process.
#[cfg(target_os = "linux")]
fn resident(cluster: &Cluster, at: usize) -> u64 {
    let id = cluster.members[at].process.id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    };
    (kib("RssAnon:") + kib("RssFile:")) << 10
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pausing_gives_the_memory_back_and_lasts_until_it_is_taken_back() {
    let mut cluster = Wanted::model(&fixtures::bundled())
        .nodes(2)
        .serve(&["--plan", "layers", "--context", "256"])
        .ready()
        .await;
    let api = cluster.api();
    let before = api.greedy(&PROMPT, 16, 20).await;
    let (held, weights) = (resident(&cluster, 1), node(&cluster, 1, &["status"]).await);
    let weights = weights["resident_bytes"].as_u64().unwrap();
    assert!(weights > 4 << 20, "{weights}");

    let said = node(&cluster, 1, &["pause"]).await;
    assert_eq!(
        (&said["phase"], &said["layers"]),
        (&json!("paused"), &Value::Null),
        "{said}"
    );
    assert!(
        said["paused"].as_str().unwrap().contains("node resume"),
        "{said}"
    );
    let mut looks = tokio::time::interval(LOOK);
    let given_back = tokio::time::timeout(DEADLINE, async {
        while resident(&cluster, 1) > held - weights * 9 / 10 {
            looks.tick().await;
        }
    });
    given_back
        .await
        .unwrap_or_else(|_| panic!("{held} {weights} {}", resident(&cluster, 1)));

    // The other goes on alone, and the plan says why.
    cluster
        .status("one stage", |status| {
            status["stages"] == 1 && status["ready"] == true
        })
        .await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
    let shown = entry(&cluster, "n1").await;
    assert_eq!(shown["state"], "paused", "{shown}");
    let plan = cluster.told(&["plan"]).await;
    let left_out = &plan["left_out"][0];
    assert_eq!(left_out["name"], "n1", "{plan}");
    assert!(
        left_out["reason"].as_str().unwrap().starts_with("paused: "),
        "{plan}"
    );

    // It stays a paused member over a restart.
    cluster.kill(1).await;
    cluster.restart(1);
    until(&cluster, "n1", |entry| entry["state"] == "paused").await;

    // Back again, it takes over when the other pauses.
    let said = node(&cluster, 1, &["resume"]).await;
    assert_eq!(said["paused"], Value::Null, "{said}");
    until(&cluster, "n1", |entry| entry["state"] == "spare").await;
    let said = node(&cluster, 0, &["pause"]).await;
    assert_eq!(said["phase"], "paused", "{said}");
    let ready = |entry: &Value| entry["state"] == "serving";
    until(&cluster, "n1", ready).await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
}

#[tokio::test]
async fn new_terms_break_no_answer_off() {
    let cluster = two_nodes().await;
    let api = cluster.api();
    let before = cluster.told(&["plan"]).await;
    let serving = before["stages"][0]["name"].as_str().unwrap();
    let at = usize::from(serving == "n1");
    for words in [
        &["set", "--memory", "128MiB", "--threads", "2"][..],
        &["pause"],
    ] {
        let body =
            json!({"prompt": PROMPT, "max_tokens": 48, "temperature": 0, "ignore_eos": true});
        let mut stream = api.stream("/v1/completions", body).await;
        stream.next().await.unwrap();
        let (said, finish) = tokio::join!(node(&cluster, at, words), async {
            let mut finish = Value::Null;
            while let Some(event) = stream.next().await {
                assert!(event.get("error").is_none(), "{event}");
                finish = event["choices"][0]["finish_reason"].clone();
            }
            finish
        });
        assert_eq!(finish, "length", "{words:?}");
        if words[0] == "set" {
            assert_eq!(
                (&said["memory_bytes"], &said["threads"]),
                (&json!(128 << 20), &json!(2))
            );
            let changed =
                |entry: &Value| entry["threads"] == 2 && entry["memory_bytes"] == 128 << 20;
            until(&cluster, serving, changed).await;
            // Another epoch follows: its stages were loaded under the new terms.
            let epoch = before_epoch(&before, &cluster).await;
            assert!(epoch["stages"].as_array().unwrap().iter().all(|stage| {
                stage["name"] != serving || stage["allowance_bytes"] == 128 << 20
            }));
        }
    }
    let shown = until(&cluster, serving, |entry| entry["state"] == "paused").await;
    assert!(shown["layers"].is_null(), "{shown}");
    api.ready().await;
}

/// The plan that follows another, once it is served.
async fn before_epoch(before: &Value, cluster: &Cluster) -> Value {
    cluster
        .status("another epoch", |status| {
            status["epoch"].as_u64() > Some(1) && status["ready"] == true
        })
        .await;
    let after = cluster.told(&["plan"]).await;
    assert_ne!(&after, before);
    after
}

#[tokio::test]
async fn terms_said_without_a_node_are_kept_and_wrong_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let said = |words: &'static [&'static str]| {
        let arguments: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--json", "--data-dir", dir])
            .collect();
        async move { run(&programs::node(), &arguments).await }
    };
    let kept = said(&["set", "--hours", "22:00-07:00", "--battery", "no"])
        .await
        .ok()
        .json();
    assert_eq!(kept["running"], false, "{kept}");
    let kept = said(&["pause"]).await.ok().json();
    assert_eq!(
        kept["terms"],
        json!({"hours": "22:00-07:00", "battery": "no", "paused": true})
    );
    for words in [
        &["set"][..],
        &["set", "--hours", "9 to 5"],
        &["set", "--battery", "maybe"],
        &["set", "--while-used", "0"],
        &["set", "--memory", "much"],
        &["set", "--threads", "0"],
    ] {
        let ended = said(words).await;
        assert_eq!(ended.code, Some(2), "{words:?} {ended:?}");
        assert!(
            ended.out.is_empty() && ended.err.contains("expected"),
            "{words:?} {ended:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_service_is_installed_for_the_user_and_removed_again() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    let envs = [
        ("HOME", home.path().to_str().unwrap()),
        ("XDG_CONFIG_HOME", config.to_str().unwrap()),
    ];
    let node = programs::node();
    let data_dir = home.path().join("data");
    let words = ["install-service", "--data-dir", data_dir.to_str().unwrap()];
    let printed = run_with(&node, &[&words[..], &["--print"]].concat(), &envs)
        .await
        .ok();
    assert!(printed.out.contains(node.to_str().unwrap()), "{printed:?}");
    assert!(!config.exists(), "--print writes nothing");
    let wrote = run_with(&node, &[&words[..], &["--no-start"]].concat(), &envs)
        .await
        .ok();
    assert!(wrote.out.contains("systemctl --user enable"), "{wrote:?}");
    let unit = config.join("systemd/user/hearth-node.service");
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), printed.out);
    let words = ["uninstall-service", "--no-stop"];
    let removed = run_with(&node, &words, &envs).await.ok();
    assert!(removed.out.contains("removed"), "{removed:?}");
    assert!(!unit.exists());
    let again = run_with(&node, &words, &envs).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("no service was installed"), "{again:?}");
}
