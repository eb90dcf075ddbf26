//! The command line of the coordinator: one JSON value, exit codes, settings, refusals before anything starts.

use std::fs;
use std::path::Path;

use tests::process::{DEADLINE, Ended, Process, run, run_with};
use tests::{Wanted, fixtures, plans, programs};

/// `coordinator serve` with a good model and these words, which must end at once.
async fn serve(dir: &Path, words: &[&str]) -> Ended {
    let model = fixtures::gguf("qwen3_moe");
    let mut arguments = vec!["serve", "--model", model.to_str().unwrap()];
    let data_dir = dir.join("data");
    for (flag, value) in [
        ("--api", "127.0.0.1:0"),
        ("--mesh", "127.0.0.1:0"),
        ("--data-dir", data_dir.to_str().unwrap()),
    ] {
        if !words.contains(&flag) {
            arguments.extend([flag, value]);
        }
    }
    arguments.extend(words);
    let ended = run(&programs::coordinator(), &arguments).await;
    assert!(ended.out.is_empty(), "nothing is answered: {ended:?}");
    ended
}

#[tokio::test]
async fn wrong_usage_ends_with_two_and_says_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "short").unwrap();
    let other = fixtures::gguf("llama");
    let plan = plans::write(&plans::cut("another-model", 4, &[]), dir.path());
    let cases: [(&[&str], &str); 11] = [
        (&["--plan", plan.to_str().unwrap()], "another-model"),
        (&["--context", "0"], "1 to 4096"),
        (&["--context", "99999999"], "1 to 4096"),
        (&["--sequences", "0"], "--sequences 0"),
        (&["--plan", "no-such-file.json"], "no-such-file.json"),
        (&["--model", other.to_str().unwrap()], "2 models"),
        (&["--api", "0.0.0.0:0"], "--api-key-file"),
        (
            &[
                "--api",
                "0.0.0.0:0",
                "--api-key-file",
                key.to_str().unwrap(),
            ],
            "16",
        ),
        (&["--kv", "q4"], "q8"),
        (&["--expect", "0"], "at least 1"),
        (&["--config", "no-such.toml"], "no-such.toml"),
    ];
    for (words, said) in cases {
        let ended = serve(dir.path(), words).await;
        assert_eq!(ended.code, Some(2), "{words:?} {ended:?}");
        assert!(ended.err.contains(said), "{words:?} {ended:?}");
    }
}

#[tokio::test]
async fn ports_and_folders_that_are_taken_are_named() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_moe"))
        .nodes(0)
        .start()
        .await;
    let dir = tempfile::tempdir().unwrap();
    let api = cluster.api().address.to_string();
    let ended = serve(dir.path(), &["--api", &api]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains(&api) && ended.err.contains("--api"),
        "{ended:?}"
    );

    let mesh = cluster.coordinator.mesh;
    let ended = serve(dir.path(), &["--mesh", &mesh.to_string()]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let port = mesh.port().to_string();
    assert!(
        ended.err.contains(&port) && ended.err.contains("--mesh"),
        "{ended:?}"
    );

    let data_dir = cluster.data_dir();
    let ended = serve(dir.path(), &["--data-dir", data_dir.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("already runs"), "{ended:?}");

    // A folder that cannot be made: its parent is a file.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("data");
    let ended = serve(dir.path(), &["--data-dir", below.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("--data-dir"), "{ended:?}");
    assert_eq!(cluster.api().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn every_answer_is_one_json_value_and_the_plan_can_be_given_back() {
    let model = fixtures::gguf("qwen3_moe");
    let cluster = Wanted::model(&model)
        .nodes(2)
        .serve(&["--plan", "layers"])
        .ready()
        .await;
    let status = cluster.told(&["status"]).await;
    assert_eq!(status["phase"], "ready", "{status}");
    assert_eq!(status["nodes"], 2, "{status}");
    let nodes = cluster.told(&["nodes"]).await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2, "{nodes}");
    let invite = cluster.told(&["invite", "--ttl", "2m"]).await;
    assert!(
        invite["url"].as_str().unwrap().starts_with("hearth://"),
        "{invite}"
    );
    let shown = cluster.told(&["plan"]).await;
    let plan = plan::Plan::from_json(&shown.to_string()).unwrap();
    assert_eq!(plan.stages.len(), 2);

    // The same plan in another household, whose nodes have the same names.
    let before = cluster.api().greedy(&[5, 6, 7], 8, 20).await;
    let path = plans::write(&shown, cluster.dir());
    let again = Wanted::model(&model)
        .nodes(2)
        .serve(&["--plan", path.to_str().unwrap()])
        .ready()
        .await;
    assert_eq!(again.api().greedy(&[5, 6, 7], 8, 20).await, before);

    let model = model.to_str().unwrap();
    let tool = run(&programs::shard_tool(), &["inspect", model, "--json"])
        .await
        .ok()
        .json();
    assert_eq!(tool["id"], status["model"], "{tool}");
}

#[tokio::test]
async fn serving_says_where_it_is_and_when_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, node_dir) = (dir.path().join("data"), dir.path().join("node"));
    let model = fixtures::gguf("qwen3_moe");
    let mut arguments = vec!["serve", "--model", model.to_str().unwrap()];
    arguments.extend(["--api", "127.0.0.1:0", "--mesh", "127.0.0.1:0"]);
    arguments.extend(["--data-dir", data_dir.to_str().unwrap()]);
    let mut service = Process::start("coordinator", &programs::coordinator(), &arguments);
    let hint = service.out_line("coordinator invite").await;
    assert!(hint.contains(data_dir.to_str().unwrap()), "{hint}");
    let invite = ["invite", "--json", "--data-dir", data_dir.to_str().unwrap()];
    let invite = run(&programs::coordinator(), &invite).await.ok().json();
    let mut arguments = vec![
        "join",
        invite["url"].as_str().unwrap(),
        "--name",
        "den",
        "--memory",
        "64MiB",
    ];
    arguments.extend(["--threads", "1", "--data-dir", node_dir.to_str().unwrap()]);
    let _node = Process::start("den", &programs::node(), &arguments);
    service.out_line("ready").await;
    let said = service.out();
    for words in [
        "endpoint  http://127.0.0.1:",
        "dashboard http://127.0.0.1:",
        "mesh      127.0.0.1:",
        "stage  node",
    ] {
        assert_eq!(
            said.iter().filter(|line| line.contains(words)).count(),
            1,
            "{words}: {said:?}"
        );
    }
    assert!(
        said.iter()
            .any(|line| line.contains("den") && line.contains("0-3")),
        "{said:?}"
    );
}

#[tokio::test]
async fn people_get_lines() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_moe")).ready().await;
    let data_dir = cluster.data_dir();
    for (word, said) in [
        ("status", "ready"),
        ("nodes", "n0"),
        ("plan", "layers"),
        ("invite", "node join hearth://"),
    ] {
        let arguments = [word, "--data-dir", data_dir.to_str().unwrap()];
        let ended = run(&programs::coordinator(), &arguments).await.ok();
        assert!(ended.out.contains(said), "{word}: {ended:?}");
    }
}

#[tokio::test]
async fn asking_where_nothing_runs_fails_clearly() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["status"][..],
        &["nodes"],
        &["plan"],
        &["invite"],
        &["kick", "den"],
        &["stop"],
    ] {
        let mut arguments = words.to_vec();
        arguments.extend(["--json", "--data-dir", dir.path().to_str().unwrap()]);
        let ended = run(&programs::coordinator(), &arguments).await;
        assert_eq!(ended.code, Some(1), "{words:?} {ended:?}");
        assert!(
            ended.out.is_empty() && ended.err.contains("nothing runs"),
            "{words:?} {ended:?}"
        );
    }
}

#[tokio::test]
async fn a_refused_request_fails_with_the_services_reason() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_moe"))
        .nodes(0)
        .start()
        .await;
    for words in [
        &["plan"][..],
        &["kick", "nobody"],
        &["invite", "--ttl", "365d"],
    ] {
        let ended = cluster.ask(words).await;
        assert_eq!(ended.code, Some(1), "{words:?} {ended:?}");
        assert!(
            ended.out.is_empty() && ended.err.starts_with("error: "),
            "{words:?} {ended:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_gives_settings_and_unknown_ones_warn() {
    let envs = [
        ("HEARTH_PLAN", "no-such-plan.json"),
        ("HEARTH_PLAM", "layers"),
    ];
    let model = fixtures::gguf("qwen3_moe");
    let arguments = ["serve", "--model", model.to_str().unwrap()];
    let ended = run_with(&programs::coordinator(), &arguments, &envs).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.err.contains("no-such-plan.json") && ended.err.contains("HEARTH_PLAM"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_moe")).ready().await;
    for word in ["status", "nodes", "plan", "invite"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = tokio::process::Command::new(programs::coordinator());
        command
            .args([word, "--data-dir"])
            .arg(cluster.data_dir())
            .stdout(writer);
        let ended = tokio::time::timeout(DEADLINE, command.output())
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{word}: {said}");
    }
}
