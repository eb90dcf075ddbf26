//! The demonstration from start to end, and that it leaves nothing behind.

use std::path::Path;

use tests::process::{Process, run, run_with};
use tests::{fixtures, programs};

/// Processes whose command line names a folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let lists = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    lists
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

fn nothing_is_left(folder: &Path) {
    assert_eq!(processes_of(folder), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn once_answers_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let envs = [("TMPDIR", temporary.path().to_str().unwrap())];
    let arguments = [
        "demo",
        "--once",
        "What is the capital of France?",
        "--api",
        "127.0.0.1:0",
    ];
    let ended = run_with(&programs::coordinator(), &arguments, &envs)
        .await
        .ok();
    for said in [
        "node-1",
        "node-2",
        "node-3",
        "layers",
        "tokens/s",
        "not an assistant",
    ] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    assert!(ended.out.contains("Paris"), "{ended:?}");
    nothing_is_left(temporary.path());
}

#[tokio::test]
async fn once_in_json_is_one_value_with_plan_and_answer() {
    let temporary = tempfile::tempdir().unwrap();
    let envs = [("TMPDIR", temporary.path().to_str().unwrap())];
    let arguments = [
        "demo",
        "--nodes",
        "2",
        "--once",
        "Tell me a story.",
        "--json",
        "--api",
        "127.0.0.1:0",
    ];
    let answer = run_with(&programs::coordinator(), &arguments, &envs)
        .await
        .ok()
        .json();
    let plan = plan::Plan::from_json(&answer["plan"].to_string()).unwrap();
    assert_eq!(plan.stages.len(), 2);
    let weights: u64 = plan.stages.iter().map(|stage| stage.weight_bytes).sum();
    assert!(
        plan.stages
            .iter()
            .all(|stage| stage.allowance_bytes < weights),
        "{plan:?}"
    );
    assert!(
        answer["tokens"].as_u64() > Some(4) && !answer["answer"].as_str().unwrap().is_empty(),
        "{answer}"
    );
    nothing_is_left(temporary.path());
}

#[tokio::test]
async fn a_signal_ends_a_demonstration_and_its_nodes() {
    let temporary = tempfile::tempdir().unwrap();
    let envs = [("TMPDIR", temporary.path().to_str().unwrap())];
    let arguments = ["demo", "--nodes", "2", "--api", "127.0.0.1:0"];
    let mut demo = Process::start_with("demo", &programs::coordinator(), &arguments, &envs);
    let line = demo.out_line("curl http://").await;
    assert!(
        line.contains("/v1/chat/completions") && line.contains("\"hearth-tiny\""),
        "{line}"
    );
    assert_eq!(processes_of(temporary.path()).len(), 2);
    demo.terminate();
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    nothing_is_left(temporary.path());
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.gguf");
    let dense = fixtures::gguf("qwen3_moe");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--model", missing.to_str().unwrap()], 1, "missing.gguf"),
        (&["--nodes", "9"], 1, "8 layers"),
        (&["--nodes", "1"], 2, "2"),
        (
            &["--model", dense.to_str().unwrap(), "--nodes", "5"],
            1,
            "4 layers",
        ),
    ];
    for (words, code, said) in cases {
        let mut arguments = vec!["demo", "--once", "x", "--api", "127.0.0.1:0"];
        arguments.extend(words);
        let ended = run(&programs::coordinator(), &arguments).await;
        assert_eq!(ended.code, Some(code), "{words:?} {ended:?}");
        assert!(ended.err.contains(said), "{words:?} {ended:?}");
    }
}

#[tokio::test]
async fn a_missing_node_program_is_named_with_the_way_to_build_it() {
    // A second name for the program, on the same disk: a copy would be open for writing while other tests start processes.
    let program = programs::coordinator();
    let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let alone = dir.path().join("coordinator");
    std::fs::hard_link(program, &alone).unwrap();
    let model = fixtures::bundled();
    let arguments = [
        "demo",
        "--once",
        "x",
        "--model",
        model.to_str().unwrap(),
        "--api",
        "127.0.0.1:0",
    ];
    let ended = run(&alone, &arguments).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("cargo build"), "{ended:?}");
}
