//! `shard-tool pull` against a hub on loopback: what it asks, prints and leaves; killed and started again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../crates/hub/tests/doll/mod.rs"]
mod doll;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use doll::{Act, DEADLINE, Doll};
use serde_json::Value;
use tempfile::TempDir;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data")
        .join(path)
}

fn gguf() -> Vec<u8> {
    std::fs::read(data("qwen3_moe/model-f16.gguf")).unwrap()
}

struct Case {
    doll: Doll,
    folder: TempDir,
}

impl Case {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        Self {
            doll: Doll::start(files),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// The program without the environment of the person who tests.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shard-tool"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().to_ascii_uppercase();
            if name.starts_with("HF_") || name.ends_with("_PROXY") {
                command
                    .env_remove(&name)
                    .env_remove(name.to_ascii_lowercase());
            }
        }
        command
            .arg("pull")
            .args(arguments)
            .arg("--out")
            .arg(self.out())
            .env("HF_ENDPOINT", self.doll.url())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn answer(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn refusal(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(output.stdout.is_empty());
        stderr
    }

    /// Bytes of the file that is not whole yet.
    fn part_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(self.out()).into_iter().flatten();
        let parts = entries.map(|entry| entry.unwrap());
        let parts = parts.filter(|part| part.file_name().to_string_lossy().ends_with(".part"));
        parts
            .map(|part| part.metadata().map_or(0, |meta| meta.len()))
            .sum()
    }
}

#[test]
fn a_killed_download_goes_on_where_it_stopped() {
    let bytes = gguf();
    let case = Case::new(&[("m-F16.gguf", bytes.clone())]);
    case.doll.act("/blobs/", Act::StallAfter(700_000));
    let mut command = case.command(&["hf:org/repo", "--yes"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while case.part_bytes() < 700_000 {
        assert!(begun.elapsed() < DEADLINE, "{}", case.part_bytes());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    case.doll.release();
    assert!(
        case.refusal(&["hf:org/repo", "--offline"], 1)
            .contains("m-F16.gguf")
    );
    let answer = case.answer(&["hf:org/repo", "--yes"]);
    assert_eq!(answer["fetched_bytes"], bytes.len() as u64 - 700_000);
    assert_eq!(answer["id"], "m-F16");
    assert_eq!(std::fs::read(case.out().join("m-F16.gguf")).unwrap(), bytes);
    let ranges: Vec<_> = case
        .doll
        .seen()
        .into_iter()
        .filter_map(|seen| seen.range)
        .collect();
    // Once for the hub, once for the store that it redirects to.
    assert_eq!(ranges, ["bytes=700000-", "bytes=700000-"]);
    let answer = case.answer(&["hf:org/repo", "--offline"]);
    assert_eq!(answer["fetched_bytes"], 0);
}

#[test]
fn a_directory_comes_with_what_a_model_needs() {
    let names: Vec<String> = std::fs::read_dir(data("llama"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| {
            (
                name.as_str(),
                std::fs::read(data("llama").join(name)).unwrap(),
            )
        })
        .collect();
    let case = Case::new(&files);
    let answer = case.answer(&["hf:org/repo", "--yes"]);
    assert_eq!(answer["path"].as_str(), case.out().to_str());
    assert_eq!(answer["files"], 9);
    assert!(!case.out().join("golden.json").exists());
    let table = case.run(&["hf:org/repo"]);
    assert!(
        String::from_utf8(table.stdout)
            .unwrap()
            .contains("in 9 files, 0 B fetched now")
    );
}

#[test]
fn without_a_terminal_consent_is_a_word() {
    let case = Case::new(&[("m.gguf", gguf())]);
    let message = case.refusal(&["hf:org/repo"], 2);
    for part in ["m.gguf", "127.0.0.1", "bytes) are to be fetched", "--yes"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(!case.out().exists());
    assert!(
        !case
            .doll
            .seen()
            .iter()
            .any(|seen| seen.path.contains("resolve"))
    );
}

#[test]
fn the_token_of_the_environment_is_sent_and_never_shown() {
    let case = Case::new(&[("m.gguf", gguf())]);
    for act in [None, Some(Act::Status(401)), Some(Act::Corrupt)] {
        if let Some(act) = act {
            let _ = std::fs::remove_dir_all(case.out());
            case.doll.act("m.gguf", act);
        }
        let mut command = case.command(&["hf:org/repo", "--yes"]);
        command
            .env("HF_TOKEN", "hf_verysecret")
            .env("RUST_LOG", "trace");
        let output = command.output().unwrap();
        for text in [output.stdout, output.stderr] {
            assert!(!String::from_utf8_lossy(&text).contains("verysecret"));
        }
    }
    let seen = case.doll.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.authorization.is_some() == (seen.port == "hub"))
    );
    let plain = case.command(&["hf:org/repo", "--yes", "--mirror", "http://hub.example"]);
    let mut plain = plain;
    let output = plain.env("HF_TOKEN", "hf_verysecret").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("https") && !stderr.contains("verysecret"),
        "{stderr}"
    );
}

#[test]
fn proxies_of_the_environment_count() {
    let case = Case::new(&[("m.gguf", gguf())]);
    let mut command = case.command(&["hf:org/repo", "--yes", "--mirror", "http://hub.invalid"]);
    command
        .env("HTTP_PROXY", case.doll.url())
        .env("http_proxy", case.doll.url());
    let output = command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("from hub.invalid"), "{stderr}");
}

#[test]
fn wrong_usage_is_exit_2() {
    let case = Case::new(&[]);
    for (arguments, part) in [
        (&["Qwen/Qwen3"][..], "hf:ORG/REPO"),
        (
            &["hf:org/repo", "--mirror", "ftp://x", "--yes"],
            "https://hub.example",
        ),
        (&["hf:org/repo", "--offline", "--yes"], "--offline"),
    ] {
        let message = case.refusal(arguments, 2);
        assert!(message.contains(part), "{message}");
    }
    assert!(case.doll.seen().is_empty());
    assert!(case.refusal(&["hf:org/none", "--yes"], 1).contains("404"));
}

#[test]
fn what_is_no_model_is_said_after_the_download() {
    let case = Case::new(&[("m.gguf", b"not a model at all".to_vec())]);
    let message = case.refusal(&["hf:org/repo", "--yes"], 1);
    assert!(message.contains("cannot use the model"), "{message}");
}
