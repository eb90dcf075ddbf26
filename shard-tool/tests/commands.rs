//! The binary on the models of the repository: what it prints, and how it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read its fixture has failed"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plan::Plan;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shard-tool"))
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap()
}

/// Stdout of a command that must succeed quietly.
fn answer(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Stderr of a command that must fail with `code` and print no answer.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

fn one_line_json(text: &str) -> Value {
    assert_eq!(text.matches('\n').count(), 1, "one value on one line");
    serde_json::from_str(text).unwrap()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

const TINY: &str = "models/hearth-tiny.gguf";
const MODELS: [(&str, &str, usize); 9] = [
    (TINY, "hearth-tiny", 8),
    ("tests/data/qwen3_5_moe", "qwen3_5_moe", 8),
    ("tests/data/qwen3_5_moe/model-f16.gguf", "model-f16", 8),
    ("tests/data/qwen3_5", "qwen3_5", 8),
    ("tests/data/qwen3_5/model-f16.gguf", "model-f16", 8),
    ("tests/data/qwen3_moe", "qwen3_moe", 4),
    ("tests/data/qwen3_moe/model-f16.gguf", "model-f16", 4),
    ("tests/data/llama", "llama", 6),
    ("tests/data/llama/model-f16.gguf", "model-f16", 6),
];

#[test]
fn the_parts_of_every_model_add_up() {
    for (file, id, layers) in MODELS {
        let report = one_line_json(&answer(&["inspect", file, "--json"]));
        assert_eq!(report["id"], id, "{file}");
        let rows = report["layers"].as_array().unwrap();
        assert_eq!(rows.len(), layers, "{file}");
        let parts = [
            "embedding_bytes",
            "head_bytes",
            "trunk_bytes",
            "expert_bytes",
            "other_bytes",
        ];
        let parts: u64 = parts.iter().map(|part| number(&report, part)).sum();
        let all = number(&report, "tensor_bytes");
        assert_eq!(parts, all, "{file}");
        let types = report["types"].as_array().unwrap();
        let by_type: u64 = types.iter().map(|kind| number(kind, "bytes")).sum();
        assert_eq!(by_type, all, "{file}");
        assert!(all <= number(&report, "file_bytes"), "{file}");
        assert!(number(&report, "other_bytes") <= all / 100, "{file}");
        let mut in_layers = 0;
        for row in rows {
            let groups = row["group_bytes"].as_array().unwrap();
            let group_bytes: u64 = groups.iter().map(|bytes| bytes.as_u64().unwrap()).sum();
            assert_eq!(
                number(row, "bytes"),
                number(row, "trunk_bytes") + group_bytes
            );
            let experts = number(&report, "experts");
            assert_eq!(group_bytes, experts * number(row, "expert_bytes"), "{file}");
            let attends = row["mixer"] == "attention";
            assert_eq!(number(row, "kv_bytes_per_position") > 0, attends);
            assert_eq!(number(row, "state_bytes_per_sequence") > 0, !attends);
            in_layers += number(row, "bytes");
        }
        let expected = number(&report, "trunk_bytes") + number(&report, "expert_bytes");
        assert_eq!(in_layers, expected, "{file}");
    }
}

#[test]
fn the_bundled_model_is_what_its_file_says() {
    let report = one_line_json(&answer(&["inspect", TINY, "--json"]));
    assert_eq!(report["family"], "qwen35moe");
    let numbers = [
        ("hidden", 256),
        ("vocab", 1536),
        ("context", 4096),
        ("experts", 8),
        ("experts_used", 2),
        ("expert_groups", 8),
        // 1536 rows of 256 values, 34 bytes for each 32.
        ("embedding_bytes", 1536 * 272),
        ("head_bytes", 1536 * 272 + 256 * 4),
        // 8 layers of 8 experts of 3 matrices of 256 rows.
        ("expert_bytes", 8 * 8 * 3 * 256 * 272),
        // 2 layers, keys and values of 2 heads of 64, 2 bytes each.
        ("kv_bytes_per_position", 2 * 2 * 2 * 64 * 2),
        // 6 layers: 4 heads of 64 x 64, and 3 rows of 512 for the convolution, 4 bytes each.
        ("state_bytes_per_sequence", 6 * (4 * 64 * 64 + 3 * 512) * 4),
    ];
    for (field, expected) in numbers {
        assert_eq!(number(&report, field), expected, "{field}");
    }
    assert_eq!(report["kv_type"], "f16");
    assert_eq!(report["quantised"], true);
    let types = report["types"].as_array().unwrap();
    let names: Vec<&str> = types
        .iter()
        .map(|kind| kind["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["F32", "Q8_0"]);
}

#[test]
fn the_table_shows_parts_types_and_layers() {
    let table = answer(&["inspect", TINY]);
    for part in [
        "hearth-tiny",
        "8 experts a layer",
        "embedding",
        "Q8_0",
        "delta net",
        "attention",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    assert!(table.lines().all(|line| line.trim_end() == line));
}

#[test]
fn a_model_is_planned_over_three_machines() {
    let nodes = [
        "--node",
        "desk=12MiB",
        "--node",
        "lap=12MiB",
        "--node",
        "nas=12MiB",
    ];
    let mut arguments = vec!["plan", TINY, "--mode", "layers"];
    arguments.extend(nodes);
    let table = answer(&arguments);
    for part in [
        "desk",
        "lap",
        "nas",
        "allowance",
        "tokens/s",
        "none holds it alone",
        "assumed",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    arguments.push("--json");
    let text = answer(&arguments);
    one_line_json(&text);
    let plan = Plan::from_json(&text).unwrap();
    assert_eq!(plan.model, "hearth-tiny");
    assert_eq!(plan.stages.len(), 3);
    assert!(plan.context >= 512);
    let model = model::Checkpoint::open(&repository().join(TINY))
        .unwrap()
        .facts();
    let nodes: Vec<plan::NodeFacts> = plan
        .stages
        .iter()
        .map(|stage| plan::NodeFacts {
            id: stage.node.clone(),
            name: stage.name.clone(),
            memory_bytes: 12 << 20,
            read_bytes_per_s: 1e9,
            macs_per_s: 1e9,
        })
        .collect();
    plan::check(&plan, &model, &nodes).unwrap();
}

#[test]
fn flags_reach_the_plan() {
    let base = [
        "plan", TINY, "--node", "a=1GiB", "--node", "b=1GiB", "--json",
    ];
    let with = |more: &[&str]| {
        let mut arguments = base.to_vec();
        arguments.extend(more);
        Plan::from_json(&answer(&arguments)).unwrap()
    };
    let plain = with(&[]);
    assert_eq!(plain.stages.len(), 1);
    assert_eq!((plain.context, plain.slots), (4096, 8));
    let flags = with(&["--context", "1000", "--sequences", "3", "--kv", "f32"]);
    assert_eq!((flags.context, flags.slots, flags.pages), (1000, 3, 48));
    assert_eq!(flags.kv, plan::KvType::F32);
    assert_eq!(with(&["--mode", "layers"]).stages.len(), 2);
    let experts = with(&["--mode", "experts", "--link", "a,b=10Gbit/50us"]);
    let parts = experts.stages.len() + experts.experts.len() + experts.head_blocks.len();
    assert!(experts.left_out.is_empty() && parts > 1, "{experts:?}");
    assert_eq!(experts.links.len(), 2, "both ways: {:?}", experts.links);
    let near = with(&["--mode", "layers", "--link", "a,b=1Gbit/0.1ms"]).prediction;
    let far = with(&["--mode", "layers", "--link", "a,b=1Gbit/20ms"]).prediction;
    assert!(far.decode_s_per_token > near.decode_s_per_token + 0.019);
    let fast = with(&["--speed", "b=100,100", "--speed", "a=1,1"]);
    assert_eq!(fast.stages[0].name, "b");
}

#[test]
fn too_little_memory_says_how_much_is_missing() {
    let message = refusal(&["plan", TINY, "--node", "a=4MiB", "--node", "b=4MiB"], 1);
    assert!(message.contains("more memory is needed"), "{message}");
    assert!(message.contains("8.00 MiB"), "{message}");
    assert!(message.contains("--memory"), "{message}");
}

#[test]
fn wrong_usage_is_exit_2() {
    let cases: [&[&str]; 15] = [
        &[],
        &["inspect"],
        &["inspekt", TINY],
        &["split", TINY],
        &["plan", TINY],
        &["plan", TINY, "--node", "a"],
        &["plan", TINY, "--node", "a=much"],
        &["plan", TINY, "--node", "a=1GiB", "--node", "a=1GiB"],
        &["plan", TINY, "--node", "a=1GiB", "--speed", "b=1,1"],
        &["plan", TINY, "--node", "a=1GiB", "--link", "a,b=1Gbit/1ms"],
        &["plan", TINY, "--node", "a=1GiB", "--link", "a,b=fast"],
        &["plan", TINY, "--node", "a=1GiB", "--context", "0"],
        &["plan", TINY, "--node", "a=1GiB", "--context", "5000"],
        &["plan", TINY, "--node", "a=1GiB", "--kv", "f8"],
        &["plan", TINY, "--node", "a=1GiB", "--mode", "best"],
    ];
    for arguments in cases {
        let message = refusal(arguments, 2);
        assert!(!message.trim().is_empty(), "{arguments:?}");
    }
}

#[test]
fn files_that_are_no_model_are_exit_1_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short.gguf");
    let whole = std::fs::read(repository().join(TINY)).unwrap();
    std::fs::write(&short, &whole[..whole.len() / 2]).unwrap();
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "not a model").unwrap();
    let missing = folder.path().join("missing.gguf");
    for path in [&short, &text, &missing, &folder.path().to_path_buf()] {
        let path = path.to_str().unwrap();
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        for command in [&["inspect", path][..], &["plan", path, "--node", "a=1GiB"]] {
            let message = refusal(command, 1);
            assert!(message.contains(name), "{message}");
            assert!(!message.contains("panicked"), "{message}");
        }
    }
}

#[test]
fn help_has_examples_everywhere() {
    for arguments in [&["--help"][..], &["inspect", "--help"], &["plan", "--help"]] {
        assert!(answer(arguments).contains("Examples:"), "{arguments:?}");
    }
}

#[test]
fn a_split_is_verified_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    for (file, id, _) in MODELS {
        let report = one_line_json(&answer(&["split", file, "--out", out, "--json"]));
        assert_eq!(report["model"], id, "{file}");
        let checked = one_line_json(&answer(&["verify", out, "--json"]));
        assert_eq!(
            number(&checked, "bytes"),
            number(&report, "bytes"),
            "{file}"
        );
        assert_eq!(checked["damaged"], serde_json::json!([]), "{file}");
        let catalogue = dir.path().join("catalogue.json");
        let catalogue = catalogue.to_str().unwrap();
        answer(&["verify", file, "--catalogue", catalogue]);
    }
    let text = answer(&["split", TINY, "--out", out]);
    assert!(text.contains("0 B of them written now"), "{text}");
    let catalogue = std::fs::read(dir.path().join("catalogue.json")).unwrap();
    let catalogue: Value = serde_json::from_slice(&catalogue).unwrap();
    let shard = &catalogue["shards"][3];
    let path = dir
        .path()
        .join(format!("{}.shard", shard["blake3"].as_str().unwrap()));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output = run(&["verify", out, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = one_line_json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(report["damaged"][0]["shard"], shard["unit"], "{report}");
    assert_eq!(
        report["damaged"][0]["pieces"],
        serde_json::json!([0]),
        "{report}"
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("1 of"), "{stderr}");
}

#[test]
fn what_holds_no_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    assert!(refusal(&["verify", empty], 1).contains("catalogue.json"));
    assert!(refusal(&["verify", "models/nothing"], 1).contains("models/nothing"));
    std::fs::write(dir.path().join("catalogue.json"), b"{}").unwrap();
    assert!(refusal(&["verify", empty], 1).contains("catalogue"));
    refusal(&["split", TINY], 2);
}
