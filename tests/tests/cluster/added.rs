//! Models that were added from a hub on loopback: by name they are listed, served and removed.

#[path = "../../../crates/hub/tests/doll/mod.rs"]
mod doll;

use std::path::Path;

use doll::{Act, Doll};
use tests::process::{Ended, Process, run_with};
use tests::{fixtures, programs};

/// `coordinator model` with these words, for this data directory and hub.
async fn model(words: &[&str], data_dir: &Path, hub: &Doll) -> Ended {
    let mut arguments = vec!["model"];
    arguments.extend(words);
    arguments.extend(["--data-dir", data_dir.to_str().unwrap(), "--json"]);
    let url = hub.url();
    let envs = [("HF_ENDPOINT", url.as_str()), ("HF_TOKEN", "")];
    run_with(&programs::coordinator(), &arguments, &envs).await
}

fn hub() -> Doll {
    let small = std::fs::read(fixtures::gguf("qwen3_moe")).unwrap();
    let other = std::fs::read(fixtures::gguf("llama")).unwrap();
    Doll::start(&[("tiny-Q8_0.gguf", small), ("tiny-F16.gguf", other)])
}

#[tokio::test]
async fn an_added_model_is_listed_served_and_removed() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let data = dir.path();
    let refused = model(&["add", "hf:org/repo:Q8_0"], data, &hub).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--yes") && refused.err.contains("tiny-Q8_0.gguf"));
    let several = model(&["add", "hf:org/repo", "--yes"], data, &hub).await;
    assert!(several.err.contains("tiny-F16"), "{several:?}");
    let added = model(&["add", "hf:org/repo:Q8_0", "--yes"], data, &hub)
        .await
        .ok();
    assert_eq!(added.json()["name"], "repo-Q8_0");
    let listed = model(&["list"], data, &hub).await.ok().json();
    assert_eq!(listed["models"][0]["name"], "repo-Q8_0");
    assert_eq!(listed["models"][0]["missing_bytes"], 0);
    serves(data, "repo-Q8_0").await;
    let removed = model(&["remove", "repo-Q8_0"], data, &hub)
        .await
        .ok()
        .json();
    assert_eq!(removed["freed_bytes"], listed["models"][0]["bytes"]);
    let again = model(&["remove", "repo-Q8_0"], data, &hub).await;
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("model list"), "{again:?}");
    let outside = model(&["remove", "../x"], data, &hub).await;
    assert!(outside.err.contains("no name for a model"), "{outside:?}");
}

/// `serve --model NAME` opens the model and says where it is.
async fn serves(data: &Path, name: &str) {
    let data = data.to_str().unwrap();
    let arguments = [
        "serve",
        "--model",
        name,
        "--data-dir",
        data,
        "--api",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--json",
    ];
    let mut service = Process::start("coordinator", &programs::coordinator(), &arguments);
    let line = service.out_line("\"model\"").await;
    let facts: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(facts["model"], "tiny-Q8_0");
    service.terminate();
    service.ended().await;
}

#[tokio::test]
async fn a_model_that_is_not_whole_is_not_served() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.act("/blobs/", Act::Corrupt);
    let failed = model(
        &[
            "add",
            "hf:org/repo:tiny-F16.gguf",
            "--yes",
            "--name",
            "mine",
        ],
        dir.path(),
        &hub,
    )
    .await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let listed = model(&["list"], dir.path(), &hub).await.ok().json();
    assert!(
        listed["models"][0]["missing_bytes"].as_u64() > Some(0),
        "{listed}"
    );
    let data = dir.path().to_str().unwrap();
    let arguments = ["serve", "--model", "mine", "--data-dir", data];
    let refused = run_with(&programs::coordinator(), &arguments, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("model add hf:org/repo:tiny-F16.gguf"),
        "{refused:?}"
    );
    let offline = [
        "add",
        "hf:org/repo:tiny-F16.gguf",
        "--name",
        "mine",
        "--offline",
    ];
    let offline = model(&offline, dir.path(), &hub).await;
    assert!(offline.err.contains("tiny-F16.gguf ("), "{offline:?}");
    let whole = model(
        &[
            "add",
            "hf:org/repo:tiny-F16.gguf",
            "--yes",
            "--name",
            "mine",
        ],
        dir.path(),
        &hub,
    )
    .await;
    assert_eq!(whole.ok().json()["id"], "tiny-F16");
}
